"""Shell. The clients of a generation: one that reads a stream, one that waits for the whole answer.

Until the head is sent events wait, so that a refusal can still have a status; from then on they are written as they
come, and the coroutine of a stream sleeps until its end.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic

from nodes.frontend import limits
from nodes.frontend.broadcast import Broadcast
from nodes.frontend.log import numbered
from nodes.frontend.tally import Tally
from nodes.frontend.wire import Wire
from nodes.openai.chunks import HEADERS, PING

JSON = [(b"content-type", b"application/json")]
SPACE = b" "  # in front of JSON it means nothing


class Listening:
    """What both kinds share: waiting, and noticing that the client has gone."""

    def __init__(self, wire: Wire, broadcast: Broadcast, tally: Tally, cursor: int = 0) -> None:
        self.wire = wire
        self.broadcast = broadcast
        self.cursor = cursor
        self.complete = False  # whether the client got all of it
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        wire.gone_now = self._gone
        wire.ready_now = self._caught_up
        wire.flush_now = self._wake
        broadcast.join(self)
        wire.watch()

    @property
    def behind(self) -> bool:
        """Whether the client does not keep up."""
        return self.wire.behind

    def take(self, events: list[bytes], now: float) -> None:
        """The next events."""

    def pump(self, now: float) -> None:
        """Something has changed."""
        if self.broadcast.generation.done:
            self._wake()

    def close(self) -> None:
        """The exchange is over."""
        self.wire.unwatch()
        if self._timer is not None:
            self._timer.cancel()
        self.broadcast.leave(self)

    def _gone(self) -> None:
        self._wake()
        self.broadcast.leave(self)

    def _caught_up(self) -> None:
        if self in self.broadcast.viewers:
            self.broadcast.resume(monotonic())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._alarm)

    def _alarm(self) -> None:
        """It is quiet."""


class StreamViewer(Listening):
    """A client that reads events."""

    def __init__(self, wire: Wire, broadcast: Broadcast, tally: Tally, cursor: int = 0, ids: bool = False) -> None:
        self._ids = ids
        self._waiting: list[bytes] = []  # events that came before the head was sent
        self._held = True
        self.wrote = 0.0
        super().__init__(wire, broadcast, tally, cursor)
        if broadcast.log is not None:
            self.pump(monotonic())

    def take(self, events: list[bytes], now: float) -> None:
        wire = self.wire
        if wire.started:
            self.wrote = now
            wire.write(self._joined(events))
        else:
            self._waiting += events
            self._held = False
            self._wake()

    def pump(self, now: float) -> None:
        log = self.broadcast.log
        if log is not None:
            if not self.wire.started and self.cursor < log.end:
                self._held = False
                self._wake()
            while self.wire.started and not self.wire.behind:
                events = log.since(self.cursor, limits.WRITE_BYTES_MAX)
                if not events:
                    break
                self._write(events, now)
        if self._over():
            self._wake()

    def _over(self) -> bool:
        """Whether nothing more will come."""
        log = self.broadcast.log
        return self.broadcast.generation.done and (log is None or self.cursor >= log.end)

    def _write(self, events: Sequence[bytes], now: float) -> None:
        self.wire.write(self._joined(events))
        self.wrote = now

    def _joined(self, events: Sequence[bytes]) -> bytes:
        first = self.cursor
        self.cursor += len(events)
        if self._ids:
            return numbered(events, first)
        return events[0] if len(events) == 1 else b"".join(events)

    async def run(self) -> bool:
        """Write the whole stream. False if it failed before there was a head: then nothing was sent at all."""
        self._in(limits.HOLD_S)
        while self._held and not self.broadcast.generation.done and not self.wire.gone:
            await self._wait()
        if self.broadcast.generation.problem is not None and self._only_failed():
            return False
        if not self.wire.gone:
            await self._stream()
        return True

    def _only_failed(self) -> bool:
        """Whether its error event would be all that the client gets."""
        log = self.broadcast.log
        return self._held or (len(self._waiting) <= 1 if log is None else log.end <= 1)

    async def _stream(self) -> None:
        if self.broadcast.log is None and self._waiting and self._over():  # then its length is known
            self.complete = True
            await self.wire.answer(200, HEADERS, self._joined(self._waiting))
            return
        await self.wire.start(200, HEADERS)
        now = monotonic()
        if self.broadcast.log is not None:
            self.broadcast.resume(now)
        elif self._waiting:
            self._write(self._waiting, now)
        elif not self._over():
            self._ping()
        self._hurry()
        while not self._over() and not self.wire.gone:
            await self._wait()
            await self.wire.flush()
        if not self.wire.gone:
            self.complete = True
            await self.wire.finish()

    def _hurry(self) -> None:
        """From here on most of what comes is the text of one choice."""
        broadcast = self.broadcast
        choices = broadcast.generation.choices
        if broadcast.log is None and not self._ids and len(choices) == 1 and choices[0].plain and choices[0].last:
            broadcast.quick = self

    def _alarm(self) -> None:
        if not self.wire.started:
            self._held = False
            self._wake()
        elif monotonic() - self.wrote >= limits.PING_S - 0.5 and not self.behind:
            self._ping()
        self._in(limits.PING_S)

    def _ping(self) -> None:
        self.wrote = monotonic()
        self._tally.count("pings")
        self.wire.write(PING)


class BodyViewer(Listening):
    """A client that waits for the answer in one piece. `pings`: spaces before it keep the connection open."""

    def __init__(self, wire: Wire, broadcast: Broadcast, tally: Tally, pings: bool = False) -> None:
        self._due = False
        super().__init__(wire, broadcast, tally)
        if pings:
            self._in(limits.HOLD_S)

    async def run(self) -> bool:
        """Write the answer. False if the generation failed before there was a head."""
        generation = self.broadcast.generation
        while not generation.done and not self.wire.gone:
            await self._wait()
            if self._due:
                await self._ping()
        if generation.problem is not None and not self.wire.started:
            return False
        if self.wire.gone:
            return True
        self.complete = True
        if self.wire.started:
            await self.wire.finish(generation.body)
        else:
            await self.wire.answer(200, JSON, generation.body)
        return True

    def _alarm(self) -> None:
        self._due = True
        self._in(limits.PING_S)
        self._wake()

    async def _ping(self) -> None:
        self._due = False
        if not self.wire.started:
            await self.wire.start(200, JSON)
        self._tally.count("pings")
        self.wire.write(SPACE)
        await self.wire.flush()
