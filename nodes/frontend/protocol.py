"""Shell. One HTTP connection: uvicorn's own protocol, with limits on what is read, and news for those who write.

uvicorn bounds neither the size of a head nor the time that it takes, and tells a handler of a lost connection only if
a task waits for that. What is used of its insides is checked in `cycle_of`: a uvicorn that has changed costs speed, not
answers.
"""

import asyncio
from collections.abc import MutableMapping
from math import inf
from typing import Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from nodes.frontend import limits
from nodes.openai.errors import Problem, body, invalid

CONNECTION = "wiremesh.connection"  # where the scope says on which connection a request came
NEEDED = (  # of a cycle
    *("transport", "flow", "disconnected", "chunked_encoding", "keep_alive", "default_headers"),
    *(
        "body",
        "more_body",
        "waiting_for_100_continue",
        "response_started",
        "response_complete",
        "message_event",
        "on_response",
    ),
)
_fitting: set[type] = set()  # kinds of cycles that have all of it: looked at once, not for each request
PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
TOO_SLOW = Problem(408, "The request took too long to arrive.", code="request_timeout")
TOO_BIG = Problem(431, "The headers are too large.", code="headers_too_large")


class Watcher(Protocol):
    """Who is told what happens to a connection."""

    def lost(self) -> None:
        """It is gone."""

    def full(self) -> None:
        """Its buffer is full."""

    def writable(self) -> None:
        """Its buffer has room again."""


class Connection(HttpToolsProtocol):
    """A connection of one client."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.watchers: dict[Watcher, None] = {}
        self.lost = False
        self.reading_since = inf  # when the head or the last piece of the body came that is still being read
        self._head_bytes = 0  # -1: the head is complete
        self._heads = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(limits.WRITE_BYTES_MAX)
        self.reading_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        super().connection_lost(exc)
        for watcher in list(self.watchers):
            watcher.lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        for watcher in list(self.watchers):
            watcher.full()

    def resume_writing(self) -> None:
        super().resume_writing()
        for watcher in list(self.watchers):
            watcher.writable()

    # --- Limits on what is read ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.reading_since == inf:
            self.reading_since = self.loop.time()
        elif self._head_bytes < 0:
            self.reading_since = self.loop.time()  # of a body: it moves
        in_head, heads = self._head_bytes >= 0, self._heads
        super().data_received(data)
        if in_head and self._head_bytes >= 0 and heads == self._heads:
            self._head_bytes += len(data)
            if self._head_bytes > limits.HEADER_BYTES_MAX:
                self.refuse(TOO_BIG)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        if len(self.headers) > limits.HEADERS_MAX:
            raise httptools.HttpParserError("too many headers")
        self._head_bytes = -1
        self._heads += 1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        self.reading_since = inf
        super().on_message_complete()

    def sweep(self, now: float) -> None:
        """Close it if what it sends has stopped coming. A reader that we made wait ourselves is not to blame."""
        if now - self.reading_since > limits.READ_S and not self.flow.read_paused:
            self.refuse(TOO_SLOW)

    def refuse(self, problem: Problem) -> None:
        """Say no, unless an answer is on its way already, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            content = body(problem)
            head = b"HTTP/1.1 %d %b\r\n" % (problem.status, PHRASES[problem.status])
            fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(head + fields + content)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self.refuse(invalid("This is no HTTP request."))


def cycle_of(scope: MutableMapping[str, Any], send: Any) -> tuple[Connection, Any] | None:
    """The connection and the exchange behind a `send`, if they are as we know them."""
    connection = scope.get("extensions", {}).get(CONNECTION)
    cycle = getattr(send, "__self__", None)
    if not isinstance(connection, Connection) or not isinstance(cycle, RequestResponseCycle):
        return None
    kind = type(cycle)
    if kind not in _fitting and all(hasattr(cycle, name) for name in NEEDED):
        _fitting.add(kind)
    return (connection, cycle) if kind in _fitting else None
