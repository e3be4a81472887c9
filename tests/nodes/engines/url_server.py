"""A server of completions with the manners of those that people run, and their faults. It says what `sim` says."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from nodes.contract.guide import Guide
from nodes.engines.sim import continuation
from nodes.guiding.following import Guides, guides_of
from nodes.guiding.library import GuideRefused
from nodes.loading import spoken
from nodes.openai import errors
from nodes.openai.demand import Demand, Kind
from nodes.openai.requests import parse
from nodes.text.tokenizer import Tokenizer
from tests.nodes.text.tiny import byte_level

MODEL = "tiny"


class Manner(Struct):
    """How a server speaks."""

    owner: str = "vllm"
    way: str = "ids"  # how it gives ids: ids, numbered, content or text
    takes_ids: bool = True
    strict: bool = False  # it refuses fields that it does not know
    line: str = "\n"
    prefix: str = "data: "
    comments: bool = False
    piece: int = 0  # bytes that it writes at once; 0: an event
    framing: str = "chunked"  # chunked, close
    done: bool = True  # it says [DONE]
    nothing: Any = None  # its finish_reason while there is none
    first: int = 0  # tokens that it puts before a prompt, and counts
    known: tuple[str, ...] = ()
    several: int = 1  # tokens in one event
    key: str = ""
    pause_s: float = 0.0  # between two events
    slots: int = 1_000
    deaf: bool = False  # it refuses a seed that would change nothing
    tongue: str = ""  # how it is told what an answer must be


VLLM = Manner()
VLLM_OLD = Manner(way="numbered", strict=True, known=("logprobs", "return_tokens_as_token_ids"))
LLAMA = Manner("llamacpp", "content", line="\n", comments=True, piece=11)
SGLANG = Manner("sglang", "text", several=2)
PLAIN = Manner("somebody", "text", False, True, "\r\n", "data:", True, 3, "close", False, "")
OLLAMA = Manner("library", "text", False, piece=13)
MANNERS = {"vllm": VLLM, "old": VLLM_OLD, "llama": LLAMA, "sglang": SGLANG, "plain": PLAIN, "ollama": OLLAMA}
STANDARD = {"model", "prompt", "max_tokens", "stream", "stream_options", "temperature", "top_p", "seed"}
STANDARD |= {"frequency_penalty", "presence_penalty"}


class Server:
    """Listens in a thread of its own."""

    def __init__(
        self,
        manner: Manner,
        tokenizer: Tokenizer | None = None,
        span: tuple[int, int] | None = None,
        words: Path | None = None,
    ) -> None:
        """`words`: the tokenizer's file, of a server that is told what its answers must be."""
        self.manner = manner
        self.tokenizer = tokenizer or byte_level()
        self.range = span or spoken(self.tokenizer)
        self.guides: Guides | None = None
        if manner.tongue and words is not None:
            self.guides = guides_of(words, self.tokenizer.vocabulary, self.tokenizer.eos_tokens)
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.fault: dict[str, Any] = {}  # status, cut, error, says, hold
        self.closed = 0  # requests whose client has gone
        self.models: list[str] = [MODEL]
        self.over = False
        self._slots = asyncio.Semaphore(manner.slots)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- From the test ---------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def busy(self) -> int:
        """Connections that are open."""
        return len(self._tasks)

    @property
    def listens(self) -> bool:
        return self._server.is_serving()

    def listen(self, port: int = 0) -> None:
        async def begin() -> asyncio.Server:
            return await asyncio.start_server(self._serve, "127.0.0.1", port)

        if not self._thread.is_alive():
            self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(begin(), self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def die(self) -> None:
        """Close the port and every connection."""

        async def end() -> None:
            # A connection that was accepted when its server closes is leaked by asyncio: so none comes before that.
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            for _ in range(3):
                await asyncio.sleep(0)
            self._server.close()
            for _ in range(30):  # one may just have been accepted; and what is aborted closes in the loop's next turns
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)

    def close(self) -> None:
        self.die()
        self.over = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def promised(self, sequence: Sequence[int], count: int) -> list[int]:
        return continuation(sequence, count, self.range)

    # --- In its thread ---------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            length = int(headers.get("content-length", 0))
            body = json.loads(await reader.readexactly(length)) if length else None
            self.keys |= set(headers.get("authorization", "").split()[1:])
            gone = asyncio.ensure_future(reader.read())
            answer = asyncio.ensure_future(self._answer(writer, head.split()[1], head, body))
            try:
                done, _ = await asyncio.wait([gone, answer], return_when=asyncio.FIRST_COMPLETED)
                self.closed += answer not in done
            finally:
                gone.cancel()
                answer.cancel()
                await asyncio.gather(gone, answer, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client, or the server, has gone
        finally:
            with suppress(OSError):
                writer.transport.abort()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # now the transport has closed its socket
            self._tasks.discard(task)

    async def _answer(self, writer: asyncio.StreamWriter, path: str, head: str, body: dict[str, Any] | None) -> None:
        manner = self.manner
        if manner.key and f"Bearer {manner.key}" not in head:
            await _whole(writer, 401, {"error": {"message": "Invalid API key"}})
        elif path == "/v1/models":
            listed = [{"id": name, "object": "model", "owned_by": manner.owner} for name in self.models]
            await _whole(writer, 200, {"object": "list", "data": listed or None})
        elif path == "/api/version" and manner.owner == "library":
            await _whole(writer, 200, {"version": "0.9"})
        elif body is None or path not in ("/v1/completions", "/api/generate"):
            await _whole(writer, 404, {"detail": "Not Found"})
        elif status := self.fault.get("status"):
            await _whole(writer, status, {"error": {"message": "Slow down", "code": status}})
        else:
            self.bodies.append(body)
            async with self._slots:
                await self._complete(writer, body)

    async def _complete(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        manner, prompt = self.manner, body["prompt"]
        unknown = set(body) - STANDARD - set(manner.known)
        if isinstance(prompt, list) and not manner.takes_ids:
            await _whole(writer, 400, {"error": "json: cannot unmarshal array into field prompt of type string"})
            return
        if manner.strict and unknown:
            await _whole(writer, 422, {"detail": [{"msg": f"not permitted: {sorted(unknown)}"}]})
            return
        if manner.deaf and "seed" in body and body["temperature"]:
            await _whole(writer, 400, json.loads(errors.body(errors.unseeded("with -- --some-flag"))))
            return
        ids = prompt if isinstance(prompt, list) else self.tokenizer.encode(prompt, add_special=False)
        count = body["options"]["num_predict"] if "options" in body else body["max_tokens"]
        try:
            found = self._guided(body, ids, count)
        except GuideRefused as refused:
            await _whole(writer, 400, {"error": {"message": str(refused)}})
            return
        tokens = self.fault.get("says") or found or self._ended(body, self.promised(ids, count))
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n" if manner.framing == "chunked" else "Connection: close\r\n\r\n"
        writer.write(head.encode())
        events = self._native(ids, tokens) if "options" in body else self._events(body, ids, tokens)
        for number, event in enumerate(events):
            if number >= self.fault.get("hold", 1 << 30):
                await asyncio.Event().wait()
            if number >= self.fault.get("cut", 1 << 30):
                return
            await self._write(writer, event)
            await asyncio.sleep(self.manner.pause_s)
        if manner.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _guided(self, body: dict[str, Any], ids: list[int], count: int) -> list[int]:
        """What it would say, as far as that is allowed; and else the first that is."""
        guide = told(self.manner.tongue, body)
        if guide is None or self.guides is None:
            return []
        following = self.guides.follow(guide, len(ids))
        with suppress(GuideRefused):
            following.read.result(10)
        tokens, ends = [*ids], set(self.guides.eos_tokens)
        for made in range(count):
            allowed = [int(token) for token in np.flatnonzero(following.allowed(tokens))]
            holds = body.get("ignore_eos") or made < body.get("min_tokens", 0)
            usual = [token for token in allowed if token not in ends] if holds else allowed
            (wanted,) = self.promised(tokens, 1)
            tokens.append(wanted if wanted in usual else (usual or allowed)[0])
            if tokens[-1] in (ends | {*body.get("stop_token_ids", ())}):
                break
        return tokens[len(ids) :]

    def _ended(self, body: dict[str, Any], tokens: list[int]) -> list[int]:
        """Up to the token that stops them."""
        stops = {*body.get("stop_token_ids", ()), *(() if body.get("ignore_eos") else self.tokenizer.eos_tokens)}
        least = body.get("min_tokens", 0)
        ends = [place for place, token in enumerate(tokens) if token in stops and place >= least]
        return tokens[: ends[0] + 1] if ends else tokens

    def _native(self, ids: list[int], tokens: list[int]) -> Iterator[str]:
        """As Ollama says it."""
        for text in self._texts(tokens):
            yield json.dumps({"model": MODEL, "response": text[0], "done": False}) + "\n"
        counts = {"prompt_eval_count": len(ids), "eval_count": len(tokens)}
        yield json.dumps({"model": MODEL, "response": "", "done": True, "done_reason": "length", **counts}) + "\n"

    def _texts(self, tokens: list[int]) -> list[tuple[str, list[int]]]:
        step, detokenizer = self.manner.several, self.tokenizer.detokenizer()
        parts = [tokens[start : start + step] for start in range(0, len(tokens), step)]
        return [(detokenizer.feed(part), part) for part in parts]

    def _events(self, body: dict[str, Any], ids: list[int], tokens: list[int]) -> Iterator[str]:
        manner = self.manner
        if manner.comments:
            yield f": ping{manner.line}{manner.line}event: x{manner.line}"
        for number, (text, part) in enumerate(self._texts(tokens)):
            if number == self.fault.get("error", -1):
                yield self._event({"error": {"message": "out of memory"}}, "error: ")
                return
            choice = {"index": 0, "text": text, "finish_reason": manner.nothing, **self._ids(body, part)}
            yield self._event({"object": "text_completion", "choices": [choice], "usage": None})
        why = "stop" if len(tokens) < body["max_tokens"] else "length"
        yield self._event({"choices": [{"index": 0, "text": "", "finish_reason": why, "logprobs": None}]})
        usage = {"prompt_tokens": len(ids) + manner.first, "completion_tokens": len(tokens)}
        yield self._event({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 2}}})
        if manner.done:
            yield f"{manner.prefix}[DONE]{manner.line}{manner.line}"

    def _ids(self, body: dict[str, Any], part: list[int]) -> dict[str, Any]:
        way = self.manner.way
        if way == "ids" and body.get("return_token_ids") and "logprobs" not in body:
            return {"token_ids": part}
        if way == "content" and body.get("logprobs"):
            content = [
                {"id": token, "token": "x", "logprob": -0.5, "top_logprobs": [{"id": token, "logprob": -0.5}]}
                for token in part
            ]
            return {"logprobs": {"content": content}}
        if way in ("numbered", "ids") and "logprobs" in body and body.get("return_tokens_as_token_ids"):
            names = [f"token_id:{token}" for token in part]
            others = {f"token_id:{number}": -5.0 for number in range(body["logprobs"])}
            top = [{"token_id:9": None, **others, name: -0.25} for name in names]
            return {"logprobs": {"tokens": names, "token_logprobs": [-0.25] * len(part), "top_logprobs": top}}
        return {}

    def _event(self, found: dict[str, Any], prefix: str = "") -> str:
        return f"{prefix or self.manner.prefix}{json.dumps(found)}{self.manner.line}{self.manner.line}"

    async def _write(self, writer: asyncio.StreamWriter, event: str) -> None:
        content, size = event.encode(), self.manner.piece or len(event.encode())
        for start in range(0, len(content), size):
            piece = content[start : start + size]
            framed = b"%x\r\n%s\r\n" % (len(piece), piece) if self.manner.framing == "chunked" else piece
            writer.write(framed)
            await writer.drain()


