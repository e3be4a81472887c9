"""Pure. Embeddings that a client computed: a .npy file with two axes of floats, read without NumPy's own reader.

That one follows what the file says, to objects and beyond; this one knows the one shape that can be meant.
"""

import re
import struct
from array import array

from nodes.media import limits
from nodes.media.content import MediaRefused

_HEADER = re.compile(
    rb"\{'descr': '<f(2|4|8)', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9})\),? ?\}\s*", re.ASCII
)
_LETTERS = {2: "e", 4: "f", 8: "d"}


def rows_of(data: bytes, features: int) -> tuple[int, bytes]:
    """How many rows there are, and their bytes as little-endian float32. Raises MediaRefused."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise MediaRefused("its embedding is not the base64 of a .npy file")
    wide = 2 if data[6] == 1 else 4
    start = 8 + wide + int.from_bytes(data[8 : 8 + wide], "little")
    found = _HEADER.fullmatch(data[8 + wide : start])
    if found is None:
        raise MediaRefused("its embedding must have two axes, in C order, of little-endian floats of 2, 4 or 8 bytes")
    size, rows, columns = (int(group) for group in found.groups())
    if columns != features:
        raise MediaRefused(f"its embedding has rows of {columns} numbers, and the model's have {features}")
    if not 1 <= rows <= limits.ROWS_MAX or len(data) - start != rows * columns * size:
        raise MediaRefused("its embedding is cut short, or empty")
    return rows, finite(data[start:], size)


def finite(raw: bytes, size: int) -> bytes:
    """The same as float32. Raises MediaRefused for what is no number: it would spread through the model."""
    values = struct.unpack(f"<{len(raw) // size}{_LETTERS[size]}", raw)
    try:
        packed = array("f", values)
    except OverflowError:
        raise MediaRefused("its embedding holds numbers that are too large") from None
    if any(value - value for value in packed):  # 0 for every number; not for infinities and NaN
        raise MediaRefused("its embedding holds what is no number")
    return packed.tobytes()
