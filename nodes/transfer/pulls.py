"""Shell. The puller's end: runs `pulling`, dials, writes what arrives where it belongs, hands moves to the thread."""

import asyncio
from collections.abc import Callable
from itertools import count
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import xxhash
import zmq
from msgspec import Struct

from nodes.transfer import moves, pulling, wire
from nodes.transfer.causes import Cause
from nodes.transfer.handle import Handle
from nodes.transfer.memory import Memory
from nodes.transfer.mover import Job, Mover
from nodes.transfer.pieces import Stream, cut
from nodes.transfer.sockets import Context, PullerSockets
from proto.errors import RemoteError

if TYPE_CHECKING:
    from mesh.security import Key

REST_POLL_S = 0.005


class _Wanted(Struct, eq=False):
    """What a pull needs besides its state."""

    handle: Handle
    source: Stream
    memory: Memory
    target: Stream
    ended: Callable[[moves.Ended], None]
    progressed: Callable[[int], None] | None
    job: Job | None = None


class Pulls:
    """All pulls of a plane."""

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop, key: "Key | None", mover: Mover) -> None:
        self._core = pulling.Pulling()
        self._loop = loop
        self._sockets = PullerSockets(context, loop, self._take, self._down, key)
        self._mover = mover
        self._numbers = count(1)
        self._wanted: dict[int, _Wanted] = {}
        self._payload: list[memoryview] = []
        self._late: list[tuple[int, bytes]] = []  # words that wait until those who wait for bytes have had their turn
        self._late_soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._closing = False
        self.received_bytes = 0

    # --- What the plane asks ---

    @property
    def full(self) -> bool:
        """Whether there is no room for another pull."""
        return self._core.full or self._closing

    def next_number(self) -> int:
        """Of a pull."""
        return next(self._numbers)

    def uses(self, known: Memory) -> bool:
        """Whether something is pulled into a memory."""
        return any(wanted.memory is known for wanted in self._wanted.values())

    def begin(
        self,
        event: moves.Begin,
        wanted: Handle,
        source: Stream,
        into: Memory,
        target: Stream,
        ended: Callable[[moves.Ended], None],
        progressed: Callable[[int], None] | None,
    ) -> None:
        """A new pull."""
        self._wanted[event.pull] = _Wanted(wanted, source, into, target, ended, progressed)
        self._post(event)

    def cancel(self, pull: int) -> None:
        """It is wanted no more."""
        self._post(moves.Cancel(pull))

    def moved(self, event: moves.Moved) -> None:
        """The copying thread says how it goes."""
        wanted = self._wanted.get(event.pull)
        if wanted is not None and wanted.job is not None and wanted.job.move.move == event.move:
            self.received_bytes += max(0, event.position - wanted.job.told)
            wanted.job.told = event.position
            if event.over:
                wanted.job = None
        self._post(event)

    def figures(self) -> dict[str, int]:
        """For metrics."""
        return {**self._core.counts, "pulls.open": self._core.pulls, "received.bytes": self.received_bytes}

    def close(self) -> None:
        """End every pull, and take no more."""
        self._closing = True
        for pull in list(self._wanted):
            self._post(moves.Cancel(pull, Cause.CLOSED))

    async def at_rest(self) -> None:
        """Until nobody writes."""
        while self._wanted:
            await asyncio.sleep(REST_POLL_S)

    def hang_up(self) -> None:
        """Close every link."""
        if self._timer is not None:
            self._timer.cancel()
        self._say_late()
        self._sockets.close()

    # --- Events ---

    def _post(self, event: moves.Event) -> None:
        for effect in self._core.handle(event, self._loop.time()):
            self._do(effect)
        if self._late and not self._late_soon:  # in the next turn an end is told, in the one after it somebody goes on
            self._late_soon = True
            self._loop.call_soon(self._loop.call_soon, self._say_late)
        self._arm()

    def _take(self, link: int, frame: bytes, payload: "list[zmq.Frame]") -> None:
        try:
            message = wire.decode_answered(frame)
        except RemoteError:
            self._down(link)  # who speaks nonsense is not spoken to
            return
        self._payload = [frame.buffer for frame in payload]
        intact = True
        if payload and isinstance(message, wire.Piece) and message.checksum is not None:
            intact = self._checksum() == message.checksum
        self._post(moves.Heard(link, message, sum(map(len, self._payload)), intact))
        self._payload = []

    def _checksum(self) -> int:
        digest = xxhash.xxh3_64()
        for chunk in self._payload:
            digest.update(chunk)
        return digest.intdigest()

    def _down(self, link: int) -> None:
        self._post(moves.LinkDown(link))

    # --- Effects ---

    def _do(self, effect: moves.Effect) -> None:
        match effect:
            case moves.Store():
                self._store(self._wanted[effect.pull], effect.start, effect.stop)
            case moves.Progressed():
                progressed = self._wanted[effect.pull].progressed
                if progressed is not None:
                    progressed(effect.position)
            case moves.Tell():
                self._tell(effect)
            case moves.Move():
                self._move(effect)
            case moves.Halt():
                job = self._wanted[effect.pull].job
                if job is not None:
                    job.halted = True
            case moves.Ended():
                wanted = self._wanted.pop(effect.pull)
                self._loop.call_soon(wanted.ended, effect)
            case moves.Dial():
                self._sockets.dial(effect.link, effect.address)
            case moves.Hang():
                self._sockets.hang(effect.link)
            case moves.Forget():
                self._mover.forget(effect.plane)

    def _tell(self, effect: moves.Tell) -> None:
        frame = wire.encode(effect.message)
        if effect.late:
            self._late.append((effect.link, frame))
        else:
            self._sockets.send(effect.link, frame)

    def _say_late(self) -> None:
        for link, frame in self._late:
            self._sockets.send(link, frame)
        self._late.clear()
        self._late_soon = False

    def _store(self, wanted: _Wanted, start: int, stop: int) -> None:
        for chunk in self._payload:
            payload = np.frombuffer(chunk, np.uint8)
            taken = 0
            for offset, length in cut(wanted.target, start, start + len(chunk)):
                np.copyto(wanted.memory.array[offset : offset + length], payload[taken : taken + length])
                taken += length
            start += taken
        assert start == stop
        self.received_bytes += sum(map(len, self._payload))

    def _move(self, effect: moves.Move) -> None:
        wanted = self._wanted[effect.pull]
        places = wanted.handle, wanted.source, wanted.memory, wanted.target
        wanted.job = Job(effect, *places, position=effect.start, told=effect.start)
        moved = self._mover.start(wanted.job)
        if moved is not None:
            self._loop.call_soon(self.moved, moved)

    def _arm(self) -> None:
        """Wake up in time; too early does no harm."""
        deadline = self._core.deadline()
        if deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer_at = inf
        self._timer = None
        self._post(moves.Tick())
