"""Pure. Who holds which block: a table from block hash to a mask of holders, with room for millions.

A holder is a small number, its bit in the masks. It stands for what one engine holds (`nodes.routing.sources` knows
whose it is). The table is cut into shards by the low bits of the hash: no shard is ever large, so neither growing nor
sweeping nor pruning one is a pause, and what is left of the hash as a key is small enough for a small integer object.

A block costs about 90 bytes with one holder (`bench/index.py` measures it): a third is the key, the rest its share of
the shard's table. More holders of the same block cost nothing or 32 to 48 bytes for a mask of its own.

A holder that goes away is retired at once and by one bit: nobody asks for it any more. Its bits are swept away a few
shards at a time, whenever something is stored or another holder goes, and then its number is used again.
"""

from collections.abc import Iterable
from heapq import heappop, heappush

from nodes.routing.hashes import Hashes
from nodes.routing.lookup import Found, holders

SHARD_BITS = 12  # 4,096 shards: 250 blocks in each at a million, 1,000 at four
RETIRED_MAX = 512  # holders whose bits are still being swept: each further one pays a 512th of a whole sweep, 1 ms
SWEEP_SHARDS = 1  # with each call that stores, while there is something to sweep: some 0.1 ms at a million blocks


class Index:
    """The table. `blocks_max` bounds its distinct blocks; over it the longest untouched of a shard are forgotten."""

    def __init__(self, blocks_max: int = 1 << 22, prune_ratio: float = 0.8, shard_bits: int = SHARD_BITS) -> None:
        self._bits = shard_bits
        self._low = (1 << shard_bits) - 1
        self._shards: list[dict[int, int]] = [{} for _ in range(1 << shard_bits)]
        self._shard_max = max(1, blocks_max >> shard_bits)
        self._shard_least = min(self._shard_max - 1, int(self._shard_max * prune_ratio))
        self._crowded = int(blocks_max * prune_ratio)
        self._counts: list[int] = []
        self._masks: list[int] = []  # the one object for each holder's own bit
        self._free: list[int] = []
        self._retired = 0
        self._cursor = 0
        self._turn = 0
        self.blocks = 0  # distinct
        self.pruned = 0  # forgotten for want of room, in all

    # --- Holders -----------------------------------------------------------------------------------------

    def open(self) -> int:
        """A new holder; the smallest number that is free, so that masks stay short."""
        if self._free:
            return heappop(self._free)
        self._counts.append(0)
        self._masks.append(1 << len(self._masks))
        return len(self._masks) - 1

    def retire(self, holder: int) -> None:
        """This holder is no more."""
        if not self._counts[holder]:
            heappush(self._free, holder)
            return
        self._retired |= self._masks[holder]
        self.sweep(-(-len(self._shards) // RETIRED_MAX))

    def held(self, holder: int) -> int:
        """How many blocks it holds."""
        return self._counts[holder]

    @property
    def sweeping(self) -> bool:
        """Whether bits of retired holders are left."""
        return self._retired != 0

    def sweep(self, shards: int = SWEEP_SHARDS) -> None:
        """Clear the bits of retired holders in so many shards."""
        for _ in range(shards):
            if not self._retired:
                return
            self._cursor = (self._cursor + 1) & self._low
            self._clear(self._shards[self._cursor])

    def _clear(self, shard: dict[int, int]) -> None:
        retired = self._retired
        for key in [key for key, mask in shard.items() if mask & retired]:
            mask = shard[key]
            left = mask & ~retired
            if left:
                shard[key] = left
            else:
                del shard[key]
                self.blocks -= 1
            self._discount(mask & retired)

    def _discount(self, mask: int) -> None:
        """One block less for each holder of this mask."""
        while mask:
            bit = mask & -mask
            holder = bit.bit_length() - 1
            self._counts[holder] -= 1
            if not self._counts[holder] and self._retired & bit:
                self._retired ^= bit
                heappush(self._free, holder)
            mask ^= bit

    # --- Blocks ------------------------------------------------------------------------------------------

    def store(self, holder: int, hashes: Iterable[int]) -> None:
        """It holds these from now on."""
        shards, low, bits, bit = self._shards, self._low, self._bits, self._masks[holder]
        new = both = last = 0  # a chain's blocks mostly have the same holders: they share one mask object
        for name in hashes:
            shard = shards[name & low]
            key = name >> bits
            mask = shard.get(key)
            if mask is None:
                shard[key] = bit
                new += 1
                if len(shard) > self._shard_max:
                    self._prune(shard)
            elif not mask & bit:
                if mask != last:
                    last, both = mask, mask | bit
                shard[key] = both
                self._counts[holder] += 1
        self.blocks += new
        self._counts[holder] += new
        if self._retired:
            self.sweep()

    def remove(self, holder: int, hashes: Iterable[int]) -> None:
        """It holds these no more."""
        shards, low, bits, bit = self._shards, self._low, self._bits, self._masks[holder]
        count = gone = 0
        for name in hashes:
            shard = shards[name & low]
            key = name >> bits
            mask = shard.get(key, 0)
            if not mask & bit:
                continue
            count += 1
            if mask == bit:
                del shard[key]
                gone += 1
            else:
                shard[key] = mask ^ bit
        self.blocks -= gone
        self._counts[holder] -= count
        if self._retired:
            self.sweep()

    def at(self, name: int) -> int:
        """The mask of its holders; retired ones may be among them."""
        return self._shards[name & self._low].get(name >> self._bits, 0)

    def lookup(self, hashes: Hashes, wanted: int) -> Found:
        """How many leading blocks each of the wanted holders has."""
        shards, low, bits = self._shards, self._low, self._bits

        def at(position: int) -> int:
            name: int = hashes[position]
            return shards[name & low].get(name >> bits, 0)

        return holders(at, len(hashes), wanted)

    # --- Room --------------------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """Whether it soon must forget, so that it matters what was used last."""
        return self.blocks > self._crowded

    def touch(self, hashes: Hashes) -> None:
        """These were asked for: forget others first. One in 16 each time, so what is asked for often is all touched."""
        self._turn = (self._turn + 1) % 16
        for name in hashes[self._turn :: 16]:
            shard = self._shards[name & self._low]
            mask = shard.pop(name >> self._bits, 0)
            if mask:
                shard[name >> self._bits] = mask

    def _prune(self, shard: dict[int, int]) -> None:
        """Forget the longest untouched. Who holds a forgotten block is credited less, or as before; never for more."""
        oldest = list(shard)[: len(shard) - self._shard_least]
        for key in oldest:
            self._discount(shard.pop(key))
        self.blocks -= len(oldest)
        self.pruned += len(oldest)

    def check(self) -> None:
        """Assert all invariants."""
        counts = [0] * len(self._counts)
        for shard in self._shards:
            assert len(shard) <= self._shard_max
            for mask in shard.values():
                assert mask, "a block without a holder"
                for holder in range(len(counts)):
                    counts[holder] += mask >> holder & 1
        assert self.blocks == sum(map(len, self._shards))
        assert counts == self._counts, (counts, self._counts)
        for holder in self._free:
            assert not self._counts[holder] and not self._retired >> holder & 1
        assert self._retired.bit_count() <= RETIRED_MAX + 1
