"""Pure. Staging memory, counted in blocks: who hands a sequence over or takes one in has some of it for a while.

What is given out is one stretch, because an engine writes a sequence as one row of blocks. First fit, and neighbours
join when they come back: stretches live for milliseconds to seconds, and their sizes are those of prompts.
"""

from bisect import bisect_left
from itertools import pairwise


class Bank:
    """Stretches of `blocks` blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.used = 0
        self._free: list[tuple[int, int]] = [(0, blocks)] if blocks else []  # (first, count), ascending, no neighbours

    def take(self, count: int) -> int:
        """The first block of a stretch; -1 if there is none so long."""
        assert count > 0
        for index, (first, length) in enumerate(self._free):
            if length >= count:
                if length == count:
                    del self._free[index]
                else:
                    self._free[index] = (first + count, length - count)
                self.used += count
                return first
        return -1

    def give(self, first: int, count: int) -> None:
        """It is free again, whole or in parts."""
        if not count:
            return
        index = bisect_left(self._free, (first, count))
        self.used -= count
        if index < len(self._free) and self._free[index][0] == first + count:
            count += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == first:
            index -= 1
            first, before = self._free.pop(index)
            count += before
        self._free.insert(index, (first, count))

    def check(self) -> None:
        """Assert what always holds."""
        assert self.used + sum(count for _, count in self._free) == self.blocks, "blocks were lost, or made"
        assert all(first + count < other for (first, count), (other, _) in pairwise(self._free)), "given back twice"
        assert not self._free or (self._free[0][0] >= 0 and sum(self._free[-1]) <= self.blocks)
