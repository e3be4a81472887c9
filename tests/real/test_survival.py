"""What a client sees while workers die, freeze, hang, leave and run out of room: nothing."""

import asyncio
import itertools
import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests.real.crowd import LOGPROBS, TOKENS, crowd
from tests.real.processes import Child
from tests.real.raw_http import CHAT, COMPLETIONS, Told, ask
from tests.real.serving import (
    PACED,
    Frontend,
    Serving,
    chat,
    eventually,
    mesh,
    metric,
    models,
    node_of,
    random_model,
    ready,
    says,
    served,
    span,
)

RANDOM = "org/random"
LATE_S = 1.2  # a silent router costs 0.25 s; more than this only who waits until it is suspected
NUMBERS = itertools.count()
LATE_MAX = 5  # requests that a busy machine may keep so long: eight were asked when the router had fallen silent


class House(NamedTuple):
    """What all tests here share: a frontend, and a worker that stays."""

    mesh: Serving
    front: Frontend
    stays: str


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with mesh(tmp_path_factory.mktemp("survival")) as there:
        worker = there.worker("stays", *PACED)
        front = there.frontend()
        asyncio.run(served(front, 1))
        yield House(there, front, node_of(worker))


# --- Disturbances ------------------------------------------------------------------------------------------

FLAGS = {
    "hang": ("--fault", "hang"),
    "crash": ("--fault", "crash"),
    "sigterm": ("--drain-s", 0.2),
    "room": ("--blocks", 60, "--hand-over"),
}
SLOWER = {"drain": ("--decode-ms", "0:15", "--prefill-ms", "0:2")}  # until its command has started
SIGNALS = {
    "kill": signal.SIGKILL,
    "freeze": signal.SIGSTOP,
    "hang": signal.SIGUSR2,
    "crash": signal.SIGUSR2,
    "sigterm": signal.SIGTERM,
}
COMES_BACK = {"freeze": signal.SIGCONT, "hang": signal.SIGUSR2}
CODES = {"kill": -signal.SIGKILL, "crash": 70, "sigterm": 0, "drain": 0}


@pytest.mark.parametrize("hows", ["kill", "crash", "room", "sigterm drain", "freeze hang"])
def test_every_stream_is_whole(house: House, hows: str) -> None:
    """Some at the same time: these take long."""

    async def main() -> None:
        await served(house.front, 1 + len(victims))
        await asyncio.gather(*(disturbed(house, how, victim) for how, victim in victims.items()))
        for how, victim in victims.items():
            if how in CODES:
                assert victim.wait() == CODES[how]
        await served(house.front, 1 + sum(how not in CODES for how in victims))

    with house.mesh.moment():
        victims = {how: house.mesh.worker(how, *SLOWER.get(how, PACED), *FLAGS.get(how, ())) for how in hows.split()}
        asyncio.run(main())


async def disturbed(house: House, how: str, victim: Child) -> None:
    """Streams begin at a worker, something happens to it, and they go on where nothing does."""
    front, node = house.front, node_of(victim)

    def disturb() -> None:
        if how == "drain":
            house.mesh.start("drain", how, "--grace-s", 0.2)
        elif how in SIGNALS:
            victim.signal(SIGNALS[how])

    lines = await crowd(front, how, disturb, node)
    assert all(line["nodes"][0] == node and line["status"] == 200 for line in lines)
    moved = [line for line in lines if len(line["nodes"]) > 1]
    assert moved if how == "room" else moved == lines
    if how in COMES_BACK:
        victim.signal(COMES_BACK[how])
        await eventually(lambda: lands(front, node), bool)


async def lands(front: Frontend, node: str) -> bool:
    """Whether a worker gets requests. Their lines come a moment after their answers."""
    names = [f"lands-{node}-{next(NUMBERS)}" for _ in range(4)]
    await asyncio.gather(*(ask(front.port, CHAT, chat(tokens=3), x_request_id=name) for name in names))
    return any(front.line(name)["nodes"] == [node] for name in names)


def test_one_after_the_other(house: House) -> None:
    """Two workers come and are killed while streams run: each stream goes through all of it."""

    async def main() -> None:
        for name in ("first", "second"):
            victim = house.mesh.worker(name, *PACED)
            await served(house.front, 2)
            lines = await crowd(house.front, name, partial(victim.signal, signal.SIGKILL))
            assert any(node_of(victim) in line["nodes"] for line in lines), "both got some"
            await served(house.front, 1)

    with house.mesh.moment():
        asyncio.run(main())


