"""Pure. One block in one file or object: a header that says what it is, and its bytes.

    8 bytes   magic, of which the last is the version
    16 bytes  the shelf: digest of the model, of how it is computed, and of the layout of a block
    8 bytes   the block's name (its hash), little-endian as all numbers here
    8 bytes   the name of the block before it
    8 bytes   how many bytes follow the header
    8 bytes   their checksum: xxh3, 64 bits
    4 bytes   crc32 of all that before
    4 bytes   zeros

The name of a file has both names, so that a list of files is enough to know what is there.
"""

import re
import struct
from hashlib import blake2b
from zlib import crc32

from nodes.transfer.layout import Layout

MAGIC = b"WMBLOCK\x01"
HEADER = struct.Struct("<8s16sQQQQI4x")
HEADER_BYTES = HEADER.size
SUFFIX = ".kv"
DISK_PAGE_BYTES = 4096  # what a file takes is a multiple of it
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.kv")
_CHECKED = HEADER_BYTES - 8  # what the crc covers


def shelf_of(model: str, flavour: str, layout: Layout) -> bytes:
    """What blocks must have in common to stand in for each other. `flavour` is all of an engine that changes bits."""
    said = "\0".join([model, flavour, *map(str, (getattr(layout, name) for name in layout.__struct_fields__))])
    return blake2b(said.encode(), digest_size=16).digest()


def header(shelf: bytes, name: int, parent: int, size: int, checksum: int) -> bytes:
    """Of one block."""
    start = HEADER.pack(MAGIC, shelf, name, parent, size, checksum, 0)[:_CHECKED]
    return start + crc32(start).to_bytes(4, "little") + bytes(4)


def checksum_in(head: bytes, shelf: bytes, name: int, size: int) -> int | None:
    """The checksum that the bytes after this header must have; None if they are not the block that is wanted."""
    if len(head) != HEADER_BYTES:
        return None
    magic, its_shelf, its_name, _, its_size, checksum, check = HEADER.unpack(head)
    if check != crc32(head[:_CHECKED]) or (magic, its_shelf, its_name, its_size) != (MAGIC, shelf, name, size):
        return None
    return int(checksum)


def path_of(name: int, parent: int) -> str:
    """Where a block is, below its shelf: by its first two digits, so that no folder has too many files."""
    return f"{name >> 56:02x}/{name:016x}-{parent:016x}{SUFFIX}"


def names_in(file: str) -> tuple[int, int] | None:
    """(name, parent) of the block in a file of this name; None if it is none of ours."""
    found = _NAME.fullmatch(file)
    return (int(found[1], 16), int(found[2], 16)) if found else None


def disk_bytes(size: int) -> int:
    """What a block of so many bytes takes of a disk."""
    return -(-(size + HEADER_BYTES) // DISK_PAGE_BYTES) * DISK_PAGE_BYTES
