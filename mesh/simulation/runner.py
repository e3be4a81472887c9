"""Shell. Many seeds, on several cores, with a progress bar. It decides nothing about a run."""

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Queue
from typing import TextIO

import msgspec
from msgspec import Struct

from mesh.simulation.stage import STAGE, Stage, find
from mesh.simulation.world import Result

ROOT = Path(__file__).resolve().parent.parent.parent
CHUNK = 25  # seeds between two words about progress
TWICE_EVERY = 100  # each such seed is run twice and must come to the same digest
BAR_CHARS = 30
LINES_MAX = 10  # of progress where there is no terminal


class Tally(Struct):
    """What a number of runs came to."""

    seeds: int = 0
    requests: int = 0
    events: int = 0
    faults: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    reasons: dict[str, int] = {}
    failures: list[Result] = []

    def add(self, other: "Tally") -> None:
        """Put two tallies together."""
        self.seeds += other.seeds
        self.requests += other.requests
        self.events += other.events
        self.faults += other.faults
        self.virtual_s += other.virtual_s
        self.cpu_s += other.cpu_s
        self.failures.extend(other.failures)
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


def run_seed(seed: int, profile: str, stage: Stage = STAGE) -> Result:
    """One seed; a few of them twice."""
    result = stage.run(seed, profile)
    if seed % TWICE_EVERY == 0 and not result.failed:
        again = stage.run(seed, profile)
        if again.digest != result.digest:
            result.invariant, result.text = "27 determinism", f"{result.digest:08x}, then {again.digest:08x}"
    return result


def run_seeds(seeds: range, profile: str, stage: Stage) -> Tally:
    """Seeds one after the other, in this process."""
    tally, begin = Tally(), time.process_time()
    gc.disable()  # a run makes few cycles, and looking for them takes a tenth of the time
    for seed in seeds:
        result = run_seed(seed, profile, stage)
        failures = [result] if result.failed else []
        tally.add(
            Tally(1, result.requests, result.events, result.faults, result.virtual_s, 0.0, result.reasons, failures)
        )
    gc.enable()
    gc.collect()
    tally.cpu_s = time.process_time() - begin
    return tally


def run_all(seeds: range, profile: str, jobs: int, progress: Callable[[Tally], None], stage: Stage = STAGE) -> Tally:
    """All seeds; `progress` hears how far it is."""
    total = Tally()
    for tally in _tallies(seeds, profile, jobs, stage):
        total.add(tally)
        progress(total)
    total.failures.sort(key=lambda result: result.seed)
    return total


def _tallies(seeds: range, profile: str, jobs: int, stage: Stage) -> Iterator[Tally]:
    if jobs == 1:
        for start in range(0, len(seeds), CHUNK):
            yield run_seeds(seeds[start : start + CHUNK], profile, stage)
        return
    said: Queue[bytes] = Queue()
    workers = [_worker(seeds[number::jobs], profile, stage) for number in range(min(jobs, len(seeds)))]
    readers = [threading.Thread(target=_read, args=(worker, said)) for worker in workers]
    try:
        for reader in readers:
            reader.start()
        left = len(workers)
        while left:
            line = said.get()
            if line:
                yield msgspec.json.decode(line, type=Tally)
            else:
                left -= 1
    finally:
        for worker in workers:
            worker.kill()
        for reader in readers:
            reader.join()
    if any(worker.returncode not in (0, -signal.SIGKILL) for worker in workers):
        raise RuntimeError("a worker process has failed; its own words are above")


def _worker(seeds: range, profile: str, stage: Stage) -> "subprocess.Popen[bytes]":
    """A process that runs its share, and prints a tally now and then."""
    share = (str(seeds.start), str(seeds.stop), str(seeds.step), profile, stage.module)
    command = [sys.executable, "-m", "mesh.simulation.runner", *share]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def _read(worker: "subprocess.Popen[bytes]", said: "Queue[bytes]") -> None:
    """Pass on what a worker prints; an empty line at its end."""
    assert worker.stdout is not None
    with worker.stdout:
        for line in worker.stdout:
            said.put(line)
    worker.wait()
    said.put(b"")


def work(arguments: Sequence[str]) -> None:
    """What such a process does."""
    start, stop, step, profile, module = arguments
    seeds = range(int(start), int(stop), int(step))
    for first in range(0, len(seeds), CHUNK):
        tally = run_seeds(seeds[first : first + CHUNK], profile, find(module))
        sys.stdout.write(msgspec.json.encode(tally).decode() + "\n")
        sys.stdout.flush()


class Progress:
    """A bar on a terminal; a few plain lines elsewhere."""

    def __init__(self, total: int, out: TextIO | None = None) -> None:
        self._total = total
        self._out = out or sys.stderr
        self._begin = time.monotonic()
        self._lines = 0

    def __call__(self, tally: Tally) -> None:
        """Show how far it is."""
        share = tally.seeds / max(1, self._total)
        elapsed_s = max(1e-6, time.monotonic() - self._begin)
        text = (
            f"{tally.seeds}/{self._total} seeds, {tally.seeds / elapsed_s * 60:,.0f} per minute, "
            f"{tally.events / elapsed_s:,.0f} events/s, {len(tally.failures)} failed"
        )
        if self._out.isatty():
            done = round(share * BAR_CHARS)
            end = "\n" if tally.seeds >= self._total else ""
            self._out.write(f"\r[{'#' * done}{'.' * (BAR_CHARS - done)}] {text}  {end}")
        elif share * LINES_MAX >= self._lines + 1:
            self._lines = int(share * LINES_MAX)
            self._out.write(text + "\n")
        self._out.flush()


if __name__ == "__main__":
    work(sys.argv[1:])
