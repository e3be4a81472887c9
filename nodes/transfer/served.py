"""Pure. What the owner's core knows of one offer, and of one conversation about it. `serving` alone changes them."""

from msgspec import Struct

from nodes.transfer import limits
from nodes.transfer.causes import Cause
from nodes.transfer.lifecycle import Offer

Key = tuple[bytes, int]  # a connection, a conversation of it


class Serve(Struct):
    """Somebody pulls."""

    key: Key
    offer: int
    start: int
    position: int  # sent so far
    limit: int
    done: int  # arrived so far
    payload: bool
    checksum: bool

    @property
    def piece_bytes(self) -> int:
        """Small at first, then as much as went before: the other end writes while the next is on its way."""
        return min(limits.PIECE_BYTES, max(limits.CHUNK_BYTES, self.position - self.start))


class Offering(Struct):
    """An offer."""

    number: int
    slot: int
    generation: int
    size: int
    ready: int
    lease_s: float
    until: float  # the lease
    last: float  # the lease may not grow beyond it
    pulls: int  # how many more; 0: any number
    serves: dict[Key, Serve]
    state: Offer = Offer.OPEN
    cause: Cause = Cause.COMPLETE
