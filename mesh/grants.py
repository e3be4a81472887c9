"""Pure. Credit that leaves at the end of this turn: one message for each holder, however many streams were read."""

from math import inf

from mesh.claims import Claim
from proto import limits
from proto.messages import Credit, Grant


class Grants:
    """Raised limits by peer and leg; a later one replaces an earlier one."""

    def __init__(self) -> None:
        self._grants: dict[int, dict[tuple[int, int], Grant]] = {}

    def add(self, claim: Claim, limit: int) -> None:
        """Let the holder of this leg send up to `limit`."""
        claim.limit = limit
        grants = self._grants.setdefault(claim.peer, {})
        grants[claim.request, claim.attempt] = Grant(claim.request, claim.attempt, limit)

    def forget(self, peer: int) -> None:
        """Its sessions are void."""
        self._grants.pop(peer, None)

    def deadline(self) -> float:
        """The past while there is something to send."""
        return -inf if self._grants else inf

    def take(self) -> list[tuple[int, Credit]]:
        """All of it, in messages of bounded size."""
        messages = []
        for peer, grants in self._grants.items():
            listed = list(grants.values())
            for start in range(0, len(listed), limits.GRANTS_MAX):
                messages.append((peer, Credit(listed[start : start + limits.GRANTS_MAX])))
        self._grants.clear()
        return messages
