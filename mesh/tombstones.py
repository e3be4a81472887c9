"""Pure. Legs that have ended, or were cancelled before they came, so that a late Cancel gets its answer and a late
Submit is refused. Bounded in number and in time, whichever comes first.
"""

from mesh.core import Leg
from proto import limits


class Tombstones:
    """Ended legs, oldest first."""

    def __init__(self) -> None:
        self._stones: dict[Leg, tuple[float, int]] = {}
        self._newest: dict[tuple[int, int], int] = {}

    def add(self, leg: Leg, position: int, now: float) -> None:
        """Remember that this leg is over, after `position` units."""
        self._stones.pop(leg, None)
        self._stones[leg] = (now, position)
        key = (leg.owner, leg.request)
        self._newest[key] = max(leg.attempt, self._newest.get(key, 0))
        if len(self._stones) > limits.TOMBSTONES_MAX:
            self._remove(next(iter(self._stones)))

    def known(self, leg: Leg) -> bool:
        """Whether this very leg is over."""
        return leg in self._stones

    def position(self, leg: Leg) -> int:
        """How many units it sent."""
        return self._stones.get(leg, (0.0, 0))[1]

    def newest(self, owner: int, request: int) -> int:
        """The newest attempt of a request that is over; 0 if none is remembered."""
        return self._newest.get((owner, request), 0)

    def expire(self, now: float) -> None:
        """Forget what is older than any message under way."""
        while self._stones:
            leg = next(iter(self._stones))
            if now - self._stones[leg][0] < limits.TOMBSTONE_S:
                return
            self._remove(leg)

    def _remove(self, leg: Leg) -> None:
        del self._stones[leg]
        if self._newest.get((leg.owner, leg.request)) == leg.attempt:
            del self._newest[leg.owner, leg.request]

    def check(self) -> None:
        """Assert the bound."""
        assert len(self._newest) <= len(self._stones) <= limits.TOMBSTONES_MAX
