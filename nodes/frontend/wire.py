"""Shell. One HTTP exchange as its handler sees it: a head, a body in pieces, and whether anybody still reads.

Two ways to write. Under our own protocol (`nodes.frontend.protocol`) a piece goes straight to the connection: no
coroutine wakes up for a token. Under any other ASGI server pieces wait in a buffer for the handler's coroutine, and a
task listens for the end of the connection. What is written is the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from nodes.frontend import limits
from nodes.frontend.protocol import Connection, cycle_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = Sequence[tuple[bytes, bytes]]
_SIZES = tuple(b"%x\r\n" % size for size in range(1024))  # before a chunk: to write one takes longer than the rest
BODILESS = (204, 304)
CLOSE = (b"connection", b"close")
START, BODY = "http.response.start", "http.response.body"


def _nothing() -> None:
    """Nobody wants to know."""


def _no_headers() -> HeaderList:
    return ()


class Wire:
    """The answering side of one exchange."""

    started = False
    status = 0
    behind = False  # whether the client does not keep up with reading
    gone = False
    late: Callable[[], HeaderList] = staticmethod(_no_headers)  # what is known only when the head is sent
    gone_now: Callable[[], None] = staticmethod(_nothing)  # called once, as soon as the client has gone
    ready_now: Callable[[], None] = staticmethod(_nothing)  # called when a slow reader has caught up
    flush_now: Callable[[], None] = staticmethod(_nothing)  # called when `flush` has something to do
    _listener: asyncio.Task[None] | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.extra: list[tuple[bytes, bytes]] = []  # what every answer of this exchange carries
        self._send = send
        self._buffer = bytearray()

    def at_hand(self) -> bytes | None:
        """The request's body, if it is known that all of it has come."""
        return None

    # --- Whole answers -----------------------------------------------------------------------------------

    async def answer(self, status: int, headers: HeaderList, body: bytes = b"") -> None:
        """The whole answer."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._send({"type": BODY, "body": body})

    async def start(self, status: int, headers: HeaderList) -> None:
        """The head."""
        self.status = status
        await self._send({"type": START, "status": status, "headers": [*headers, *self.extra, *self.late()]})
        self.started = True  # not before: what is written into a body must not overtake the head

    async def finish(self, data: bytes = b"") -> None:
        """The rest of the body."""
        await self.flush()
        await self._send({"type": BODY, "body": data})

    # --- Pieces ------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """A piece of the body, from anywhere in the loop's thread."""
        self._buffer += data
        if len(self._buffer) >= limits.WRITE_BYTES_MAX:
            self.behind = True
        self.flush_now()

    async def flush(self) -> None:
        """Send what was written; the handler calls it when told to."""
        while self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            await self._send({"type": BODY, "body": data, "more_body": True})
        if self.behind:
            self._caught_up()

    def _caught_up(self) -> None:
        self.behind = False
        self.ready_now()

    # --- The client --------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Notice from now on that the client goes. The request's body must have been read."""
        self._listener = asyncio.get_running_loop().create_task(self._listen(), name="listen")

    def unwatch(self) -> None:
        """The exchange is over."""
        self.gone_now = self.ready_now = self.flush_now = _nothing
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None

    async def _listen(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self._went()

    def _went(self) -> None:
        if not self.gone:
            self.gone = True
            self.gone_now()


class DirectWire(Wire):
    """A wire that ends in a connection of our own protocol."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, connection: Connection, cycle: Any) -> None:
        super().__init__(scope, receive, send)
        self._connection = connection
        self._cycle = cycle
        self.behind = cycle.flow.write_paused
        self._put = cycle.transport.write

    def at_hand(self) -> bytes | None:
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.response_complete or cycle.waiting_for_100_continue:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        cycle.message_event.clear()
        cycle.flow.resume_reading()
        return body

    async def answer(self, status: int, headers: HeaderList, body: bytes = b"") -> None:
        if not self._at_once(status):
            await super().answer(status, headers, body)
            return
        self.status = status
        head = self._head(status, [*headers, *self.extra, *self.late(), (b"content-length", b"%d" % len(body))])
        self._put(head + body)
        self.started = True
        self._over()

    async def start(self, status: int, headers: HeaderList) -> None:
        if not self._at_once(status):
            await super().start(status, headers)
            return
        self.status = status
        self._put(self._head(status, [*headers, *self.extra, *self.late(), (b"transfer-encoding", b"chunked")]))
        self._cycle.chunked_encoding = True
        self.started = True

    async def finish(self, data: bytes = b"") -> None:
        cycle = self._cycle
        if self.behind or cycle.disconnected or not cycle.chunked_encoding or not cycle.keep_alive:
            await super().finish(data)
            return
        self._put(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")
        self._over()

    def _at_once(self, status: int) -> bool:
        """Whether the head can be written without asking the cycle, which looks at each header of it with care."""
        cycle = self._cycle
        well = status in STATUS_LINE and status not in BODILESS and self.scope["method"] != "HEAD"
        well = well and cycle.keep_alive and CLOSE not in self.extra
        return well and not (cycle.response_started or cycle.disconnected or self.behind)

    def _head(self, status: int, headers: HeaderList) -> bytes:
        cycle = self._cycle
        cycle.response_started, cycle.waiting_for_100_continue = True, False
        lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
        head = b"".join((STATUS_LINE[status], *lines, b"\r\n"))
        assert head.count(b"\n") == head.count(b"\r") == len(lines) + 2, "a header has no line breaks in it"
        return head

    def _over(self) -> None:
        self._cycle.response_complete = True
        self._cycle.message_event.set()
        self._cycle.on_response()

    def write(self, data: bytes) -> None:
        if not self.gone:
            size = len(data)
            if self._cycle.chunked_encoding:
                data = (_SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size) + data + b"\r\n"
            self._put(data)

    async def flush(self) -> None:
        return None

    def watch(self) -> None:
        self._connection.watchers[self] = None
        if self._connection.lost or self._cycle.disconnected:
            self.lost()

    def unwatch(self) -> None:
        super().unwatch()
        self._connection.watchers.pop(self, None)

    def lost(self) -> None:
        """The connection says that it is gone."""
        self._went()

    def full(self) -> None:
        """The connection says that its buffer is full."""
        self.behind = True

    def writable(self) -> None:
        """The connection says that its buffer has room."""
        self._caught_up()


def wire_of(scope: Scope, receive: Receive, send: Send) -> Wire:
    """The fastest wire that this server allows."""
    found = cycle_of(scope, send)
    return Wire(scope, receive, send) if found is None else DirectWire(scope, receive, send, *found)
