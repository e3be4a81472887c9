"""Shell. What clients notice while workers are killed, frozen and drained, one after the other.

    python -m bench.faults [--kind kill] [--seconds 20] [--every-s 1] [--workers 4] [--streams 64] [--tokens 500]

Every stream must come to its end, and be, token for token, what an undisturbed engine says: any that is not makes the
exit code 1. A worker that has ended is started again, a frozen or hung one goes on after a while; there are always two
that serve before one is taken away. Prompts take no time in the simulated engines here (unless --prompts), so a gap is
what it takes to notice, to place and to resume, and one step.
"""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.figures import Result, Spread, spread
from bench.loadgen import Load, Trace
from bench.processes import Process
from bench.systems import MODEL, READY_S, Shape, System, running
from bench.tinymodel import made

KINDS = ("none", "kill", "freeze", "drain", "crash", "hang")
RESTART_S = 0.2  # as a supervisor waits; a start takes a core for a second, and is not what is measured
SIGNALS = {  # what does it, and with what a worker must have been started for that
    "kill": (signal.SIGKILL, ()),
    "freeze": (signal.SIGSTOP, ()),
    "drain": (signal.SIGTERM, ("--drain-s", "0.5")),  # less than a stream takes, so streams move
    "crash": (signal.SIGUSR2, ("--fault", "crash")),
    "hang": (signal.SIGUSR2, ("--fault", "hang")),
}
ENDS = {"freeze": signal.SIGCONT, "hang": signal.SIGUSR2}  # what ends it
LASTS_S = {"freeze": (0.5, 2.0, 5.0), "hang": (2.0, 7.0)}  # shorter and longer than what makes its streams move
WARM_UP_S = 2.0
LAST_S = 60.0  # for what runs when the faults are over
POLL_S = 0.01
READY = "is ready: node "


class Fault(Struct, frozen=True):
    """Something that was done to a worker."""

    time: float
    node: str


class Report(Struct, kw_only=True):
    """What a kind of fault did."""

    kind: str
    faults: int
    right: int
    wrong: int
    troubles: dict[str, int]
    moved: int  # streams that were on more than one worker
    step_ms: float
    across_ms: Spread  # gaps of streams across the fault of a worker that they were on and left; one step taken off
    largest_ms: Spread  # the largest gap of each stream that moved; one step taken off
    unmoved_ms: Spread  # of each that did not
    first_ms: Spread


class Workers:
    """The workers of a system, and what is done to them."""

    def __init__(self, system: System, seed: int) -> None:
        self._system = system
        self._random = random.Random(seed)
        self._names = [name for name in system.processes if name.startswith("worker")]
        self._next = 0
        self._ill: dict[str, tuple[float, int]] = {}  # until when, and the signal that ends it
        self._dead: dict[str, float] = {}  # since when
        self.faults: list[Fault] = []

    def node(self, name: str) -> str:
        """The id of a worker that is ready; empty for one that is not."""
        process = self._system.processes[name]
        line = process.said(READY)
        return line.partition(READY)[2].split()[0] if line and process.alive() else ""

    def serving(self) -> list[str]:
        """Those that can be asked."""
        return [name for name in self._names if name not in self._ill and self.node(name)]

    def tend(self) -> None:
        """Wake up whose time has come, and start again who has ended."""
        now = time.perf_counter()
        for name, (until, number) in list(self._ill.items()):
            if now >= until:
                self._system.processes[name].signal(number)
                del self._ill[name]
        for name in self._names:
            if not self._system.processes[name].alive() and now >= self._dead.setdefault(name, now) + RESTART_S:
                del self._dead[name]
                self._system.start(name)

    def strike(self, kind: str) -> bool:
        """Do it to the next one; False if there are too few left now."""
        serving = self.serving()
        if len(serving) < 2:
            return False
        while (name := self._names[self._next % len(self._names)]) not in serving:
            self._next += 1
        self._next += 1
        process = self._system.processes[name]
        self.faults.append(Fault(time.perf_counter(), self.node(name)))
        process.signal(SIGNALS[kind][0])
        if kind in ENDS:
            self._ill[name] = (time.perf_counter() + self._random.choice(LASTS_S[kind]), ENDS[kind])
        if kind == "kill":
            process.wait(READY_S)
        return True


def disturb(workers: Workers, kind: str, seconds: float, every_s: float) -> None:
    """A fault every so often."""
    begin = time.perf_counter()
    due = begin + every_s
    while time.perf_counter() < begin + seconds:
        workers.tend()
        if kind != "none" and time.perf_counter() >= due and workers.strike(kind):
            due += every_s
        time.sleep(POLL_S)


