"""Pure. The events and effects of the puller's core."""

from msgspec import Struct

from nodes.transfer.causes import Cause, Ending, Way
from nodes.transfer.wire import Answered, Message

# --- Events ---------------------------------------------------------------------------------------


class Begin(Struct, frozen=True):
    """Bring these bytes. `ways` are tried in this order; `addresses` are the owner's, for the conversation."""

    pull: int
    plane: int
    addresses: tuple[str, ...]
    offer: int
    generation: int
    size: int
    ready: int
    lease_s: float
    timeout_s: float
    ways: tuple[Way, ...]
    start: int = 0
    checksum: bool = False


class Cancel(Struct, gc=False):
    """It is wanted no more; or, with CLOSED, this plane ends."""

    pull: int
    cause: Cause = Cause.CANCELLED


class Heard(Struct, gc=False):
    """A message of an owner. `intact`: the payload has the checksum that the message speaks of, if it does."""

    link: int
    message: Answered
    payload_bytes: int = 0
    intact: bool = True


class LinkDown(Struct, gc=False):
    """A link that we dialled is dead, or was never born."""

    link: int


class Moved(Struct, gc=False):
    """The copying thread has come so far. `over`: it has let go; with a cause, because it could not go on.

    UNREACHABLE: the memory cannot be opened from here. STALE: the generation is another one, and what was copied since
    the last word is worth nothing. CORRUPT: the checksum does not agree.
    """

    pull: int
    move: int
    position: int
    over: bool
    cause: Cause | None = None


class Tick(Struct, gc=False):
    """The deadline has come."""


Event = Begin | Cancel | Heard | LinkDown | Moved | Tick

# --- Effects --------------------------------------------------------------------------------------


class Dial(Struct, gc=False):
    """Connect. What is told to a link before it stands waits there."""

    link: int
    address: str


class Tell(Struct, gc=False):
    """Send a message on a link. `late`: whoever waits for the end of its pull goes first."""

    link: int
    message: Message
    late: bool = False


class Hang(Struct, gc=False):
    """Close a link. `text` says what the owner did wrong, if it did."""

    link: int
    text: str = ""


class Forget(Struct, gc=False):
    """Nobody pulls from this plane: give back what was mapped of it."""

    plane: int


class Store(Struct, gc=False):
    """Write the payload at hand to these positions, now."""

    pull: int
    start: int
    stop: int


class Move(Struct, gc=False):
    """Have the copying thread bring these positions, and tell how it goes."""

    pull: int
    move: int
    way: Way
    start: int
    stop: int
    checksum: int | None


class Halt(Struct, gc=False):
    """Stop a move; its last word is awaited."""

    pull: int
    move: int


class Progressed(Struct, gc=False):
    """Everything up to here is there, and true."""

    pull: int
    position: int


class Ended(Struct, gc=False):
    """It is over, and nobody writes to its memory any more."""

    pull: int
    ending: Ending
    cause: Cause
    text: str
    position: int
    way: Way


Effect = Dial | Tell | Hang | Forget | Store | Move | Halt | Progressed | Ended
