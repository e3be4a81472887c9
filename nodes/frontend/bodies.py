"""Shell. The body of a request: read within its limits, and inflated if it came compressed.

What takes long with a large one is done in a thread, and in pieces: whatever holds the interpreter for tens of
milliseconds holds up all streams of this frontend, in a thread too.
"""

import asyncio
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar

from nodes.frontend import limits
from nodes.frontend.generation import CANCELLED
from nodes.frontend.wire import CLOSE, Wire
from nodes.openai.errors import Problem, invalid, too_large

GZIP = 16 + zlib.MAX_WBITS  # zlib's word for its own header and gzip's
ZLIB_FACTOR = 1032  # how much larger deflate can make a body
WINDOWS = {b"gzip": GZIP, b"x-gzip": GZIP, b"deflate": zlib.MAX_WBITS}
PIECE_BYTES = limits.INFLATE_BYTES_MAX  # half a millisecond of inflating
Found = TypeVar("Found")


async def apart(size: int, work: Callable[..., Found], *given: object) -> Found:
    """Work on so many bytes: in a thread if they are many."""
    if size > limits.PARSE_BYTES_MAX:
        return await asyncio.to_thread(work, *given)
    return work(*given)


async def read_body(wire: Wire, bytes_max: int) -> bytes | Problem:
    """The body, or why not. What is a little too large is read to its end: only then do most clients read an answer."""
    body = wire.at_hand()
    if body is None:
        found = await _pieces(wire, bytes_max)
        if isinstance(found, Problem):
            return found
        body = found
    if len(body) > bytes_max:
        return too_large(bytes_max)
    encoding = wire.headers.get(b"content-encoding")
    if encoding is None:
        return body
    if len(body) * ZLIB_FACTOR > limits.INFLATE_BYTES_MAX:
        return await asyncio.to_thread(inflated, body, encoding.strip().lower(), bytes_max)
    return inflated(body, encoding.strip().lower(), bytes_max)


async def _pieces(wire: Wire, bytes_max: int) -> bytes | Problem:
    """A body that is still coming."""
    declared = wire.headers.get(b"content-length", b"0")
    discard_max = limits.DISCARD_FACTOR * bytes_max
    if declared.isdigit() and int(declared) > discard_max:
        return _never(wire, bytes_max)
    message = await wire.receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        whole, total = BytesIO(), len(body)  # unlike a list that is joined, it never copies all of it at once
        whole.write(body)
        while message.get("more_body"):
            message = await wire.receive()
            piece = message.get("body", b"")
            total += len(piece)
            if total > discard_max:
                return _never(wire, bytes_max)
            if total <= bytes_max:
                whole.write(piece)
        if total > bytes_max:
            return too_large(bytes_max)
        body = whole.getvalue()
    return CANCELLED if message["type"] == "http.disconnect" else body


def _never(wire: Wire, bytes_max: int) -> Problem:
    """Not even to be read: the connection ends with the answer."""
    wire.extra.append(CLOSE)
    return too_large(bytes_max)


def inflated(body: bytes, encoding: bytes, bytes_max: int) -> bytes | Problem:
    """A compressed body; never more of it than the limit."""
    if encoding == b"identity":
        return body
    window = WINDOWS.get(encoding)
    if window is None:
        message = "Only `gzip`, `deflate` and `identity` are understood as content-encoding."
        return Problem(415, message, param="content-encoding", code="unsupported_encoding")
    inflater, whole, view = zlib.decompressobj(window), BytesIO(), memoryview(body)
    try:
        for start in range(0, len(body), PIECE_BYTES):
            _more(inflater, view[start : start + PIECE_BYTES], whole, bytes_max)
    except zlib.error:
        return invalid("The body is not compressed as its content-encoding says.", "content-encoding")
    if whole.tell() > bytes_max:
        return too_large(bytes_max)
    if not inflater.eof:
        return invalid("The compressed body is cut short.", "content-encoding")
    return whole.getvalue()


def _more(inflater: "zlib._Decompress", given: bytes | memoryview, whole: BytesIO, bytes_max: int) -> None:
    """Inflate what comes next; it may make a thousand times as much, and is cut soon after the limit."""
    made = PIECE_BYTES
    while made == PIECE_BYTES and not inflater.eof and whole.tell() <= bytes_max:
        made = whole.write(inflater.decompress(given, PIECE_BYTES))
        given = inflater.unconsumed_tail
