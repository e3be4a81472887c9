"""Shell. Runs an engine for an actor: a simulated one in the event loop, one that computes in a thread of its own.

An engine that raises is dead. The host says so once, to the `crashed` that it was given, and does nothing more.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from math import inf
from queue import Empty, SimpleQueue
from typing import Protocol

from mesh.core import Event, Failed, Go, Halt, Hint, Leg, Progressed, Start
from mesh.host import Host
from nodes.engines.contract import Card, Engine, EngineLoad, Step
from nodes.host_core import Applied, Command, Counts, HostCore, PacedHost, apply
from nodes.names import endpoint_of
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

    def __init__(self, engine: Engine, card: Card, model: str, crashed: Crashed, digest: str = "") -> None:
        self._paced = PacedHost(engine, card.vocabulary, digest)
        self._offer = Offer(endpoint_of(model), resumable=True, slots=card.slots)
        self._crashed = crashed
        self._timer: asyncio.Handle | None = None
        self._timer_at = inf
        self._closed = False
        self._turning = False
        self._pulse: Pulse | None = None

    @property
    def counts(self) -> Counts:
        return self._paced.core.counts

    def offer(self) -> Offer:
        return self._offer

    def attach(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        self._post, self._loop = post, loop
        self._pulse = Pulse(post, loop, lambda: not self._paced.core.runs)

    def holds(self, leg: Leg) -> bool:
        return leg in self._paced.core.runs

    def start(self, start: Start) -> None:
        for event in self._paced.start(start, self._loop.time()):
            self._post(event)
        self._arm()

    def go(self, go: Go) -> None:
        """Nothing yet waits."""

    def halt(self, halt: Halt) -> None:
        self._paced.halt(halt, self._loop.time())
        self._arm()

    def hint(self, hint: Hint) -> None:
        self._paced.hint(hint, self._loop.time())
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


class ThreadHost:
    """For an engine that computes. All of it happens in its thread; what it says comes to the loop step by step."""

    def __init__(self, engine: Engine, card: Card, model: str, crashed: Crashed, digest: str = "") -> None:
        self._engine = engine
        self._core = HostCore(card.vocabulary, digest)
        self._offer = Offer(endpoint_of(model), resumable=True, slots=card.slots + AHEAD)
        self._crashed = crashed
        self._commands: SimpleQueue[Command | None] = SimpleQueue()  # None: stop
        self._load = engine.load()
        self._thread: threading.Thread | None = None
        self._pulse: Pulse | None = None
        self._spent_s = 0.0  # processor time of the thread, when the pulse last looked
        self._closed = False

    @property
    def counts(self) -> Counts:
        return self._core.counts

    def offer(self) -> Offer:
        return self._offer

    def attach(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        self._post, self._loop = post, loop
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._pulse = Pulse(post, loop, lambda: not self._core.runs or self._computes())

    def holds(self, leg: Leg) -> bool:
        return leg in self._core.runs

    def start(self, start: Start) -> None:
        job = self._core.start(start)
        if type(job) is Failed:
            self._post(job)
        else:
            self._commands.put(job)  # type: ignore[arg-type]

    def go(self, go: Go) -> None:
        """Nothing yet waits."""

    def halt(self, halt: Halt) -> None:
        self._tell(self._core.halt(halt, self._loop.time()))

    def hint(self, hint: Hint) -> None:
        self._tell(self._core.hint(hint, self._loop.time()))

    def _tell(self, command: Command | None) -> None:
        if command is not None:
            self._commands.put(command)

    def load(self) -> EngineLoad:
        return self._load

    async def close(self) -> None:
        self._closed = True
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

    def _applied(self, applied: Applied) -> None:
        if not self._closed:
            for event in self._core.applied(applied, self._loop.time()):
                self._post(event)

    def _stepped(self, step: Step, took_s: float, load: EngineLoad) -> None:
        self._load = load
        if not self._closed:
            for event in self._core.stepped(step, took_s):
                self._post(event)

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
            if applied.refused or applied.freed:
                self._tell_loop(self._applied, applied)
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
