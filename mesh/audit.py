"""Pure. What a holder compares with its owners' heartbeats: for each, how many legs, their digest, and Submits seen."""

from collections.abc import Iterable

from mesh.core import Leg
from proto import limits
from proto.basics import LegName
from proto.messages import Ping, Sync
from proto.request import mix

MISMATCHES_BEFORE_SYNC = 2  # one differing digest is a message under way; two in a row are a difference


class Audit:
    """The holder's half of Sync."""

    def __init__(self) -> None:
        self._legs: dict[int, tuple[int, int]] = {}
        self._submits: dict[int, int] = {}
        self._mismatches: dict[int, int] = {}

    def submitted(self, owner: int) -> None:
        """A Submit has come, whatever became of it."""
        self._submits[owner] = self._submits.get(owner, 0) + 1

    def submits(self, owner: int) -> int:
        """How many have come on this session."""
        return self._submits.get(owner, 0)

    def held(self, owner: int, request: int, attempt: int) -> None:
        """A leg is held now."""
        self._change(owner, request, attempt, 1)

    def ended(self, owner: int, request: int, attempt: int) -> None:
        """It is held no more."""
        self._change(owner, request, attempt, -1)

    def differs(self, owner: int, ping: Ping) -> bool:
        """Whether the owner's view has differed from ours often enough to list ours."""
        if (ping.legs, ping.digest) == self._legs.get(owner, (0, 0)):
            self._mismatches.pop(owner, None)
            return False
        self._mismatches[owner] = self._mismatches.get(owner, 0) + 1
        if self._mismatches[owner] < MISMATCHES_BEFORE_SYNC:
            return False
        del self._mismatches[owner]
        return True

    def sync(self, owner: int, held: Iterable[Leg]) -> Sync:
        """All that is held for an owner, for it to compare."""
        legs = [LegName(leg.request, leg.attempt) for leg in held]
        return Sync(self.submits(owner), legs[: limits.LEGS_MAX])

    def forget(self, owner: int) -> None:
        """Its sessions are void."""
        self._legs.pop(owner, None)
        self._submits.pop(owner, None)
        self._mismatches.pop(owner, None)

    def _change(self, owner: int, request: int, attempt: int, by: int) -> None:
        count, digest = self._legs.get(owner, (0, 0))
        self._legs[owner] = (count + by, digest ^ mix(request, attempt))

    def check(self, legs: dict[int, tuple[int, int]]) -> None:
        """Assert that this is what a recount gives."""
        assert legs == {owner: summary for owner, summary in self._legs.items() if summary[0]}
