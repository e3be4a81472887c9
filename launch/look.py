"""Shell. Looks at a frontend from outside: does it serve, what, and does the request that we would show really work?"""

import asyncio
import ssl
from typing import Any

import msgspec

from launch.screen import CONTENT, PAINTED, Served, request_of

LOOK_S = 5.0  # a look that takes longer has failed; a first token of a large model takes a while
PAINT_S = 3.0  # what a model cannot make is refused sooner, and what it can takes longer on a slow machine
ANSWER_BYTES_MAX = 1 << 20
UNAUTHORIZED = 401
UNSUITED = 400  # the model makes no such answer; any other refusal may be of a frontend that does not know it yet


async def look(url: str, seen: Served | None) -> Served:
    """What is served; what was seen before is not tried again. Raises OSError with the reason if nothing is."""
    try:
        async with asyncio.timeout(LOOK_S):
            await _see_health(url)
            return seen or await _try(url)
    except TimeoutError:
        raise OSError(f"no answer within {LOOK_S:g} s") from None


async def _see_health(url: str) -> None:
    status, text = await ask(url, "/health")
    if status != 200:
        raise OSError(f"/health answers {status}: {text[:200].decode(errors='replace').strip()}")


async def _try(url: str) -> Served:
    """Make the request that will be shown."""
    status, text = await ask(url, "/v1/models")
    if status == UNAUTHORIZED:
        return Served(url, keyed=True)
    model = _first_model(text)
    texts = (Served(url, model), Served(url, model, chat=False), Served(url, model, embeds=True))
    for served in (*texts, *(Served(url, model, paints=kind) for kind in PAINTED)):
        status, text = await _asked(served)
        if status == 200:
            return served
        if status != UNSUITED:
            break
    raise OSError(f"a first request is answered with {status}: {text[:200].decode(errors='replace').strip()}")


async def _asked(served: Served) -> tuple[int, bytes]:
    """The answer to the smallest request of a kind. A picture is not waited for: the worker took the request."""
    path, body = request_of(served)
    if not served.paints:
        body |= {} if served.embeds else {"max_tokens": 1}
        return await ask(served.url, path, msgspec.json.encode(body))
    try:
        async with asyncio.timeout(PAINT_S):
            return await ask(served.url, path, msgspec.json.encode({**body, "num_inference_steps": 1}), head_only=True)
    except TimeoutError:
        return 200, b""


def _first_model(text: bytes) -> str:
    try:
        return str(msgspec.json.decode(text)["data"][0]["id"])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        raise OSError("/v1/models names no model") from None


async def ask(url: str, path: str, body: bytes = b"", head_only: bool = False) -> tuple[int, bytes]:
    """One request on a connection of its own, so that each meets any of the frontends of a port."""
    scheme, _, place = url.partition("://")
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=_trusting(scheme))
    try:
        method = "POST" if body else "GET"
        head = f"{method} {path} HTTP/1.1\r\nhost: {place}\r\n{CONTENT}\r\ncontent-length: {len(body)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
        return _read(await (_head_of(reader) if head_only else _all_of(reader)))
    finally:
        writer.close()


async def _head_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise OSError("what answers is no HTTP server") from None


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    parts, size = [], 0
    while part := await reader.read(1 << 16):
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise OSError("the answer is too long: is this a frontend?")
    return b"".join(parts)


def _read(answer: bytes) -> tuple[int, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise OSError("what answers is no HTTP server")
    return int(words[1]), body


def _trusting(scheme: str) -> Any:
    """It is our own frontend on our own host, whose certificate may be for the name that others call it by."""
    if scheme != "https":
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
