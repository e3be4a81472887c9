"""Pure. Sequences of block hashes: how they travel, and how two of them are compared.

A block's hash covers all blocks before it (`nodes.contract.blocks`). So two prompts that agree in one position agree in
all before it, and a search by halves finds where they part.
"""

import struct
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Hashes = array[int]
else:
    Hashes = array  # of unsigned 64-bit integers: `array("Q")`

HASH_BYTES = 8
_SWAP = struct.pack("=Q", 1)[0] == 0  # our numbers are big-endian


def pack(hashes: Iterable[int]) -> bytes:
    """As they travel: 8 bytes each, little-endian."""
    packed = array("Q", hashes)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def unpack(packed: bytes) -> Hashes:
    """The hashes in these bytes. Raises ValueError if they are no whole number of hashes."""
    hashes = array("Q")
    hashes.frombytes(packed)
    if _SWAP:
        hashes.byteswap()
    return hashes


def parting(one: Hashes, other: Hashes, begin: int, end: int) -> int:
    """The first position in begin..end where two sequences differ, `end` if none. They are equal before `begin`."""
    if begin >= end or one[end - 1] == other[end - 1]:
        return max(begin, end)
    low, high = begin, end - 1  # they differ at `high`
    while low < high:
        middle = (low + high) // 2
        if one[middle] == other[middle]:
            low = middle + 1
        else:
            high = middle
    return low
