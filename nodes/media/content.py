"""Pure. What a part of a request is: a picture, a sound or a clip, its bytes, its name, and which rows it becomes.

A part's name is a hash of its kind and bytes. All parts of a request travel in one parcel, one after another.
"""

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from nodes.contract.media import HASH_BYTES


class MediaRefused(ValueError):
    """This part cannot be used. The text says why, and repeats nothing of it."""


class Clip(Struct, frozen=True):
    """A part of a message as its client wrote it."""

    kind: str  # image, audio or video
    place: str  # the parameter, for complaints
    word: str  # what the client calls it: image_url
    source: str  # a URL, a data URL, or base64
    embeds: bool = False  # base64 of rows that were computed elsewhere


class Found(Struct, frozen=True):
    """A part's bytes, looked at and not decoded."""

    kind: str
    data: bytes
    content: bytes  # its name
    seconds: float = 0.0  # of a sound, where its header says so
    samples: int = 0
    rate: int = 0


def name_of(kind: str, data: bytes | memoryview) -> bytes:
    """The name of a part: equal bytes of one kind have one."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES, person=kind.encode()).digest()


def names_of(content: bytes) -> list[bytes]:
    """The names in a parcel."""
    size = HASH_BYTES
    return [content[start : start + size] for start in range(0, len(content), size)]


def pack(parts: Sequence[bytes]) -> bytes:
    """Several parts as one run of bytes: each after its length."""
    return b"".join(piece for part in parts for piece in (len(part).to_bytes(8, "little"), part))


def unpack(packed: memoryview, count: int) -> list[memoryview]:
    """The parts again. Raises MediaRefused."""
    found, at = [], 0
    for _ in range(count):
        size = int.from_bytes(packed[at : at + 8], "little")
        at += 8 + size
        if at > len(packed):
            raise MediaRefused("the parcel of media is cut short")
        found.append(packed[at - size : at])
    if at != len(packed):
        raise MediaRefused("the parcel of media holds more than it says")
    return found


def resampled(samples: int, rate: int, wanted: int) -> int:
    """How many samples a sound has at another rate."""
    return -(-samples * wanted // rate)
