"""HTTP for tests, byte by byte: answers in one piece, streams of events as they grow, and connections that break."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from tests.real.processes import PATIENCE_S

HOST = "127.0.0.1"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
READ_BYTES_MAX = 1 << 24


class Answer(NamedTuple):
    """All that came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"} and found["message"], found
        assert isinstance(found, dict)
        return found


class Connection:
    """One request over a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reader = reader
        self.writer = writer

    async def head(self) -> None:
        """Read the answer's status and headers."""
        async with asyncio.timeout(PATIENCE_S):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        pairs = (line.partition(":") for line in lines if line)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        if self.headers.get("transfer-encoding") != "chunked":
            length = int(self.headers.get("content-length", 0))
            yield await self.reader.readexactly(length)
            return
        while size := int(await self._line(), 16):
            yield await self.reader.readexactly(size)
            await self._line()

    async def _line(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n")

    async def events(self) -> AsyncIterator[tuple[int, str]]:
        """The number (-1 without one) and the data of each event; comments are left out."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n\n")
            for event in whole:
                fields = dict(line.partition(": ")[::2] for line in event.decode().split("\n"))
                if "data" in fields:
                    yield int(fields.get("id", -1)), fields["data"]
        assert not rest, rest

    def break_off(self) -> None:
        """As a cable that is pulled."""
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The bytes of a request. A body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", "connection: close", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def send(port: int, data: bytes) -> Connection:
    """Send bytes and read the head of what is answered."""
    connection = Connection(*await asyncio.open_connection(HOST, port, limit=READ_BYTES_MAX))
    try:
        connection.writer.write(data)
        await connection.head()
    except BaseException:
        connection.break_off()
        raise
    return connection


async def ask(port: int, path: str, body: Any = None, method: str = "POST", **headers: str) -> Answer:
    """One whole exchange."""
    return await answer(port, request(method, path, body, **headers))


async def answer(port: int, data: bytes) -> Answer:
    """What is answered to these bytes."""
    connection = await send(port, data)
    try:
        async with asyncio.timeout(PATIENCE_S):
            body = b"".join([piece async for piece in connection.pieces()])
        return Answer(connection.status, connection.headers, body)
    finally:
        await connection.close()


class Told:
    """A streamed answer as it grows: what each choice has said, and how it ended."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.choices: dict[int, list[str]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.reasons: dict[int, str] = {}
        self.usage: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.events: list[str] = []
        self.numbers: list[int] = []
        self.complete = False
        self._changed = asyncio.Event()

    @property
    def texts(self) -> list[str]:
        """What the choices have said."""
        return ["".join(self.choices[index]) for index in sorted(self.choices)]

    async def run(self, port: int, path: str, body: Any = None, method: str = "POST", **headers: str) -> "Told":
        """Ask, and read to the end."""
        connection = self.connection = await send(port, request(method, path, body, **headers))
        try:
            assert connection.status == 200, (connection.status, await connection.reader.read(1000))
            async for number, data in connection.events():
                self.take(number, data)
        finally:
            self._changed.set()
            await connection.close()
        return self

    def take(self, number: int, data: str) -> None:
        """One more event."""
        assert not self.complete, data
        self.numbers.append(number)
        self.events.append(data)
        self.complete = data == "[DONE]"
        chunk = {} if self.complete else json.loads(data)
        self.error = chunk.get("error")
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", ()):
            self._choice(choice)
        self._changed.set()

    def _choice(self, choice: dict[str, Any]) -> None:
        index = choice["index"]
        assert index not in self.reasons, "it had ended"
        text = choice["text"] if "text" in choice else choice["delta"].get("content")
        self.choices.setdefault(index, []).append(text or "")
        names = choice["logprobs"] or {}
        names = names.get("tokens") or [entry["token"] for entry in names.get("content", ())]
        self.tokens.setdefault(index, []).extend(int(name.removeprefix("token_id:")) for name in names)
        if choice["finish_reason"] is not None:
            self.reasons[index] = choice["finish_reason"]

    async def until(self, count: int) -> None:
        """Wait for so many events, or the end."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.events) < count and not self.complete:
                self._changed.clear()
                await self._changed.wait()
