"""A worker in front of a URL: the manners of servers, what they lack, and what they do wrong."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mesh.core import Failed, Finished, Halt, Yielded
from nodes.contract.engine import Card, Job, Sampling
from nodes.engines import outside
from nodes.engines.openai_url import finding
from nodes.engines.openai_url.client import key_of
from nodes.engines.openai_url.finding import Settings
from nodes.engines.openai_url.http import Place
from nodes.engines.openai_url.source import UrlSource
from nodes.engines.openai_url.wire import Way
from nodes.engines.outside import EngineRefused, OutsideEngine
from nodes.generation import Generation
from nodes.host import OutsideHost
from proto.errors import Reason
from tests.nodes.engines.url_server import (
    LLAMA,
    MANNERS,
    MODEL,
    OLLAMA,
    PLAIN,
    VLLM,
    VLLM_OLD,
    Manner,
    Server,
    serving,
)
from tests.nodes.hosting import start_of
from tests.nodes.test_host import Listener
from tests.nodes.text.tiny import byte_fallback, byte_level

Body = Callable[[OutsideHost, Listener], Awaitable[None]]
PROMPT = [40, 41, 42]


def source_of(server: Server, **settings: Any) -> UrlSource:
    given = {"model": "", "name": "mine", "wait_s": 0.0, **settings}
    return UrlSource(Settings(Place(server.url, server.manner.key), **given), server.tokenizer)


def play(server: Server, body: Body, **settings: Any) -> UrlSource:
    """The host around a source, in a loop of its own; the server is in another thread."""
    source = source_of(server, **settings)
    engine, listener = OutsideEngine(source), Listener()
    card = engine.start()

    async def main() -> None:
        host = OutsideHost(engine, card, "generate/x", listener.crashed)
        host.attach(listener.post, asyncio.get_running_loop())
        try:
            await body(host, listener)
        finally:
            await host.close()

    asyncio.run(main())
    return source


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("manner", "way", "takes_ids"),
    [
        ("vllm", Way.IDS, True),
        ("old", Way.NUMBERED, True),
        ("llama", Way.CONTENT, True),
        ("sglang", Way.TEXT, True),
        ("plain", Way.TEXT, False),
        ("ollama", Way.OLLAMA, False),
    ],
)
def test_each_kind_of_server_is_found_out_and_its_tokens_come(manner: str, way: Way, takes_ids: bool) -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        starts = [start_of(number, [*PROMPT, 50 + number], [60], Generation(30)) for number in range(5)]
        for start in starts:
            host.start(start)
        await listener.until(lambda: len(listener.ends) == 5)
        for number, start in enumerate(starts):
            sequence = [*PROMPT, 50 + number, 60]
            assert listener.ends[start.leg] == Finished(start.leg, Reason.LENGTH)
            made = listener.tokens[start.leg]
            tokenizer = server.tokenizer
            assert tokenizer.decode(made) == tokenizer.decode(server.promised(sequence, 29))
            if way is not Way.TEXT and way is not Way.OLLAMA:
                assert made == server.promised(sequence, 29)
        assert host.counts.cached_tokens == (0 if way is Way.OLLAMA else 10)

    with serving(MANNERS[manner]) as server:
        source = play(server, body)
        assert (source._dialect.way, source._dialect.takes_ids) == (way, takes_ids)
        assert source._outcomes["complete"] == 5 and source._odd == 0
        asked = server.bodies[-1]
        assert asked["prompt"] if takes_ids else isinstance(asked["prompt"], str)


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()])
@pytest.mark.parametrize("manner", [PLAIN, OLLAMA], ids=["plain", "ollama"])
def test_a_text_stays_exactly_the_servers(manner: Manner, tokenizer: Any) -> None:
    texts = ["Hello world", " the\n\n  code", "naïve 漢字 🙂", "<s> is no token", "a", " "]
    with serving(manner, tokenizer) as server:
        source = source_of(server)
        source.start()
        for text in texts:
            server.fault = {"says": tokenizer.encode(text, add_special=False)}
            if tokenizer.decode(server.fault["says"]) != text:
                continue

            async def read() -> list[int]:
                return [
                    token async for piece in source.stream(Job("a", PROMPT, max_tokens=500)) for token in piece.tokens
                ]

            assert tokenizer.decode(asyncio.run(read())) == text


def test_log_probabilities_come_where_the_server_gives_ids() -> None:
    wanted = Generation(4, sampling=Sampling(logprobs=2))

    async def body(host: OutsideHost, listener: Listener) -> None:
        start = start_of(1, PROMPT, [], wanted)
        host.start(start)
        await listener.until(lambda: start.leg in listener.ends)
        assert isinstance(listener.ends[start.leg], Finished) and len(listener.tokens[start.leg]) == 4

    for manner, chosen in ((VLLM, -0.25), (VLLM_OLD, -0.25), (LLAMA, -0.5)):
        with serving(manner) as server:
            source = play(server, body)

            async def read(source: UrlSource = source) -> list[Any]:
                job = Job("a", PROMPT, sampling=Sampling(logprobs=2))
                return [row async for piece in source.stream(job) for row in piece.logprobs]

            rows = asyncio.run(read())
            assert len(rows) == 16 and {row.chosen for row in rows} == {chosen}
            assert all(row.top[0][1] == chosen for row in rows)


def test_what_a_server_cannot_do_is_refused() -> None:
    with serving(PLAIN) as server:
        engine = OutsideEngine(source_of(server))
        card = engine.start()
        assert not card.resumes_sampling and not card.tells_blocks
        for job in (
            Job("a", PROMPT, sampling=Sampling(logprobs=0)),
            Job("a", PROMPT, stop_tokens=(5,)),
            Job("a", PROMPT, min_tokens=4),
            Job("a", PROMPT, ignore_eos=True),
            Job("a", PROMPT, cache_salt="x"),
        ):
            assert "cannot do" in (engine.submit(job) or "")
        engine.stop()


@pytest.mark.parametrize("deaf", [False, True])
def test_a_seed_goes_to_a_mesh_that_heeds_seeds(deaf: bool) -> None:
    with serving(Manner("wiremesh", deaf=deaf)) as server:
        source = source_of(server)
        assert bool(source.start().unseeded) is deaf, "and to no other: it would refuse whatever is sampled"
        asyncio.run(_drained(source, Job("a", PROMPT, sampling=Sampling(seed=7))))
        assert ("seed" in server.bodies[-1]) is not deaf


def test_what_is_asked_for_reaches_the_server() -> None:
    sampling = Sampling(0.5, 0.9, 40, 0.1, 1.1, 0.2, 0.3, {7: -1.0}, 2**40 + 5)
    job = Job("a", PROMPT, [60], 9, 4, (8,), True, sampling, "salt", 2)
    with serving(VLLM) as server:
        source = source_of(server)
        source.start()
        asyncio.run(_drained(source, job))
        said = server.bodies[-1]
    assert said == {
        "model": MODEL,
        "prompt": [*PROMPT, 60],
        "max_tokens": 8,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "logit_bias": {"7": -1.0},
        "seed": 6,
        "min_tokens": 3,
        "stop_token_ids": [8],
        "ignore_eos": True,
        "cache_salt": "salt",
        "priority": 2,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }


async def _drained(source: UrlSource, job: Job) -> None:
    async for _ in source.stream(job):
        pass


def test_a_cancel_closes_the_connection() -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        server.fault = {"hold": 3}
        start = start_of(1, PROMPT, [], Generation(30))
        host.start(start)
        await listener.until(lambda: len(listener.tokens.get(start.leg, ())) == 3)
        assert host.load().running == 1 and server.closed == 0
        host.halt(Halt(start.leg))
        await listener.until(lambda: start.leg in listener.ends)
        await until(lambda: server.closed == 1 and host.load().running == 0)

    with serving(VLLM) as server:
        assert play(server, body)._outcomes["cancelled"] == 1


@pytest.mark.parametrize(
    ("fault", "words", "retryable"),
    [
        ({"status": 429}, "429: Slow down", True),
        ({"status": 503}, "503", True),
        ({"status": 500}, "500", True),
        ({"status": 401}, "401", True),
        ({"status": 400}, "400: Slow down", False),
        ({"error": 2}, "out of memory", True),
        ({"says": [5000]}, "a token that its model does not have", False),
    ],
)
@pytest.mark.parametrize("manner", ["vllm", "llama"])
def test_a_servers_fault_moves_the_request(manner: str, fault: dict[str, Any], words: str, retryable: bool) -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        server.fault = fault
        start = start_of(1, PROMPT, [], Generation(30))
        host.start(start)
        await listener.until(lambda: start.leg in listener.ends)
        failed = listener.ends[start.leg]
        assert isinstance(failed, Failed) and words in failed.text and failed.retryable is retryable
        assert not listener.crashes

    with serving(MANNERS[manner]) as server:
        play(server, body)


def test_a_stream_without_an_end_is_not_complete() -> None:
    """One whose body ends with the connection could look complete."""

    async def body(host: OutsideHost, listener: Listener) -> None:
        server.fault = {"cut": 3}
        start = start_of(1, PROMPT, [], Generation(30))
        host.start(start)
        await listener.until(lambda: start.leg in listener.ends)
        assert listener.ends[start.leg] == Yielded(start.leg, Reason.PREEMPT), "it goes on elsewhere"

    for manner in (PLAIN, VLLM, LLAMA):
        with serving(manner) as server:
            assert play(server, body)._outcomes["lost"] == 1


def test_a_server_that_dies_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "PROBE_S", 0.01)

    async def body(host: OutsideHost, listener: Listener) -> None:
        server.fault = {"hold": 3}
        start = start_of(1, PROMPT, [], Generation(30))
        host.start(start)
        await listener.until(lambda: len(listener.tokens.get(start.leg, ())) == 3)
        await asyncio.to_thread(server.die)
        await listener.until(lambda: bool(listener.crashes) and start.leg in listener.ends)
        assert listener.ends[start.leg] == Yielded(start.leg, Reason.PREEMPT)

    with serving(VLLM) as server:
        play(server, body)


def test_usage_that_differs_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        server.manner = replace(VLLM, first=5)
        for number in range(3):
            host.start(start_of(number, PROMPT, [], Generation(3)))
        await listener.until(lambda: len(listener.ends) == 3)

    with serving(VLLM) as server:
        source = play(server, body)
    assert source._odd == 3
    assert [record.message for record in caplog.records] == [
        "the server counts 8 and 3 tokens, we 3 and 3: is --model its model?"
    ]


@pytest.mark.parametrize(
    ("manner", "fault", "settings", "words"),
    [
        (VLLM, {}, {"model": "other"}, "has no model 'other': choose one with --url-model, of tiny"),
        (VLLM, {"status": 503}, {}, "does not answer a first request: the server says 503"),
        (VLLM, {"status": 404}, {}, "does not take completions: the server says 404"),
        (replace(VLLM, first=9), {}, {}, "are not those of --model"),
        (VLLM, {"says": [3, 4, 5000]}, {}, "are not those of --model"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_in_a_sentence(
    manner: Manner, fault: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    with serving(manner) as server:
        server.fault = fault
        with pytest.raises(EngineRefused) as caught:
            source_of(server, **settings).start()
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_is_not_up_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "AGAIN_S", 0.01)
    with serving(VLLM) as server:
        server.die()
        with pytest.raises(EngineRefused, match=r"no server at http://127\.0\.0\.1:\d+/v1 within 0 s: no connection"):
            source_of(server).start()
        cards: list[Card] = []
        waits = threading.Thread(target=lambda: cards.append(source_of(server, wait_s=10.0).start()))
        waits.start()
        server.models = []
        server.listen(server.port)
        server.models = [MODEL]
        waits.join(10)
        assert cards and cards[0].model == MODEL


def test_the_key_is_sent_and_a_wrong_one_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret\n")
    assert key_of(str(path)) == "secret" and key_of("") == ""
    for content in ("", "two words", "ké"):
        path.write_text(content)
        with pytest.raises(EngineRefused, match="must hold one key"):
            key_of(str(path))
    with pytest.raises(EngineRefused, match="cannot be read"):
        key_of(str(tmp_path / "none"))
    with serving(replace(VLLM, key="secret")) as server:
        source_of(server).start()
        assert server.keys == {"secret"}
        server.manner = replace(VLLM, key="another")
        source = UrlSource(Settings(Place(server.url, "secret"), "", "x", wait_s=0.0), server.tokenizer)
        with pytest.raises(EngineRefused, match="/models says 401: Invalid API key"):
            source.start()


def test_the_context_is_the_least_that_anybody_says() -> None:
    with serving(VLLM) as server:
        assert source_of(server, context=100).start().context == 100
        assert source_of(server).start().context == server.tokenizer.context or finding.CONTEXT
    with serving(OLLAMA) as server:
        source = source_of(server, context=700)
        assert source.start().context == 700
        assert server.bodies[-1]["options"]["num_ctx"] == 700
