"""Those of the nineteen behaviours that concern HTTP, and more of its kind, each over a real socket."""

import asyncio
import gzip
import json
from typing import Any

import pytest

from mesh.core import Finish
from nodes.engines.sim import continuation
from nodes.frontend.keys import Keyring
from nodes.generation import decode
from proto.errors import Reason
from tests.nodes.frontend.fakes import (
    CHAT,
    TEXT,
    TOKENS,
    House,
    Reading,
    both,
    chat,
    eventually,
    house,
    install,
    prompt,
    request,
    served,
)
from tests.nodes.text.tiny import byte_level


def test_09_parameters_reach_the_engine() -> None:
    async def test(there: House) -> None:
        more: dict[str, Any] = {"seed": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "min_tokens": 2}
        more |= {"ignore_eos": True, "logit_bias": {"5": 1.5}, "presence_penalty": 0.5, "service_tier": "flex"}
        more |= {"frequency_penalty": 0.25, "repetition_penalty": 1.1, "stop_token_ids": [9], "cache_salt": "s"}
        more |= {"user": "u", "metadata": {"a": "b"}, "prompt_cache_key": "k", "max_completion_tokens": 4}
        answer = await there.post(CHAT, chat(**more, n=2))
        assert answer.status == 200 and answer.json["service_tier"] == "flex"
        asks = there.actor.asked
        payload, other = decode(asks[0].payload), decode(asks[1].payload)
        assert payload.max_tokens == 4 and payload.min_tokens == 2 and payload.stop_tokens == (9,)
        assert payload.ignore_eos and payload.cache_salt == "s" and payload.priority > 0
        sampling = payload.sampling
        assert sampling.seed == 7 and other.sampling.seed != 7 and sampling.logit_bias == {5: 1.5}
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 5, 0.1)
        assert asks[0].metadata["session"] == "k" and asks[0].endpoint == "generate/org/tiny"

    served(test)


def test_10_no_reasoning_is_invented() -> None:
    """No engine here tells reasoning from text: neither of its names appears, and its tokens count 0."""

    async def test(there: House) -> None:
        answer = await there.post(CHAT, chat(reasoning_effort="low"))
        message = answer.json["choices"][0]["message"]
        assert "reasoning_content" not in message and "reasoning" not in message

    served(test)


def test_11_cors() -> None:
    async def test(there: House) -> None:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-a"}
        preflight = await there.get(CHAT, "OPTIONS", origin="https://a.example", **asked)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        assert preflight.headers["access-control-allow-headers"] == "authorization, x-a"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        answer = await there.post(CHAT, chat(), origin="https://a.example")
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        other = await there.post(CHAT, chat(), origin="https://b.example")
        assert other.status == 200 and "access-control-allow-origin" not in other.headers

    served(test, cors_origins=("https://a.example",))
    served(_no_cors)


async def _no_cors(there: House) -> None:
    answer = await there.post(CHAT, chat(), origin="https://a.example")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_12_request_ids_and_traces() -> None:
    async def test(there: House) -> None:
        for name in ("x_request_id", "x_correlation_id"):
            answer = await there.post(CHAT, chat(), **{name: 'abc 1"<2>' + "z" * 300})
            assert answer.headers["x-request-id"] == ("abc12" + "z" * 300)[:128]
        bare = await there.post(CHAT, chat())
        assert bare.json["id"] == "chatcmpl-" + bare.headers["x-request-id"]
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        traced = await there.post(CHAT, chat(), traceparent=trace)
        version, found, span, flags = traced.headers["traceparent"].split("-")
        assert (version, found, flags) == ("00", "0af7651916cd43dd8448eb211c80319c", "01") and span != trace[36:52]
        assert there.actor.asked[-1].trace == traced.headers["traceparent"]
        assert there.log()[-1]["trace"] == found
        bad = await there.post(CHAT, chat(), traceparent="00-0-0-0")
        assert "traceparent" not in bad.headers and there.actor.asked[-1].trace == ""

    served(test)


