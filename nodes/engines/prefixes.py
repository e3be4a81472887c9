"""Pure. The prefix cache: which blocks a sequence finds in it, and which it leaves there for others."""

from collections.abc import Sequence

from nodes.contract.below import Below
from nodes.contract.blocks import Digest, Pool, chain, link, root
from nodes.engines.exporting import Exchange
from nodes.engines.running import Limits, Running, named


class Prefixes:
    """Known by their hashes: in the pool's blocks, and below it if there is something below."""

    def __init__(self, limits: Limits, pool: Pool, digest: Digest, exchange: Exchange) -> None:
        self.below: Below | None = None
        self._limits = limits
        self._pool = pool
        self._digest = digest
        self._exchange = exchange

    def root(self, salt: str) -> int:
        """What the first block of a sequence follows."""
        return root(salt, self._digest)

    def found(self, running: Running) -> list[int]:
        """The hashes that the cache is asked for: never of the last token, whose step gives the next."""
        size = self._limits.block_tokens
        if not self._limits.caching:
            return []
        if not running.hashes:
            running.hashes = chain(named(running), size, running.parent, self._digest)
        return running.hashes[: (len(running.tokens) - 1) // size]

    def store(self, running: Running, computed: int) -> None:
        """Share the blocks that have become full."""
        size, hashes = self._limits.block_tokens, running.hashes
        last = computed // size if self._limits.caching else 0
        if running.stored >= last:
            return
        if self.below is not None:
            self._exchange.note(running, running.stored * size, last * size)
        names = named(running)
        for index in range(running.stored, last):
            tokens = names[index * size : index * size + size]
            parent = hashes[index - 1] if index else running.parent
            if index == len(hashes):
                hashes.append(link(tokens, parent, self._digest))
            self._pool.store(running.blocks[index], hashes[index], parent, tokens)
        running.stored = last

    # --- Below --------------------------------------------------------------------------------------------

    def attach(self, below: Below) -> None:
        self.below, self._pool.spill = below, below.spill
        below.attach(self._exchange.save)

    def seek(self, running: Running) -> None:
        """It has been queued: what the pool has not may come up meanwhile."""
        if self.below is not None:
            found = self.found(running)
            self.below.seek(running.key, running.parent, found, self._pool.idle_among(found)[0])

    def next(self, waiting: Sequence[Running], others: Sequence[Running]) -> Running | None:
        """Who is admitted next: the first that waits for nothing from below, nor for what others are about to have."""
        below = self.below
        if below is None and not others:
            return waiting[0]
        for running in waiting:
            if not (self._follows(running, others) or (below is not None and below.waits(running.key))):
                return running
        return None

    def _follows(self, running: Running, others: Sequence[Running]) -> bool:
        """Whether the first block that it misses lands here for another, or is being computed for one: as for two
        answers to one prompt, or a crowd that has one system prompt."""
        if not others or running.lands or running.brought is not None:
            return False
        found = self.found(running)
        here = self._pool.idle_among(found)[0]
        return here < len(found) and any(other.hashes[here : here + 1] == [found[here]] for other in others)

    def leave(self, running: Running) -> None:
        """It wants nothing more from below."""
        if self.below is not None:
            self.below.leave(running.key)

    def flush(self) -> None:
        """The end: what nobody uses goes below."""
        if self.below is not None:
            self.below.flush(self._pool.idle_blocks())
            self.below = self._pool.spill = None
