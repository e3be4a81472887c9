"""Shell. The body of a request: read within its limits, and inflated if it came compressed."""

import asyncio
import zlib

from nodes.frontend import limits
from nodes.frontend.generation import CANCELLED
from nodes.frontend.wire import CLOSE, Wire
from nodes.openai.errors import Problem, invalid, too_large

GZIP = 16 + zlib.MAX_WBITS  # zlib's word for its own header and gzip's
ZLIB_FACTOR = 1032  # how much larger deflate can make a body
WINDOWS = {b"gzip": GZIP, b"x-gzip": GZIP, b"deflate": zlib.MAX_WBITS}


async def read_body(wire: Wire, bytes_max: int) -> bytes | Problem:
    """The body, or why not. What is a little too large is read to its end: only then do most clients read an answer."""
    declared = wire.headers.get(b"content-length", b"0")
    discard_max = limits.DISCARD_FACTOR * bytes_max
    if declared.isdigit() and int(declared) > discard_max:
        return _never(wire, bytes_max)
    message = await wire.receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        pieces, total = [body], len(body)
        while message.get("more_body"):
            message = await wire.receive()
            piece = message.get("body", b"")
            total += len(piece)
            if total > discard_max:
                return _never(wire, bytes_max)
            if total <= bytes_max:
                pieces.append(piece)
        if total > bytes_max:
            return too_large(bytes_max)
        body = b"".join(pieces)
    if message["type"] == "http.disconnect":
        return CANCELLED
    if len(body) > bytes_max:
        return too_large(bytes_max)
    encoding = wire.headers.get(b"content-encoding")
    if encoding is None:
        return body
    if len(body) * ZLIB_FACTOR > limits.INFLATE_BYTES_MAX:
        found: bytes | Problem = await asyncio.to_thread(inflated, body, encoding.strip().lower(), bytes_max)
        return found
    return inflated(body, encoding.strip().lower(), bytes_max)


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
    inflater = zlib.decompressobj(window)
    try:
        found = inflater.decompress(body, bytes_max + 1)
    except zlib.error:
        return invalid("The body is not compressed as its content-encoding says.", "content-encoding")
    if len(found) > bytes_max:
        return too_large(bytes_max)
    if not inflater.eof:
        return invalid("The compressed body is cut short.", "content-encoding")
    return found
