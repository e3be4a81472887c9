"""Pure. Every message of MESH/1, its number and its fields. README.md describes them in the same order.

Four rules keep old and new nodes talking: a field is only ever appended, with a default; a type never changes; a
number is never reused; 96 to 127 may be ignored by who does not know them. Reasons, roles and strengths travel as
plain integers, because an enum would refuse a newer peer's value. A test holds README.md against this file.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

from proto import limits
from proto.basics import (  # Some are for others.
    U16,
    U32,
    U64,
    Addresses,
    Attempt,
    Handle,
    Handles,
    Items,
    LegName,
    Message,
    Metadata,
    Millis,
    Name,
    Payload,
    Position,
    State,
    Text,
    Tokens,
    Trace,
)
from proto.placing import (
    RANKS_MAX,
    Blocks,
    Copy,
    Cut,
    Parked,
    Piece,
    Place,
    Placed,
    Replay,
    Report,
    Routed,
    Settled,
)

OPTIONAL_TAG_MIN = 96
OPTIONAL_TAG_MAX = 127


class Role(IntEnum):
    """What a node is; `proto.rights` says what that lets it send."""

    CLIENT = 1  # owns requests, holds none
    WORKER = 2  # holds requests, owns none
    COMPONENT = 3  # both: a back end that may call others
    ROUTER = 4  # that, and it says where requests should go


class Strength(IntEnum):
    """How hard a Cancel is."""

    STOP = 1  # finish gracefully; what is still produced is delivered
    KILL = 2  # drop everything now


class Fate(IntEnum):
    """What a Cancel found."""

    FREED = 1  # the leg was live; its room is free now
    ENDED = 2  # it had ended before; the end was sent before this answer
    UNKNOWN = 3  # never heard of; a tombstone now refuses it


# --- Values inside messages ---------------------------------------------------------------------


class Offer(Struct, array_like=True, frozen=True, gc=False):
    """An endpoint that a node serves."""

    endpoint: Name
    resumable: bool = False  # can go on elsewhere from a checkpoint or from tokens
    slots: U32 = 0  # requests at once; 0: no bound of its own


class Record(Struct, array_like=True, frozen=True):
    """What discovery says about a node: a suggestion where to dial, never a proof of life."""

    node: U64
    mesh: Name
    tag: Annotated[bytes, Meta(max_length=16)]  # of the mesh key; empty without one
    name: Name
    boot: U64  # start of the process, wall clock in ns: of two nodes with one name the later one counts
    host: Name  # nodes of equal host may use each other's ipc addresses
    addresses: Addresses
    endpoints: Annotated[list[Name], Meta(max_length=limits.OFFERS_MAX)] = []
    partial: bool = False  # the list of endpoints did not fit where this was published
    beat: U64 = 0  # grows while the node lives


class Resume(Struct, array_like=True, gc=False):
    """The partial state of a request: where it goes on, and from what."""

    position: Position
    tokens: Tokens = []  # generated so far, apart from the prompt
    state: State = b""  # the checkpoint that holds at `position`


class Part(Struct, array_like=True, gc=False):
    """What one stream gets in a Chunk, from `position` on, and perhaps a checkpoint after it.

    A unit is a token, an item, or a token with an item that belongs to it. Without units it says that a leg that had
    to wait has started.
    """

    request: U64
    attempt: Attempt
    position: Position
    tokens: Tokens = []
    items: Items | None = None
    checkpoint: State | None = None
    cached: U32 = 0  # positions of the prompt that the holder did not have to compute; told once


class Grant(Struct, array_like=True, gc=False):
    """Credit: the holder may send up to, not including, `limit`."""

    request: U64
    attempt: Attempt
    limit: Position


class Load(Struct, array_like=True, frozen=True, gc=False):
    """How busy a node is; what least-loaded placement looks at."""

    running: U32 = 0
    waiting: U32 = 0
    slots: U32 = 0


# --- Session messages ---------------------------------------------------------------------------


class Hello(Message, tag=1):
    """The first message of a session."""

    magic: Annotated[str, Meta(max_length=8)]
    version_min: U16
    version_max: U16
    session: U64
    destination: U64  # the node that we mean to reach; 0 when we only know an address
    role: U16
    record: Record
    offers: Annotated[list[Offer], Meta(max_length=limits.OFFERS_MAX)] = []
    features: Annotated[list[Name], Meta(max_length=limits.FEATURES_MAX)] = []
    beat_ms: Annotated[int, Meta(ge=limits.BEAT_MS_MIN, le=limits.BEAT_MS_MAX)] = limits.BEAT_MS
    draining: bool = False


class Welcome(Message, tag=2):
    """Your Hello was accepted; it travels on my own session to you."""

    version: U16
    session: U64  # yours, echoed
    node: U64  # mine


class Ping(Message, tag=3):
    """A heartbeat, with the owner's view of the legs that it has on the receiver."""

    time_us: U64  # of the sender's clock; echoed
    legs: U32 = 0
    digest: U64 = 0  # XOR over the legs: see `proto.request.digest`


class Pong(Message, tag=4):
    """The answer: proof that the event loop turns, and the progress that proves the engine does."""

    time_us: U64
    progress: U64 = 0
    load: Load = Load()
    late_ms: U32 = 0  # how late the sender's loop was
    draining: bool = False
    reports: Annotated[list[Report], Meta(max_length=RANKS_MAX)] = []  # of an engine's ranks, in their order


