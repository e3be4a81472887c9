"""Pure. Since when ranks have been at the prompts that they compute now.

The oldest of the prompts that a rank was sent is computed since the one before it was done. Who has been at one for
longest is done with it first: among ranks that cost the same, the next prompt goes there. To take off the price what
should be done by now, at a speed that is learned, gave no better first tokens than that, and drew all that begins alike
to one rank.
"""

from math import inf


class Progress:
    """Prompts under way, by seat."""

    def __init__(self) -> None:
        self._queues: dict[int, dict[int, None]] = {}  # by seat: requests, the oldest first
        self._now = 0.0  # the latest time that was heard of
        self.since: list[float] = []  # by seat: when the oldest of them began; -inf: there is none

    def begin(self, seat: int, request: int, now: float) -> None:
        """A rank was sent a prompt."""
        self._now = max(self._now, now)
        queue = self._queues.setdefault(seat, {})
        if not queue:
            self.since[seat] = now
        queue[request] = None

    def end(self, seat: int, request: int, now: float = 0.0) -> None:
        """It is computed, or gone; by now, if that is known."""
        queue = self._queues.get(seat, {})
        if request not in queue:
            return
        self._now = max(self._now, now)
        oldest = next(iter(queue)) == request
        del queue[request]
        if not queue:
            del self._queues[seat]
            self.since[seat] = -inf
        elif oldest:
            self.since[seat] = self._now

    def check(self) -> None:
        """Assert every invariant."""
        assert all(self._queues.values())
        assert all((when > -inf) == (seat in self._queues) for seat, when in enumerate(self.since))
