"""Pure. A heap of named deadlines. Setting one again moves it; stale heap entries are dropped when they surface.

Equal deadlines fire in the order in which they were set, so that a run depends on nothing but its events.
"""

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

STALE_ENTRIES_MIN = 64  # below that many dead heap entries a rebuild is not worth its time


class Timers(Generic[Key]):
    """Deadlines by key."""

    def __init__(self) -> None:
        self._when: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._when)

    def set(self, key: Key, when: float) -> None:
        """Fire `key` at `when`, and at no other time."""
        self._count += 1
        self._when[key] = (when, self._count)
        heappush(self._heap, (when, self._count, key))
        if len(self._heap) > 2 * len(self._when) + STALE_ENTRIES_MIN:
            self._rebuild()

    def clear(self, key: Key) -> None:
        """Never fire `key`, unless it is set again."""
        self._when.pop(key, None)

    def deadline(self) -> float:
        """When the next key is due; inf without one."""
        heap, live = self._heap, self._when
        while heap:
            when, count, key = heap[0]
            if live.get(key) == (when, count):
                return when
            heappop(heap)
        return inf

    def due(self, now: float) -> Iterator[Key]:
        """Take the keys that are due, in order; a key set again while this runs may come again."""
        while self.deadline() <= now:
            key = heappop(self._heap)[2]
            del self._when[key]
            yield key

    def forgive(self, late_s: float, now: float) -> None:
        """Move what fell due while we were stopped: that time does not count."""
        self._when = {key: (when + late_s if when <= now else when, n) for key, (when, n) in self._when.items()}
        self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [(when, count, key) for key, (when, count) in self._when.items()]
        heapify(self._heap)