def test_13_the_form_of_a_stream() -> None:
    async def test(there: House) -> None:
        answer = await there.post(CHAT, chat(stream=True))
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache" and answer.headers["x-accel-buffering"] == "no"
        assert b"\r" not in answer.body and answer.body.endswith(b"data: [DONE]\n\n")
        for event in answer.events:
            assert event.startswith(b"data: ") and b"\n" not in event
        asked = await there.post(CHAT, chat(stream=True), accept="text/event-stream")
        ids = [event.split(b"\n")[0] for event in asked.events]
        assert ids == [b"id: %d" % number for number in range(len(ids))]

    served(test)


def test_13_each_token_is_sent_when_it_comes() -> None:
    async def test(there: House) -> None:
        there.actor.pace_s = 0.01
        reading = await there.open(TEXT, prompt(stream=True, max_tokens=20))
        pieces = []
        while (piece := await reading.piece()) != b"":
            pieces.append(piece)
        reading.close()
        assert sum(piece.count(b"data: ") for piece in pieces) <= 22 and len(pieces) >= 10

    served(test)


def test_14_compressed_and_large_bodies() -> None:
    async def test(there: House) -> None:
        body = gzip.compress(json.dumps(chat()).encode())
        assert (await there.post(CHAT, body, content_encoding="gzip")).status == 200
        broken = await there.post(CHAT, body[:-9], content_encoding="gzip")
        assert broken.status == 400 and broken.error["param"] == "content-encoding"
        bomb = gzip.compress(b" " * 10_000_000)
        assert (await there.post(CHAT, bomb, content_encoding="gzip")).status == 413
        assert (await there.post(CHAT, b"x", content_encoding="br")).status == 415
        large = await there.post(CHAT, json.dumps(chat(padding="x" * 1_500_000)).encode())
        assert (large.status, large.error["code"]) == (413, "request_too_large")
        huge = await there.post(CHAT, b"", content_length="99999999999")
        assert huge.status == 413 and huge.headers["connection"] == "close"
        assert (await there.post(CHAT, chat())).status == 200

    served(test, body_bytes_max=1_000_000)


def test_15_characters_are_never_split() -> None:
    async def test(there: House) -> None:
        text = "ñandú 🧩🦊 Ω≈ç 漢字 hello"
        tokens = byte_level().encode(text)
        there.actor.says = lambda ask: tokens
        for stream in (True, False):
            answer = await there.post(TEXT, prompt(max_tokens=200, stream=stream))
            assert (answer.text if stream else answer.json["choices"][0]["text"]) == text
        assert len(tokens) > len(answer.json["choices"][0]["text"]), "no token held part of a character"

    served(test)


def test_16_probes() -> None:
    async def test(there: House) -> None:
        for path in ("/", "/health", "/ready", "/live", "/metrics", "/version", "/openapi.json", "/docs"):
            got, head = await there.get(path), await there.get(path, "HEAD")
            assert got.status == head.status == 200 and got.body and head.body == b"", path
            assert int(head.headers["content-length"]) > 0
            assert (await there.get(path, "OPTIONS")).headers["allow"] == "GET, HEAD, OPTIONS"
        assert (await there.get("/version")).json == {"version": "9.9.9"}
        wrong = await there.get(CHAT)
        assert (wrong.status, wrong.error["code"], wrong.headers["allow"]) == (
            405,
            "method_not_allowed",
            "POST, OPTIONS",
        )
        nothing = await there.get("/nothing")
        assert (nothing.status, nothing.error["code"]) == (404, "unknown_url")
        for stray, meant in (("/chat/completions", CHAT), ("/v1/v1/models", "/v1/models"), ("/nothing", "")):
            message = (await there.post(stray, chat())).error["message"]
            assert message.endswith(f"There is something at `{meant}`." if meant else f"nothing at `{stray}`.")
        there.frontend.draining = True
        assert (await there.get("/health")).status == 503 and (await there.get("/live")).status == 200
        assert (await there.post(CHAT, chat())).error["code"] == "shutting_down"

    served(test)


