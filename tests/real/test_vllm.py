"""vLLM on the mesh, as its launch scripts start it: the right tokens, whatever is killed, and nothing stays behind.

Runs where vLLM is installed: ./launch/test.sh --engine vllm
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from nodes.folder import contents_of, folder_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.engines.of_vllm import adapter
from tests.engines.reference import greedy
from tests.real.processes import ROOT
from tests.real.serving import environment

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")

MODEL = "demo"
START_S = 900.0  # two of them, on a machine of two cores that does other things beside
WITHIN_S = 60.0
CACHE_BYTES = 64 << 20
FLAGS = f"--dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 8 --kv-cache-memory-bytes {CACHE_BYTES}"


class Mesh:
    """What a launch script has started. It has a process group of its own, and so has each of its nodes."""

    def __init__(self, script: str, folder: Path, runtime: str, *flags: str, **settings: object) -> None:
        self.log = folder / "log"
        engines = folder / "engines"
        engines.mkdir()
        (engines / "vllm").symlink_to(sys.prefix)
        told = {
            "WIREMESH_JOIN": f"dir:{runtime}",
            "WIREMESH_ENGINES": str(engines),
            "PORT": 0,
            "NAME": MODEL,
            **settings,
        }
        with self.log.open("wb") as log:
            self._script = subprocess.Popen(
                ["bash", f"launch/{script}", str(folder_of("demo")), *FLAGS.split(), "--block-size", "32", *flags],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in told.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def line(self, pattern: str, within_s: float = START_S) -> str:
        """The first group of the first line that is like this, waited for."""
        deadline = time.monotonic() + within_s
        while (found := re.search(pattern, self.log.read_text(errors="replace"))) is None:
            assert self._script.poll() is None and time.monotonic() < deadline, self.log.read_text(errors="replace")
            threading.Event().wait(0.1)
        return found.group(1)

    @property
    def port(self) -> int:
        return int(self.line(r"serves http://127\.0\.0\.1:(\d+)"))

    def worker(self, name: str) -> int:
        """The process of a worker."""
        for process in processes():
            if is_of(process, self) and {b"worker", name.encode()} <= set(read(process / "cmdline").split(b"\0")):
                return int(process.name)
        raise AssertionError(f"there is no {name}")

    @property
    def session(self) -> int:
        return self._script.pid

    def end(self) -> None:
        """As Ctrl-C or a supervisor would."""
        for process in processes():
            if is_of(process, self):
                os.kill(int(process.name), signal.SIGCONT)
        self._script.terminate()
        try:
            self._script.wait(WITHIN_S)
        finally:
            for process in processes():
                if is_of(process, self):
                    os.kill(int(process.name), signal.SIGKILL)

    def left(self) -> list[int]:
        """Its engine cores that run."""
        found = [process for process in processes() if is_of(process, self)]
        return [int(process.name) for process in found if b"VLLM" in read(process / "comm")]


def read(file: Path) -> bytes:
    """Nothing of a process that has gone meanwhile."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and fields(entry)[:1] not in ([], ["Z"])]


def fields(process: Path) -> list[str]:
    """What the kernel says of it, from its state on."""
    return read(process / "stat").decode(errors="replace").rpartition(")")[2].split()


def is_of(process: Path, mesh: Mesh) -> bool:
    return fields(process)[3:4] == [str(mesh.session)]


@contextmanager
def started(script: str, folder: Path, *flags: str, **settings: object) -> Iterator[Mesh]:
    with environment() as runtime:
        mesh = Mesh(script, folder, runtime, *flags, **settings)
        try:
            yield mesh
        except BaseException:
            print(mesh.log.read_text(errors="replace"))
            raise
        finally:
            mesh.end()
    until(lambda: not mesh.left())


