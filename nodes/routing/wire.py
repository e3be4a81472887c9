"""Pure. What workers, routers and frontends tell each other about caches and loads: values of the mesh's messages.

    worker -> router   Blocks    what changed, numbered; empty when nothing did, so that a lost tail is noticed
    router -> worker   Replay    tell me what came after this number, and from now on everything
    worker -> router   Cut       that is too long ago: copy what I hold instead, in this many pieces
    router -> worker   Copy      this piece, please: one at a time, so that no copy crowds out tokens
    worker -> router   Piece     all that I hold of it at this number
    owner  -> router   Settled   what became of requests that were placed
    router -> router   Routed    what I placed; and Settled, passed on
    router -> owner    Parked    no answer yet: everybody is busy, and you are in the queue

Hashes travel packed (`nodes.routing.hashes`). A rank is one data-parallel rank of a worker: a cache of its own.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

from proto.limits import KIB
from proto.messages import U16, U32, U64, Attempt, LegName, Name

CHANGE_BLOCKS_MAX = 1_024  # of one change: a router needs 1 us for a block, and a pause must stay small
BLOCKS_BYTES_TARGET = 16 * KIB  # a longer replay is cut here: 2 ms of the router's time
CHANGES_MAX = 4_096  # in one message: an engine step makes a few
PIECE_BLOCKS_TARGET = 1_024  # a copy is cut so that a piece holds half to twice as many
PIECE_BLOCKS_MAX = 4 * PIECE_BLOCKS_TARGET  # hashes are even: no piece comes near
PIECES_MAX = 65_536  # 67 million blocks
LEVELS_MAX = 3  # device; with host memory; with disk too
RANKS_MAX = 256  # data-parallel ranks of one worker
PROMPT_BLOCKS_MAX = 131_072  # a prompt of a million tokens in blocks of 8
BLOCK_TOKENS_MAX = 65_536  # of one block: beyond any engine's
ENTRIES_MAX = 1_024  # requests in one Routed or Settled
ROUTED_BYTES_TARGET = 128 * KIB  # of the hashes in one Routed

Rank = tuple[int, int]  # a worker's node, and its data-parallel rank
RankNumber = Annotated[int, Meta(ge=0, lt=RANKS_MAX)]
ChangeHashes = Annotated[bytes, Meta(max_length=8 * CHANGE_BLOCKS_MAX)]
PieceHashes = Annotated[bytes, Meta(max_length=8 * PIECE_BLOCKS_MAX)]
PromptHashes = Annotated[bytes, Meta(max_length=8 * PROMPT_BLOCKS_MAX)]


class Kind(IntEnum):
    """What happened to blocks."""

    STORED = 1
    REMOVED = 2
    CLEARED = 3  # all of them, on every level


class Change(Struct, array_like=True, frozen=True, gc=False):
    """One numbered change of a rank's cache."""

    kind: U16
    hashes: ChangeHashes = b""
    level: U16 = 0  # a block is on a level if it is cached there or nearer: 0 device, 1 host, 2 disk


class Blocks(Struct, array_like=True, gc=False):
    """Worker to router: changes `first`, `first` + 1, ... of one rank."""

    rank: RankNumber
    first: U64
    newest: U64  # the number of the last change there is
    changes: Annotated[list[Change], Meta(max_length=CHANGES_MAX)] = []
    ranks: Annotated[int, Meta(ge=1, le=RANKS_MAX)] = 1  # how many this worker has


class Replay(Struct, array_like=True, gc=False):
    """Router to worker: I know this rank up to `after`; 0: nothing."""

    rank: RankNumber
    after: U64 = 0


class Cut(Struct, array_like=True, gc=False):
    """Worker to router: what came after that is forgotten; copy these pieces."""

    rank: RankNumber
    newest: U64
    pieces: Annotated[int, Meta(ge=1, le=PIECES_MAX)]
    ranks: Annotated[int, Meta(ge=1, le=RANKS_MAX)] = 1


class Copy(Struct, array_like=True, gc=False):
    """Router to worker: this piece of so many."""

    rank: RankNumber
    piece: U32
    pieces: Annotated[int, Meta(ge=1, le=PIECES_MAX)]


class Piece(Struct, array_like=True, gc=False):
    """Worker to router: all blocks of this piece, by level, as of `sequence`."""

    rank: RankNumber
    piece: U32
    pieces: Annotated[int, Meta(ge=1, le=PIECES_MAX)]
    sequence: U64
    levels: Annotated[list[PieceHashes], Meta(max_length=LEVELS_MAX)] = []


class Placement(Struct, array_like=True, gc=False):
    """A request that was sent somewhere, as routers tell each other."""

    request: U64
    attempt: Attempt
    node: U64
    rank: RankNumber = 0
    tokens: U32 = 0
    prefill_tokens: U32 = 0  # that were not cached there
    blocks: U32 = 0
    block_tokens: Annotated[int, Meta(ge=1, le=BLOCK_TOKENS_MAX)] = 16
    hashes: PromptHashes = b""  # may be left out: then the blocks are counted as its own
    expected_tokens: U32 = 0  # of output; 0: unknown


class Routed(Struct, array_like=True, gc=False):
    """Router to router: I placed these."""

    placements: Annotated[list[Placement], Meta(max_length=ENTRIES_MAX)]


class Output(Struct, array_like=True, gc=False):
    """How much a request has been given."""

    request: U64
    attempt: Attempt
    tokens: U32


class Settled(Struct, array_like=True, gc=False):
    """Owner to router, or passed on: these have had their first token; these have more; these are over."""

    prefilled: Annotated[list[LegName], Meta(max_length=ENTRIES_MAX)] = []
    freed: Annotated[list[LegName], Meta(max_length=ENTRIES_MAX)] = []
    outputs: Annotated[list[Output], Meta(max_length=ENTRIES_MAX)] = []


class Report(Struct, array_like=True, frozen=True, gc=False):
    """What a worker says of one rank's load; it travels with its heartbeat."""

    running: U32 = 0
    waiting: U32 = 0
    prefill_tokens: U32 = 0  # still to be computed, of all its requests
    blocks_used: U32 = 0
    blocks_total: U32 = 0


class Wish(Struct, array_like=True, gc=False):
    """What a Place says besides its endpoint: the prompt as blocks, and how it should be placed."""

    hashes: PromptHashes = b""
    tokens: U32 = 0  # of the prompt and what was generated
    block_tokens: Annotated[int, Meta(ge=1, le=BLOCK_TOKENS_MAX)] = 16  # the block size of `hashes`
    expected_tokens: U32 = 0
    priority: int = 0  # lower goes first
    strict_priority: int = 0  # tiers: a lower tier goes before all of a higher one
    session: Name = ""  # a hint: earlier requests of it may have left something
    rank: int = -1  # this data-parallel rank only
    overrides: dict[Name, float] = {}  # knobs, for this request only


class Advice(Struct, array_like=True, gc=False):
    """What a Placed says besides its node."""

    node: U64
    rank: RankNumber = 0
    cached_blocks: U32 = 0  # that the choice counts on
    why: str = ""


class Parked(Struct, array_like=True, gc=False):
    """Router to owner: wait; this many are before you."""

    request: U64
    attempt: Attempt
    before: U32 = 0