def measure(kind: str, options: argparse.Namespace) -> Report:
    """One kind of fault, for as long as was asked."""
    shape = Shape(
        workers=options.workers,
        step_ms=options.step_ms,
        instant_prompts=not options.prompts,
        worker_flags=SIGNALS[kind][1] if kind in SIGNALS else (),
        cores="",  # a start takes a core for a second: not the one that streams need
    )
    with running("wiremesh", shape, made()) as system:
        workers = Workers(system, options.seed)
        load = Load(
            url=system.url,
            model=MODEL,
            connections=options.streams,
            tokens=options.tokens,
            seconds=options.seconds + WARM_UP_S,
            warm_up_s=0.0,
            folder=str(system.model),
            sim=True,
            seed=options.seed,
            trace=str(system.folder / "trace"),
        )
        words = [sys.executable, "-m", "bench.loadgen", msgspec.json.encode(load).decode()]
        with Process("load", words, system.folder / "load") as generator:
            disturb(workers, "none", WARM_UP_S, options.every_s)
            disturb(workers, kind, options.seconds, options.every_s)
            until = time.perf_counter() + LAST_S
            while generator.alive() and time.perf_counter() < until:
                workers.tend()
                time.sleep(POLL_S)
            generator.wait(READY_S)
        result = msgspec.json.decode(generator.out.read_bytes(), type=Result)
        traces = msgspec.msgpack.decode(Path(load.trace).read_bytes(), type=list[Trace])
        places = nodes_of(system.processes["frontend"].errors)
    return report(kind, options.step_ms / 1e3, workers.faults, result, traces, places)


def nodes_of(log: Path) -> dict[str, list[str]]:
    """By request, the nodes that it was on: from the frontend's log."""
    found: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        if '"wiremesh.request"' in line:
            told = json.loads(line)
            found[told["id"]] = told.get("nodes", [])
    return found


def report(
    kind: str,
    step_s: float,
    faults: Sequence[Fault],
    result: Result,
    traces: Sequence[Trace],
    places: dict[str, list[str]],
) -> Report:
    """The figures of a run."""
    struck: dict[str, list[float]] = {}
    for fault in faults:
        struck.setdefault(fault.node, []).append(fault.time)
    across: list[float] = []
    largest: list[float] = []
    unmoved: list[float] = []
    for trace in traces:
        nodes = places.get(trace.id.removeprefix("chatcmpl-"), [])
        gaps = [after - before - step_s for before, after in pairwise(trace.arrivals)]
        if gaps:
            (largest if len(nodes) > 1 else unmoved).append(max(gaps))
        times = [time for node in nodes[:-1] for time in struck.get(node, [])]
        across += [gap for time in times for gap in straddling(trace, time, step_s)]
    return Report(
        kind=kind,
        faults=len(faults),
        right=result.right,
        wrong=result.wrong,
        troubles=result.troubles,
        moved=len(largest),
        step_ms=step_s * 1e3,
        across_ms=spread(across),
        largest_ms=spread(largest),
        unmoved_ms=spread(unmoved),
        first_ms=result.first_ms,
    )


def straddling(trace: Trace, time: float, step_s: float) -> list[float]:
    """The gap of a stream at a moment, beyond one step; none where the stream had not begun or was over."""
    pairs = pairwise(trace.arrivals)
    return [after - before - step_s for before, after in pairs if before <= time < after]


ROWS: dict[str, Callable[[Report], str]] = {
    "faults": lambda found: str(found.faults),
    "streams right, token for token": lambda found: f"{found.right:,}",
    "streams wrong or failed": lambda found: str(found.wrong),
    "streams that moved": lambda found: f"{found.moved:,}",
    "gap across the fault, p50 / p99 / max ms": lambda found: shown(found.across_ms),
    "largest gap of a stream that moved": lambda found: shown(found.largest_ms),
    "largest gap of one that did not": lambda found: shown(found.unmoved_ms),
    "first token, p50 / p99 / max ms": lambda found: shown(found.first_ms),
}


def shown(found: Spread) -> str:
    """Three quantiles."""
    return f"{found.p50:.1f} / {found.p99:.1f} / {found.max:.1f}" if found.count else "-"


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--every-s", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--prompts", action="store_true", help="prompts take time, as on a GPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    reports = [measure(kind, options) for kind in options.kind or KINDS]
    if options.json:
        print(json.dumps(msgspec.to_builtins(reports)))
    else:
        print("| beyond a step of " + f"{options.step_ms:g} ms | " + " | ".join(found.kind for found in reports) + " |")
        print("|---|" + "---|" * len(reports))
        for name, show in ROWS.items():
            print(f"| {name} | " + " | ".join(show(found) for found in reports) + " |")
    for found in reports:
        for trouble, count in found.troubles.items():
            print(f"{found.kind}: {count} times: {trouble}", file=sys.stderr)
    return int(any(found.wrong for found in reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
