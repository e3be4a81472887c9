"""Whatever is sent: a clear 4xx, soon, and nothing else is disturbed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nodes.frontend.fakes import Answer, House, Reading, eventually, house

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def chat(**more: Any) -> bytes:
    return json.dumps({"model": "org/tiny", "messages": HELLO, "max_tokens": 2, **more}).encode()


BODIES = {
    "nothing": b"",
    "no json": b"{",
    "a list": b"[]",
    "text": b"hello",
    "no utf-8": b'{"model": "\xff\xfe"}',
    "surrogate": b'{"model": "org/tiny", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    "deep": b'{"model": "org/tiny", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep extra": chat()[:-1] + b', "zzz": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
    "stops": chat(stop=[f"s{number}" for number in range(100_000)]),
    "long stop": chat(stop="x" * 100_000),
    "negative": chat(max_tokens=-1),
    "huge number": chat(max_tokens=10**30),
    "absurd": chat(max_tokens=2**31),
    "no number": chat(temperature="warm"),
    "nan": chat()[:-1] + b', "temperature": NaN}',
    "n": chat(n=1_000_000),
    "no messages": chat(messages=[]),
    "many messages": chat(messages=HELLO * 20_000),
    "wrong role": chat(messages=[{"role": "king", "content": "x"}]),
    "content": chat(messages=[{"role": "user", "content": 5}]),
    "model": chat(model=""),
    "model number": chat(model=5),
    "long model": chat(model="m" * 10_000),
    "10 MB": b"x" * 10_000_000,
    "10 MB of json": chat(messages=[{"role": "user", "content": "a" * 10_000_000}]),
    "10 MB of brackets": b"[" * 10_000_000,
    "10 MB of zeros": b'{"model":"org/tiny","messages":[' + b"0," * 5_000_000 + b"0]}",
}


@pytest.mark.parametrize("name", BODIES)
def test_garbage(name: str) -> None:
    async def main() -> None:
        async with house() as there:
            began = time.perf_counter()
            answer = await there.post(CHAT, BODIES[name])
            assert 400 <= answer.status < 500, (answer.status, answer.body[:200])
            assert set(answer.error) == {"message", "type", "param", "code"} and len(answer.error["message"]) < 500
            assert time.perf_counter() - began < 15  # 0.2 s here, and a minute for who counts what is not there
            assert (await there.post(CHAT, chat())).status == 200

    asyncio.run(main())


@asynccontextmanager
async def raw(there: House, data: bytes) -> AsyncIterator[Reading]:
    reading = Reading(*await asyncio.open_connection("127.0.0.1", there.port))
    reading.writer.write(data)
    try:
        yield reading
    finally:
        reading.close()


async def answered(there: House, data: bytes) -> Answer:
    async with raw(there, data) as reading, asyncio.timeout(20):
        await reading.head()
        return Answer(reading.status, reading.headers, await reading.rest())


def test_what_is_no_http() -> None:
    async def main() -> None:
        async with house() as there:
            for data in (b"\x16\x03\x01\x02\x00" * 20, b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
                answer = await answered(there, data)
                assert answer.status == 400 and answer.error["type"] == "invalid_request_error"
            many = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n"
            assert (await answered(there, many)).status == 400
            large = await answered(there, b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000)
            assert large.status == 431 and large.error["code"] == "headers_too_large"
            assert (await there.get("/live")).status == 200

    asyncio.run(main())


def test_who_sends_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.limits.READ_S", 0.1)
    monkeypatch.setattr("nodes.frontend.limits.SWEEP_S", 0.02)

    async def main() -> None:
        async with house() as there:
            there.actor.delay_s = 0.3
            slow = asyncio.create_task(there.post(CHAT, chat()))
            for data in (b"", b"GET / HT", f"POST {CHAT} HTTP/1.1\r\ncontent-length: 9\r\n\r\n{{".encode()):
                answer = await answered(there, data)
                assert answer.status == 408 and answer.error["code"] == "request_timeout"
            assert (await slow).status == 200, "an answer may take as long as it does"

    asyncio.run(main())


def test_a_connection_that_ends_within_a_request() -> None:
    async def main() -> None:
        async with house() as there:
            async with raw(there, f"POST {CHAT} HTTP/1.1\r\ncontent-length: 100\r\n\r\n{{".encode()):
                await eventually(lambda: there.frontend.tally.in_flight)
            await eventually(lambda: not there.frontend.tally.in_flight)
            assert not there.actor.asked

    asyncio.run(main())


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "n",
    "stop",
    "stream",
    "logprobs",
    "top_logprobs",
    "echo",
    "seed",
)


@settings(max_examples=15)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=4), min_size=4, max_size=8))
def test_nothing_is_a_mistake_of_ours(bodies: list[dict[str, Any]]) -> None:
    async def main() -> None:
        async with house() as there:
            for body in bodies:
                for path, given in ((CHAT, json.loads(chat())), (TEXT, {"model": "org/tiny", "prompt": "x"})):
                    answer = await there.post(path, {**given, "max_tokens": 2, **body})
                    assert answer.status < 500, (body, answer.body)
                for path in ("/tokenize", "/detokenize"):
                    assert (await there.post(path, body)).status < 500

    asyncio.run(main())
