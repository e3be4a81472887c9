"""Pure. Connections that are not a peer's: those that never said Hello, and those whose session is void.

Both tables forget their oldest entry when full. Nothing here is sent; `mesh.peers` decides what a fenced frame earns.
"""

from proto import limits


class Strangers:
    """Strikes and fences by connection."""

    def __init__(self) -> None:
        self._strikes: dict[bytes, int] = {}
        self._fences: dict[bytes, tuple[int, int]] = {}

    def muted(self, zid: bytes) -> bool:
        """Whether this connection has used up its strikes."""
        return self._strikes.get(zid, 0) >= limits.STRIKES_MAX

    def strike(self, zid: bytes) -> None:
        """Count a bad frame of a connection that has no session."""
        self._strikes[zid] = self._strikes.pop(zid, 0) + 1
        if len(self._strikes) > limits.STRANGERS_MAX:
            del self._strikes[next(iter(self._strikes))]

    def fence(self, zid: bytes, node: int, session: int) -> None:
        """Whatever still comes on this connection belongs to a void session."""
        self._fences[zid] = (node, session)
        if len(self._fences) > limits.FENCES_MAX:
            del self._fences[next(iter(self._fences))]

    def fenced(self, zid: bytes) -> tuple[int, int] | None:
        """(node, session) of a fenced connection."""
        return self._fences.get(zid)

    def check(self) -> None:
        """Assert the bounds."""
        assert len(self._strikes) <= limits.STRANGERS_MAX
        assert len(self._fences) <= limits.FENCES_MAX
