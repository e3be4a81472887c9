"""Shell. The copying thread: brings bytes of other processes into memory of ours, step by step.

NumPy lets go of the interpreter while it copies, so the event loop goes on; and the thread is less important to the
kernel than the loop, so that a token does not wait for a tensor. After each step it looks at the generation, and only
then are the step's bytes told. Moves take turns, step by step: a small one does not wait behind a large one.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import numpy as np
import xxhash
from msgspec import Struct

from nodes.transfer import limits
from nodes.transfer.causes import Cause, Way
from nodes.transfer.handle import Handle
from nodes.transfer.memory import LEDGER, Bytes, Memory, Unreachable, Words, open_foreign
from nodes.transfer.moves import Move, Moved
from nodes.transfer.pieces import Stream, cut, pair
from proto.limits import MIB

NICE = 5  # a quarter of the loop's share of a processor that both want
JOIN_S = 5.0  # a step takes milliseconds
INLINE_BYTES = MIB  # 0.1 ms of an event loop, as much as a piece of the bulk link


class Job(Struct, eq=False):
    """A move and what it needs."""

    move: Move
    handle: Handle
    source: Stream
    memory: Memory  # where the bytes go
    target: Stream
    position: int
    told: int  # up to where the loop has heard of it; the loop's own
    halted: bool = False


class Carrier(Protocol):
    """A way to read memory of another process. Calls come from the copying thread; small ones from the event loop."""

    def step(self, job: Job, stop: int) -> None:
        """Bring the bytes from the job's position up to `stop`. Raises Unreachable."""
        ...

    def generation(self, job: Job) -> int:
        """What the offer's word of the ledger says now. Raises Unreachable."""
        ...

    def forget(self, plane: int) -> None:
        """Give back what is held of this plane."""
        ...

    def close(self) -> None:
        """Give back everything."""
        ...


class SharedCarrier:
    """Memory of this host, read where it lies."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], Bytes] = {}  # by plane and memory
        self._ledgers: dict[int, Words] = {}

    def step(self, job: Job, stop: int) -> None:
        """Copy."""
        shared = job.handle.shared
        assert shared is not None
        source = self._memory(job, shared.number)
        if job.source.end > source.nbytes:
            raise Unreachable(f"the handle speaks of byte {job.source.end} of a memory of {source.nbytes}")
        target = job.memory.array
        for there, here, length in pair(job.source, job.target, job.position, stop):
            np.copyto(target[here : here + length], source[there : there + length])

    def generation(self, job: Job) -> int:
        """One aligned word: it is read in one go."""
        ledger = self._ledgers.get(job.handle.plane)
        if ledger is None:
            ledger = self._ledgers[job.handle.plane] = self._memory(job, LEDGER).view(np.uint64)
        if job.handle.slot >= len(ledger):
            raise Unreachable(f"the handle speaks of word {job.handle.slot} of a ledger of {len(ledger)}")
        return int(ledger[job.handle.slot])

    def forget(self, plane: int) -> None:
        """Unmap."""
        self._ledgers.pop(plane, None)
        for key in [key for key in self._open if key[0] == plane]:
            del self._open[key]

    def close(self) -> None:
        """Unmap everything."""
        self._ledgers.clear()
        self._open.clear()

    def _memory(self, job: Job, number: int) -> Bytes:
        shared, key = job.handle.shared, (job.handle.plane, number)
        assert shared is not None
        if key not in self._open:
            self._open[key] = open_foreign(shared, *key)
        return self._open[key]


class Mover:
    """The thread. `report` is called in it."""

    def __init__(self, carriers: dict[Way, Carrier], report: Callable[[Moved], None], nice: int = NICE) -> None:
        self._carriers = carriers
        self._report = report
        self._nice = nice
        self._jobs: deque[Job] = deque()
        self._forgotten: deque[int] = deque()
        self._there_is = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self, job: Job) -> Moved | None:
        """Take a move. A small one is over sooner than the thread would wake up: that is how it went."""
        if job.move.way is Way.SHARED and job.move.stop - job.position <= INLINE_BYTES and not self._jobs:
            return self._step(job)
        self._hand_over(job)
        return None

    def _hand_over(self, job: Job) -> None:
        """The thread begins with the first move."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="transfer", daemon=True)
            self._thread.start()
        with self._there_is:
            self._jobs.append(job)
            self._there_is.notify()

    def forget(self, plane: int) -> None:
        """Give back what is held of this plane; it has no moves."""
        if self._thread is not None:
            with self._there_is:
                self._forgotten.append(plane)
                self._there_is.notify()

    def close(self) -> None:
        """End the thread after the step that it is at."""
        with self._there_is:
            self._closing = True
            self._there_is.notify()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        for carrier in self._carriers.values():
            carrier.close()

    # --- In the thread ---

    def _run(self) -> None:
        lower_priority(self._nice)
        while not self._closing:
            with self._there_is:
                while not (self._jobs or self._forgotten or self._closing):
                    self._there_is.wait()
                forgotten = list(self._forgotten)
                self._forgotten.clear()
                job = self._jobs.popleft() if self._jobs else None
            for plane in forgotten:
                for carrier in self._carriers.values():
                    carrier.forget(plane)
            if job is not None:
                moved = self._step(job)
                self._report(moved)
                if not moved.over:
                    with self._there_is:
                        self._jobs.append(job)

    def _step(self, job: Job) -> Moved:
        """One step, and how it went."""
        cause = self._advance(job)
        over = cause is not None or job.position == job.move.stop
        return Moved(job.move.pull, job.move.move, job.position, over, cause)

    def _advance(self, job: Job) -> Cause | None:
        if job.halted:
            return Cause.CANCELLED
        carrier = self._carriers[job.move.way]
        step_bytes = limits.STEP_BYTES if self._jobs else limits.STEP_ALONE_BYTES
        stop = min(job.move.stop, job.position + step_bytes)
        try:
            carrier.step(job, stop)
            if carrier.generation(job) != job.handle.generation:
                return Cause.STALE
        except Unreachable:
            return Cause.UNREACHABLE
        if job.move.checksum is not None and self._checksum(job, stop) != job.move.checksum:
            return Cause.CORRUPT
        job.position = stop
        return None

    def _checksum(self, job: Job, stop: int) -> int:
        """Of what has arrived. With a checksum a move is one chunk, so it is one step."""
        digest = xxhash.xxh3_64()
        for offset, length in cut(job.target, job.position, stop):
            digest.update(job.memory.array[offset : offset + length].data)
        return digest.intdigest()


def lower_priority(nice: int) -> None:
    """Make the calling thread, and those that it starts, less important. On Linux a thread has its own priority."""
    with suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + nice))
