"""Joining, keeping and continuing streams."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from mesh.core import Abandon
from nodes.frontend.keys import Keyring
from tests.nodes.frontend.fakes import House, Reading, chunks, eventually, house

CHAT = "/v1/chat/completions"
SESSION = {"x-session-id": "s1"}
IDEMPOTENT = {"idempotency-key": "k1"}


def served(test: Callable[[House], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with house(**settings) as there:
            there.actor.pace_s = 0.003
            await test(there)

    asyncio.run(main())


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "org/tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 60, **more}


async def rest(reading: Reading) -> bytes:
    async with asyncio.timeout(20):
        body = await reading.rest()
    reading.close()
    return body


def content(body: bytes) -> list[str]:
    """What the chunks say, whatever their ids."""
    return [chunk["choices"][0].get("delta", {}).get("content", "") for chunk in chunks(body) if chunk["choices"]]


@pytest.mark.parametrize("headers", [SESSION, IDEMPOTENT])
def test_the_same_request_again_joins_the_first(headers: dict[str, str]) -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True), **headers)
        await first.until(b"delta")
        second = await there.open(CHAT, chat(stream=True), **headers)
        one, two = await asyncio.gather(rest(first), rest(second))
        assert one == two and one.endswith(b"[DONE]\n\n") and len(there.actor.asked) == 1
        assert there.log()[1]["attached"] == first.headers["x-wiremesh-stream"]
        assert there.frontend.tally.counts["attachments"] == 1

    served(test)


def test_an_answer_in_one_piece_can_be_joined_too() -> None:
    async def test(there: House) -> None:
        answers = [asyncio.create_task(there.post(CHAT, chat(), **SESSION)) for _ in range(3)]
        bodies = {(await answer).body for answer in answers}
        assert len(bodies) == 1 and len(there.actor.asked) == 1

    served(test)


def test_who_differs_in_anything_begins_a_new_one() -> None:
    async def test(there: House) -> None:
        readings = [
            await there.open(CHAT, chat(stream=True), **SESSION),
            await there.open(CHAT, chat(stream=True), **{"x-session-id": "s2"}),
            await there.open(CHAT, chat(stream=True, seed=1), **SESSION),
            await there.open(CHAT, chat(stream=True)),
            await there.open(CHAT, chat(stream=True)),
        ]
        assert len(there.actor.asked) == 5
        for reading in readings:
            reading.close()

    served(test)


def test_an_idempotency_key_is_of_one_request() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True), **IDEMPOTENT)
        other = await there.post(CHAT, chat(stream=True, seed=2), **IDEMPOTENT)
        assert (other.status, other.error["code"]) == (400, "idempotency_key_reused")
        await rest(first)
        again = await there.post(CHAT, chat(stream=True), **IDEMPOTENT)
        assert content(again.body) == content(first.body) and len(there.actor.asked) == 1

    served(test)


def test_a_session_that_was_answered_may_ask_the_same_again() -> None:
    async def test(there: House) -> None:
        await there.post(CHAT, chat(), **SESSION)
        await there.post(CHAT, chat(), **SESSION)
        assert len(there.actor.asked) == 2

    served(test)


def test_who_breaks_off_finds_it_again_within_the_grace() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True), **SESSION)
        await first.until(b"delta")
        first.close()
        await eventually(lambda: there.frontend.tally.counts["disconnects"])
        assert not there.actor.abandoned() and there.frontend.running
        await eventually(lambda: not there.frontend.running)
        again = await there.post(CHAT, chat(stream=True), **SESSION)
        assert len(there.actor.asked) == 1 and len(again.chunks) == 61

    served(test)


def test_nobody_comes_back_and_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.frontend.TICK_S", 0.01)

    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True, max_tokens=2000), **SESSION)
        await first.until(b"delta")
        first.close()
        await eventually(there.actor.abandoned)
        await eventually(lambda: not len(there.frontend.board))

    served(test, grace_s=0.05)


def test_without_a_session_it_is_cancelled_at_once() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True, max_tokens=2000, n=3))
        await first.until(b"delta")
        first.close()
        await eventually(there.actor.abandoned)
        assert len(there.actor.abandoned()) == 3 and not there.frontend.running

    served(test)


def test_a_client_that_waits_for_one_piece_is_noticed_too() -> None:
    async def test(there: House) -> None:
        writer = (await asyncio.open_connection("127.0.0.1", there.port))[1]
        body = json.dumps(chat(max_tokens=2000)).encode()
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await eventually(lambda: there.actor.asked)
        writer.close()
        await eventually(there.actor.abandoned)

    served(test)


def test_a_stream_goes_on_by_its_name() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True), **IDEMPOTENT)
        await first.until(b"id: 5\n")
        seen = first.body
        first.close()
        name = json.loads(seen.split(b"data: ")[1].split(b"\n")[0])["id"]
        assert name == "chatcmpl-" + first.headers["x-wiremesh-stream"]
        whole = await there.get(f"/v1/streams/{name}?from=0")
        assert whole.body.startswith(seen) and whole.body.endswith(b"data: [DONE]\n\n")
        rest_of_it = await there.get(f"/v1/streams/{name}", **{"last-event-id": "5"})
        assert rest_of_it.body == whole.body[whole.body.index(b"id: 6\n") :]
        assert (await there.get(f"/v1/streams/{name}?from=6")).body == rest_of_it.body
        posted = await there.post(CHAT, chat(stream=True), **IDEMPOTENT, **{"last-event-id": "5"})
        assert posted.body == rest_of_it.body
        assert (await there.get(f"/v1/streams/{name}?from=-1")).status == 400

    served(test)


def test_streams_of_others_are_not_there() -> None:
    async def test(there: House) -> None:
        there.frontend.keyring = Keyring({"a": "ann", "b": "bob"}, b"s" * 32)
        first = await there.post(CHAT, chat(stream=True), authorization="Bearer a", **SESSION)
        name = first.headers["x-wiremesh-stream"]
        assert (await there.get(f"/v1/streams/{name}", authorization="Bearer a")).status == 200
        other = await there.get(f"/v1/streams/{name}", authorization="Bearer b")
        assert (other.status, other.error["code"]) == (404, "stream_not_found")
        assert (await there.get(f"/v1/streams/{name}")).status == 401
        assert (await there.get("/v1/streams/zzz", authorization="Bearer a")).status == 404
        assert len(there.actor.asked) == 1

    served(test)


@pytest.mark.parametrize("headers", [SESSION, IDEMPOTENT])
def test_nobody_joins_what_another_key_began(headers: dict[str, str]) -> None:
    async def test(there: House) -> None:
        there.frontend.keyring = Keyring({"a": "ann", "b": "bob"}, b"s" * 32)
        readings = [await there.open(CHAT, chat(stream=True), authorization=f"Bearer {key}", **headers) for key in "ab"]
        assert len(there.actor.asked) == 2
        for reading in readings:
            reading.close()

    served(test)


def test_a_long_log_waits_for_its_slowest_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.limits.LOG_BYTES_MAX", 5_000)

    async def test(there: House) -> None:
        there.actor.pace_s = 0.0
        first = await there.post(CHAT, chat(stream=True, max_tokens=500), **SESSION)
        assert len(first.chunks) == 501
        late = await there.get(f"/v1/streams/{first.headers['x-wiremesh-stream']}")
        assert (late.status, late.error["code"]) == (410, "stream_trimmed")

    served(test)


def test_kept_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.frontend.TICK_S", 0.01)

    async def test(there: House) -> None:
        there.actor.pace_s = 0.0
        for number in range(8):
            await there.post(CHAT, chat(stream=True), **{"x-session-id": str(number)})
            await asyncio.sleep(0.03)
        assert there.frontend.board.bytes <= 50_000 and 1 <= len(there.frontend.board) < 8

    served(test, kept_bytes_max=50_000)


def test_a_slow_reader_costs_a_window() -> None:
    """Who does not read is sent no more than fits into buffers; the mesh holds the rest."""

    async def test(there: House) -> None:
        there.actor.pace_s, there.actor.burst = 0.0, 256
        there.actor.says = lambda ask: [300 + n % 50 for n in range(100_000)]
        model = there.frontend.registry.models.models["org/tiny"]
        engine = replace(model.card.engine, context=300_000)
        model.card, model.context = replace(model.card, engine=engine), engine.context
        reading = await there.open(CHAT, chat(stream=True, max_tokens=100_000))
        reading.reader._transport.pause_reading()  # type: ignore[attr-defined]
        request = there.actor.asked[0].request
        seen = -1
        while seen != there.actor.limits[request]:
            seen = there.actor.limits[request]
            await asyncio.sleep(0.2)
        assert 256 < seen < 90_000
        [running] = there.frontend.running
        assert len(running.generation.choices[0].arrived) <= 256
        reading.reader._transport.resume_reading()  # type: ignore[attr-defined]
        while there.actor.limits[request] == seen:
            await reading.piece()
        reading.close()
        await eventually(there.actor.abandoned)

    served(test)


def test_a_drain_lets_what_runs_end() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True))
        await first.until(b"delta")
        drain = asyncio.create_task(there.frontend.drain(5.0))
        await asyncio.sleep(0)
        assert (await there.post(CHAT, chat())).status == 503
        assert (await rest(first)).endswith(b"[DONE]\n\n")
        await drain

    served(test)


def test_a_drain_that_takes_too_long_says_so_in_the_stream() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True, max_tokens=2000))
        await first.until(b"delta")
        await there.frontend.drain(0.02)
        body = await rest(first)
        assert b"shutting_down" in body.split(b"\n\n")[-2] and b"[DONE]" not in body
        assert [event for event in there.actor.events if isinstance(event, Abandon)]

    served(test)


def test_full_is_told_with_a_time_to_come_back() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True, n=2))
        full = await there.post(CHAT, chat())
        assert (full.status, full.error["code"]) == (503, "overloaded") and int(full.headers["retry-after-ms"]) >= 100
        await rest(first)
        assert (await there.post(CHAT, chat(max_tokens=2))).status == 200

    served(test, streams_max=2)


def test_a_key_has_so_many_requests_at_once() -> None:
    async def test(there: House) -> None:
        first = await there.open(CHAT, chat(stream=True))
        assert (await there.post(CHAT, chat())).status == 429
        await rest(first)
        assert (await there.post(CHAT, chat(max_tokens=2))).status == 200

    served(test, concurrency_per_key=1)
