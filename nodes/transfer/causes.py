"""Pure. How a pull or an offer ends. They travel as integers: a newer peer may know more of them."""

from enum import IntEnum, StrEnum


class TransferRefused(ValueError):
    """This cannot be offered or pulled. The text says why and what to do."""


class Cause(IntEnum):
    """Why."""

    COMPLETE = 1  # every byte is there
    CANCELLED = 2  # whoever asked wants it no more
    STALE = 3  # the memory belongs to something else now
    EXPIRED = 4  # nobody fetched it while its lease lasted
    WITHDRAWN = 5  # its owner took the offer back
    UNKNOWN_OFFER = 6  # no such offer there: another process, or long gone
    BUSY = 7  # too many pulls at once
    STALLED = 8  # the other end is silent
    LOST = 9  # the link broke, and again
    UNREACHABLE = 10  # no transport leads there from here
    CORRUPT = 11  # a checksum does not agree
    DEADLINE = 12  # the time given to the pull is used up
    CLOSED = 13  # this plane is closing
    OTHER = 127  # a number from a newer version

    @classmethod
    def of(cls, number: int) -> "Cause":
        """The cause for a number from the wire."""
        return _CAUSES.get(number, cls.OTHER)

    @property
    def label(self) -> str:
        """The name as metrics, logs and JSON write it."""
        return self.name.lower()


_CAUSES = {int(cause): cause for cause in Cause}

TEXTS = {
    Cause.COMPLETE: "all bytes are there",
    Cause.CANCELLED: "cancelled",
    Cause.STALE: "the memory has been given to something else: compute it again",
    Cause.EXPIRED: "nobody fetched it within its lease: compute it again, or fetch sooner",
    Cause.WITHDRAWN: "its owner has taken the offer back",
    Cause.UNKNOWN_OFFER: "the owner knows no such offer: it has been freed, or the process is another one",
    Cause.BUSY: "too many transfers at once: try again",
    Cause.STALLED: "the owner is silent: it is frozen, or its host is gone",
    Cause.LOST: "the link to the owner broke, again and again",
    Cause.UNREACHABLE: "no transport leads from here to there",
    Cause.CORRUPT: "a checksum does not agree: bytes were damaged on their way",
    Cause.DEADLINE: "the time for this transfer is used up",
    Cause.CLOSED: "this node is leaving",
    Cause.OTHER: "a reason that only a newer version knows",
}


class Way(StrEnum):
    """A transport."""

    SHARED = "shared"  # memory of one host, seen by both
    NIXL = "nixl"  # the NIXL library: RDMA, or what UCX finds
    BULK = "bulk"  # a ZeroMQ link of its own


class Ending(StrEnum):
    """The three ends of a pull."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
