"""Pure. Whose fault it is, and why: the error family and the reasons that travel on the wire.

`RemoteError` is a peer's mistake: count it, drop the peer, go on. `LocalError` is a caller's mistake (a message that
we were asked to send and that the protocol forbids): tell the caller. A mistake of our own is an assertion.
"""

from enum import IntEnum


class Reason(IntEnum):
    """Why something was refused, ended or dropped. Numbers are for ever: a name may change, a number may not."""

    NONE = 0
    # Sessions.
    MALFORMED = 1  # the bytes are no message
    UNSUPPORTED = 2  # a critical message that this version does not know
    VERSION = 3  # no common protocol version
    OTHER_MESH = 4  # the peer belongs to a mesh of another name or key
    WRONG_NODE = 5  # dialled for another node: an old address was reused
    FENCED = 6  # the session is void
    SEQUENCE = 7  # a gap or a repeat in a session
    ILLEGAL = 8  # the lifecycle table forbids this message here
    FORBIDDEN = 9  # the sender's role has no right to this message
    LINK_LOST = 10  # the transport says that the connection is gone
    SILENT = 11  # nothing heard for DEAD_S
    OVERFLOW = 12  # the send queue is full although credit forbids it
    LEFT = 13  # the peer said Bye
    SUPERSEDED = 14  # another process took this node's name
    UNREACHABLE = 15  # the handshake did not finish in time
    # Requests that are refused.
    BUSY = 32
    DRAINING = 33
    NO_ENDPOINT = 34
    STALE = 35  # a tombstone is newer than this attempt
    TOO_LARGE = 36
    INVALID = 37  # the request does not fit the endpoint's type
    # Requests that end.
    COMPLETE = 48  # the handler returned
    STOPPED = 49  # ended early because the caller asked for a stop
    KILLED = 50
    DEADLINE = 51
    FAILED = 52  # the handler raised
    LOST = 53  # the holder died and the endpoint cannot resume
    UNAVAILABLE = 54  # no instance to be had
    MOVED_TOO_OFTEN = 55
    STALLED = 56  # no progress within the request's own stall time
    LENGTH = 57  # complete, because its budget of tokens is used up
    POISON = 58  # a holder died of it while it ran there alone
    # Legs that are moved or cancelled.
    MOVED = 64  # the owner placed the request elsewhere
    ORPHAN = 65  # the owner is gone or does not know this leg
    DRAIN = 66  # the holder leaves
    PREEMPT = 67  # the holder needs the room
    VANISHED = 68  # the holder does not know this leg any more
    GAP = 69  # positions were skipped
    HUNG = 70  # the holder makes no progress
    UNKNOWN = 127  # a number from a newer version

    @classmethod
    def of(cls, number: int) -> "Reason":
        """The reason for a number from the wire; a newer peer may know more of them than we do."""
        return _REASONS.get(number, cls.UNKNOWN)

    @property
    def label(self) -> str:
        """The name as metrics, logs and JSON write it."""
        return self.name.lower()


_REASONS = {int(reason): reason for reason in Reason}


class ProtocolError(Exception):
    """The common parent; never raised itself."""

    def __init__(self, reason: Reason, text: str = "") -> None:
        super().__init__(f"{reason.label}: {text}" if text else reason.label)
        self.reason = reason
        self.text = text


class RemoteError(ProtocolError):
    """A peer broke the protocol. Caught in one place, `mesh.actor`, which counts it and strikes the sender."""


class LocalError(ProtocolError):
    """Our own caller asked for something that the protocol forbids."""
