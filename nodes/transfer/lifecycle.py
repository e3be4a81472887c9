"""Pure. The life of an offer and of a pull: two tables, and nothing else that decides what may follow what.

An *offer* is some bytes under a lease. A *pull* brings them here; it may need several conversations, one after the
other, when links break. A pair that is not in a table is illegal: our bug, or, for a message, the peer's.
"""

from enum import StrEnum
from typing import TypeVar

S = TypeVar("S")
V = TypeVar("V")


class Offer(StrEnum):
    """States of an offer."""

    OPEN = "open"  # its bytes are what its handle says
    DRAINING = "draining"  # its generation is over; frames with its bytes may still be on their way out
    FREED = "freed"  # the memory may be reused


class OfferVerb(StrEnum):
    """What happens to it."""

    ADVANCE = "advance"  # more bytes are ready
    SERVE = "serve"  # somebody pulls
    END = "end"  # fetched, expired or withdrawn
    DRAINED = "drained"  # no frame with its bytes is left


OFFER: dict[tuple[Offer, OfferVerb], Offer] = {
    (Offer.OPEN, OfferVerb.ADVANCE): Offer.OPEN,
    (Offer.OPEN, OfferVerb.SERVE): Offer.OPEN,
    (Offer.OPEN, OfferVerb.END): Offer.DRAINING,
    (Offer.DRAINING, OfferVerb.END): Offer.DRAINING,  # it ends once: the first cause counts
    (Offer.DRAINING, OfferVerb.DRAINED): Offer.FREED,
}


class Pull(StrEnum):
    """States of a pull."""

    WAITING = "waiting"  # for its turn
    READING = "reading"  # directly, all that there is: over so soon that the owner is told afterwards
    OPENING = "opening"  # the owner has not answered on this link
    MOVING = "moving"  # it has
    BROKEN = "broken"  # the link is gone; a new one is dialled in a moment
    SETTLING = "settling"  # its end is decided, but the copying thread may still write
    OVER = "over"


class PullVerb(StrEnum):
    """What happens to it."""

    READ = "read"
    START = "start"
    ANSWER = "answer"  # Ready
    PIECE = "piece"
    BREAK = "break"  # the link, or a checksum
    RETRY = "retry"
    END = "end"  # decided, and nobody writes
    HOLD = "hold"  # decided, and somebody still writes
    SETTLED = "settled"


PULL: dict[tuple[Pull, PullVerb], Pull] = {
    (Pull.WAITING, PullVerb.START): Pull.OPENING,
    (Pull.WAITING, PullVerb.READ): Pull.READING,
    (Pull.WAITING, PullVerb.END): Pull.OVER,
    (Pull.READING, PullVerb.START): Pull.OPENING,
    (Pull.READING, PullVerb.BREAK): Pull.BROKEN,
    (Pull.READING, PullVerb.END): Pull.OVER,
    (Pull.READING, PullVerb.HOLD): Pull.SETTLING,
    (Pull.OPENING, PullVerb.ANSWER): Pull.MOVING,
    (Pull.OPENING, PullVerb.PIECE): Pull.MOVING,
    (Pull.OPENING, PullVerb.BREAK): Pull.BROKEN,
    (Pull.OPENING, PullVerb.END): Pull.OVER,
    (Pull.OPENING, PullVerb.HOLD): Pull.SETTLING,
    (Pull.MOVING, PullVerb.ANSWER): Pull.MOVING,
    (Pull.MOVING, PullVerb.PIECE): Pull.MOVING,
    (Pull.MOVING, PullVerb.BREAK): Pull.BROKEN,
    (Pull.MOVING, PullVerb.END): Pull.OVER,
    (Pull.MOVING, PullVerb.HOLD): Pull.SETTLING,
    (Pull.BROKEN, PullVerb.RETRY): Pull.OPENING,
    (Pull.BROKEN, PullVerb.END): Pull.OVER,
    (Pull.BROKEN, PullVerb.HOLD): Pull.SETTLING,
    (Pull.SETTLING, PullVerb.SETTLED): Pull.OVER,
}


def after(table: dict[tuple[S, V], S], state: S, verb: V) -> S:
    """The state after what we do ourselves; an illegal one is our bug."""
    assert (state, verb) in table, f"{verb} while {state}"
    return table[state, verb]
