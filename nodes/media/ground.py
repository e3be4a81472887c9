"""Shell. Where somebody lays out parts, or their embeddings, for others to fetch: one memory, given out in pages."""

from collections.abc import Callable

import numpy as np

from nodes.bank import Bank
from nodes.media import limits
from nodes.transfer import Handle, Memory, Plane, TransferRefused
from nodes.transfer.pieces import Piece

Close = Callable[[], None]


class Ground:
    """All that lies on one plane. What finds no room gets memory of its own, as long as there is any."""

    def __init__(self, plane: Plane, bytes_max: int = limits.GROUND_BYTES) -> None:
        self.plane = plane
        self.bank = Bank(bytes_max // limits.PAGE_BYTES)
        self._memory = plane.allocate(bytes_max)

    def lay(self, packed: bytes, lease_s: float, pulls: int = 0) -> tuple[Handle, Close]:
        """Bytes on offer until they are taken back, or for so many pulls (0: any number). Raises TransferRefused."""
        pages = -(-len(packed) // limits.PAGE_BYTES)
        first = self.bank.take(pages)
        if first < 0:
            return laid_apart(self.plane, packed, lease_s, pulls)
        start = first * limits.PAGE_BYTES
        self._memory.array[start : start + len(packed)] = np.frombuffer(packed, np.uint8)
        piece = (start, len(packed))
        return _offered(self.plane, self._memory, [piece], lease_s, pulls, lambda: self.bank.give(first, pages))


def laid_apart(plane: Plane, packed: bytes, lease_s: float, pulls: int = 0) -> tuple[Handle, Close]:
    """The same, in memory of their own."""
    memory = plane.register(np.frombuffer(packed, np.uint8))
    return _offered(plane, memory, None, lease_s, pulls, lambda: plane.release(memory))


def _offered(
    plane: Plane, memory: Memory, pieces: list[Piece] | None, lease_s: float, pulls: int, free: Close
) -> tuple[Handle, Close]:
    try:
        offer = plane.offer(memory, pieces, lease_s=lease_s, pulls=pulls, freed=lambda _cause: free())
    except TransferRefused:
        free()
        raise
    return offer.handle(), offer.withdraw