def test_16_not_ready_without_a_model() -> None:
    async def test(there: House) -> None:
        assert (await there.get("/ready")).status == 503
        install(there.frontend, "late", 7)
        assert (await there.get("/ready")).json == {"status": "ready", "models": ["late"]}

    served(test, models=())


def test_17_three_ways_to_bring_a_key() -> None:
    async def test(there: House) -> None:
        there.frontend.keyring = Keyring({"sk-1": "me"}, b"s" * 32)
        for headers in ({"authorization": "bearer sk-1"}, {"x-api-key": "sk-1"}, {"api-key": "sk-1"}):
            assert (await there.post(CHAT, chat(), **headers)).status == 200
        assert there.log()[0]["key"] == "me" and "sk-1" not in json.dumps(there.log())
        for path in ("/health", "/metrics", "/docs", "/openapi.json"):
            assert (await there.get(path)).status == 200

    served(test)


def test_18_a_sign_of_life_before_an_answer_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.limits.HOLD_S", 0.02)
    monkeypatch.setattr("nodes.frontend.limits.PING_S", 0.02)

    async def pinged(there: House) -> None:
        there.actor.delay_s = 0.2
        answer = await there.post(CHAT, chat())
        assert answer.status == 200 and answer.body.startswith(b" ") and answer.json["choices"]

    async def silent(there: House) -> None:
        there.actor.delay_s = 0.1
        assert (await there.post(CHAT, chat())).body.startswith(b"{")

    served(pinged, json_pings=True)
    served(silent)


def test_18_a_stream_that_is_queued_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.limits.HOLD_S", 0.02)
    monkeypatch.setattr("nodes.frontend.limits.PING_S", 0.52)  # half a second of it is slack

    async def test(there: House) -> None:
        there.actor.delay_s = 0.2
        answer = await there.post(CHAT, chat(stream=True))
        assert answer.body.startswith(b": ping\n\n") and answer.body.endswith(b"[DONE]\n\n")

    served(test)


def test_19_stream_options_may_be_null_and_are_refused_where_they_mean_nothing() -> None:
    async def test(there: House) -> None:
        assert (await there.post(CHAT, chat(stream_options=None))).status == 200
        assert (await there.post(CHAT, chat(stream=True, stream_options={}))).status == 200
        refused = await there.post(CHAT, chat(stream_options={"include_usage": True}))
        assert refused.status == 400 and refused.error["param"] == "stream_options"

    served(test)


def test_tokens_there_and_back() -> None:
    async def test(there: House) -> None:
        for prefix in ("", "/v1"):
            tokens = (await there.post(f"{prefix}/tokenize", {"prompt": "hello world"})).json
            assert tokens["tokens"] == byte_level().encode("hello world") and tokens["max_model_len"] == 2048
            back = await there.post(f"{prefix}/detokenize", {"model": "org/tiny", "tokens": tokens["tokens"]})
            assert back.json == {"prompt": "hello world"}
        chatted = await there.post("/tokenize", {"messages": chat()["messages"], "return_token_strs": True})
        assert len(chatted.json["token_strs"]) == chatted.json["count"]
        assert (await there.post("/detokenize", {"tokens": [99999]})).status == 400
        assert (await there.post("/tokenize", {"model": "x", "prompt": "y"})).status == 404

    served(test)


def test_deadlines_come_from_headers() -> None:
    async def test(there: House) -> None:
        cases: Any = (({"x-request-timeout-ms": "1500"}, 1.5), ({"x-stainless-read-timeout": "30"}, 30.0), ({}, 600.0))
        for headers, seconds in cases:
            await there.post(CHAT, chat(), **headers)
            assert there.actor.asked[-1].timeout_s == seconds
        await there.post(CHAT, chat(stream=True), **{"x-stainless-read-timeout": "30"})
        assert there.actor.asked[-1].timeout_s == 600.0, "a stream has to move within it, not to end"
        assert (await there.post(CHAT, chat(), **{"x-request-timeout-ms": "-1"})).status == 400
        there.actor.fails_after = {0: Finish(0, Reason.DEADLINE, 0)}
        late = await there.post(CHAT, chat())
        assert (late.status, late.error["code"]) == (504, "deadline_exceeded")

    served(test)


