"""Pure. What is where: the slots of host memory, the files of a disk, and what is known of a store.

A block in host memory is *pinned* while somebody fills it, reads it, or waits for it; others may take its slot, the
longest unused first. A disk is known whole, and bounded in bytes. A store belongs to many, so of it one only remembers
what it said last, for a while.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from msgspec import Struct

from nodes.tiers.changes import Changes

HOST, DISK, STORE = 1, 2, 3  # by distance; what routers are told of calls the first two so as well
TITLES = {HOST: "host", DISK: "disk", STORE: "store"}
VICTIMS_MAX = 4  # looked at: what was popular once is not in the way for ever
REMEMBERED_MAX = 1 << 16  # names of a store: 10 MB
FILES_MAX = 1 << 20  # of a disk: 200 MB to know them all
PRESENT_S = 600.0  # who cleans a store up does it seldom
ABSENT_S = 5.0  # another worker may have written it meanwhile


class Block(Struct, eq=False):
    """A block in host memory."""

    name: int
    parent: int
    slot: int
    origin: int = HOST  # where its bytes came from, until somebody was given them
    pins: int = 1
    is_filled: bool = False
    is_lost: bool = False  # what was to fill it did not come


class Host:
    """The slots of host memory."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.blocks: dict[int, Block] = {}
        self.changes = Changes()
        self.evictions = 0
        self._free: list[int] = []  # used before
        self._fresh = 0  # the slots from here on were never used
        self._idle: OrderedDict[int, Block] = OrderedDict()  # filled and not pinned, the longest unused first

    @property
    def used(self) -> int:
        return self._fresh - len(self._free)

    @property
    def reached(self) -> int:
        """How many slots were ever used."""
        return self._fresh

    @property
    def is_full(self) -> bool:
        return self.used == self.slots

    def makes_room(self, name: int, count: Callable[[int], int]) -> bool:
        """Whether a block is asked for as often as one of those whose room it could have: that one is next to go."""
        if not self.is_full:
            return True
        wanted = count(name)
        for victim in [*islice(self._idle, VICTIMS_MAX)]:
            if count(victim) <= wanted:
                return True
            self._idle.move_to_end(victim)
        return not self._idle

    def reserve(self, name: int, parent: int, origin: int = HOST) -> Block | None:
        """A pinned slot to be filled; None if all are pinned."""
        assert name not in self.blocks
        if self.is_full:
            if not self._idle:
                return None
            _, old = self._idle.popitem(last=False)
            self._forget(old)
            self.evictions += 1
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._fresh = self._fresh, self._fresh + 1
        block = Block(name, parent, slot, origin)
        self.blocks[name] = block
        return block

    def fill(self, block: Block) -> None:
        """Its bytes are there."""
        block.is_filled = True
        self.changes.stored(block.name, block.parent)

    def lose(self, block: Block) -> None:
        """Its bytes will not come. The slot is free when the last pin goes."""
        block.is_lost = True
        del self.blocks[block.name]

    def pin(self, block: Block) -> None:
        if not block.pins:
            del self._idle[block.name]
        block.pins += 1

    def unpin(self, block: Block) -> None:
        block.pins -= 1
        if block.pins:
            return
        if block.is_lost:
            self._free.append(block.slot)
        else:
            assert block.is_filled
            self._idle[block.name] = block

    def _forget(self, block: Block) -> None:
        del self.blocks[block.name]
        self._free.append(block.slot)
        self.changes.removed(block.name)

    def check(self) -> None:
        """Assert all invariants."""
        slots = [block.slot for block in self.blocks.values()]
        assert len({*slots, *self._free}) == len(slots) + len(self._free), "no slot is in two places"
        for name, block in self._idle.items():
            assert self.blocks[name] is block and block.is_filled and not block.pins and not block.is_lost
        for name, block in self.blocks.items():
            assert block.name == name and (block.pins > 0 or name in self._idle)


class Index(Protocol):
    """What is known of a tier below host memory."""

    def may_have(self, name: int, now: float) -> bool:
        """Whether it is worth asking for."""
        ...

    def has(self, name: int, now: float) -> bool:
        """Whether it need not be written again."""
        ...

    def found(self, name: int, now: float) -> None:
        """It was read there."""
        ...

    def missed(self, name: int, now: float) -> None:
        """It could not be read there."""
        ...

    def written(self, name: int, parent: int, size: int, now: float) -> list[tuple[int, int]]:
        """It was written there: the (name, parent) of those that have to go for it."""
        ...


class Disk:
    """Files that are ours alone, bounded in bytes. The longest unused goes first."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self.changes = Changes()
        self.evictions = 0
        self.files: OrderedDict[int, tuple[int, int]] = OrderedDict()  # (parent, bytes)

    def may_have(self, name: int, now: float) -> bool:
        return name in self.files

    def has(self, name: int, now: float) -> bool:
        return name in self.files

    def found(self, name: int, now: float) -> None:
        if name in self.files:
            self.files.move_to_end(name)

    def missed(self, name: int, now: float) -> None:
        if name in self.files:
            self._drop(name)

    def written(self, name: int, parent: int, size: int, now: float) -> list[tuple[int, int]]:
        self._add(name, parent, size)
        self.files.move_to_end(name)
        return self._cut()

    def scanned(self, files: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
        """Files of an earlier life, the youngest first: (name, parent, bytes). Those that have to go."""
        for name, parent, size in files:
            if name not in self.files:
                self._add(name, parent, size)
                self.files.move_to_end(name, last=False)
        return self._cut()

    def tell(self) -> None:
        """Somebody listens from here on: all that is there is news."""
        self.changes.told = True
        for name, (parent, _) in self.files.items():
            self.changes.stored(name, parent)

    def _add(self, name: int, parent: int, size: int) -> None:
        if name in self.files:
            self.bytes -= self.files[name][1]
        else:
            self.changes.stored(name, parent)
        self.files[name] = (parent, size)
        self.bytes += size

    def _cut(self) -> list[tuple[int, int]]:
        gone: list[tuple[int, int]] = []
        while self.bytes > self.bytes_max or len(self.files) > FILES_MAX:
            name = next(iter(self.files))
            gone.append((name, self._drop(name)))
            self.evictions += 1
        return gone

    def _drop(self, name: int) -> int:
        parent, size = self.files.pop(name)
        self.bytes -= size
        self.changes.removed(name)
        return parent

    def check(self) -> None:
        """Assert all invariants."""
        assert self.bytes == sum(size for _, size in self.files.values()) <= self.bytes_max


class Store:
    """What a store of many said last. Nothing is ever removed from it by us."""

    def __init__(self) -> None:
        self._said: OrderedDict[int, tuple[bool, float]] = OrderedDict()  # (is there, believed until)

    def may_have(self, name: int, now: float) -> bool:
        said = self._said.get(name)
        return said is None or said[0] or now >= said[1]

    def has(self, name: int, now: float) -> bool:
        said = self._said.get(name)
        return said is not None and said[0] and now < said[1]

    def found(self, name: int, now: float) -> None:
        self._remember(name, True, now + PRESENT_S)

    def missed(self, name: int, now: float) -> None:
        self._remember(name, False, now + ABSENT_S)

    def written(self, name: int, parent: int, size: int, now: float) -> list[tuple[int, int]]:
        self._remember(name, True, now + PRESENT_S)
        return []

    def _remember(self, name: int, is_there: bool, until: float) -> None:
        self._said[name] = (is_there, until)
        self._said.move_to_end(name)
        if len(self._said) > REMEMBERED_MAX:
            self._said.popitem(last=False)
