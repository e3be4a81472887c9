"""Shell. A generation and those who listen to it: usually one client, after a resend perhaps two, for a while nobody.

Tokens make a broadcast dirty; once per turn of the loop each dirty one shows all that has come. Who keeps no log and
has a slow reader waits with that, so the mesh sends no more than a window.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from mesh.core import Event
from nodes.frontend.choice import Choice
from nodes.frontend.generation import Generation
from nodes.frontend.log import Log
from nodes.frontend.wire import Wire
from nodes.openai.errors import Problem


class Viewer(Protocol):
    """Somebody who listens."""

    cursor: int  # the number of the next event that it has not taken

    @property
    def behind(self) -> bool:
        """Whether it takes no more for now."""
        ...

    def take(self, events: list[bytes], now: float) -> None:
        """The next events."""
        ...

    def pump(self, now: float) -> None:
        """The log has grown, or the generation is over."""
        ...


class Quick(Protocol):
    """A viewer that has its head, and wants no numbers."""

    wire: Wire
    wrote: float  # when


class Turns:
    """What is dirty in this turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting: list[Broadcast] = []
        self._time = monotonic  # a loop's own time may be a millisecond old, which is long between two tokens
        self._call_soon = loop.call_soon

    def add(self, broadcast: "Broadcast") -> None:
        """Show it at the end of this turn."""
        if not self.waiting:
            self._call_soon(self._flush)
        self.waiting.append(broadcast)

    def _flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        now = self._time()
        for broadcast in waiting:
            broadcast.turn(now)


def nothing() -> None:
    """It has nothing here."""


class Broadcast:
    """One generation and its viewers."""

    __slots__ = (
        *("_closed", "_dirty", "_post", "_turns", "deserted", "generation", "held", "log", "over", "quick", "viewers"),
    )

    def __init__(
        self,
        turns: Turns,
        post: Callable[[Event], None],
        kept: bool,
        over: Callable[["Broadcast"], None],
        deserted: Callable[["Broadcast"], None],
    ) -> None:
        self.generation: Generation  # made right after: it needs `touched`
        self.log = Log() if kept else None
        self.viewers: list[Viewer] = []
        self.held: Callable[[], None] = nothing  # called once, at its end: what of its request lies here may go
        self.quick: Quick | None = None  # who reads the text of a single plain choice, and nothing else
        self.over = over  # called once, at its end
        self.deserted = deserted  # called when the last viewer has left
        self._turns = turns
        self._post = post
        self._dirty: list[Choice] = []
        self._closed = False

    def touched(self, choice: Choice) -> None:
        """A choice has something to show."""
        dirty = self._dirty
        if not dirty:
            turns = self._turns
            if turns.waiting:  # what is common is inline: this runs for each token
                turns.waiting.append(self)
            else:
                turns.add(self)
        dirty.append(choice)

    def turn(self, now: float) -> None:
        """Show what has come."""
        generation, log, dirty = self.generation, self.log, self._dirty
        quick = self.quick
        if quick is not None and dirty and dirty[0].finish is None and not quick.wire.behind:
            self._quickly(dirty[0], quick, now)
        elif log is None:
            viewers = self.viewers
            if viewers and viewers[0].behind and not generation.done:
                return  # what is dirty stays so, until `resume`
            events = self._events(now)
            if events and viewers:
                viewers[0].take(events, now)
        elif not log.full or generation.done:
            log.add(self._events(now))
            self._pump(now)
            self._trim(log)
        if generation.done:
            self._close(now)

    def _quickly(self, choice: Choice, viewer: "Quick", now: float) -> None:
        """What `_events` and `take` do, for what most events are: text between the first and the last."""
        self._dirty.clear()
        generation = self.generation
        data = choice.quick(now, generation.tally.token_gap)
        if choice.taken - choice.told >= generation.step:
            generation.read_on(choice)
            self._order()
        if data:
            viewer.wrote = now
            viewer.wire.write(data)

    def _events(self, now: float) -> list[bytes]:
        dirty, self._dirty = self._dirty, []
        generation = self.generation
        events = generation.turn(dirty, now)
        if generation.orders:
            self._order()
        if generation.ended:
            events += generation.complete()
        return events

    def _pump(self, now: float) -> None:
        for viewer in self.viewers[:]:
            viewer.pump(now)

    def resume(self, now: float) -> None:
        """A reader has caught up: give it more, and go on with what waited for it."""
        if self.log is not None:
            self._pump(now)
            self._trim(self.log)
        if self._dirty:
            self._turns.add(self)

    def _trim(self, log: Log) -> None:
        log.trim(min([viewer.cursor for viewer in self.viewers], default=0))

    def _order(self) -> None:
        orders, self.generation.orders = self.generation.orders, []
        for order in orders:
            self._post(order)

    def _close(self, now: float) -> None:
        if self._closed:
            return
        self._closed = True
        self.over(self)
        if self.log is None:
            self._pump(now)
        for choice in self.generation.choices:  # what may still come for it changes nothing
            choice.let_go()

    def fail(self, problem: Problem, now: float) -> None:
        """End it from outside: whoever still reads is told."""
        events = self.generation.fail(problem)
        self._order()
        if self.log is not None:
            self.log.add(events)
            self._pump(now)
        elif events and self.viewers:
            self.viewers[0].take(events, now)
        self._close(now)

    def join(self, viewer: Viewer) -> None:
        """One more viewer."""
        self.viewers.append(viewer)

    def leave(self, viewer: Viewer) -> None:
        """One viewer fewer: it has all that it wanted, or its client has gone."""
        if viewer in self.viewers:
            self.viewers.remove(viewer)
            self.quick = None
            if not self.viewers:
                self.deserted(self)
