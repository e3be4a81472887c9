"""Pure. Virtual time: a heap of calls. Calls of one instant happen in the order in which they were scheduled."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Clock:
    """The only time there is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call at a time; what is past happens now."""
        self._count += 1
        heappush(self._heap, (when if when > self.now else self.now, self._count, call, arguments))

    def run(self, until: float, steps_max: int) -> bool:
        """Go on until a time; False if that takes too many steps."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, arguments = heappop(heap)
            self.steps += 1
            call(*arguments)
            if self.steps > steps_max:
                return False
        if until > self.now:
            self.now = until
        return True
