"""Pure. What an engine's scheduler asks of the memory below its cache: host memory, disk, a store that many share.

All calls come from the engine's thread, and none of them waits for anything but a copy of blocks in memory. A block is
named by its hash, which covers all blocks before it, so what was found under a name is what would be computed.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

CopyOut = Callable[[int, memoryview], None]  # (block of the pool, where its bytes go, in the layout of the card)


class Below(Protocol):
    """Where blocks go for which the cache has no room, and come back from."""

    def attach(self, copy_out: CopyOut) -> None:
        """How the engine's blocks are read."""
        ...

    def seek(self, key: Hashable, parent: int, hashes: Sequence[int], here: int) -> None:
        """A job was queued, and the cache has the first `here` of these blocks: bring up what there is of the others.

        `parent` is what the first block follows.
        """
        ...

    def waits(self, key: Hashable) -> bool:
        """Whether something for this job is on its way and worth waiting for."""
        ...

    def ready(self, key: Hashable, hashes: Sequence[int]) -> Sequence[memoryview]:
        """The first ones of these blocks that are in host memory. They stay there until `leave`."""
        ...

    def leave(self, key: Hashable) -> None:
        """This job wants nothing more; one that is not known is no error."""
        ...

    def used(self, parent: int, hashes: Sequence[int], blocks: Sequence[int]) -> None:
        """One more job has found these in the cache: what many use is copied down before its room is needed."""
        ...

    def spill(self, name: int, parent: int, block: int) -> None:
        """This block is about to be overwritten: its last chance to be copied."""
        ...

    def flush(self, blocks: Sequence[tuple[int, int, int]]) -> None:
        """The engine stops, and these (name, parent, block) are in its cache: write down what is worth it. Bounded."""
        ...
