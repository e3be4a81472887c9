"""Workers as real processes: what they serve, how they fail, and how they leave."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from launch.codes import Exit
from mesh.actor import Actor
from mesh.client import Mesh
from mesh.core import Finish
from nodes import generation, names
from nodes.card import FileRequest, ModelCard
from nodes.contract.engine import Sampling
from nodes.endpoints import Drain
from nodes.engines.sim import continuation
from nodes.generation import Generation
from nodes.metrics import Family
from nodes.text.tokenizer import ModelFiles, Tokenizer, digest
from proto.errors import Reason
from tests.nodes.engines.models import engine_of, greedy, run
from tests.nodes.test_loading import model_folder
from tests.real.processes import PATIENCE_S, Child
from tests.real.serving import node_of
from tests.real.tokens import Tokens, ask, play, workers

MODEL = "tiny"
PACED = ("--decode-ms", "0:5", "--prefill-ms", "0:5")


class Place:
    """A mesh of its own, a model, and the processes in it."""

    def __init__(self, stack: ExitStack, path: Path, runtime: str) -> None:
        self.stack = stack
        self.model = model_folder(path / MODEL)
        folder = Path(runtime, "j")
        folder.mkdir(mode=0o700)
        self.join = f"dir:{folder}"

    def start(self, command: str, *words: object) -> Child:
        child = Child("-m", "launch.cli", command, "--join", self.join, *words)
        return self.stack.enter_context(child)

    def sim(self, name: str, *words: object) -> Child:
        child = self.start("worker", "--engine", "sim", "--model", self.model, "--name", name, *words)
        child.line("worker is ready")
        return child


@pytest.fixture
def place(tmp_path: Path, runtime: str) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack, tmp_path, runtime)


async def asked(actor: Actor, endpoint: str, node: int, request: Any = None, type: Any = Any) -> Any:
    return await Mesh(actor).client(endpoint, type=type).direct(request, node).all()


async def status(actor: Actor, node: int) -> dict[str, Any]:
    found: dict[str, Any] = (await asked(actor, names.STATUS, node))[0]
    return found


async def metrics(actor: Actor, node: int) -> dict[tuple[str, ...], float]:
    (families,) = await asked(actor, names.METRICS, node, type=list[Family])
    return {
        (family.name, *(sample.labels[label] for label in sample.labels if label != "role")): sample.value
        for family in families
        for sample in family.samples
    }


def whole(tokens: Tokens, finish: Finish, spoken: list[int]) -> None:
    """A stream is complete, and says what its prompt promises."""
    assert finish.reason is Reason.LENGTH, finish
    assert tokens.tokens == continuation(tokens.prompt, len(tokens.tokens), (spoken[0], spoken[1]))


def test_a_simulated_worker_says_what_its_prompts_promise(place: Place) -> None:
    worker = place.sim("w", "--speedup", 0)
    line = worker.line("worker is ready")
    assert re.match(r"worker is ready: node [0-9a-f]{16} \(w\) serves tiny with the sim engine, 256 slots", line)
    assert worker.text.startswith("loading: tiny from ")

    async def body(actor: Actor) -> None:
        (node,) = await workers(actor, MODEL)
        spoken = (await status(actor, node))["tokens"]
        streams = [ask(actor, MODEL, range(number, number + 40), Generation(200)) for number in range(32)]
        for stream in streams:
            finish = await stream.done()
            whole(stream, finish, spoken)
            assert (finish.position, finish.nodes) == (200, (node,))
        wanted = Generation(9, sampling=Sampling(logprobs=2))
        told = ask(actor, MODEL, range(40), wanted)
        finish = await told.done()
        rows = [generation.decode_logprobs(item) for item in told.items]
        assert [row.top[0][0] for row in rows] == told.tokens and len(rows) == 9
        assert finish.cached == 32, "the blocks of the first stream's prompt"
        seen = await metrics(actor, node)
        assert seen["wiremesh_engine_requests_total", "length"] == 33
        assert seen["wiremesh_engine_tokens_total", "generated"] == 32 * 200 + 9
        assert seen["wiremesh_engine_active_requests", "running"] == 0

    play(place.join, body)


def test_the_model_travels_through_the_mesh(place: Place) -> None:
    place.sim("w")

    async def body(actor: Actor) -> None:
        (node,) = await workers(actor, MODEL)
        (card,) = await asked(actor, names.CARD, node, type=ModelCard)
        assert (card.model, card.engine.engine, card.owned_by) == (MODEL, "sim", "wiremesh")
        contents = {}
        for name, size in card.files.items():
            contents[name] = b"".join(await asked(actor, names.FILE, node, FileRequest(name)))
            assert len(contents[name]) == size
        files = ModelFiles(**contents)
        assert digest(files) == card.files_digest
        assert Tokenizer(files).vocabulary == card.engine.vocabulary
        with pytest.raises(Exception, match="'weights' is no file of a model: there are tokenizer"):
            await asked(actor, names.FILE, node, FileRequest("weights"))

    play(place.join, body)


def test_the_numpy_engine_as_a_process(place: Place, tmp_path: Path) -> None:
    golden = model_folder(tmp_path / "golden", "llama")
    engine = engine_of("llama")
    engine.submit(greedy("alone", [5, 6, 7], 20))
    alone = list(run(engine)["alone"].tokens)
    child = place.start("worker", "--model", golden, "--block-tokens", 4, "--name-as", "org/golden", "--exact")
    child.line("worker is ready")

    async def body(actor: Actor) -> None:
        await workers(actor, "org/golden")
        wanted = Generation(20, ignore_eos=True, sampling=Sampling(temperature=0.0, logprobs=0))
        streams = [ask(actor, "org/golden", [5, 6, 7], wanted) for _ in range(8)]
        for stream in streams:
            finish = await stream.done()
            assert (finish.reason, stream.tokens, len(stream.items)) == (Reason.LENGTH, alone, 20)

    play(place.join, body)
    child.signal(signal.SIGTERM)
    assert child.wait() == Exit.OK


def test_a_request_that_cannot_run_says_why(place: Place) -> None:
    place.sim("w")

    async def body(actor: Actor) -> None:
        await workers(actor, MODEL)
        for wanted, prompt, words in (
            (b"?", [1], "the request is no generation"),
            (Generation(sampling=Sampling(temperature=-1.0)), [1], "temperature is -1.0"),
            (Generation(), [10**6], "outside the vocabulary"),
            (Generation(), [1] * 5000, "leave no room in a context of 2048"),
        ):
            finish = await ask(actor, MODEL, prompt, wanted).done()
            assert finish.reason is Reason.INVALID and words in finish.text, finish
            assert finish.attempts == 1, "nobody else could run it"

    play(place.join, body)


def test_a_cancel_gives_the_room_back(place: Place) -> None:
    place.sim("w", "--slots", 1, *PACED)

    async def body(actor: Actor) -> None:
        (node,) = await workers(actor, MODEL)
        first, second = (ask(actor, MODEL, [number, 2], Generation(2000)) for number in (5, 6))
        await first.until(3)
        assert not second.tokens, "there is one slot"
        first.kill()
        assert (await first.done()).reason is Reason.KILLED
        await second.until(3)
        second.kill()
        async with asyncio.timeout(PATIENCE_S):
            while (await metrics(actor, node))["wiremesh_engine_requests_total", "cancelled"] < 2:
                pass
        assert (await status(actor, node))["load"] == {
            "running": 0,
            "waiting": 0,
            "blocks_used": 0,
            "blocks_total": 16384,
            "prefill_tokens": 0,
            "ranks": [],
            "asleep": 0,
        }

    play(place.join, body)


@pytest.mark.parametrize("how", ["drain", "sigterm", "kill", "crash", "preempt"])
def test_streams_survive_the_end_of_their_worker(place: Place, how: str) -> None:
    """Token for token, whether it was told to leave, was killed, crashed, or needed the room."""
    more = {"crash": ("--fault", "crash@500"), "preempt": ("--hand-over", "--blocks", 60)}.get(how, ())
    one, two = place.sim("one", *PACED, *more), place.sim("two", *PACED)

    async def body(actor: Actor) -> None:
        await workers(actor, MODEL, 2)
        node = int(node_of(one), 16)
        spoken = (await status(actor, node))["tokens"]
        streams = [ask(actor, MODEL, range(number, number + 40), Generation(600), pinned=node) for number in range(4)]
        for stream in streams[:3]:
            await stream.until(3)
        if how == "drain":
            await asked(actor, names.DRAIN, node, Drain())
        elif how == "sigterm":
            one.signal(signal.SIGTERM)
        elif how == "kill":
            one.signal(signal.SIGKILL)
        finishes = [await stream.done() for stream in streams]
        for stream, finish in zip(streams, finishes, strict=True):
            whole(stream, finish, spoken)
            assert finish.position == 600
        assert max(finish.attempts for finish in finishes) > 1
        assert {finish.nodes[-1] for finish in finishes} >= {int(node_of(two), 16)}

    play(place.join, body)
    if how == "crash":
        assert "the engine crashed (Crashed: crashed on command)" in one.text or one.wait() == 70
    if how != "preempt":
        assert one.wait() == {"kill": -signal.SIGKILL, "crash": Exit.INTERNAL}.get(how, Exit.OK)


def test_a_crash_is_one_line_and_an_exit_code(place: Place) -> None:
    child = place.sim("w", "--speedup", 0, "--fault", "crash@5")

    async def body(actor: Actor) -> None:
        await workers(actor, MODEL)
        finish = await ask(actor, MODEL, [1, 2], Generation(50), timeout_s=2.0).done()
        assert finish.reason is not Reason.LENGTH

    play(place.join, body)
    assert child.wait() == Exit.INTERNAL
    assert "CRITICAL wiremesh.worker: the engine crashed (Crashed: crashed on command): this worker ends" in child.text
    assert "Traceback" not in child.text


def test_a_fault_on_demand(place: Place) -> None:
    child = place.sim("w", "--fault", "hang", *PACED)

    async def body(actor: Actor) -> None:
        (node,) = await workers(actor, MODEL)
        stream = ask(actor, MODEL, [1, 2], Generation(200))
        await stream.until(5)
        child.signal(signal.SIGUSR2)
        async with asyncio.timeout(PATIENCE_S):
            while not (await metrics(actor, node))["wiremesh_engine_faults_total",]:
                pass
        seen = stream.position
        assert seen < 200
        child.signal(signal.SIGUSR2)
        finish = await stream.done()
        whole(stream, finish, (await status(actor, node))["tokens"])
        assert finish.attempts == 1, "it healed before anybody called it hung"

    play(place.join, body)


def test_a_router_says_where_and_why(place: Place) -> None:
    place.start("router", "--policy", "round-robin").line("router is ready: node")
    for name in ("one", "two"):
        place.sim(name, "--speedup", 0)

    async def body(actor: Actor) -> None:
        nodes = await workers(actor, MODEL, 2)
        finishes: list[Finish] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(finishes) < 4:  # until the router has met both
                finish = await ask(actor, MODEL, [1, 2], Generation(3), routed=True).done()
                assert finish.reason is Reason.LENGTH
                if finish.why.startswith("round_robin of 2"):
                    finishes.append(finish)
        assert {finish.nodes[0] for finish in finishes} == set(nodes)

    play(place.join, body)


def test_drain_finds_its_node_and_says_what_it_did(place: Place) -> None:
    one, two, router = place.sim("one"), place.sim("two"), place.start("router", "--name", "away")
    router.line("router is ready: node")
    found = re.search(r"node ([0-9a-f]{16})", two.line("is ready"))
    assert found is not None
    for wanted, child in (("one", one), (found[1][:8], two), ("away", router)):
        drain = place.start("drain", wanted, "--grace-s", 5, "--wait-s", 10 if len(wanted) < 8 else 2)
        assert drain.wait() == Exit.OK, drain.text
        assert re.search(r"\) is leaving\n.* has left the mesh after \d", drain.text), drain.text
        assert child.wait() == Exit.OK


def test_drain_explains_what_it_cannot_do(place: Place) -> None:
    place.sim("one")
    for words, code, text in (
        (("nobody", "--wait-s", 0.5), Exit.UNAVAILABLE, "no node 'nobody' was seen; there are"),
        (("one", "--grace-s", "-2"), Exit.SETTING, "--grace-s is -2.0"),
    ):
        drain = place.start("drain", *words)
        assert drain.wait() == code, drain.text
        assert text in drain.text and "Traceback" not in drain.text


def test_nodes_show_what_is_served(place: Place) -> None:
    place.sim("one")
    shown = place.start("nodes", "--json", "--wait-s", 2)
    assert shown.wait() == Exit.OK
    (line,) = [line for line in shown.text.splitlines() if line.startswith("{")]
    assert "generate/tiny" in json.loads(line)["endpoints"]


def test_a_worker_without_a_model_says_so_at_once(place: Place) -> None:
    child = place.start("worker", "--model", "nowhere", "--engine", "sim")
    assert child.wait() == Exit.SETTING
    assert child.text.endswith("wiremesh: --model 'nowhere' is not there: it must be 'demo' or a model's directory\n")


def test_a_second_signal_ends_a_worker_at_once(place: Place) -> None:
    child = place.sim("w", "--drain-s", 60, *PACED)

    async def body(actor: Actor) -> None:
        await workers(actor, MODEL)
        stream = ask(actor, MODEL, [1, 2], Generation(2000))
        await stream.until(5)
        child.signal(signal.SIGTERM)
        await stream.until(stream.position + 20)
        child.signal(signal.SIGTERM)
        stream.kill()
        await stream.done()

    play(place.join, body)
    assert child.wait() == 128 + signal.SIGTERM
    assert os.path.isdir(place.join.removeprefix("dir:"))
