"""Pure. The rooms of a key-value cache: blocks of positions, shared by the sequences that begin alike.

A block is *empty*, *used* by one or more sequences, or *idle*: nobody uses it, but it still holds a known prefix and
may be found by it until its room is needed. The longest idle goes first, and of one sequence the end before the start.

The hash of a block is the digest of its parent's hash (8 bytes) and its tokens (4 bytes each, all little-endian). The
parent of a first block is 0, or the digest of the salt. Only full blocks have one. Whoever has the tokens can compute
it, so a router can tell what an engine holds without asking.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

from nodes.contract.engine import BlockEvent

Digest = Callable[[bytes], int]  # to 64 bits; the whole mesh must use one: xxhash.xxh3_64_intdigest
GOLDEN_RATIO = 0.6180339887498949
NONE = -1  # no block
Spill = Callable[[int, int, int], None]  # hash, hash of the parent, block


def root(salt: str, digest: Digest) -> int:
    """The parent of a first block."""
    return digest(salt.encode()) if salt else 0


def link(tokens: Sequence[int], parent: int, digest: Digest) -> int:
    """The hash of one full block."""
    return digest(parent.to_bytes(8, "little") + array("I", tokens).tobytes())


def chain(tokens: Sequence[int], block_tokens: int, parent: int, digest: Digest) -> list[int]:
    """The hashes of all full blocks of `tokens`, the first of which follows `parent`."""
    packed = array("I", tokens).tobytes()
    size = 4 * block_tokens
    hashes = []
    for start in range(0, len(packed) - size + 1, size):
        parent = digest(parent.to_bytes(8, "little") + packed[start : start + size])
        hashes.append(parent)
    return hashes


class Pool:
    """All blocks of one engine, and where to find a prefix among them."""

    def __init__(self, blocks: int, caching: bool = True) -> None:
        self.total = blocks
        self.events: list[BlockEvent] = []  # whoever reads them takes them away
        self.spill: Spill | None = None  # who gets a last look at a known block before its room is used again
        self._caching = caching
        self._users = [0] * blocks
        self._hashes: list[int | None] = [None] * blocks
        self._parents = [0] * blocks
        self._by_hash: dict[int, int] = {}
        self._empty = dict.fromkeys(range(blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._starts = 0

    @property
    def free(self) -> int:
        """Blocks that could be taken now."""
        return len(self._empty) + len(self._idle)

    @property
    def used(self) -> int:
        return self.total - self.free

    def idle_among(self, hashes: Sequence[int]) -> tuple[int, int]:
        """How many of the first `hashes` are here, and how many of these are idle."""
        blocks = [*map(self._by_hash.get, hashes), None]
        here = blocks.index(None)
        return here, [self._users[block] for block in blocks[:here] if block is not None].count(0)

    def share(self, hashes: Sequence[int]) -> list[int]:
        """One more user for the blocks of these hashes, which are all here."""
        blocks = [self._by_hash[name] for name in hashes]
        for block in blocks:
            if not self._users[block]:
                del self._idle[block]
            self._users[block] += 1
        return blocks

    def take(self, after: int = NONE) -> int:
        """A block for one user, next to `after` if it can be: neighbours are read in one piece. NONE: there is none."""
        if after == NONE:
            self._starts += 1  # a new sequence begins far from the others, so that all have room to grow
            after = int(self._starts * GOLDEN_RATIO % 1.0 * self.total) - 1
        block = after + 1
        if block in self._empty:
            del self._empty[block]
        elif self._empty:
            block = self._empty.popitem()[0]
        elif self._idle:
            block = self._idle.popitem(last=False)[0]
            self._forget(block)
        else:
            return NONE
        self._users[block] = 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for these blocks of one sequence."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if self._hashes[block] is None:
                self._empty[block] = None
            else:
                self._idle[block] = None

    def store(self, block: int, name: int, parent: int, tokens: list[int]) -> None:
        """This block is full now: others may share it from here on."""
        if not self._caching or name in self._by_hash:
            return  # another sequence was faster, and this copy stays private
        self._by_hash[name] = block
        self._hashes[block] = name
        self._parents[block] = parent
        last = self.events[-1] if self.events else None
        if last is not None and last.kind == "stored" and last.hashes[-1] == parent:
            last.hashes.append(name)
            last.tokens.extend(tokens)
        else:
            self.events.append(BlockEvent("stored", [name], parent, tokens))

    def idle_blocks(self) -> list[tuple[int, int, int]]:
        """(hash, hash of the parent, block) of what nobody uses; the longest idle comes last."""
        named = ((self._hashes[block], block) for block in reversed(self._idle))
        return [(name, self._parents[block], block) for name, block in named if name is not None]

    def is_known(self, block: int) -> bool:
        """Whether somebody may find it, now or when nobody uses it."""
        return self._hashes[block] is not None

    def drop(self, block: int) -> None:
        """What a block holds is about to be lost, and nobody uses it: it can be found no more."""
        if block in self._idle:
            del self._idle[block]
            self._forget(block)
            self._empty[block] = None

    def clear(self) -> None:
        """Forget every prefix that nobody uses, and share none of those in use any more."""
        for block in self._idle:
            self._empty[block] = None
        self._idle.clear()
        self._hashes = [None] * self.total
        self._by_hash.clear()
        self.events.append(BlockEvent("cleared"))

    def check(self) -> None:
        """Assert all invariants."""
        for block in range(self.total):
            places = (block in self._empty) + (block in self._idle) + (self._users[block] > 0)
            assert places == 1, f"block {block} is in {places} places"
            assert (block in self._empty) <= (self._hashes[block] is None)
            assert (block in self._idle) <= (self._hashes[block] is not None)
        held = {name: block for block, name in enumerate(self._hashes) if name is not None}
        assert held == self._by_hash

    def _forget(self, block: int) -> None:
        name = self._hashes[block]
        assert name is not None
        if self.spill is not None:
            self.spill(name, self._parents[block], block)
        self._hashes[block] = None
        del self._by_hash[name]
        if self.events and self.events[-1].kind == "removed":
            self.events[-1].hashes.append(name)
        else:
            self.events.append(BlockEvent("removed", [name]))
