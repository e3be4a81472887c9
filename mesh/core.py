"""Pure. The contract between cores and shells: events in, effects out. Nothing here decides anything.

A core is the only owner of its state. `handle` is its only mutator; it never awaits, never reads a clock and never
raises for what a peer did. A shell executes effects and turns what happens outside into events; every long-running
effect comes back as an event. Names of legs are (owner, request, attempt): `owner` is the node at the other end.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from proto.basics import Message, Tokens
from proto.errors import Reason
from proto.messages import Ignored, Record, Strength
from proto.placing import Wish


class Leg(Struct, frozen=True, array_like=True, gc=False, cache_hash=True):
    """The name of a leg held here: whose it is, which request, which attempt."""

    owner: int
    request: int
    attempt: int


# --- Events: from the network ---------------------------------------------------------------------


class Heard(Struct, gc=False):
    """A frame came in on the connection `zid`."""

    zid: bytes
    sequence: int
    message: Message | Ignored
    size_bytes: int = 0


class Garbled(Struct, gc=False):
    """A frame that is no message came in."""

    zid: bytes
    reason: Reason


class LinkDown(Struct, gc=False):
    """Our own session `session` is dead: its socket says so, or it is full."""

    session: int
    reason: Reason = Reason.LINK_LOST


class Found(Struct):
    """Discovery suggests a node."""

    record: Record


class Lost(Struct):
    """Discovery no longer sees a node; not a proof of its death."""

    node: int


class Seed(Struct):
    """Somebody gave us an address without saying whose it is."""

    address: str


class Want(Struct):
    """Somebody here wants to call this endpoint: dial who serves it, and keep saying who is live.

    One that ends with a slash stands for all that begin so.
    """

    endpoint: str


class Tick(Struct, gc=False):
    """The deadline has come, or the turn has ended with something to flush."""


TICK = Tick()

# --- Events: from the caller of a request (the owner's side) -----------------------------------------


class Ask(Struct):
    """Begin a request. `request` comes from `Node.next_request()`."""

    request: int
    endpoint: str
    payload: bytes = b""
    prompt: Sequence[int] = ()
    policy: str = "round_robin"
    routed: bool = False  # a router is asked first, if there is one
    pinned: int = 0  # a node: `direct`
    barred: tuple[int, ...] = ()  # nodes that must not get it
    window: int = 256  # positions in flight that the caller is willing to hold
    timeout_s: float = 0.0  # 0: none
    stall_s: float = 0.0  # longest silence of an accepted leg; 0: any
    patience_s: float = 2.0  # how long to wait for a first instance
    moves_max: int = 8  # placements after a loss, in a row without a new unit
    trace: str = ""
    metadata: dict[str, str] = {}
    wish: Wish | None = None  # what a router is told of the prompt
    handles: tuple[bytes, ...] = ()  # where what every leg needs lies
    needs: tuple[str, ...] = ()  # endpoints of stops before the last, if no router says otherwise
    musts: tuple[str, ...] = ()  # those of them without which the last can do nothing


class Consumed(Struct, gc=False):
    """The caller has taken everything up to `position`."""

    request: int
    position: int


class Abandon(Struct, gc=False):
    """The caller wants no more of it."""

    request: int
    strength: Strength
    reason: Reason = Reason.KILLED


# --- Events: from what runs a leg (the holder's side) ---------------------------------------------


class Produced(Struct, gc=False):
    """Items or tokens, in order."""

    leg: Leg
    items: Sequence[bytes] = ()
    tokens: Sequence[int] = ()


class Stepped(Struct, gc=False):
    """What one step of an engine made: for each leg its new tokens, and an item for each token or none at all."""

    made: Sequence[tuple[Leg, Sequence[int], Sequence[bytes]]]
    cached: Sequence[tuple[Leg, int]] = ()  # positions of a prompt that were found in a cache
    steps: int = 1


class Checkpointed(Struct, gc=False):
    """The handler can go on from here with `state`, anywhere."""

    leg: Leg
    state: bytes


class Prepared(Struct, gc=False):
    """What a later leg of its request needs lies there, or will: Handed."""

    leg: Leg
    handle: bytes


class Finished(Struct, gc=False):
    """What `Start` started has returned, and its room is free."""

    leg: Leg
    reason: Reason = Reason.COMPLETE  # or LENGTH


class Failed(Struct, gc=False):
    """What `Start` started has raised, and its room is free."""

    leg: Leg
    reason: Reason = Reason.FAILED
    name: str = ""
    text: str = ""
    retryable: bool = False


class Yielded(Struct, gc=False):
    """What `Halt` halted is gone, or has been given up by itself, and its room is free."""

    leg: Leg
    reason: Reason | None = None  # PREEMPT: nobody halted it, its room was needed
    handle: bytes = b""  # where what it had in its cache lies, for who goes on


class Progressed(Struct, gc=False):
    """The engine made `steps` more steps. Components without an engine progress with every turn."""

    steps: int = 1


class Leave(Struct):
    """Drain: no new work; finish or migrate what runs within `grace_s`; then say Bye."""

    grace_s: float


class Overdue(Struct, gc=False):
    """How late the shell's turn was."""

    late_s: float


