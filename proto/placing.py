"""Pure. The messages of placing, and those about caches and loads that it is made from.

    owner  -> router   Place     where should this attempt go?
    router -> owner    Placed    there, and why

    worker -> router   Blocks    what changed, numbered; empty when nothing did, so that a lost tail is noticed
    router -> worker   Replay    tell me what came after this number, and from now on everything
    worker -> router   Cut       that is too long ago: copy what I hold instead, in this many pieces
    router -> worker   Copy      this piece, please: one at a time, so that no copy crowds out tokens
    worker -> router   Piece     all that I hold of it at this number
    owner  -> router   Settled   what became of requests that were placed
    router -> router   Routed    what I placed; and Settled, passed on
    router -> owner    Parked    no answer yet: everybody is busy, and you are in the queue

Hashes travel packed, 8 bytes each, little-endian. A rank is one data-parallel rank of a worker: a cache of its own.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

from proto import limits
from proto.basics import U16, U32, U64, Attempt, LegName, Message, Name, Priority, Text
from proto.limits import KIB

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
OVERRIDES_MAX = 64  # knobs that one request sets: there are fewer
MEDIA_MAX = 256  # pictures, recordings and films in one prompt
CONTENT_BYTES_MAX = 32  # of the hash of one of them
ENTRIES_MAX = 1_024  # requests in one Routed or Settled
ROUTED_BYTES_TARGET = 128 * KIB  # of the hashes in one Routed

RANK = "wiremesh.rank"  # a Submit to a worker with several ranks says in its metadata which one

Rank = tuple[int, int]  # a worker's node, and its data-parallel rank
RankNumber = Annotated[int, Meta(ge=0, le=RANKS_MAX - 1)]
ChangeHashes = Annotated[bytes, Meta(max_length=8 * CHANGE_BLOCKS_MAX)]
PieceHashes = Annotated[bytes, Meta(max_length=8 * PIECE_BLOCKS_MAX)]
PromptHashes = Annotated[bytes, Meta(max_length=8 * PROMPT_BLOCKS_MAX)]
Content = Annotated[bytes, Meta(max_length=CONTENT_BYTES_MAX)]


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


class Blocks(Message, tag=50):
    """Worker to router: changes `first`, `first` + 1, ... of one rank."""

    rank: RankNumber
    first: U64
    newest: U64  # the number of the last change there is
    changes: Annotated[list[Change], Meta(max_length=CHANGES_MAX)] = []
    ranks: Annotated[int, Meta(ge=1, le=RANKS_MAX)] = 1  # how many this worker has


class Replay(Message, tag=51):
    """Router to worker: I know this rank up to `after`; 0: nothing."""

    rank: RankNumber
    after: U64 = 0


class Cut(Message, tag=52):
    """Worker to router: what came after that is forgotten; copy these pieces."""

    rank: RankNumber
    newest: U64
    pieces: Annotated[int, Meta(ge=1, le=PIECES_MAX)]
    ranks: Annotated[int, Meta(ge=1, le=RANKS_MAX)] = 1


class Copy(Message, tag=53):
    """Router to worker: this piece of so many."""

    rank: RankNumber
    piece: U32
    pieces: Annotated[int, Meta(ge=1, le=PIECES_MAX)]


class Piece(Message, tag=54):
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
    expected_tokens: U32 = 0  # of output; 0: unknown. Half of it counts as blocks in use: the mean over its life


class Routed(Message, tag=56):
    """Router to router: I placed these."""

    placements: Annotated[list[Placement], Meta(max_length=ENTRIES_MAX)]


class Settled(Message, tag=55):
    """Owner to router, or passed on: these have had their first token; these are over."""

    prefilled: Annotated[list[LegName], Meta(max_length=ENTRIES_MAX)] = []
    freed: Annotated[list[LegName], Meta(max_length=ENTRIES_MAX)] = []


class Report(Struct, array_like=True, frozen=True, gc=False):
    """What a worker says of one rank's load; it travels with its heartbeat."""

    running: U32 = 0
    waiting: U32 = 0
    prefill_tokens: U32 = 0  # still to be computed, of all its requests
    blocks_used: U32 = 0
    blocks_total: U32 = 0
    step_tokens: U32 = 0  # that one step computes at most; 0: unknown


class Wish(Struct, array_like=True, gc=False):
    """What a Place says besides its endpoint: the prompt as blocks, and how it should be placed."""

    hashes: PromptHashes = b""
    tokens: U32 = 0  # of the prompt and what was generated
    block_tokens: Annotated[int, Meta(ge=1, le=BLOCK_TOKENS_MAX)] = 16  # the block size of `hashes`
    expected_tokens: U32 = 0
    priority: Priority = 0  # lower goes first
    strict_priority: Priority = 0  # tiers: a lower tier goes before all of a higher one
    session: Name = ""  # a hint: earlier requests of it may have left something
    rank: Annotated[int, Meta(ge=-1, le=RANKS_MAX - 1)] = -1  # this data-parallel rank only
    overrides: Annotated[dict[Name, float], Meta(max_length=OVERRIDES_MAX)] = {}  # knobs, for this request only
    media: Annotated[list[Content], Meta(max_length=MEDIA_MAX)] = []  # content hashes of its media, in their order
    first_token_ms: U32 = 0  # what its client was promised; 0: nothing
    next_token_ms: U32 = 0


class Parked(Message, tag=57):
    """Router to owner: wait; this many are before you."""

    request: U64
    attempt: Attempt
    before: U32 = 0


class Place(Message, tag=48):
    """Owner to router: where should this attempt go?"""

    request: U64
    attempt: Attempt
    endpoint: Name
    policy: Name = ""  # empty: the router's own
    length: U32 = 0  # of the prompt and what was generated, in tokens
    excluded: Annotated[list[U64], Meta(max_length=limits.EXCLUDED_MAX)] = []  # nodes that just failed or refused it
    wish: Wish | None = None


class Placed(Message, tag=49):
    """Router to owner: there, and why. Advice; the holder alone decides over its slots."""

    request: U64
    attempt: Attempt
    itinerary: Annotated[list[U64], Meta(max_length=limits.STOPS_MAX)] = []  # nodes, in order; empty: nobody
    why: Text = ""
    endpoints: Annotated[list[Name], Meta(max_length=limits.STOPS_MAX)] = []  # at each stop; those not named: as asked
    rank: RankNumber = 0  # at the last stop
    cached_blocks: U32 = 0  # that the choice of the last stop counts on
    refused: U16 = 0  # the reason why nobody may have it; 0 and no itinerary: the owner may know better
    ranks: Annotated[list[RankNumber], Meta(max_length=limits.STOPS_MAX)] = []  # at the stops before; not named: 0
