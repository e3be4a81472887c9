"""Shell. Serving, end to end: HTTP in, tokens out; ours and, in the same run, the peer's.

    python -m bench.serving [--peer dynamo] [--quick] [--rounds 3] [--json FILE]

The servers have core 0 to themselves and the load generator has core 1. One system runs at a time, and they take turns:
each round starts every system, runs all rows, and ends it. The table has medians over the rounds, and the ratio of ours
to the peer's within a round, with the smallest and the largest. Every response is verified, and a wrong one makes the
exit code 1.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from bench.figures import Result
from bench.loadgen import Load
from bench.processes import busy_s, memory_mb
from bench.systems import CLIENTS, MODEL, Shape, System, running
from bench.tinymodel import made

OURS, ROUTED = "wiremesh", "with a router"
QUIET_CORES = 0.15  # used by others: below that a measurement is worth something
QUIET_S = 1.0
LOAD_S = 300.0  # the longest that a load generator may take, its checking included


class Row(Struct, frozen=True, kw_only=True):
    """One load."""

    title: str
    connections: int
    tokens: int = 128
    prompt_tokens: int = 128
    seconds: float = 8.0
    warm_up_s: float = 2.0
    quick_acks: bool = False
    shows: tuple[str, ...]


class Scene(Struct, frozen=True):
    """Loads on one way to start the systems."""

    shape: Shape
    rows: tuple[Row, ...]


SATURATED = ("tokens/s", "frontend µs/token", "worker µs/token", "tokens per CPU-second", "tokens per read", "wrong")
PACED = ("tokens/s", "frontend µs/token", "worker µs/token", "tokens per event", "gap p99 ms", "wrong")
SINGLE = ("frontend µs/request", "requests/s", "first token p50 ms", "first token p99 ms", "wrong")
MANY = ("tokens/s", "frontend µs/token", "gap p99 ms", "frontend MB", "wrong")
SCENES = (
    Scene(
        Shape(),
        (
            *(Row(title=f"saturated, {n} connections", connections=n, shows=SATURATED) for n in (64, 256)),
            *(
                Row(title=f"one token, {n} at once", connections=n, tokens=1, seconds=5.0, shows=SINGLE)
                for n in (1, 8, 64)
            ),
        ),
    ),
    Scene(
        Shape(step_ms=20.0),
        tuple(Row(title=f"paced 20 ms, {n} streams", connections=n, warm_up_s=4.0, shows=PACED) for n in (64, 256)),
    ),
    Scene(
        Shape(step_ms=200.0, slots=2048),
        (
            Row(
                title="paced 200 ms, 2,000 streams",
                connections=2000,
                tokens=64,
                warm_up_s=8.0,
                seconds=12.0,
                shows=MANY,
            ),
        ),
    ),
)


class Sample(Struct):
    """One row of one system in one round."""

    round: int
    system: str
    row: str
    result: Result
    idle_mb: dict[str, float]  # before the first load
    start_s: float  # until the system had answered a request


def figures(sample: Sample) -> dict[str, float]:
    """What tables show, by its words."""
    result = sample.result
    token, request = result.cpu_us_per_token, result.cpu_us_per_request
    total = sum(token.values())
    return {
        "tokens/s": result.tokens_per_s,
        "requests/s": result.requests_per_s,
        "frontend µs/token": token.get("frontend", 0.0),
        "worker µs/token": token.get("worker", 0.0),
        "frontend µs/request": request.get("frontend", 0.0),
        "tokens per CPU-second": 1e6 / total if total else 0.0,
        "tokens per event": result.tokens_per_event,
        "tokens per read": result.tokens_per_read,
        "first token p50 ms": result.first_ms.p50,
        "first token p99 ms": result.first_ms.p99,
        "gap p99 ms": result.gap_ms.p99,
        "frontend MB": result.memory_mb.get("frontend", 0.0),
        "idle frontend MB": sample.idle_mb.get("frontend", 0.0),
        "start to first answer s": sample.start_s,
        "foreign cores": result.foreign_cores,
        "wrong": float(result.wrong),
    }


# --- Measuring -------------------------------------------------------------------------------------------


def load_of(system: System, row: Row, sim: bool, quick: bool) -> Load:
    """What the load generator is told."""
    scale = 0.3 if quick else 1.0
    return Load(
        url=system.url,
        model=MODEL,
        connections=row.connections,
        tokens=row.tokens,
        prompt_tokens=row.prompt_tokens,
        seconds=row.seconds * scale,
        warm_up_s=row.warm_up_s * (0.5 if quick else 1.0),
        pids=system.pids(),
        folder=str(system.model),
        sim=sim,
        quick_acks=row.quick_acks,
        seed=time.time_ns() % 2**32,  # another run's prompts may be in a cache
    )


def measured(load: Load) -> Result:
    """The load generator's result, from a process of its own on its own core."""
    words = ["taskset", "-c", CLIENTS, sys.executable, "-m", "bench.loadgen", msgspec.json.encode(load).decode()]
    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=LOAD_S, check=False)
    return msgspec.json.decode(done.stdout, type=Result)


