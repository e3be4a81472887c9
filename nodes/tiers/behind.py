"""Pure. Writing behind: what enough requests have used goes down to the tiers below host memory, when there is time.

The queue of a tier is short, so that little of host memory is kept for it. What finds it full is *late*: it is queued
when there is room again, unless it was turned out meanwhile.
"""

from collections.abc import Mapping, Sequence
from math import inf

from nodes.tiers.counts import Count
from nodes.tiers.health import Health
from nodes.tiers.shelves import Block, Host
from nodes.tiers.sketch import Sketch
from nodes.tiers.work import Delete, Effect, Lower, Write

QUEUE_BLOCKS_MAX = 256  # to be written to one tier
QUEUE_SHARE = 4  # and at most this part of host memory
WRITE_SLOW_S = 10.0  # of one block: then the next ones are not queued behind it


def failed(
    tier: Lower, health: Health, counts: Mapping[int, Count], why: str, now: float, trouble: str, surely: bool = False
) -> None:
    """A tier did not do what it should."""
    counts[tier.number].failures[why] += 1
    counts[tier.number].marked += health.failed(now, trouble, surely)


class Behind:
    """What is to be written, and what of it is being written."""

    def __init__(
        self,
        host: Host,
        lower: Sequence[Lower],
        counts: Mapping[int, Count],
        sketch: Sketch,
        uses: int,
        block_bytes: int,
    ) -> None:
        self.effects: list[Effect] = []
        self._host = host
        self._lower = lower
        self._tiers = {tier.number: tier for tier in lower}
        self._counts = counts
        self._sketch = sketch
        self._uses = uses
        self._block_bytes = block_bytes
        self._queue_max = max(1, min(QUEUE_BLOCKS_MAX, host.slots // QUEUE_SHARE))

    def is_popular(self, name: int) -> bool:
        """Whether it would be written down."""
        return bool(self._lower) and self._sketch.count(name) >= self._uses

    def has_written(self, now: float) -> bool:
        """Whether every tier that works has all that it is to have."""
        return all(not (tier.queued or tier.late) or tier.writing.is_marked(now) for tier in self._lower)

    def begun(self, work: Write, now: float) -> bool:
        """A Write is about to be carried out; False: it is not, because its tier was marked meanwhile."""
        tier = self._tiers[work.tier]
        if not tier.writing.is_marked(now):
            tier.begun[work.block.name] = now
            return True
        del tier.queued[work.block.name]
        self._counts[work.tier].dropped += 1
        self._host.unpin(work.block)
        self._catch_up(tier, now)
        return False

    def written(self, work: Write, size: int, now: float, trouble: str = "", is_full: bool = False) -> None:
        """What came of a Write: so many bytes, or trouble."""
        tier, count, block = self._tiers[work.tier], self._counts[work.tier], work.block
        del tier.queued[block.name], tier.begun[block.name]
        if trouble:
            failed(tier, tier.writing, self._counts, "full" if is_full else "failed", now, trouble, is_full)
        else:
            tier.writing.worked()
            count.written += 1
            count.written_bytes += self._block_bytes
            gone = tier.index.written(block.name, block.parent, size, now)
            if gone:
                self.effects.append(Delete(work.tier, gone))
        self._host.unpin(block)
        self._catch_up(tier, now)

    def wants(self, tier: Lower, name: int, now: float) -> bool:
        """Whether a block that many use is to be written there."""
        if name in tier.queued or tier.index.has(name, now):
            return False
        return len(tier.queued) < self._queue_max and not tier.writing.is_marked(now)

    def write_down(self, block: Block, now: float) -> None:
        """Queue it for every tier that lacks it, if enough requests have used it."""
        if not self._lower or self._sketch.count(block.name) < self._uses:
            return
        for tier in self._lower:
            if self.wants(tier, block.name, now):
                self._host.pin(block)
                tier.queued[block.name] = None
                self.effects.append(Write(tier.number, block))
            elif block.name in tier.queued or block.name in tier.late or tier.index.has(block.name, now):
                continue
            elif tier.writing.is_marked(now) or len(tier.late) >= self._host.slots:
                self._counts[tier.number].dropped += 1
            else:
                tier.late[block.name] = None

    def _catch_up(self, tier: Lower, now: float) -> None:
        """Queue what there was no room for, if it has not been turned out meanwhile."""
        while tier.late and len(tier.queued) < self._queue_max:
            name = next(iter(tier.late))
            del tier.late[name]
            block = self._host.blocks.get(name)
            if block is None or not block.is_filled or tier.writing.is_marked(now):
                self._counts[tier.number].dropped += 1
            else:
                self.write_down(block, now)

    def deadline(self) -> float:
        """When `tick` is wanted."""
        return min((since for tier in self._lower for since in tier.begun.values()), default=inf) + WRITE_SLOW_S

    def tick(self, now: float) -> None:
        """A tier that takes too long for one block is given no more."""
        for tier in self._lower:
            for name, since in tier.begun.items():
                if now >= since + WRITE_SLOW_S:
                    tier.begun[name] = inf
                    failed(tier, tier.writing, self._counts, "slow", now, "writing takes too long", surely=True)

    def check(self) -> None:
        """Assert all invariants."""
        for tier in self._lower:
            assert len(tier.queued) <= self._queue_max and tier.begun.keys() <= tier.queued.keys()
            assert len(tier.late) <= self._host.slots
