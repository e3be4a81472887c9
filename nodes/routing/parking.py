"""Pure. Requests that wait in the router because every rank has enough prefill work queued.

A rank's own queue is first come, first served, and cannot be taken back. While all are full, a request that waits here
can still go to the rank that is free first, and one of a higher tier or smaller size can still go before it.

Keys, lowest first: the strict tier; then by policy `fcfs` the time of arrival, `lcfs` the same backwards, `wspt` the
uncached tokens divided by the weight. A priority below 0 is so many seconds of earlier arrival, or so much weight.
"""

from bisect import insort
from typing import Generic, TypeVar

from msgspec import Struct

Item = TypeVar("Item")


class Spot(Struct, order=True, frozen=True, gc=False):
    """A place in the queue."""

    tier: int
    key: float
    number: int  # of arrival: equals go in that order
    request: int


def key(policy: str, arrived: float, priority: int, uncached_tokens: int) -> float:
    """Where a request stands among those of its tier; lowest first."""
    if policy == "wspt":
        weight = 1.0 - priority if priority < 0 else 1.0 / (1.0 + priority)
        return max(1, uncached_tokens) / weight
    return arrived + priority if policy == "fcfs" else priority - arrived


class Parking(Generic[Item]):
    """What waits, in order. To put one in shifts a list of pointers: microseconds at the thousands that may wait."""

    def __init__(self, policy: str, requests_max: int) -> None:
        self._policy = policy
        self._requests_max = requests_max
        self._order: list[Spot] = []
        self._items: dict[int, tuple[Spot, Item]] = {}  # by request
        self._number = 0

    def put(self, request: int, item: Item, now: float, tier: int, priority: int, uncached_tokens: int) -> int:
        """Let it wait; how many are before it, or -1 if the queue is full. A request waits once."""
        self.drop(request)
        if len(self._order) >= self._requests_max:
            return -1
        self._number += 1
        place = Spot(tier, key(self._policy, now, priority, uncached_tokens), self._number, request)
        insort(self._order, place)
        self._items[request] = (place, item)
        return self._order.index(place)

    def first(self) -> Item | None:
        """Who is next; it stays until it is dropped."""
        return self._items[self._order[0].request][1] if self._order else None

    def drop(self, request: int) -> None:
        """It waits no more."""
        found = self._items.pop(request, None)
        if found is not None:
            self._order.remove(found[0])

    def __len__(self) -> int:
        return len(self._order)
