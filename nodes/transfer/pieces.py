"""Pure. Scattered memory as one stream of bytes.

A piece is (offset, length) in a memory. The pieces of a transfer, one after the other, are a *stream*: positions count
in it, and both ends may cut their memory differently as long as their streams are equally long.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

from msgspec import Struct

from nodes.transfer import limits

Piece = tuple[int, int]  # offset, length
_LITTLE = struct.pack("=i", 1) == b"\x01\0\0\0"


class PiecesRefused(ValueError):
    """These pieces cannot be a stream. The text says why."""


class Stream(Struct, frozen=True, gc=False):
    """Pieces with their positions; neighbours are one piece."""

    pieces: tuple[Piece, ...]
    starts: tuple[int, ...]  # the position of each
    size: int
    end: int  # the memory must be at least this long


def stream(pieces: Iterable[Piece]) -> Stream:
    """Join pieces to a stream. Raises PiecesRefused."""
    joined: list[Piece] = []
    for offset, length in pieces:
        if offset < 0 or length < 0:
            raise PiecesRefused(f"a piece of {length} bytes at {offset} is none: both must be 0 or more")
        if not length:
            continue
        if joined and joined[-1][0] + joined[-1][1] == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    if len(joined) > limits.PIECES_MAX:
        raise PiecesRefused(f"{len(joined)} pieces are more than {limits.PIECES_MAX}: copy them together first")
    ends = tuple(accumulate(length for _, length in joined))
    if not ends:
        return Stream((), (), 0, 0)
    return Stream(tuple(joined), (0, *ends[:-1]), ends[-1], max(offset + length for offset, length in joined))


def distinct(whole: Stream) -> bool:
    """Whether no byte is in it twice: what is written to must be."""
    ordered = sorted(whole.pieces)
    return all(one[0] + one[1] <= other[0] for one, other in pairwise(ordered))


def cut(whole: Stream, start: int, stop: int) -> list[Piece]:
    """The pieces between two positions."""
    assert 0 <= start <= stop <= whole.size, (start, stop, whole.size)
    found: list[Piece] = []
    index = max(0, bisect_right(whole.starts, start) - 1)
    while start < stop:
        offset, length = whole.pieces[index]
        skip = start - whole.starts[index]
        take = min(length - skip, stop - start)
        found.append((offset + skip, take))
        start += take
        index += 1
    return found


def pair(source: Stream, target: Stream, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The copies (from, to, length) that move these positions of one stream to those of the other."""
    theirs, ours = cut(source, start, stop), cut(target, start, stop)
    there = here = done_there = done_here = 0
    while there < len(theirs):
        offset_there, length_there = theirs[there]
        offset_here, length_here = ours[here]
        take = min(length_there - done_there, length_here - done_here)
        yield offset_there + done_there, offset_here + done_here, take
        done_there += take
        done_here += take
        if done_there == length_there:
            there, done_there = there + 1, 0
        if done_here == length_here:
            here, done_here = here + 1, 0


def compose(whole: Stream, order: Sequence[Piece]) -> Stream:
    """The stream that has these stretches (position, length) of `whole`, in this order."""
    return stream(piece for position, length in order for piece in cut(whole, position, position + length))


def pack(pieces: Sequence[Piece]) -> bytes:
    """Pieces as they travel: little-endian pairs of 8 bytes."""
    flat = array("Q", (number for piece in pieces for number in piece))
    if not _LITTLE:
        flat.byteswap()
    return flat.tobytes()


def unpack(packed: bytes) -> list[Piece]:
    """Pieces from the wire. Raises PiecesRefused."""
    if len(packed) % 16:
        raise PiecesRefused("packed pieces are not a multiple of 16 bytes")
    flat = array("Q")
    flat.frombytes(packed)
    if not _LITTLE:
        flat.byteswap()
    return list(zip(flat[::2], flat[1::2], strict=True))