def scene_of(number: int, title: str, scene: Scene, options: argparse.Namespace) -> list[Sample]:
    """All rows of a scene, on one system."""
    peer = title not in (OURS, ROUTED)
    shape = msgspec.structs.replace(scene.shape, routers=int(title == ROUTED))
    rows = [row for row in scene.rows if not options.only or options.only in row.title]
    samples: list[Sample] = []
    if not rows:
        return samples
    with running(title if peer else OURS, shape, made()) as system:
        idle = {role: round(memory_mb(pids), 1) for role, pids in system.pids().items()}
        for row in rows:
            wait_for_quiet(options.patience_s)
            result = measured(load_of(system, row, not peer, options.quick))
            samples.append(Sample(number, title, row.title, result, idle, round(system.start_s, 2)))
            tell(samples[-1], row)
    return samples


def wait_for_quiet(patience_s: float) -> None:
    """Until nobody else uses this machine, or patience is at its end."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        before = busy_s()
        time.sleep(QUIET_S)
        if busy_s() - before < QUIET_CORES * QUIET_S:
            return


def tell(sample: Sample, row: Row) -> None:
    """Progress, for whoever waits."""
    found = figures(sample)
    shown = "  ".join(f"{name} {found[name]:,.5g}" for name in (*row.shows, "foreign cores"))
    print(f"round {sample.round}  {sample.system:14} {sample.row:28} {shown}", file=sys.stderr, flush=True)
    for trouble, count in sample.result.troubles.items():
        print(f"    {count} times: {trouble}", file=sys.stderr, flush=True)


# --- The table ------------------------------------------------------------------------------------------


def table(samples: Sequence[Sample], peer: str) -> str:
    """Markdown: medians, and the ratio of ours to the peer's within a round."""
    systems = [name for name in (OURS, ROUTED, peer) if any(sample.system == name for sample in samples)]
    lines = ["| | | " + " | ".join(systems) + " | ratio |", "|---|---|" + "---|" * (len(systems) + 1)]
    for row in (row for scene in SCENES for row in scene.rows):
        if any(sample.row == row.title for sample in samples):
            lines += [line_of(samples, row.title, name, systems, peer) for name in row.shows]
    lines += [line_of(samples, "", name, systems, peer) for name in ("idle frontend MB", "start to first answer s")]
    return "\n".join(lines)


def line_of(samples: Sequence[Sample], row: str, name: str, systems: Sequence[str], peer: str) -> str:
    """One figure of all systems."""
    by_system = {
        system: {
            sample.round: figures(sample)[name]
            for sample in samples
            if sample.system == system and row in ("", sample.row)
        }
        for system in systems
    }
    cells = [shown(median(by_round.values())) if by_round else "-" for by_round in by_system.values()]
    ratios = [
        by_system[OURS][number] / theirs
        for number, theirs in by_system.get(peer, {}).items()
        if theirs and number in by_system.get(OURS, {})
    ]
    ratio = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
    return f"| {row} | {name} | " + " | ".join(cells) + f" | {ratio} |"


def shown(value: float) -> str:
    """Three figures, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def kept(samples: list[Sample], path: Path | None) -> list[Sample]:
    """The same, and in a file: the next scene may fail."""
    if path is not None:
        with path.open("ab") as file:
            file.writelines(msgspec.json.encode(sample) + b"\n" for sample in samples)
    return samples


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--peer", choices=("dynamo",), help="measure this one too (bench/dynamo.sh install)")
    parser.add_argument("--alone", action="store_true", help="the peer alone")
    parser.add_argument("--quick", action="store_true", help="short windows: to see whether it works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only rows with this in their title")
    parser.add_argument("--no-router", dest="router", action="store_false", help="leave out the rows with a router")
    parser.add_argument("--patience-s", type=float, default=30.0, help="how long to wait for a quiet machine")
    parser.add_argument("--json", type=Path, help="append every sample to this file, one a line")
    parser.add_argument("--show", type=Path, nargs="+", default=[], help="measure nothing: the table of such files")
    options = parser.parse_args(arguments)
    systems = [*([OURS] if not options.alone else []), *([ROUTED] if options.router and not options.alone else [])]
    systems += [options.peer] if options.peer else []
    samples = [msgspec.json.decode(line, type=Sample) for path in options.show for line in path.open("rb")]
    for number in range(1, options.rounds + 1) if not options.show else ():
        for scene in SCENES:
            for system in systems:
                samples += kept(scene_of(number, system, scene, options), options.json)
    print(table(samples, options.peer or "dynamo"))
    return int(any(sample.result.wrong for sample in samples))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