def told(tongue: str, body: dict[str, Any]) -> Guide | None:
    """What a body says that its answer must be, to who understands this."""
    if tongue in ("structured_outputs", "guided", "response_format"):
        fields = {name: value for name, value in body.items() if name.startswith(tongue)}
        demand = parse(Kind.COMPLETION, json.dumps({"model": "x", "prompt": "x", **fields}).encode())
        return demand.guide if isinstance(demand, Demand) else None
    kinds = {"sglang": ("json_schema", "regex", "ebnf"), "llama.cpp": ("json_schema", "grammar"), "ollama": ("format",)}
    for name in kinds.get(tongue, ()):
        if name in body:
            value = {"type": "object"} if body[name] == "json" else body[name]
            kind = {"ebnf": "grammar", "format": "json_schema"}.get(name, name)
            return Guide(kind, value if isinstance(value, str) else json.dumps(value))
    return None


async def _whole(writer: asyncio.StreamWriter, status: int, found: dict[str, Any]) -> None:
    content = json.dumps(found).encode()
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()


@contextmanager
def serving(manner: Manner, tokenizer: Tokenizer | None = None, words: Path | None = None) -> Iterator[Server]:
    server = Server(manner, tokenizer, words=words)
    server.listen()
    try:
        yield server
    finally:
        server.close()
