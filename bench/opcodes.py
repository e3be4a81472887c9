"""Shell. How many bytecodes a request takes in a node, function by function, and what it leaves for a collection.

    python -m bench.opcodes [--role frontend|worker] [--connections 8] [--requests 200] [--tokens 1] [--top 40] [--json]

Seconds depend on the hour and on the neighbours; these counts hardly do. They are not time (an opcode may be a whole
sort), but between two versions of the same code they tell what no clock on a shared machine can. The node runs under a
tracer, some twenty times as slow; the others do not.
"""

import argparse
import gc
import http.client
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
from msgspec import Struct

from bench import systems
from bench.processes import Failed
from bench.systems import MODEL, ROOT, Command, Shape, System, running
from bench.tinymodel import made
from bench.truth import Prompts, Truth, body

PROMPT_TOKENS = 128
WARM_UP = 64  # requests before it counts: what is made once is made by then
WAIT_S = 30.0
POLL_S = 0.02
TOGGLE = signal.SIGUSR1


class Function(Struct, frozen=True):
    """What one function did."""

    name: str
    opcodes: int
    calls: int


class Counts(Struct, frozen=True):
    """What a node did between two signals."""

    functions: list[Function]
    garbage: int  # objects that only a collection frees


# --- In the node -----------------------------------------------------------------------------------------


class Tracer:
    """Counts between one signal and the next, and writes down what it has."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._opcodes, self._calls = Counter[CodeType](), Counter[CodeType]()
        self._counts = False

    def toggle(self, *_: object) -> None:
        if self._counts:
            sys.settrace(None)
            self._write(Counts(self._functions(), gc.collect()))
        else:
            gc.collect()
            gc.disable()
            self._counts = True
            sys.settrace(self._called)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._calls[frame.f_code] += 1
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self._opcodes[frame.f_code] += 1
        return self._stepped

    def _functions(self) -> list[Function]:
        return [
            Function(f"{code.co_qualname} ({short(code.co_filename)}:{code.co_firstlineno})", count, self._calls[code])
            for code, count in self._opcodes.most_common()
        ]

    def _write(self, counts: Counts) -> None:
        part = self._out.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(counts))
        part.rename(self._out)


def short(path: str) -> str:
    """A file's name as people know it."""
    return path.removeprefix(f"{ROOT}/").rpartition("site-packages/")[2]


def inside(out: str, words: Sequence[str]) -> int:
    """Be a node, and count when told to."""
    from launch.cli import main as node

    signal.signal(TOGGLE, Tracer(Path(out)).toggle)
    return node(words)


# --- Outside ---------------------------------------------------------------------------------------------


@contextmanager
def traced(role: str, out: Path) -> Iterator[System]:
    """A mesh of which one node counts."""

    def command(system: System, name: str) -> Command:
        words, environment = systems.ours(system, name)
        if not name.startswith(role):
            return words, environment
        at = words.index("launch.cli")
        return [*words[:at], "bench.opcodes", "--inside", str(out), *words[at + 1 :]], environment

    systems.COMMANDS[f"traced {role}"] = command
    with running(f"traced {role}", Shape(cores=""), made()) as system:
        yield system


def count(role: str, connections: int, requests: int, tokens: int) -> Counts:
    """Load a mesh with so many requests, and learn what one of its nodes did meanwhile."""
    truth = Truth(made())
    prompts = Prompts(truth, PROMPT_TOKENS, time.time_ns() % 2**32)
    out = Path(tempfile.mkdtemp(prefix="wmb")) / "counts"
    with traced(role, out) as system:
        (pid,) = system.pids()[role]
        load(system.port, [body(MODEL, prompts.next(), tokens, True) for _ in range(WARM_UP)], connections)
        os.kill(pid, TOGGLE)
        load(system.port, [body(MODEL, prompts.next(), tokens, True) for _ in range(requests)], connections)
        os.kill(pid, TOGGLE)
        until = time.monotonic() + WAIT_S
        while not out.exists():
            if time.monotonic() > until:
                raise Failed(f"the {role} has counted nothing")
            time.sleep(POLL_S)
    return msgspec.json.decode(out.read_bytes(), type=Counts)


def load(port: int, bodies: Sequence[bytes], connections: int) -> None:
    """Send all of them, on so many connections at once."""
    with ThreadPoolExecutor(connections) as pool:
        for _ in pool.map(lambda part: ask(port, part), [bodies[start::connections] for start in range(connections)]):
            pass


def ask(port: int, bodies: Sequence[bytes]) -> None:
    """One after another on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    for one in bodies:
        connection.request("POST", "/v1/chat/completions", one, {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200 or b"[DONE]" not in answer.read():
            raise Failed(f"a request was answered with {answer.status}")
    connection.close()


def show(counts: Counts, requests: int, top: int) -> Iterator[str]:
    """For people."""
    opcodes, calls = (sum(getattr(one, name) for one in counts.functions) for name in ("opcodes", "calls"))
    left = f"{counts.garbage / requests:.1f} objects in circles"
    yield f"per request: {opcodes / requests:,.0f} opcodes in {calls / requests:,.0f} calls; {left}"
    for one in counts.functions[:top]:
        yield f"{one.opcodes / requests:9.1f} in {one.calls / requests:6.2f} calls of {one.name}"


def main() -> int:
    """Measure and tell."""
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(prog="python -m bench.opcodes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--role", choices=["frontend", "worker"], default="frontend")
    for name, value in (("connections", 8), ("requests", 200), ("tokens", 1), ("top", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    counts = count(given.role, given.connections, given.requests, given.tokens)
    if given.json:
        print(json.dumps({"requests": given.requests, **msgspec.to_builtins(counts)}))
    else:
        print("\n".join(show(counts, given.requests, given.top)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
