"""Pure. How often this node tries again by itself: a share of what succeeds, and a little more.

Without a bound, a mesh that fails because it is overloaded is asked twice as much. What dies with a worker is not
counted here: that happens once for each request and worker, and somebody watches the stream.
"""

BURST_RETRIES_MAX = 10.0  # what a quiet node may try again at once
RETRIES_PER_S = 10.0  # how fast that comes back
RETRIES_PER_SUCCESS = 0.1  # and what each request that ended well adds: one in ten may be tried twice


class Budget:
    """A bucket of retries."""

    def __init__(self, now: float) -> None:
        self._left = BURST_RETRIES_MAX
        self._looked = now

    def earn(self) -> None:
        """A request ended well."""
        self._left = min(self._left + RETRIES_PER_SUCCESS, BURST_RETRIES_MAX)

    def spend(self, now: float) -> bool:
        """Whether one more may be tried again."""
        self._left = min(self._left + (now - self._looked) * RETRIES_PER_S, BURST_RETRIES_MAX)
        self._looked = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