class Sync(Message, tag=5):
    """Holder to owner, when digests differ: all legs that I hold for you."""

    submits: U64  # how many Submits of this session I had seen: younger legs are not missing, only under way
    legs: Annotated[list[LegName], Meta(max_length=limits.LEGS_MAX)] = []


class Drain(Message, tag=6):
    """I am leaving: send no new work."""

    deadline_ms: Millis = 0


class Bye(Message, tag=7):
    """The last message of a session."""

    reason: U16 = 0


class Reset(Message, tag=8):
    """Your session is void: close it and start over."""

    session: U64
    reason: U16
    text: Text = ""


# --- Request messages ---------------------------------------------------------------------------


class Submit(Message, tag=16):
    """Owner to holder: start this leg."""

    request: U64
    attempt: Attempt
    position: Position  # of the first unit that the owner lacks
    limit: Position  # initial credit
    endpoint: Name
    payload: Payload = b""
    prompt: Tokens = []
    resume: Resume | None = None
    deadline_ms: Millis = 0  # remaining; 0: none
    trace: Trace = ""
    metadata: Metadata = {}
    suspect: bool = False  # a holder died of it, perhaps: it must run alone
    handles: Handles = []  # where what earlier stops of the itinerary, or an earlier holder, made for it lies
    awaits: bool = False  # another leg may still make units: none here before Fed


class Accept(Message, tag=17):
    """The leg is mine. Precedes its first part."""

    request: U64
    attempt: Attempt
    position: Position
    waiting: U32 = 0  # which place in the queue it has; 0: it starts now


class Reject(Message, tag=18):
    """The leg is not mine; nothing of it was started."""

    request: U64
    attempt: Attempt
    position: Position
    reason: U16
    retry_ms: Annotated[int, Meta(ge=0, le=limits.RETRY_MS_MAX)] = 0
    text: Text = ""


class Chunk(Message, tag=19):
    """What a step produced, for all streams of one owner."""

    parts: Annotated[list[Part], Meta(max_length=limits.PARTS_MAX)]


class Credit(Message, tag=20):
    """New limits, absolute and monotone."""

    grants: Annotated[list[Grant], Meta(max_length=limits.GRANTS_MAX)]


class End(Message, tag=21):
    """The leg is complete: `position` units in all."""

    request: U64
    attempt: Attempt
    position: Position
    reason: U16 = 48  # Reason.COMPLETE


class Error(Message, tag=22):
    """The leg failed after `position` units."""

    request: U64
    attempt: Attempt
    position: Position
    reason: U16
    retryable: bool = False
    name: Name = ""  # of the exception
    text: Text = ""


class Cancel(Message, tag=23):
    """Owner to holder: end this leg. Always answered by one Cancelled."""

    request: U64
    attempt: Attempt
    position: Position  # units that the owner has
    strength: U16
    reason: U16 = 0


class Cancelled(Message, tag=24):
    """The leg's room is free."""

    request: U64
    attempt: Attempt
    position: Position  # units sent in all
    fate: U16
    strength: U16


class Migrate(Message, tag=25):
    """Holder to owner: I stopped here; place it elsewhere, from this state."""

    request: U64
    attempt: Attempt
    position: Position
    reason: U16
    resume: Resume | None = None
    handle: Handle = b""  # where the blocks of its cache lie; empty: nowhere


class Handed(Message, tag=26):
    """Holder to owner: what a later leg of this request needs lies there, or will."""

    request: U64
    attempt: Attempt
    position: Position
    handle: Handle


class Fed(Message, tag=27):
    """Owner to holder: the leg before yours is over; what it made is here. Go on after it."""

    request: U64
    attempt: Attempt
    position: Position  # of the first of these tokens
    tokens: Tokens = []


# --- Optional messages --------------------------------------------------------------------------


class Gossip(Message, tag=96):
    """Nodes that I know of."""

    records: Annotated[list[Record], Meta(max_length=limits.RECORDS_MAX)]


class Ignored(Struct):
    """Not on the wire: stands for an optional message that this version does not know."""

    tag: int


SESSION_MESSAGES = (Hello, Welcome, Ping, Pong, Sync, Drain, Bye, Reset)
OWNER_MESSAGES = (Submit, Credit, Cancel, Fed)
HOLDER_MESSAGES = (Accept, Reject, Chunk, End, Error, Cancelled, Migrate, Handed)
PLACING_MESSAGES = (Place, Placed, Blocks, Replay, Cut, Copy, Piece, Settled, Routed, Parked)
OPTIONAL_MESSAGES = (Gossip,)
MESSAGES: tuple[type[Message], ...] = (
    *(*SESSION_MESSAGES, *OWNER_MESSAGES, *HOLDER_MESSAGES),
    *(*PLACING_MESSAGES, *OPTIONAL_MESSAGES),
)

AnyMessage = (
    Hello | Welcome | Ping | Pong | Sync | Drain | Bye | Reset
    | Submit | Accept | Reject | Chunk | Credit | End | Error | Cancel | Cancelled | Migrate
    | Handed | Fed
    | Place | Placed | Blocks | Replay | Cut | Copy | Piece | Settled | Routed | Parked
    | Gossip
)  # fmt: skip


class Envelope(Struct, array_like=True, gc=False):
    """A frame: the message's number in its session, counted from 1, and the message."""

    sequence: Annotated[int, Meta(ge=1, le=limits.SEQUENCE_MAX)]
    message: AnyMessage