def test_any_other_asgi_server_gets_the_same_bytes() -> None:
    async def main() -> None:
        bodies = []
        for plain in (False, True):
            async with house(plain=plain) as there:
                there.frontend.new_name = lambda: "name"  # type: ignore[method-assign]
                answers = await both(there, stream=True, seed=1)
                answers += await both(there, seed=1)
                reading = await there.open(CHAT, chat(stream=True, max_tokens=2000))
                await reading.piece()
                reading.close()
                await eventually(there.actor.abandoned)
                bodies.append([answer.body.split(b'"created":')[0] for answer in answers])
                bodies[-1] += [answer.text.encode() for answer in answers[:2]]
        assert bodies[0] == bodies[1]

    asyncio.run(main())


def test_keep_alive_and_pipelining() -> None:
    async def test(there: House) -> None:
        body = json.dumps(chat(stream=True)).encode()
        reading = await Reading.open(there.port, "POST", CHAT, body, {})
        first = await reading.rest()
        await reading.ask("POST", CHAT, body, {})
        assert len(await reading.rest()) == len(first)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        reading.writer.write((head + body) * 3)
        for _ in range(3):
            await reading.head()
            assert (await reading.rest()).endswith(b"[DONE]\n\n")
        reading.close()

    served(test)


def test_metrics_and_the_log() -> None:
    async def test(there: House) -> None:
        await both(there, stream=True)
        await there.post(CHAT, chat(model="x" * 50))
        text = (await there.get("/metrics")).body.decode()
        counted = 'wiremesh_frontend_requests_total{endpoint="/v1/completions",model="org/tiny"'
        assert any(line.startswith(counted) and line.endswith(" 1.0") for line in text.splitlines())
        assert 'status="404"' in text and "xxx" not in text, "a name that nobody serves is no label"
        assert "wiremesh_frontend_output_tokens_total" in text and "time_to_first_token_seconds_bucket" in text
        told = there.log()[0]
        assert told["status"] == 200 and told["outcome"] == "length" and told["nodes"] == ["000000000000beef"]
        assert told["prompt_tokens"] > 0 and told["output_tokens"] == 6 and "hello" not in json.dumps(there.log())

    served(test)


@pytest.mark.parametrize("answer", [None, []])
def test_a_scrape_says_who_is_missing_from_it(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(*_: object) -> Any:
        return answer

    async def test(there: House) -> None:
        there.actor.node.instances = lambda endpoint: (7, 8)
        lines = (await there.get("/metrics")).body.decode().splitlines()
        (line,) = [line for line in lines if line.startswith("wiremesh_scrape_silent_nodes{")]
        assert line.endswith(" 2.0" if answer is None else " 0.0")

    monkeypatch.setattr("nodes.frontend.scrape._asked", asked)
    served(test)


def test_the_expected_tokens_arrive() -> None:
    async def test(there: House) -> None:
        ids = byte_level().encode("hello world")
        there.actor.burst = 7
        answer = await there.post(TEXT, prompt(max_tokens=300, stream=True))
        assert answer.text == byte_level().decode(continuation(ids, 300, TOKENS))

    served(test)


def test_openapi_tells_every_path() -> None:
    async def test(there: House) -> None:
        told = (await there.get("/openapi.json")).json["paths"]
        for path, methods in told.items():
            for method in methods:
                answer = await request(
                    there.port, method.upper(), path.replace("{model}", "org/tiny").replace("{name}", "x"), b"{}", {}
                )
                assert answer.status in (200, 400, 404), (path, method, answer.status)

    served(test)
