"""Shell. HTTP as far as a stream of tokens needs it: one request on a connection of its own, its answer as it comes.

To close the connection is to cancel the request: servers abort what nobody reads.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

CONNECT_S = 5.0  # more than any network takes that tokens should come over
READ_BYTES = 65_536
BODY_BYTES_MAX = 8 << 20  # of an answer that is read as a whole
CLOSED = "the server closed the connection"


class Unreachable(Exception):
    """No answer, or not the whole of it."""


class Place(Struct, frozen=True):
    """Where a server is."""

    url: str
    key: str = ""

    @property
    def root(self) -> "Place":
        """The same server without a path: for what it has beside its OpenAI-compatible part."""
        parts = urlsplit(self.url)
        return Place(f"{parts.scheme}://{parts.netloc}", self.key)


class Answer:
    """An answer whose body is still coming."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._parser: Any = httptools.HttpResponseParser(self)
        self._content: list[bytes] = []
        self._headed = self._over = False
        self._sized = False  # else the body ends with the connection
        self.status = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._sized |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._headed, self.status = True, self._parser.get_status_code()

    def on_body(self, content: bytes) -> None:
        self._content.append(content)

    def on_message_complete(self) -> None:
        self._over = True

    async def head(self) -> None:
        """Wait for the status."""
        while not self._headed:
            await self._read()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises Unreachable if it breaks off."""
        while True:
            if self._content:
                content, self._content = b"".join(self._content), []
                yield content
            if self._over:
                return
            await self._read()

    async def whole(self) -> bytes:
        """The body, which is not large."""
        found = bytearray()
        async for content in self.pieces():
            found += content
            if len(found) > BODY_BYTES_MAX:
                raise Unreachable(f"the answer has more than {BODY_BYTES_MAX} bytes")
        return bytes(found)

    async def _read(self) -> None:
        try:
            content = await self._reader.read(READ_BYTES)
            if content:
                self._parser.feed_data(content)
        except OSError as error:
            raise Unreachable(f"{CLOSED}: {error.strerror or error}") from None
        except httptools.HttpParserError as error:
            raise Unreachable(f"what answers there does not speak HTTP: {error}") from None
        if not content and not self._over:
            if not self._headed or self._sized:
                raise Unreachable(CLOSED)
            self._over = True


@asynccontextmanager
async def asking(place: Place, path: str, body: bytes | None = None) -> AsyncIterator[Answer]:
    """Ask for `path` below a place; the answer's head has come. Raises Unreachable."""
    parts = urlsplit(place.url + path)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    except (OSError, TimeoutError) as error:
        raise Unreachable(f"no connection to {parts.netloc}: {_why(error)}") from None
    try:
        writer.write(_head(parts.netloc, parts.path, place.key, body) + (body or b""))
        answer = Answer(reader)
        await answer.head()
        yield answer
    finally:
        writer.transport.abort()  # at once, whatever is still to be sent
        with suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def _head(host: str, path: str, key: str, body: bytes | None) -> bytes:
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += ["Accept: text/event-stream, application/json", "Accept-Encoding: identity", "User-Agent: wiremesh"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body is not None else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:.0f} s"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # asyncio's own words are of calls and tuples
    return " ".join(str(error).split())
