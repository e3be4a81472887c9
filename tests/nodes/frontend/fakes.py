"""A frontend without a mesh: an actor that answers with the simulated engine's tokens, and a client on a socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from mesh.core import Abandon, Ask, Consumed, Event, Finish
from nodes.card import ModelCard
from nodes.contract.engine import Card, Logprobs
from nodes.engines.sim import continuation
from nodes.frontend.app import app
from nodes.frontend.frontend import Frontend
from nodes.frontend.journal import Journal
from nodes.frontend.server import Listener, Serving
from nodes.frontend.settings import Settings
from nodes.frontend.texts import Text
from nodes.generation import decode, encode_logprobs
from nodes.text.template import ChatTemplate
from proto.errors import Reason
from tests.nodes.text.tiny import byte_level

NODE = 0xFEED
WORKER = 0xBEEF
TOKENS = (3, 96)  # each of them one character, so that each makes an event
DIGEST = "d" * 32


def text() -> Text:
    tokenizer = byte_level()
    return Text(tokenizer, ChatTemplate(tokenizer.template, tokenizer.specials), "", frozenset())


def card(model: str = "org/tiny", digest: str = DIGEST) -> ModelCard:
    engine = Card("sim", model, byte_level().vocabulary, 2048, 8, 16, 1024, (1, 2))
    return ModelCard(model, digest, {}, engine, 1_700_000_000)


class FakeActor:
    """Takes asks, and plays a worker: `burst` tokens at a time, every `pace_s`, from `says`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.options = SimpleNamespace(drain_s=1.0)
        self.asked: list[Ask] = []
        self.events: list[Event] = []
        self.open: dict[int, Any] = {}
        self.limits: dict[int, int] = {}
        self.pace_s = 0.0
        self.burst = 1
        self.delay_s = 0.0
        self.says: Callable[[Ask], Sequence[int]] | None = None
        self.vector: Callable[[Ask], bytes] | None = None  # of an ask that wants an embedding
        self.ends: Reason = Reason.LENGTH
        self.fails_after: dict[int, Finish] = {}  # position -> how it ends there
        self.stops_at: int = -1
        self._requests = 0
        self.node = SimpleNamespace(
            next_request=self._next,
            settings=SimpleNamespace(node=NODE),
            offered=lambda wish: {},
            instances=lambda endpoint: (),
            snapshot=lambda: {"peers": [], "stats": {}, "requests": len(self.open), "legs": 0},
        )
        self.tasks: list[asyncio.Task[None]] = []
        self.room = asyncio.Event()

    def _next(self) -> int:
        self._requests += 1
        return self._requests

    def watch(self, callback: Callable[[], None]) -> None:
        pass

    def post(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Consumed):
            self.limits[event.request] = event.position + next(
                a.window for a in self.asked if a.request == event.request
            )
            self.room.set()
        if isinstance(event, Abandon) and event.request in self.open:
            self.room.set()
            feed = self.open.pop(event.request)
            feed.end(Finish(event.request, event.reason, feed.position, nodes=(WORKER,), attempts=1))

    def ask(self, ask: Ask, feed: Any) -> None:
        self.asked.append(ask)
        self.open[ask.request] = feed
        self.limits[ask.request] = ask.window
        self.tasks.append(self.loop.create_task(self._run(ask, feed)))

    async def _run(self, ask: Ask, feed: Any) -> None:
        payload = decode(ask.payload)
        if payload.embeds and self.vector is not None:
            await asyncio.sleep(self.delay_s)
            if ask.request in self.open:
                feed.deliver(0, [self.vector(ask)], ())
            self._finish(ask.request, Finish(0, Reason.COMPLETE, 1))
            return
        said = list(self.says(ask)) if self.says else continuation(ask.prompt, payload.max_tokens, TOKENS)
        said = said[: payload.max_tokens]
        await asyncio.sleep(self.delay_s)
        position = 0
        while position < len(said) and ask.request in self.open:
            if position in self.fails_after:
                self._finish(ask.request, self.fails_after[position])
                return
            count = min(self.burst, self.limits[ask.request] - position, len(said) - position)
            if count > 0:
                tokens = said[position : position + count]
                wanted = payload.sampling.logprobs
                rows = [encode_logprobs(row(token, wanted)) for token in tokens] if wanted >= 0 else []
                feed.deliver(position, rows, tokens)
                position += count
                await asyncio.sleep(self.pace_s)
            else:
                self.room.clear()
                await self.room.wait()
        self._finish(ask.request, self.fails_after.get(position) or Finish(0, self.ends, position))

    def _finish(self, request: int, finish: Finish) -> None:
        feed = self.open.pop(request, None)
        if feed is not None:
            nodes = finish.nodes or (WORKER,)
            feed.end(Finish(request, finish.reason, finish.position, text=finish.text, retry_ms=finish.retry_ms,
                            attempts=len(nodes), nodes=nodes, cached=finish.cached or 1))  # fmt: skip

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def abandoned(self) -> list[int]:
        return [event.request for event in self.events if isinstance(event, Abandon)]


def row(token: int, wanted: int) -> Logprobs:
    return Logprobs(-0.5, [(token, -0.5), *((other, -1.0 - other) for other in range(3, 3 + wanted))][:wanted])


