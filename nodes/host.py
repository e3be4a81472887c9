"""Shell. Runs an engine for an actor: a simulated one in the event loop, one that computes in a thread of its own.

An engine that raises is dead. The host says so once, to the `crashed` that it was given, and does nothing more.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from mesh.core import Event, Go, Halt, Hint, Leg, Progressed, Start
from mesh.host import Host
from nodes.commands import Applied, Command, Stir, apply
from nodes.contract.engine import Card, Engine, EngineLoad, Step
from nodes.engines.outside import OutsideEngine
from nodes.handing import Handing
from nodes.host_core import HostCore
from nodes.host_metrics import Counts
from nodes.paced import PacedHost
from nodes.sleeping import rest
from proto.messages import Offer

BURST_STEPS = 8  # of no time, before the loop reads its sockets: what they make leaves in one message
JOIN_S = 10.0  # at the end: how long a step that still runs may take
AHEAD = 2  # legs in the engine's own queue: an engine in a thread never waits for the loop to send the next one

PULSE_S = 1.0  # several times in what a node takes for a hang (limits.HUNG_S)
BUSY_SHARE = 0.1  # of its time a thread that computes gets more than this, even on a crowded machine

Post = Callable[[Event], None]
Crashed = Callable[[BaseException], None]


class EngineHost(Host, Protocol):
    """What a worker wants of it besides."""

    @property
    def counts(self) -> Counts:
        """What happened here."""
        ...

    @property
    def core(self) -> HostCore:
        """Its legs."""
        ...

    def stir(self) -> None:
        """Let the engine look again: something came up from below its cache."""
        ...

    def refresh(self) -> None:
        """Something has changed in the core."""
        ...

    def rest(self, level: int) -> None:
        """Let the engine sleep, or wake for 0; `load` says when it does."""
        ...

    def load(self) -> EngineLoad:
        """How full the engine is."""
        ...


class Pulse:
    """Tells the node that an engine is well although it makes no steps: it has no work, or its step takes long.

    Without this a leg of some other endpoint, held open by a frozen client, would make a worker look hung.
    """

    def __init__(self, post: Post, loop: asyncio.AbstractEventLoop, is_well: Callable[[], bool]) -> None:
        self._post, self._loop, self._is_well = post, loop, is_well
        self._timer = loop.call_later(PULSE_S, self._beat)

    def _beat(self) -> None:
        self._timer = self._loop.call_later(PULSE_S, self._beat)
        if self._is_well():
            self._post(Progressed())

    def stop(self) -> None:
        self._timer.cancel()


class LoopHost:
    """For an engine whose steps take no time to compute. Between two of them the loop reads its sockets."""

    def __init__(
        self, engine: Engine, card: Card, endpoint: str, crashed: Crashed, digest: str = "", enforce: bool = False
    ) -> None:
        self._paced = PacedHost(engine, card.vocabulary, digest, Handing(card.layout, digest), enforce)
        self._offer = Offer(endpoint, resumable=True, slots=card.slots)
        self._crashed = crashed
        self._timer: asyncio.Handle | None = None
        self._timer_at = inf
        self._closed = False
        self._turning = False
        self._pulse: Pulse | None = None

    @property
    def core(self) -> HostCore:
        return self._paced.core

    @property
    def counts(self) -> Counts:
        return self._paced.core.counts

    def offer(self) -> Offer:
        return self._offer

    def attach(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        self._post, self._loop = post, loop
        self._pulse = Pulse(post, loop, self._is_well)
        self.core.wake = self._tell

    def _is_well(self) -> bool:
        return self._paced.core.at_rest

    def holds(self, leg: Leg) -> bool:
        return leg in self._paced.core.runs

    def start(self, start: Start) -> None:
        self._tell(self._paced.start(start, self._loop.time()))

    def go(self, go: Go) -> None:
        self._paced.go(go, self._loop.time())
        self._arm()

    def halt(self, halt: Halt) -> None:
        self._tell(self._paced.halt(halt, self._loop.time()))

    def hint(self, hint: Hint) -> None:
        self._tell(self._paced.hint(hint, self._loop.time()))

    def stir(self) -> None:
        self.core.commands.append(Stir())
        self._arm()

    def refresh(self) -> None:
        self._arm()

    def rest(self, level: int) -> None:
        self._tell(rest(self.core, level, self._loop.time()))

    def _tell(self, events: Sequence[Event]) -> None:
        if not self._closed:
            for event in events:
                self._post(event)
            self._arm()

    def load(self) -> EngineLoad:
        return self._paced.load()

    def wake(self) -> None:
        """End the step that runs: somebody has changed the engine under it."""
        self._paced.wake(self._loop.time())
        self._arm()

    async def close(self) -> None:
        self._closed = True
        self._disarm()
        if self._pulse is not None:
            self._pulse.stop()
        self._paced.engine.stop()

    def _arm(self) -> None:
        if self._closed or self._turning:
            return
        due = self._paced.deadline()
        if due >= self._timer_at:
            return
        self._disarm()
        self._timer_at = due
        if due <= self._loop.time():
            self._timer = self._loop.call_soon(self._turn)
        else:
            self._timer = self._loop.call_at(due, self._turn)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, inf

    def _turn(self) -> None:
        # A timer may be some tenths of a millisecond early; a turn before its time would do nothing.
        now = max(self._loop.time(), self._timer_at)
        self._disarm()
        self._turning = True
        try:
            for _ in range(BURST_STEPS):
                self._paced.turn(now, self._post)
                if self._paced.deadline() > now:
                    break
        except Exception as error:  # Whatever an engine raises, it is dead.
            self._closed = True
            self._crashed(error)
        finally:
            self._turning = False
        self._arm()


class OutsideHost(LoopHost):
    """For an engine that runs by itself: it says when there is something to take, and itself knows how it is."""

    def __init__(self, engine: OutsideEngine, *arguments: Any, **named: Any) -> None:
        """As `LoopHost`."""
        super().__init__(engine, *arguments, **named)
        self._outside = engine

    def attach(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        super().attach(post, loop)
        self._outside.on_news(self.refresh)
        self._outside.begin()

    def _is_well(self) -> bool:
        return self._outside.well()

    async def close(self) -> None:
        await super().close()
        await self._outside.close()


class ThreadHost:
    """For an engine that computes. All of it happens in its thread; what it says comes to the loop step by step."""

    def __init__(
        self, engine: Engine, card: Card, endpoint: str, crashed: Crashed, digest: str = "", enforce: bool = False
    ) -> None:
        self._engine = engine
        self.core = HostCore(card.vocabulary, digest, Handing(card.layout, digest), enforce)
        self._offer = Offer(endpoint, resumable=True, slots=card.slots + AHEAD)
        self._crashed = crashed
        self._commands: SimpleQueue[Command | None] = SimpleQueue()  # None: stop
        self._load = engine.load()
        self._thread: threading.Thread | None = None
        self._pulse: Pulse | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the core
        self._timer_at = inf
        self._spent_s = 0.0  # processor time of the thread, when the pulse last looked
        self._closed = False

    @property
    def counts(self) -> Counts:
        return self.core.counts

    def offer(self) -> Offer:
        return self._offer

    def attach(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        self._post, self._loop = post, loop
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._pulse = Pulse(post, loop, lambda: self.core.at_rest or self._computes())
        self.core.wake = self._say

    def holds(self, leg: Leg) -> bool:
        return leg in self.core.runs

    def start(self, start: Start) -> None:
        self._say(self.core.start(start, self._loop.time()))

    def go(self, go: Go) -> None:
        self.core.go(go, self._loop.time())
        self.refresh()

    def halt(self, halt: Halt) -> None:
        self._say(self.core.halt(halt, self._loop.time()))

    def hint(self, hint: Hint) -> None:
        self._say(self.core.hint(hint, self._loop.time()))

    def stir(self) -> None:
        self._commands.put(Stir())

    def rest(self, level: int) -> None:
        self._say(rest(self.core, level, self._loop.time()))

    def refresh(self) -> None:
        commands = self.core.commands
        if commands:
            self.core.commands = []
            for command in commands:
                self._commands.put(command)
        due = self.core.deadline()
        if due < self._timer_at:
            self._disarm()
            self._timer_at, self._timer = due, self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, inf
        self.core.tick(self._loop.time())
        self.refresh()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, inf

    def _say(self, events: Sequence[Event]) -> None:
        if not self._closed:
            for event in events:
                self._post(event)
            self.refresh()

    def load(self) -> EngineLoad:
        return self._load

    async def close(self) -> None:
        self._closed = True
        self._disarm()
        if self._pulse is not None:
            self._pulse.stop()
        self._commands.put(None)
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, JOIN_S)

    def _computes(self) -> bool:
        """Whether a step that takes long is at least being computed; one that hangs waits for something."""
        assert self._thread is not None
        if not hasattr(time, "pthread_getcpuclockid") or self._thread.ident is None or not self._thread.is_alive():
            return False
        before, self._spent_s = self._spent_s, time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))
        return self._spent_s - before > BUSY_SHARE * PULSE_S

    # --- In the loop -----------------------------------------------------------------------------------------

    def _applied(self, applied: Applied, load: EngineLoad) -> None:
        self._load = load
        self._say(self.core.applied(applied, self._loop.time()))

    def _stepped(self, step: Step, took_s: float, load: EngineLoad) -> None:
        self._load = load
        self._say(self.core.stepped(step, took_s))

    def _safely(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:  # A loop would log it and go on with streams that never end.
            self._crashed(error)

    # --- In the engine's thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._work():
                pass
            self._engine.stop()
        except Exception as error:  # Whatever an engine raises, it is dead.
            self._tell_loop(self._crashed, error)

    def _work(self) -> bool:
        """Take the commands that wait, or wait for one; then make a step. False: stop."""
        engine = self._engine
        commands = self._taken(wait=engine.idle())
        if commands is None:
            return False
        if commands:
            applied = apply(engine, commands)
            if applied.refused or applied.freed or applied.landed or applied.slept:
                self._tell_loop(self._applied, applied, engine.load())
        if not engine.idle():
            began = time.monotonic()
            step = engine.step()
            self._tell_loop(self._stepped, step, time.monotonic() - began, engine.load())
        return True

    def _taken(self, wait: bool) -> list[Command] | None:
        commands: list[Command] = []
        try:
            while True:
                command = self._commands.get(block=wait and not commands)
                if command is None:
                    return None
                commands.append(command)
        except Empty:
            return commands

    def _tell_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._safely, callback, *arguments)
