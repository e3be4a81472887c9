"""Pure. Where a session was last: a hint that its cache may still be there. Bounded, and forgotten after a time."""

from collections import OrderedDict

from proto.placing import Rank


class Sessions:
    """By the session's name, as the client gave it."""

    def __init__(self, ttl_s: float, sessions_max: int) -> None:
        self._ttl_s = ttl_s
        self._sessions_max = sessions_max
        self._last: OrderedDict[str, tuple[Rank, float]] = OrderedDict()  # the longest silent first

    def put(self, session: str, rank: Rank, now: float) -> None:
        """It was sent there."""
        if not session or not self._ttl_s:
            return
        self._last[session] = (rank, now)
        self._last.move_to_end(session)
        if len(self._last) > self._sessions_max:
            self._last.popitem(last=False)

    def get(self, session: str, now: float) -> Rank | None:
        """Where it was, if that is not too long ago."""
        rank, at = self._last.get(session, (None, 0.0))
        return rank if rank is not None and now - at < self._ttl_s else None

    def __len__(self) -> int:
        return len(self._last)