class House:
    """A frontend that listens, and what a test wants of it."""

    def __init__(
        self, frontend: Frontend, actor: FakeActor, serving: Serving, listener: Listener, lines: list[str]
    ) -> None:
        self._lines = lines
        self.frontend = frontend
        self.actor = actor
        self.serving = serving
        self.port = listener.port
        self.url = listener.url()

    def log(self) -> list[Any]:
        """The lines about requests."""
        self.frontend.journal.flush()
        return [json.loads(line) for text in self._lines for line in text.splitlines()]

    async def get(self, path: str, method: str = "GET", **headers: str) -> "Answer":
        return await request(self.port, method, path, b"", headers)

    async def post(self, path: str, body: Any, **headers: str) -> "Answer":
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await request(self.port, "POST", path, data, headers)

    async def open(self, path: str, body: Any, **headers: str) -> "Reading":
        return await Reading.open(self.port, "POST", path, json.dumps(body).encode(), headers)


@asynccontextmanager
async def house(models: Sequence[str] = ("org/tiny",), plain: bool = False, **settings: Any) -> AsyncIterator[House]:
    """A frontend with these models. `plain`: as under an ASGI server that is not ours."""
    loop = asyncio.get_running_loop()
    actor = FakeActor(loop)
    frontend = Frontend(actor, Settings(**settings), "9.9.9")  # type: ignore[arg-type]
    lines: list[str] = []
    frontend.journal = Journal("json", lines.append)
    frontend.start()
    for index, model in enumerate(models):
        install(frontend, model, WORKER + index)
    listener = Listener("127.0.0.1", 0)
    application = app(frontend)
    serving = Serving(hidden(application) if plain else application, listener)
    serving.start()
    try:
        yield House(frontend, actor, serving, listener, lines)
    finally:
        await frontend.close()
        await serving.stop()
        await actor.close()
        await loop.shutdown_default_executor()


def install(frontend: Frontend, model: str, node: int, digest: str = DIGEST) -> None:
    models = frontend.registry.models
    there = {f"generate/{known.name}": tuple(known.workers) for known in models.models.values()}
    there[f"generate/{model}"] = (*there.get(f"generate/{model}", ()), node)
    now = frontend.now()
    models.offered(there, now)
    models.card(node, card(model, digest), now)
    models.built(digest, text(), now)


def hidden(application: Any) -> Any:
    """The application, from which its server's own `send` is hidden."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        async def forward(message: Any) -> None:
            await send(message)

        await application(scope, receive, forward)

    return call


# --- A client --------------------------------------------------------------------------------------------


class Answer:
    """What a server answered."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[bytes]:
        """The events of a stream, with all their lines."""
        return [event for event in self.body.split(b"\n\n") if event]

    @property
    def chunks(self) -> list[Any]:
        """The JSON of its events."""
        return chunks(self.body)

    @property
    def text(self) -> str:
        return "".join(said(chunk) for chunk in self.chunks)


def chunks(body: bytes) -> list[Any]:
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]
    return [json.loads(line[6:]) for line in lines]


def said(chunk: Any) -> str:
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in chunk["choices"])


class Reading:
    """An answer that is being read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.over = False

    @classmethod
    async def open(cls, port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> "Reading":
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        await made.ask(method, path, body, headers)
        return made

    async def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        fields = {"host": "x", "content-length": str(len(body)), **given}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.head()

    async def head(self) -> None:
        line = (await self.reader.readuntil(b"\r\n")).decode()
        self.status = int(line.split(" ")[1])
        self.body, self.over = b"", False
        self.headers = {}
        while (line := (await self.reader.readuntil(b"\r\n")).decode().strip()) != "":
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value

    async def piece(self) -> bytes:
        """The next chunk; empty at the end."""
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = (await self.reader.readexactly(size + 2))[:-2]
        self.body += data
        self.over = not size
        return data

    async def until(self, part: bytes) -> bytes:
        while part not in self.body and not self.over:
            await self.piece()
        return self.body

    async def rest(self) -> bytes:
        if "content-length" in self.headers:
            self.body = await self.reader.readexactly(int(self.headers["content-length"]))
        elif "transfer-encoding" in self.headers:
            while not self.over:
                await self.piece()
        return self.body

    def close(self) -> None:
        self.writer.close()


async def request(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    async with asyncio.timeout(20):
        reading = await Reading.open(port, method, path, body, {"connection": "close", **headers})
        if method != "HEAD":
            await reading.rest()
        reading.close()
        return Answer(reading.status, reading.headers, reading.body)


async def eventually(holds: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Return when it holds."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.002)


# --- Requests ------------------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
Test = Callable[[House], Awaitable[None]]


def served(test: Test, **settings: Any) -> None:
    """Run a test against a frontend."""

    async def main() -> None:
        async with house(**settings) as there:
            await test(there)

    asyncio.run(main())


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "org/tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, **more}


def prompt(**more: Any) -> dict[str, Any]:
    return {"model": "org/tiny", "prompt": "hello world", "max_tokens": 6, **more}


async def both(there: House, **more: Any) -> list[Answer]:
    return [await there.post(CHAT, chat(**more)), await there.post(TEXT, prompt(**more))]
