"""The load generator against a server of a few lines, which can be told to cheat."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import loadgen, tinymodel
from bench.loadgen import Load, measure
from bench.truth import Prompts, Truth, vocabulary

TEXT = ["a load that is made of words goes to and from the server with words and more words\n"] * 3
Cheat = Callable[[list[bytes]], list[bytes] | None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    tinymodel.make(made, TEXT)
    return made


def events(truth: Truth, asked: dict[str, Any]) -> list[bytes]:
    """What an honest server of simulated tokens sends."""
    prompt, tokens = asked["messages"][0]["content"], asked["max_tokens"]
    usage = {"prompt_tokens": len(truth.prompt(prompt)), "completion_tokens": tokens}
    said = [
        {"delta": {"content": truth.tokenizer.decode([token])}, "finish_reason": None}
        for token in truth.tokens(prompt, tokens)
    ]
    bodies = [{"id": "a", "choices": [choice]} for choice in [*said, {"delta": {}, "finish_reason": "length"}]]
    bodies.append({"id": "a", "choices": [], "usage": usage})
    return [*(b"data: %b\n\n" % json.dumps(body).encode() for body in bodies), b"data: [DONE]\n\n"]


class Server:
    """Answers chats; `cheat` may change the events of every answer, or end its connection."""

    def __init__(self, truth: Truth, cheat: Cheat) -> None:
        self._truth = truth
        self._cheat = cheat
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                sent = self._cheat(events(self._truth, asked))
                if sent is None:
                    return
                await (self._stream if asked["stream"] else self._whole)(writer, sent)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, sent: list[bytes]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in sent:
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    async def _whole(self, writer: asyncio.StreamWriter, sent: list[bytes]) -> None:
        bodies = [json.loads(event[6:]) for event in sent[:-1]]
        text = "".join(body["choices"][0]["delta"].get("content", "") for body in bodies[:-1])
        choice = {"message": {"content": text}, "finish_reason": "length"}
        body = json.dumps({"id": "a", "choices": [choice], "usage": bodies[-1]["usage"]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


@contextmanager
def server(folder: Path, cheat: Cheat = lambda events: events) -> Iterator[str]:
    """Its address."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    port, stop = 0, asyncio.Event()

    async def run() -> None:
        nonlocal port
        answers = Server(Truth(folder), cheat)
        made = await asyncio.start_server(answers.serve, "127.0.0.1", 0)
        port = made.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        made.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        while tasks := asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.wait(tasks))
        loop.close()


def load(url: str, folder: Path, **more: Any) -> Load:
    given = {"connections": 4, "requests": 20, "tokens": 12, "prompt_tokens": 40} | more
    return Load(url=url, model="tiny", folder=str(folder), sim=True, **given)


def test_prompts_are_as_long_as_asked_and_no_two_alike(folder: Path) -> None:
    truth = Truth(folder)
    assert len(vocabulary(truth)) >= 3
    prompts = Prompts(truth, 60, seed=1)
    drawn = [prompts.next() for _ in range(600)]
    assert len(set(drawn)) == 600
    assert all(abs(len(truth.prompt(prompt)) - 60) <= 1 for prompt in drawn)
    assert Prompts(truth, 60, seed=1).next() == drawn[0]


@pytest.mark.parametrize("stream", [True, False])
def test_an_honest_server(folder: Path, stream: bool) -> None:
    with server(folder) as url:
        found = measure(load(url, folder, stream=stream))
    assert (found.right, found.wrong) == (20, 0)
    assert found.tokens_per_s > 0
    assert abs(found.prompt_tokens - 40) <= 1
    assert found.tokens_per_event == (1.0 if stream else 12.0)


def test_a_window(folder: Path) -> None:
    with server(folder) as url:
        found = measure(load(url, folder, requests=0, seconds=1.0, warm_up_s=0.1))
    assert found.wrong == 0
    assert 0 < found.requests_per_s * found.seconds <= found.right
    assert found.first_ms.count > 0


def every(number: int, change: Cheat) -> Cheat:
    """Cheat at each so-manieth answer."""
    seen = 0

    def cheat(events: list[bytes]) -> list[bytes] | None:
        nonlocal seen
        seen += 1
        return events if seen % number else change(events)

    return cheat


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda events: [*events[:3], *events[4:]], "the text is another"),
        (lambda events: [*events[:3], events[2], *events[3:]], "events with text"),
        (lambda events: None, "closed before the end"),
    ],
)
def test_a_server_that_cheats_at_every_fifth(folder: Path, change: Cheat, complaint: str) -> None:
    with server(folder, every(5, change)) as url:
        found = measure(load(url, folder))
    assert (found.right, found.wrong) == (16, 4)
    assert all(complaint in trouble for trouble in found.troubles), found.troubles


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "tiny", "--requests", "3", "--tokens", "4", "--folder", str(folder), "--sim"]
    with server(folder, every(3, lambda events: [events[0], *events])) as url:
        assert loadgen.main(["--url", url, *words]) == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == 1
