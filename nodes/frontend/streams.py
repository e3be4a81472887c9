"""Shell. Streams by name: `GET /v1/streams/{name}` here, and the endpoint by which other frontends reach ours."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

from msgspec import Struct

from mesh.client import Client
from mesh.endpoint import Endpoint, define
from mesh.failures import HandlerFailed, MeshError
from mesh.stream import Stream
from nodes import names
from nodes.frontend import headers, limits
from nodes.frontend.board import Kept
from nodes.frontend.broadcast import Broadcast
from nodes.frontend.completions import view
from nodes.frontend.exchange import JSON, Exchange
from nodes.frontend.frontend import Frontend
from nodes.frontend.generation import CANCELLED
from nodes.frontend.log import numbered
from nodes.frontend.wire import Wire
from nodes.openai import errors
from nodes.openai.chunks import HEADERS
from nodes.openai.errors import Problem, invalid
from proto.errors import Reason

PLACE = "/v1/streams/"
PREFIXES = ("chatcmpl-", "cmpl-")  # before the name in what a client was answered
NODE_CHARS = 16  # of a name: the node that holds it


class StreamRequest(Struct, frozen=True):
    """A stream that this node holds, from one of its events on."""

    id: str
    position: int = 0
    owner: str = ""  # the name of the API key that it belongs to


class NoStream(Exception):
    """There is no such stream, or it is somebody else's."""


NOT_HERE = Problem(
    404,
    "There is no such stream. Streams are kept for requests with an Idempotency-Key or a session header, while they "
    "run and shortly after.",
    code="stream_not_found",
)
TOO_LATE = Problem(410, "The beginning of this stream is not kept any more.", code="stream_trimmed")


async def stream(exchange: Exchange) -> None:
    """`GET /v1/streams/{name}?from=N`: continue a stream with event N, or after the one in Last-Event-ID."""
    frontend, wire = exchange.frontend, exchange.wire
    name = wire.scope["path"].removeprefix(PLACE)
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    position = position_of(wire)
    if position is None:
        await exchange.refuse(invalid("`from` must be the number of an event, 0 or more.", "from"))
        return
    exchange.attached = name[: limits.CLIENT_ID_CHARS_MAX]
    kept = frontend.board.named(name, exchange.key)
    if kept is not None:
        await _continue(exchange, kept, position)
        return
    node = node_of(name)
    if node and node != frontend.actor.node.settings.node:
        await _proxy(exchange, node, StreamRequest(name, position, exchange.key))
        return
    await exchange.refuse(NOT_HERE)


def position_of(wire: Wire) -> int | None:
    """The event to begin with; None for what is no number."""
    given = parse_qs(wire.scope["query_string"].decode("latin-1")).get("from")
    if given is None:
        return headers.last_event(wire.headers) + 1
    return int(given[0]) if given[0].isascii() and given[0].isdigit() and len(given[0]) < 16 else None


def node_of(name: str) -> int:
    """The node that a stream's name names; 0 if it is no such name."""
    try:
        return int(name[:NODE_CHARS], 16) if name[NODE_CHARS : NODE_CHARS + 1] == "-" else 0
    except ValueError:
        return 0


async def _continue(exchange: Exchange, kept: Kept[Broadcast], position: int) -> None:
    log = kept.item.log
    if log is not None and position < log.first:
        await exchange.refuse(TOO_LATE)
        return
    exchange.frontend.tally.count("replays")
    exchange.model = kept.item.generation.answer.demand.model
    exchange.stream = kept.item.generation.streams
    await view(exchange, kept.item, position, ids=True)


# --- For other frontends -----------------------------------------------------------------------------------


def endpoint(frontend: "FrontendGiver") -> dict[str, Endpoint]:
    """What other frontends call."""

    async def give(request: StreamRequest) -> AsyncIterator[bytes]:
        found = frontend.frontend.board.named(request.id, request.owner)
        if found is None or (found.item.log is not None and request.position < found.item.log.first):
            raise NoStream(request.id)
        async for piece in Reader(found.item, request.position).pieces():
            yield piece

    return {names.STREAM: define(names.STREAM, give)}


class FrontendGiver:
    """Knows the frontend, which is made after its node, which is made after its endpoints."""

    frontend: Frontend


class Reader:
    """A viewer that hands the events on, one by one; of an answer in one piece the whole."""

    def __init__(self, broadcast: Broadcast, cursor: int) -> None:
        self.cursor = cursor
        self.behind = False
        self._broadcast = broadcast
        self._waiter: asyncio.Future[None] | None = None

    def take(self, events: list[bytes], now: float) -> None:
        """Never called: what can be found by name has a log."""

    def pump(self, now: float) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, up to the end."""
        broadcast, generation, log = self._broadcast, self._broadcast.generation, self._broadcast.log
        assert log is not None, "what has a name has a log"
        broadcast.join(self)
        try:
            while True:
                for event in log.since(self.cursor, limits.WRITE_BYTES_MAX):
                    self.cursor += 1
                    yield event
                if self.cursor >= log.end:
                    if generation.done:
                        break
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
            if not generation.streams:
                yield generation.body
        finally:
            broadcast.leave(self)


# --- From other frontends ----------------------------------------------------------------------------------


async def _proxy(exchange: Exchange, node: int, request: StreamRequest) -> None:
    """Hand on what another frontend holds."""
    frontend, wire = exchange.frontend, exchange.wire
    client = Client(frontend.actor, names.STREAM, type=bytes)
    source = client.direct(request, node, timeout_s=frontend.settings.timeout_s)
    wire.gone_now = source.kill
    wire.watch()
    try:
        await _copy(exchange, source, request.position)
        frontend.tally.count("proxied")
    except HandlerFailed as error:
        await exchange.refuse(NOT_HERE if error.name == NoStream.__name__ else errors.of_reason(error.reason))
    except MeshError as error:
        if wire.gone:
            exchange.status, exchange.outcome = CANCELLED.status, "disconnected"
            return
        gone = error.reason is Reason.UNAVAILABLE and not wire.started
        problem = NOT_HERE if gone else errors.of_reason(error.reason)
        if wire.started:
            wire.write(errors.event(problem))
            await wire.finish()
        await exchange.refuse(problem)
    finally:
        wire.unwatch()
        await source.aclose()


async def _copy(exchange: Exchange, source: Stream, position: int) -> None:
    wire = exchange.wire
    async for item in source:
        if not wire.started:
            if not item.startswith(b"data:"):
                exchange.status = 200
                await wire.answer(200, JSON, item)
                return
            await wire.start(200, HEADERS)
        wire.write(numbered([item], position))
        position += 1
        await wire.flush()
        while wire.behind and not wire.gone:
            await _caught_up(wire, source)
    exchange.status, exchange.stream = 200, True
    if not wire.started:
        await wire.start(200, HEADERS)
    await wire.finish()


async def _caught_up(wire: Wire, source: Stream) -> None:
    """Return when the client reads again, or has gone."""
    waiter = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def gone() -> None:
        source.kill()
        wake()

    wire.ready_now, wire.gone_now = wake, gone
    if not wire.gone:
        await waiter