# --- Routers -----------------------------------------------------------------------------------------------


def test_a_router_falls_silent_and_dies(house: House) -> None:
    """It placed them; without it the frontend places by itself, and nobody waits for it for long."""
    front = house.front
    before = len(front.lines())

    async def routed() -> bool:
        await ask(front.port, CHAT, chat(tokens=3))
        return any("round_robin of 2" in line.get("why", "") for line in front.lines()[before:])

    async def one(number: int) -> None:
        found = await ask(front.port, CHAT, chat(f"late {number}"), x_request_id=f"late-{number}")
        assert found.json["choices"][0]["message"]["content"] == says(f"late {number}", 40)

    async def main() -> None:
        await served(front, 2)
        await eventually(routed, bool)
        late: list[asyncio.Task[None]] = []

        def disturb() -> None:
            router.signal(signal.SIGSTOP)
            late.extend(asyncio.ensure_future(one(number)) for number in range(8))

        lines = await crowd(front, "routed", disturb)
        assert all(line["attempts"] == line["choices"] for line in lines), lines
        assert sum(line["why"].startswith("round_robin of 2") for line in lines) > len(lines) // 2, lines
        await asyncio.gather(*late)
        router.kill()
        await asyncio.gather(*map(one, range(8, 16)))
        lines += [front.line(f"late-{number}") for number in range(16)]
        waited = sorted(line["first_token_s"] for line in lines)
        assert waited[-LATE_MAX] < LATE_S, waited

    with house.mesh.moment():
        router = house.mesh.start("router", "--policy", "round-robin")
        house.mesh.worker("other", *PACED)
        ready(router)
        asyncio.run(main())


# --- A model that computes ---------------------------------------------------------------------------------


def test_sampled_text_is_the_same_after_a_death(house: House) -> None:
    """Greedy and sampled, with choices, penalties and log-probabilities, in pieces of characters."""
    front, model = house.front, random_model(house.mesh.folder / "random")
    common = {"model": RANDOM, "ignore_eos": True, "stream": True}
    bodies: list[dict[str, Any]] = [
        {**chat("greedy", TOKENS), **common, "temperature": 0},
        {**chat("warm", TOKENS), **common, "temperature": 0.8, "seed": 11},
        {**chat("two", TOKENS), **common, "temperature": 0.8, "seed": 12, "n": 2, "top_p": 0.9, "top_k": 50},
        {**chat("held", TOKENS), **common, "temperature": 0.8, "seed": 13, "frequency_penalty": 0.5, "min_p": 0.01},
        {**chat("told", TOKENS), **common, "temperature": 0.8, "seed": 14, **LOGPROBS},
    ]

    async def streams(number: int, begin: str = "", disturb: Callable[[], Any] = str) -> list[Told]:
        tolds = [Told() for _ in bodies]
        pinned = {"x_wiremesh_worker": begin} if begin else {}
        async with asyncio.TaskGroup() as group:
            for place, (told, body) in enumerate(zip(tolds, bodies, strict=True)):
                name = f"random-{number}-{place}"
                group.create_task(told.run(front.port, CHAT, body, x_request_id=name, **pinned))
            for told in tolds:
                await told.until(30)
            disturb()
        return tolds

    async def main() -> None:
        victim, other = workers
        await served(front, 2, RANDOM)
        undisturbed = await streams(0, node_of(other))
        found = await streams(1, node_of(victim), lambda: victim.signal(signal.SIGKILL))
        for one, same in zip(found, undisturbed, strict=True):
            assert one.complete and one.texts == same.texts and one.reasons == same.reasons
            assert all(len(text) > 100 for text in one.texts)
        assert rows(found[-1]) == rows(undisturbed[-1]) and len(rows(found[-1])) == TOKENS
        for place in range(len(bodies)):
            assert len(front.line(f"random-1-{place}")["nodes"]) == 2

    with house.mesh.moment():
        words = ("--model", model, "--name-as", RANDOM, "--exact")
        workers = [house.mesh.start("worker", "--name", f"random{number}", *words) for number in range(2)]
        ready(*workers)
        asyncio.run(main())


def rows(told: Told) -> list[Any]:
    """The log-probabilities of a stream's tokens."""
    choices = [choice for event in told.events[:-1] for choice in json.loads(event)["choices"]]
    return [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]


