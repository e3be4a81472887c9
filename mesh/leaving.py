"""Pure. How a holder leaves: no new work, what waits is handed over, what runs ends, moves, or has had its time."""

from collections.abc import Callable
from math import inf

from mesh.core import Leg as LegName
from mesh.held import Held
from proto.errors import Reason
from proto.request import Leg


class Leaving:
    """The end of one holder. `elsewhere` says whether another node is known to serve an endpoint."""

    def __init__(
        self,
        legs: dict[LegName, Held],
        elsewhere: Callable[[str], bool],
        hand_over: Callable[[Held, Reason, float], None],
        halt: Callable[[Held, Reason, float], None],
    ) -> None:
        self._legs = legs
        self._elsewhere = elsewhere
        self._hand_over = hand_over
        self._halt = halt
        self.begun = False
        self.grace_ends = inf

    def begin(self, grace_s: float, now: float) -> None:
        """No new work. What waits is handed over now, what can resume as soon as somebody else is there."""
        self.begun = True
        self.grace_ends = min(self.grace_ends, now + grace_s)
        for held in list(self._legs.values()):
            if not held.started and held.end is None and held.state is Leg.RUNNING:
                self._hand_over(held, Reason.DRAIN, now)
        self.move_on(now)

    def move_on(self, now: float) -> None:
        """While leaving: hand over what another node could go on with."""
        if self.begun:
            self.clear(Reason.DRAIN, now)

    def clear(self, reason: Reason, now: float, endpoint: str = "") -> None:
        """Hand over what runs and another node could go on with; of one endpoint, or of all."""
        for held in list(self._legs.values()):
            served = held.submit.endpoint
            if held.started and held.resumable() and endpoint in ("", served) and self._elsewhere(served):
                self._halt(held, reason, now)

    def tick(self, now: float) -> None:
        """At the end of grace hand over what can be, and fail the rest: it had its time."""
        if now < self.grace_ends:
            return
        self.grace_ends = inf
        for held in list(self._legs.values()):
            last = Reason.STOPPED if held.state is Leg.STOPPING else Reason.DRAINING
            self._halt(held, Reason.DRAIN if held.resumable() else last, now)
