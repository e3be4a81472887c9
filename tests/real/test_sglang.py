"""SGLang on the mesh, as its launch scripts start it: the right tokens, whatever is killed, and nothing stays behind.

Runs where SGLang is installed: ./launch/test.sh --engine sglang
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from nodes.engines.guard import descendants
from nodes.folder import folder_of
from tests.engines.of_sglang import PLACE, SETTINGS, WORDS
from tests.real import test_vllm as apart
from tests.real.processes import ROOT, Child
from tests.real.serving import environment
from tests.real.test_vllm import Stream, fields, metric, processes, prompt, read, right, text_of, until

pytestmark = pytest.mark.skipif(
    find_spec("sglang") is None or find_spec("sgl_kernel") is None, reason="SGLang is not installed here"
)

MODEL = apart.MODEL
CACHE_TOKENS = 8192
HANDING = "--disaggregation-decode-retraction-backup none"  # its usual one needs CUDA
SEEDED = "--enable-deterministic-inference"
SAMPLED = {"temperature": 0.9, "seed": 11, "top_p": 0.95}
SAID = {"type": "array", "items": {"type": "string", "minLength": 60, "maxLength": 80}, "minItems": 3, "maxItems": 3}
RECORD = {"type": "object", "properties": {"said": SAID}, "required": ["said"], "additionalProperties": False}
GUIDED = {"guided_json": RECORD, "ignore_eos": False}


class Mesh(apart.Mesh):
    """What a launch script of SGLang's has started."""

    def __init__(self, script: str, folder: Path, runtime: str, *flags: str, **settings: object) -> None:
        self.log = folder / "log"
        self._before = of_sglang()
        engines = folder / "engines"
        engines.mkdir()
        (engines / "sglang").symlink_to(sys.prefix)
        path = os.pathsep.join([str(PLACE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        told = {
            "WIREMESH_JOIN": f"dir:{runtime}",
            "WIREMESH_ENGINES": engines,
            "PORT": 0,
            "NAME": MODEL,
            "PYTHONPATH": path,
            **SETTINGS,
            **settings,
        }
        given = [*WORDS.split(), "--max-total-tokens", str(CACHE_TOKENS), *flags]
        with self.log.open("wb") as log:
            self._script = subprocess.Popen(
                ["bash", f"launch/{script}", str(folder_of("demo")), *given],
                cwd=ROOT,
                env={**os.environ, **{name: str(value) for name, value in told.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def left(self) -> set[int]:
        """Processes of SGLang that were not there before."""
        return of_sglang() - self._before


def of_sglang() -> set[int]:
    """All schedulers and the like of this machine."""
    found = set()
    for process in processes():
        try:
            if (process / "comm").read_text().startswith("sglang::"):
                found.add(int(process.name))
        except OSError:
            continue
    return found


@contextmanager
def started(script: str, folder: Path, *flags: str, **settings: object) -> Iterator[Mesh]:
    with environment() as runtime:
        mesh = Mesh(script, folder, runtime, *flags, **settings)
        try:
            yield mesh
        finally:
            mesh.end()
    until(lambda: not mesh.left())


def test_two_workers_one_of_which_is_killed(tmp_path: Path) -> None:
    with started("sglang_agg.sh", tmp_path) as mesh:
        for number in (0, 1):
            mesh.line(rf"worker is ready: node \w+ \((worker{number})\)")
        until(lambda: metric(mesh, "wiremesh_frontend_workers", model=MODEL) == 2)
        assert text_of(mesh, prompt(1, 100), 24) == right(prompt(1, 100), 24)
        until(lambda: metric(mesh, "wiremesh_index_blocks") >= 6)
        assert text_of(mesh, prompt(1, 100), 24) == right(prompt(1, 100), 24)
        until(lambda: metric(mesh, "wiremesh_engine_tokens_total", kind="cached") >= 64)  # sent to where it was
        until(lambda: metric(mesh, "sglang:prompt_tokens_total") > 0)  # its own metrics are there too
        with pytest.raises(HTTPError) as refused:
            text_of(mesh, prompt(1, 100), 24, **SAMPLED)
        error = json.load(refused.value)["error"]
        assert (refused.value.code, error["param"]) == (400, "seed") and SEEDED in error["message"]
        goes_on_without(mesh, "worker0")
        until(lambda: "attempts=2" in mesh.log.read_text(errors="replace"))


def test_prefill_and_decode_apart(tmp_path: Path) -> None:
    if find_spec("nixl") is None:
        pytest.skip("NIXL is not installed here")
    with started("sglang_pd.sh", tmp_path, *HANDING.split()) as mesh:
        mesh.line(r"(prefill) is ready: node")
        mesh.line(r"(decode) is ready: node")
        until(lambda: metric(mesh, "wiremesh_frontend_workers", model=MODEL) == 1)
        for length in (15, 16, 17, 32, 300, 300):  # around the ends of blocks, and one of which all is cached
            assert text_of(mesh, prompt(length, length), 24) == right(prompt(length, length), 24), length
        # A node that is late is left out of a scrape.
        until(lambda: metric(mesh, "wiremesh_transfer_handovers_total", event="pulled") == 6)
        assert text_of(mesh, prompt(33, 33), 1) == right(prompt(33, 33), 1), "whose prefill is all of it"
        goes_on_without(mesh, "prefill0")  # which has handed over what it had


def goes_on_without(mesh: Mesh, worker: str) -> None:
    """Streams have all their tokens although a worker is killed, and those that must be JSON are."""
    guided = [text_of(mesh, prompt(seed, 40), 250, **GUIDED) for seed in (4, 5)]
    assert all(is_right(text) for text in guided)
    kinds: list[dict[str, Any]] = [{}, {}, {}, {}, GUIDED, GUIDED]
    streams = [Stream(mesh, prompt(seed, 40), 250, **kind) for seed, kind in enumerate(kinds)]
    until(lambda: min(len(stream.texts) for stream in streams) >= 20)
    os.kill(mesh.worker(worker), signal.SIGKILL)
    assert [stream.whole() for stream in streams] == [right(prompt(seed, 40), 250) for seed in range(4)] + guided


def is_right(text: str) -> bool:
    """Whether it is what GUIDED asks for."""
    found = json.loads(text)
    return [*found] == ["said"] and [60 <= len(one) <= 80 for one in found["said"]] == [True] * 3


def test_a_worker_that_is_killed_while_it_starts_leaves_nothing() -> None:
    """SGLang's own processes only notice once they have loaded what they need, and loaded they wait for ever."""
    with environment() as runtime, serving("worker", runtime) as child:
        # One that has just begun: both its scheduler and what makes text of tokens are there.
        begun = until(lambda: len(found := spawned(child.pid)) >= 2 and found, apart.START_S)
        child.kill()
        until(lambda: not [one for one in begun if fields(Path(f"/proc/{one}"))[:1] not in ([], ["Z"])])


def spawned(process: int) -> list[int]:
    return [one for one in descendants(process) if b"spawn_main" in read(Path(f"/proc/{one}/cmdline"))]


def serving(command: str, runtime: str, *words: object, flags: Sequence[str] = ()) -> Child:
    """A node or more of Wiremesh's with SGLang behind it, as this machine can run it."""
    path = os.pathsep.join([str(PLACE), str(ROOT)])
    told = ("--join", f"dir:{runtime}", "--engine", "sglang", "--model", folder_of("demo"), *words)
    native = ("--", *WORDS.split(), "--max-total-tokens", CACHE_TOKENS, *flags)
    between = ("--",) if command == "up" else ()  # a first one: flags of the workers
    return Child("-m", "launch.cli", command, *told, *between, *native, environment={**SETTINGS, "PYTHONPATH": path})


class Upped:
    """What `wiremesh up` has started, as those who ask it see it."""

    def __init__(self, child: Child) -> None:
        self.child = child
        served = self.event("serving", "")
        self.port = int(re.search(r":(\d+)", served["url"]).group(1))  # type: ignore[union-attr]

    def event(self, topic: str, name: str) -> dict[str, Any]:
        """The first event of a kind, waited for."""
        return dict(json.loads(self.child.line(f'"event":"{topic}","text":"{name}', apart.START_S)))


@contextmanager
def upped(*words: object) -> Iterator[Upped]:
    """`wiremesh up` with SGLang's workers."""
    before = of_sglang()
    with environment() as runtime:
        flags = [*HANDING.split(), SEEDED]
        with serving("up", runtime, "--port", 0, "--json", *words, flags=flags) as child:
            try:
                yield Upped(child)
            finally:
                child.signal(signal.SIGINT)
                child.wait(apart.WITHIN_S)
                print(child.text)  # for who looks why a test fails
    until(lambda: not of_sglang() - before)


def empty(mesh: Upped) -> bool:
    """No worker has a request, on its side or SGLang's, and no block is in use."""
    used = metric(mesh, "wiremesh_engine_blocks", state="used")
    return not used + metric(mesh, "wiremesh_engine_active_requests")


def test_a_decode_worker_of_wiremesh_up_is_killed() -> None:
    """In the middle of streams, and while it waits for what prefill workers compute: nothing is lost or kept."""
    if find_spec("nixl") is None:
        pytest.skip("NIXL is not installed here")
    with upped("--topology", "pd", "--decode", 2) as mesh:
        first, second = mesh.event("ready", "decode-1 is ready"), mesh.event("ready", "decode-2 is ready")
        until(lambda: metric(mesh, "wiremesh_frontend_workers", model=MODEL) == 2)
        kinds: list[dict[str, Any]] = [{}, SAMPLED, {}, {**SAMPLED, "seed": 12}, {**SAMPLED, **GUIDED}]
        whole = [text_of(mesh, prompt(seed, 40), 250, **kind) for seed, kind in enumerate(kinds)]
        assert [whole[0], whole[2]] == [right(prompt(seed, 40), 250) for seed in (0, 2)] and is_right(whole[4])
        streams = [Stream(mesh, prompt(seed, 40), 250, **kind) for seed, kind in enumerate(kinds)]
        until(lambda: min(len(stream.texts) for stream in streams) >= 20)
        os.kill(first["pid"], signal.SIGKILL)
        assert [stream.whole() for stream in streams] == whole
        until(lambda: empty(mesh))
        until(lambda: metric(mesh, "wiremesh_frontend_workers", model=MODEL) == 2, apart.START_S)
        streams = [Stream(mesh, prompt(seed, 700), 20) for seed in range(8)]
        until(lambda: metric(mesh, "wiremesh_engine_active_requests") >= 4)
        os.kill(second["pid"], signal.SIGKILL)
        assert [stream.whole() for stream in streams] == [right(prompt(seed, 700), 20) for seed in range(8)]
        until(lambda: empty(mesh))
