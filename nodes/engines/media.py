"""Pure. Pictures, sounds and clips in a prompt: which positions they fill, and what those positions are called.

Their positions hold placeholder tokens, which are all alike. What the transformer gets there are rows that an encoder
made (`embedding`), and what the hash of a block sees there are numbers made from the content's own hash. Such a number
is never a token's (its highest bit is set), and four neighbours hold all of a hash of 16 bytes but these bits, so
neither another picture nor a text has the same blocks.
"""

import struct
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

WORD = 0xFFFFFFFF
NO_TOKEN = 0x80000000  # tokens are smaller
CONTENT_WORDS = 4  # of 4 bytes: a content's hash
STRIDE = 0x9E3779B9  # odd and large, so that the numbers of one content do not repeat


class Media(Struct, eq=False):
    """Positions [first, first + count) of a prompt.

    `embedding` may be set later, but before a step needs one of its rows: what lands from elsewhere needs none.
    """

    first: int
    count: int
    content: bytes  # its name: 16 bytes of a hash
    embedding: Any = None  # float32 (count, width), C order

    @property
    def end(self) -> int:
        return self.first + self.count


class Piece(Struct, frozen=True, eq=False):
    """Rows of one embedding that belong into a step."""

    media: Media
    position: int  # of the sequence, where they begin
    first: int  # of the embedding's rows
    last: int  # the row after


def hashed_tokens(tokens: Sequence[int], media: Sequence[Media]) -> list[int]:
    """What block hashes are made of: the tokens, and numbers of the content where media are."""
    found = [*tokens]
    for one in media:
        stop = min(one.end, len(found))
        if one.first < stop:
            found[one.first : stop] = numbers_of(one.content, stop - one.first)
    return found


def numbers_of(content: bytes, count: int) -> list[int]:
    """The first `count` numbers of a content: a longer run begins with a shorter one."""
    words = struct.unpack("<4I", content[: 4 * CONTENT_WORDS].ljust(4 * CONTENT_WORDS, b"\0"))
    return [
        (words[index % CONTENT_WORDS] + index // CONTENT_WORDS * STRIDE) & WORD | NO_TOKEN for index in range(count)
    ]


def pieces(media: Sequence[Media], start: int, stop: int) -> list[Piece]:
    """The rows that positions [start, stop) of a sequence need."""
    found = []
    for one in media:
        low, high = max(start, one.first), min(stop, one.end)
        if low < high:
            found.append(Piece(one, low, low - one.first, high - one.first))
    return found


def misplaced(media: Sequence[Media], prompt: int, width: int) -> str:
    """Why these cannot be in a prompt of so many positions and rows of so many numbers; empty if they can."""
    end = 0
    for one in media:
        if not end <= one.first < one.end <= prompt:
            return f"media at positions {one.first} to {one.end} of a prompt of {prompt} do not fit, or overlap"
        end = one.end
        shape = getattr(one.embedding, "shape", (one.count, width))
        if shape != (one.count, width):
            return f"an embedding of shape {shape} came for {one.count} positions of {width} numbers"
    return ""
