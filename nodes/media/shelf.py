"""Pure. Where embeddings lie in a bounded memory, by the names of what they were made of: the least used go first.

Memory is given out in blocks. Who uses an embedding holds it, and what is held stays. What comes and goes is told as
changes of a cache, so that routers send a known picture to where its embedding is.
"""

from collections import OrderedDict

from msgspec import Struct

from nodes.contract.engine import BlockEvent


class Place(Struct):
    """Where one embedding lies."""

    rows: int
    size: int  # bytes
    blocks: list[int]
    holders: int = 0


class Shelf:
    """All embeddings of one process."""

    def __init__(self, bytes_max: int, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.blocks = max(1, bytes_max // block_bytes)
        self.events: list[BlockEvent] = []  # whoever reads them takes them away
        self.hits = self.misses = self.evicted = 0
        self._free = list(range(self.blocks - 1, -1, -1))
        self._places: OrderedDict[bytes, Place] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._places)

    @property
    def used_bytes(self) -> int:
        """Bytes that are not free."""
        return (self.blocks - len(self._free)) * self.block_bytes

    def find(self, content: bytes) -> Place | None:
        """Hold a known embedding; it is the most recently used now."""
        place = self._places.get(content)
        if place is None:
            self.misses += 1
            return None
        self.hits += 1
        self._places.move_to_end(content)
        place.holders += 1
        return place

    def put(self, content: bytes, rows: int, size: int) -> Place | None:
        """Hold room for a new embedding; None if what is held leaves too little."""
        assert content not in self._places
        needed = -(-size // self.block_bytes)
        if not self._make_room(needed):
            return None
        place = Place(rows, size, [self._free.pop() for _ in range(needed)], 1)
        self._places[content] = place
        self.events.append(BlockEvent("stored", [hash_of(content)]))
        return place

    def let_go(self, place: Place) -> None:
        """It may go when its room is needed."""
        assert place.holders > 0
        place.holders -= 1

    def _make_room(self, needed: int) -> bool:
        idle = [content for content, place in self._places.items() if not place.holders]
        if needed > len(self._free) + sum(len(self._places[content].blocks) for content in idle):
            return False
        for content in idle:
            if needed <= len(self._free):
                break
            self._free += reversed(self._places.pop(content).blocks)
            self.evicted += 1
            self.events.append(BlockEvent("removed", [hash_of(content)]))
        return True

    def pieces(self, place: Place) -> list[tuple[int, int]]:
        """Where it lies: (offset, bytes), neighbours as one."""
        found: list[tuple[int, int]] = []
        left = place.size
        for block in place.blocks:
            start, length = block * self.block_bytes, min(self.block_bytes, left)
            left -= length
            if found and sum(found[-1]) == start:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                found.append((start, length))
        return found

    def known(self) -> list[bytes]:
        """The names of all that is there."""
        return list(self._places)

    def check(self) -> None:
        """Assert every invariant."""
        taken = [block for place in self._places.values() for block in place.blocks]
        assert sorted([*taken, *self._free]) == list(range(self.blocks)), "each block has one use"
        for place in self._places.values():
            assert place.holders >= 0 and place.size <= len(place.blocks) * self.block_bytes


def hash_of(content: bytes) -> int:
    """A name as the routers' index knows it."""
    return int.from_bytes(content[:8], "little")