# --- The client's own connection ---------------------------------------------------------------------------


def test_a_client_comes_back(house: House) -> None:
    """Its connection breaks, its worker dies, and it reads on where it was; another joins from the start."""
    front = house.front
    body = chat("resume me", TOKENS, stream=True)
    text = says("resume me", TOKENS)

    async def generated() -> float:
        return await metric(front.port, "wiremesh_node_events_total", event="requests.finished.length")

    async def main() -> None:
        await served(front, 2)
        first = Told()
        pinned = {"x_wiremesh_worker": node_of(victim)}
        running = asyncio.create_task(first.run(front.port, CHAT, body, idempotency_key="again", **pinned))
        await first.until(50)
        assert first.connection is not None
        name = first.connection.headers["x-wiremesh-stream"]
        joined = asyncio.create_task(Told().run(front.port, CHAT, body, idempotency_key="again"))
        first.connection.break_off()
        await asyncio.gather(running, return_exceptions=True)
        victim.signal(signal.SIGKILL)
        seen = first.numbers[-1]
        assert first.numbers == list(range(seen + 1)) and not first.complete
        rest = await Told().run(front.port, f"/v1/streams/{name}", method="GET", last_event_id=str(seen))
        assert rest.complete and rest.numbers[0] == seen + 1 and rest.reasons == {0: "length"}
        assert first.texts[0] + rest.texts[0] == text
        assert (await joined).texts == [text] and joined.result().complete
        later = await Told().run(front.port, f"/v1/streams/chatcmpl-{name}?from=100", method="GET")
        assert later.numbers[0] == 100 and text.endswith(later.texts[0]) and later.texts[0]
        other = await ask(front.port, CHAT, chat("another"), idempotency_key="again")
        assert other.status == 400 and other.error["code"] == "idempotency_key_reused"
        assert await generated() == before + 1, "one request of the mesh for all of them"

    with house.mesh.moment():
        victim = house.mesh.worker("breaks", *PACED)
        before = asyncio.run(generated())
        asyncio.run(main())


def test_who_does_not_come_back_is_cancelled(house: House) -> None:
    """At once without a key; after its grace with one."""

    async def main() -> None:
        for more, sequences in (({}, 0), ({"x_session_id": "ann"}, 1)):
            told = Told()
            running = asyncio.create_task(told.run(front.port, CHAT, chat("gone", 2000, stream=True), **more))
            await told.until(3)
            assert told.connection is not None
            told.connection.break_off()
            await asyncio.gather(running, return_exceptions=True)
            if sequences:
                assert await metric(front.port, "wiremesh_frontend_kept_streams", node=node) == 1
            await eventually(lambda: metric(front.port, "wiremesh_engine_active_requests"), lambda found: found == 0)
        assert await metric(front.port, "wiremesh_frontend_cancellations_total", node=node) == 2

    with house.mesh.moment():
        front = house.mesh.frontend("--grace-s", 1.5)
        node = node_of(front.child)
        asyncio.run(served(front, 1))
        asyncio.run(main())


# --- A request that kills ----------------------------------------------------------------------------------


def test_poison_is_refused_and_its_neighbours_live(house: House) -> None:
    """It takes three workers at the most, and is told so, in words that keep clients from trying it again."""
    front, model = house.front, "poisoned"
    poison = span()[0]

    async def main() -> None:
        await served(front, 4, model)
        body = {"model": model, "prompt": [poison] * 5, "max_tokens": 10}
        neighbours = [{**chat(f"neighbour {n}", TOKENS, stream=True), "model": model} for n in range(4)]
        tolds = [Told() for _ in neighbours]
        async with asyncio.TaskGroup() as group:
            for told, neighbour in zip(tolds, neighbours, strict=True):
                group.create_task(told.run(front.port, CHAT, neighbour))
            for told in tolds:
                await told.until(20)
            killer = group.create_task(ask(front.port, COMPLETIONS, body))
        for number, told in enumerate(tolds):
            assert told.complete and told.texts == [says(f"neighbour {number}", TOKENS)]
        answer = killer.result()
        assert answer.status == 500 and answer.error["code"] == "poison", answer
        assert answer.headers["x-should-retry"] == "false"
        assert model in await models(front.port), "somebody is left"

    with house.mesh.moment():
        started = [house.mesh.worker(f"poison{n}", *PACED, "--poison", poison, serves=model) for n in range(4)]
        ready(*started)
        asyncio.run(main())
