"""Pure. What is to be done below host memory, and who waits for it."""

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct, field

from nodes.tiers.health import Health
from nodes.tiers.shelves import Block, Index

QUIET_S = 1.0  # a tier that brings no block for so long is slower than computing most prompts
WAIT_S = 3.0  # for all blocks of one prompt: less than makes a worker look hung


class Found(StrEnum):
    """What came of reading a block."""

    HERE = "here"
    MISSING = "missing"
    CORRUPT = "corrupt"
    FAILED = "failed"
    UNTRIED = "untried"  # one before it was not there


class Lower(Struct, eq=False):
    """A tier below host memory."""

    number: int
    index: Index
    readers: int = 1
    reading: Health = field(default_factory=Health)
    writing: Health = field(default_factory=Health)
    reads: int = 0  # begun and not done
    queued: dict[int, None] = {}  # names to be written, or being written
    begun: dict[int, float] = {}  # names being written: since when; inf once it was told that this takes too long
    late: dict[int, None] = {}  # names that were to be queued when there was no room

    def is_marked(self, now: float) -> bool:
        """Whether it is left alone, at least for reading or for writing."""
        return self.reading.is_marked(now) or self.writing.is_marked(now)


class Read(Struct, eq=False):
    """Read these blocks, in order, until one is not there; answer with `read`."""

    tier: int
    blocks: list[Block]


class Write(Struct, eq=False):
    """Write this block; say `begun` and `written`."""

    tier: int
    block: Block


class Delete(Struct, eq=False):
    """Remove these files: (name, parent)."""

    tier: int
    files: list[tuple[int, int]]


Effect = Read | Write | Delete


class Ticket(Struct, eq=False):
    """What a job waits for. `pins` are its leading blocks in host memory, of which the first `arrived` are filled."""

    names: Sequence[int]
    parent: int  # of the first
    asked_at: float
    quiet_since: float
    ends: int  # how many of the names it may still get
    pins: list[Block] = []
    arrived: int = 0
    trust: int = 1  # how many blocks a store is asked for next
    is_over: bool = False

    @property
    def deadline(self) -> float:
        return min(self.asked_at + WAIT_S, self.quiet_since + QUIET_S)
