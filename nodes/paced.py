"""Pure. Drives an engine in the time of whoever calls: one that is simulated, or that works by itself elsewhere."""

from collections.abc import Callable
from math import inf

from mesh.core import Event, Go, Halt, Hint, Start
from nodes.commands import apply
from nodes.contract.engine import Engine, EngineLoad, Step
from nodes.handing import Handing
from nodes.host_core import HostCore
from proto import limits


class PacedHost:
    """An engine that is stepped in the time of whoever calls: its steps say themselves how long they take."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: int = limits.TOKEN_ID_MAX + 1,
        digest: str = "",
        handing: Handing | None = None,
        enforce: bool = False,
    ) -> None:
        self.core = HostCore(vocabulary, digest, handing, enforce)
        self.engine = engine
        self._step: Step | None = None  # it runs until `_due`
        self._due = -inf  # when the step that runs is over, or the last one was
        self._began = -inf

    def start(self, start: Start, now: float) -> list[Event]:
        """Run a leg."""
        return self.core.start(start, now)

    def go(self, go: Go, now: float) -> None:
        self.core.go(go, now)

    def hint(self, hint: Hint, now: float) -> list[Event]:
        return self.core.hint(hint, now)

    def halt(self, halt: Halt, now: float) -> list[Event]:
        return self.core.halt(halt, now)

    def deadline(self) -> float:
        """When `turn` is wanted; -inf: at once."""
        if self._step is not None:
            return min(self._due, self.core.deadline())
        return -inf if self.core.commands or not self.engine.idle() else self.core.deadline()

    def turn(self, now: float, post: Callable[[Event], None]) -> None:
        """Tell of the step that is over, begin the next, and if that takes no time tell of it too.

        `post` may call `start`, `halt` and `hint`: what follows from the end of a step or of a cancel is in the next.
        """
        self.core.tick(now)
        for event in self._end(now):
            post(event)
        if self._step is None:
            while self.core.commands:  # a room that is free now has its next user in this step
                for event in self._heed(now):
                    post(event)
            for event in self._begin(now):
                post(event)
            for event in self._end(now):
                post(event)

    def wake(self, now: float) -> None:
        """The step that runs is over now, however long it meant to take."""
        self._due = min(self._due, now)

    def load(self) -> EngineLoad:
        return self.engine.load()

    def check(self) -> None:
        """Assert every invariant."""
        self.core.check()

    def _end(self, now: float) -> list[Event]:
        if self._step is None or now < self._due:
            return []
        step, self._step = self._step, None
        return self.core.stepped(step, max(self._due - self._began, 0.0))

    def _heed(self, now: float) -> list[Event]:
        commands, self.core.commands = self.core.commands, []
        return self.core.applied(apply(self.engine, commands), now)

    def _begin(self, now: float) -> list[Event]:
        if self.engine.idle():
            self._due = -inf
            return []
        step = self.engine.step()
        events = self.core.ended_before(step) if step.wait_s > 0 else []
        # A step begins where the last one ended, not where the loop came by, or each would be longer than it says.
        self._began = self._due if now - self._due < step.wait_s else now
        self._step, self._due = step, self._began + step.wait_s
        return events