# --- Effects: on the network ------------------------------------------------------------------------


class Open(Struct, gc=False):
    """Open a session: a new DEALER to `address`."""

    session: int
    address: str
    node: int  # 0: unknown


class Close(Struct, gc=False):
    """Close a session's DEALER, after `linger_ms` for what is queued."""

    session: int
    linger_ms: int = 0


class Transmit(Struct, gc=False):
    """Put a message on a session."""

    session: int
    sequence: int
    message: Message


class Announce(Struct):
    """Our own record has changed: publish it."""

    record: Record


class Instances(Struct):
    """The live instances of a wanted endpoint have changed."""

    endpoint: str
    nodes: tuple[int, ...]


class Remark(Struct):
    """Something worth a line in the log, at most once per cause and minute."""

    topic: str
    text: str


# --- Effects: towards the caller of a request ----------------------------------------------------------


class Deliver(Struct, gc=False):
    """Units from `position` on, never twice and never with a gap. Tokens have an item each, or there are no items."""

    request: int
    position: int
    items: Sequence[bytes]
    tokens: Sequence[int]


class Finish(Struct):
    """The request is over; the last effect about it."""

    request: int
    reason: Reason
    position: int
    name: str = ""
    text: str = ""
    retry_ms: int = 0
    attempts: int = 0  # placements: a walk along an itinerary is one
    nodes: tuple[int, ...] = ()  # of all legs, in order
    cached: int = 0  # positions of the prompt that the last holder did not have to compute
    why: str = ""  # the router's reason for the last placement
    endpoints: tuple[str, ...] = ()  # what each of the nodes was asked
    moved_at: tuple[int, ...] = ()  # how many units there were when it went on elsewhere


# --- Effects: towards what runs a leg ------------------------------------------------------------------


class Start(Struct):
    """Run this leg. Comes back as Produced, Checkpointed, and one of Finished, Failed or Yielded."""

    leg: Leg
    endpoint: str
    payload: bytes
    prompt: Tokens
    position: int  # of the first unit to produce
    tokens: Tokens  # generated so far
    state: bytes  # the checkpoint to resume from; empty without one
    deadline: float  # on the local clock; inf without one
    trace: str
    metadata: dict[str, str]
    handles: Sequence[bytes] = ()  # where what earlier legs, or an earlier holder, made for it lies
    awaits: bool = False  # no unit before Go


class Go(Struct, gc=False):
    """To a leg that awaits: these units were made elsewhere; go on after them."""

    leg: Leg
    position: int
    tokens: Sequence[int]


class Hint(Struct, gc=False):
    """Ask a leg to finish by itself (a stop)."""

    leg: Leg


class Halt(Struct, gc=False):
    """End a leg now. Comes back as Yielded, Finished or Failed, whichever happens first."""

    leg: Leg
    keep: bool = False  # it goes on elsewhere: offer what it has in its cache


class Pause(Struct, gc=False):
    """The reader is behind: produce no more for now."""

    leg: Leg


class Unpause(Struct, gc=False):
    """The reader has caught up."""

    leg: Leg


class Departed(Struct):
    """Drained: every leg is gone and every peer has its Bye."""


# --- Between the cores of one node -----------------------------------------------------------------------


class PeerUp(Struct, gc=False):
    """A peer's two sessions stand; whatever was known of its earlier ones is void."""

    peer: int


class PeerDown(Struct, gc=False):
    """Its sessions are void: all legs with it are gone."""

    peer: int
    reason: Reason


class PeerHung(Struct, gc=False):
    """It answers, but its engine does not move."""

    peer: int


class Received(Struct, gc=False):
    """A message that its sender had the right to send, in order."""

    peer: int
    message: Message


class PeerChanged(Struct, gc=False):
    """What may be asked of it has changed: suspect or not, draining, or its load."""

    peer: int


Event = (
    Heard | Garbled | LinkDown | Found | Lost | Seed | Want | Tick
    | Ask | Consumed | Abandon
    | Produced | Stepped | Checkpointed | Prepared | Finished | Failed | Yielded | Progressed | Leave | Overdue
)  # fmt: skip
Effect = (
    Open | Close | Transmit | Announce | Instances | Remark
    | Deliver | Finish
    | Start | Go | Hint | Halt | Pause | Unpause | Departed
)  # fmt: skip
Inner = PeerUp | PeerDown | PeerHung | PeerChanged | Received  # what `mesh.peers` tells the request cores


class Core(Protocol):
    """What every actor is made of."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; the only mutator."""
        ...

    def deadline(self) -> float:
        """When the next Tick is wanted; inf if never, the past if this turn has something to flush."""
        ...

    def check(self) -> None:
        """Assert every invariant; tests and the simulator call it after each step."""
        ...
