"""Pure. Pictures, sounds and clips in a prompt: which positions they fill, and what those positions are called.

Their positions hold placeholder tokens, which are all alike. What the transformer gets there are rows that an encoder
made (`embedding`), and what the hash of a block sees there are numbers made from the content's own hash. Such a number
is never a token's (its highest bit is set), and four neighbours hold all of a hash of 16 bytes but these bits, so
neither another picture nor a text has the same blocks.
"""

import struct
from collections.abc import Sequence
from math import isqrt
from typing import Any

from msgspec import Struct

IMAGE, AUDIO, VIDEO = "image", "audio", "video"
KINDS = (IMAGE, AUDIO, VIDEO)
PARTS_MAX = 64  # of one request: a small book; more is a mistake or an attack
HASH_BYTES = 16  # of content: nobody finds two that are equal
WORD = 0xFFFFFFFF
NO_TOKEN = 0x80000000  # tokens are smaller
CONTENT_WORDS = 4  # of 4 bytes: a content's hash
STRIDE = 0x9E3779B9  # odd and large, so that the numbers of one content do not repeat


class Spot(Struct, array_like=True, frozen=True):
    """Positions of the prompt that a picture, a sound or a clip fills: their tokens are only placeholders."""

    kind: str  # image, audio or video
    first: int
    count: int
    content: bytes  # the part's name, a hash
    across: int = 0  # of its rows in a line, where they have lines; 0: it is a square

    @property
    def end(self) -> int:
        return self.first + self.count


class Media(Struct, eq=False):
    """Positions [first, first + count) of a prompt.

    `embedding` may be set later, but before a step needs one of its rows: what lands from elsewhere needs none.
    """

    first: int
    count: int
    content: bytes  # its name: 16 bytes of a hash
    embedding: Any = None  # float32 (count, width), C order
    across: int = 0  # as of `Spot`

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
        start, stop = max(0, one.first), min(one.end, len(found))
        if start < stop:
            found[start:stop] = numbers_of(one.content, stop - one.first)[start - one.first :]
    return found


def numbers_of(content: bytes, count: int) -> list[int]:
    """The first `count` numbers of a content: a longer run begins with a shorter one."""
    words = struct.unpack("<4I", content[: 4 * CONTENT_WORDS].ljust(4 * CONTENT_WORDS, b"\0"))
    return [
        (words[index % CONTENT_WORDS] + index // CONTENT_WORDS * STRIDE) & WORD | NO_TOKEN for index in range(count)
    ]


def media_of(spot: Spot, embedding: Any = None) -> Media:
    """What fills a spot."""
    return Media(spot.first, spot.count, spot.content, embedding, spot.across)


def lines_of(one: Media | Spot) -> tuple[int, int]:
    """Lines and columns of a picture's rows: together as many as there are, whatever was said."""
    across = one.across or isqrt(one.count)
    return (one.count // across, across) if across > 0 and one.count % across == 0 else (1, one.count)


def called(one: Media) -> str:
    """What an engine of its own calls a part: its content and its length, so that whoever hears it knows both."""
    return f"{one.content.hex()}.{one.count}"


def known_as(name: str, first: int) -> Media | None:
    """The part of that name, at positions from `first` on, which may be before the first; None: nobody named it so."""
    content, dot, count = name.partition(".")
    if not dot or len(content) != 2 * HASH_BYTES or not (count.isascii() and count.isdigit() and len(count) < 10):
        return None
    try:
        return Media(first, int(count), bytes.fromhex(content))
    except ValueError:
        return None


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