def until(look: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """What is seen, as soon as it is something."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    return found


# --- What clients do ---------------------------------------------------------------------------------------


def opened(mesh: Mesh, prompt: Sequence[int], tokens: int, **more: Any) -> Any:
    """`model`: another than the plain one."""
    body = {"model": MODEL, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}
    head = {"content-type": "application/json"}
    url = f"http://127.0.0.1:{mesh.port}/v1/completions"
    return urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head), timeout=START_S)


def text_of(mesh: Mesh, prompt: Sequence[int], tokens: int, **more: Any) -> str:
    with opened(mesh, prompt, tokens, **more) as answer:
        return str(json.load(answer)["choices"][0]["text"])


class Stream(threading.Thread):
    """One that is being read."""

    def __init__(self, mesh: Mesh, prompt: Sequence[int], tokens: int, **more: Any) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.broken: BaseException | None = None
        self._wanted = (mesh, prompt, tokens), more
        self.start()

    def run(self) -> None:
        given, more = self._wanted
        try:
            with opened(*given, stream=True, **more) as answer:
                for line in answer:
                    if line.startswith(b"data: {"):
                        event = json.loads(line[6:])
                        assert "error" not in event, event
                        self.texts.append(event["choices"][0]["text"])
        except BaseException as error:  # told to who waits for it
            self.broken = error

    def whole(self) -> str:
        self.join(START_S)
        assert not self.is_alive() and self.broken is None, self.broken
        return "".join(self.texts)


def metric(mesh: Mesh, name: str, **labels: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{mesh.port}/metrics", timeout=WITHIN_S) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [line for line in lines if line.startswith((name + "{", name + " ")) and all(one in line for one in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def prompt(seed: int, count: int) -> list[int]:
    return [100 + (seed * 7919 + index * 31) % 1200 for index in range(count)]


def right(given: Sequence[int], tokens: int) -> str:
    """What a greedy model says."""
    tokenizer = Tokenizer(ModelFiles(**contents_of(folder_of("demo"))))
    return tokenizer.decode(greedy(given, tokens))


PATTERN = "[a-z]{20,30}-[0-9]{3}"
WORD = {"type": "string", "minLength": 10, "maxLength": 14}
SCHEMA = {"type": "object", "properties": {"word": WORD}, "required": ["word"], "additionalProperties": False}
SAMPLED = {"temperature": 0.9, "seed": 11, "top_p": 0.95, "frequency_penalty": 0.3}
GUIDED = (
    {**SAMPLED, "guided_regex": PATTERN, "ignore_eos": False},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, "ignore_eos": False},
)


def test_two_workers_one_of_which_is_killed(tmp_path: Path) -> None:
    poet = f"poet={adapter(tmp_path / 'poet', 1)}"
    with started("vllm_agg.sh", tmp_path, "--max-lora-rank", "8", "--lora-modules", poet) as mesh:
        for number in (0, 1):
            mesh.line(rf"worker is ready: node \w+ \((worker{number})\)")
        until(lambda: metric(mesh, "wiremesh_frontend_workers", model=MODEL) == 2)
        assert text_of(mesh, prompt(1, 100), 24) == right(prompt(1, 100), 24)
        again = text_of(mesh, prompt(1, 100), 24)
        assert again == right(prompt(1, 100), 24)
        assert metric(mesh, "wiremesh_engine_tokens_total", kind="cached") >= 64, "the router sent it where it was"
        adapted = {**SAMPLED, "model": f"{MODEL}:poet"}
        assert text_of(mesh, prompt(1, 100), 24, model=f"{MODEL}:poet") != right(prompt(1, 100), 24)
        kinds = [SAMPLED, adapted, SAMPLED, adapted]
        whole = [text_of(mesh, prompt(seed, 40), 250, **kind) for seed, kind in enumerate(kinds)]
        streams = [Stream(mesh, prompt(seed, 40), 250, **kind) for seed, kind in enumerate(kinds)]
        until(lambda: min(len(stream.texts) for stream in streams) >= 20)
        os.kill(mesh.worker("worker0"), signal.SIGKILL)
        assert [stream.whole() for stream in streams] == whole, (
            "sampled, with penalties, with an adapter: not a token differs"
        )
        until(lambda: len(mesh.left()) <= 1)
        assert metric(mesh, "wiremesh_node_events_total", event="requests.moved") >= 1
        assert metric(mesh, "vllm:generation_tokens_total") > 0, "its own metrics are there too"


def test_prefill_and_decode_apart(tmp_path: Path) -> None:
    if find_spec("nixl") is None:
        pytest.skip("NIXL is not installed here")
    with started("vllm_pd.sh", tmp_path, DISAGG_TOKENS=16) as mesh:
        mesh.line(r"(prefill) is ready: node")
        mesh.line(r"(decode) is ready: node")
        seeds = count(200)
        handed: Callable[[str], float] = lambda event: metric(  # noqa: E731
            mesh, "wiremesh_transfer_handovers_total", event=event
        )
        until(lambda: metric(mesh, "wiremesh_frontend_workers", model=MODEL))
        # A prompt that was answered before the router knew the prefill is cached by who decodes: each time a new one.
        until(lambda: text_of(mesh, prompt(next(seeds), 40), 2) and handed("pulled") >= 1)
        until(lambda: handed("pulled") == handed("offered"))
        before = until(lambda: handed("pulled"))  # a scrape may come too late for a busy node, and has nothing of it
        for length in (31, 32, 33, 64, 300):  # around the ends of blocks
            assert text_of(mesh, prompt(length, length), 24) == right(prompt(length, length), 24), length
        until(lambda: handed("pulled") == before + 5)
        until(lambda: handed("offered") == before + 5)
        drawn = text_of(mesh, prompt(50, 90), 60, **SAMPLED)
        guided = [text_of(mesh, prompt(60 + seed, 90), 120, **guide) for seed, guide in enumerate(GUIDED)]
        assert re.fullmatch(PATTERN, guided[0]) and 10 <= len(json.loads(guided[1])["word"]) <= 14
        until(lambda: handed("pulled") == before + 8)
        os.kill(mesh.worker("prefill0"), signal.SIGSTOP)
        frozen = Stream(mesh, prompt(50, 90), 60, cache_salt="another", **SAMPLED)
        again = [{**guide, "cache_salt": "another"} for guide in GUIDED]
        kept = [Stream(mesh, prompt(60 + seed, 90), 120, **guide) for seed, guide in enumerate(again)]
        os.kill(mesh.worker("prefill0"), signal.SIGKILL)
        assert frozen.whole() == drawn, "computed by who decodes"
        assert [stream.whole() for stream in kept] == guided, "under its guide from the first token on"
        until(lambda: len(mesh.left()) == 1)
        assert text_of(mesh, prompt(51, 90), 24) == right(prompt(51, 90), 24)
