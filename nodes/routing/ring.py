"""Pure. The last changes of a cache, for routers that missed some: bounded in changes and in blocks."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from nodes.routing.hashes import HASH_BYTES
from proto.placing import Change

CHANGES_MAX = 65_536  # ten minutes of an engine that stores or turns out something a hundred times a second
BLOCKS_MAX = 262_144  # 2 MiB of hashes: more is as cheap to copy


class Ring:
    """Changes by number, from 1."""

    def __init__(self, changes_max: int = CHANGES_MAX, blocks_max: int = BLOCKS_MAX) -> None:
        self._changes: deque[Change] = deque()
        self._changes_max = changes_max
        self._bytes_max = blocks_max * HASH_BYTES
        self._bytes = 0
        self.newest = 0

    @property
    def oldest(self) -> int:
        """The number of the first change that is still here; one past the newest if none is."""
        return self.newest - len(self._changes) + 1

    def add(self, change: Change) -> None:
        """The next change; the oldest ones make room for it."""
        self.newest += 1
        self._changes.append(change)
        self._bytes += len(change.hashes)
        while len(self._changes) > self._changes_max or self._bytes > self._bytes_max:
            self._bytes -= len(self._changes.popleft().hashes)

    def skip(self) -> None:
        """Something has changed that nobody wrote down: who missed it has to copy."""
        self.newest += 1
        self._changes.clear()
        self._bytes = 0

    def after(self, number: int) -> Iterator[Change] | None:
        """All changes after this one; None if some are gone, or it is none of ours.

        Taken from the end: mostly it is the last few that are wanted, and there may be many before them.
        """
        if not self.oldest - 1 <= number <= self.newest:
            return None
        last = list(islice(reversed(self._changes), self.newest - number))
        return reversed(last)
