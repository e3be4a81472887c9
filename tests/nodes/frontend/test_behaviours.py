"""The nineteen behaviours that clients of OpenAI's interface depend on, each over a real socket: those of answers."""

import json
from typing import Any

import pytest

from mesh.core import Finish
from nodes.frontend.keys import Keyring
from proto.errors import Reason
from tests.nodes.frontend.fakes import CHAT, TEXT, House, both, chat, eventually, prompt, served
from tests.nodes.text.tiny import byte_level


def test_01_usage() -> None:
    """In a chunk of its own with empty choices, null before it, and never unasked."""

    async def test(there: House) -> None:
        for answer in await both(there, stream=True, stream_options={"include_usage": True}):
            *before, last = answer.chunks
            assert last["choices"] == [] and last["usage"]["completion_tokens"] == 6
            assert all(chunk["usage"] is None and chunk["choices"] for chunk in before)
        for answer in await both(there, stream=True):
            assert all("usage" not in chunk and chunk["choices"] for chunk in answer.chunks)
        options = {"include_usage": True, "continuous_usage_stats": True}
        for answer in await both(there, stream=True, stream_options=options):
            counts = [chunk["usage"]["completion_tokens"] for chunk in answer.chunks]
            assert counts == sorted(counts) and counts[0] >= 1 and counts[-1] == 6
        for answer in await both(there):
            usage = answer.json["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + 6
            assert usage["prompt_tokens_details"]["cached_tokens"] == 1
            assert usage["completion_tokens_details"]["reasoning_tokens"] == 0

    served(test)


def test_02_finish_reasons() -> None:
    """Null until the last, never empty; a tool that must be called is refused, for nothing here can make a model."""

    async def test(there: House) -> None:
        for reason, shown in ((Reason.LENGTH, "length"), (Reason.COMPLETE, "stop")):
            there.actor.ends = reason
            for answer in await both(there, stream=True):
                reasons = [chunk["choices"][0]["finish_reason"] for chunk in answer.chunks]
                assert reasons == [None] * (len(reasons) - 1) + [shown]
            for answer in await both(there):
                assert answer.json["choices"][0]["finish_reason"] == shown
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        for choice in ("required", {"type": "function", "function": {"name": "f"}}):
            answer = await there.post(CHAT, chat(tools=[tool], tool_choice=choice))
            assert answer.status == 400 and answer.error["param"].startswith("tool_choice")

    served(test)


def test_03_tool_calls_are_shown_to_the_model_and_never_made_up() -> None:
    """Earlier calls reach the template with their arguments, whatever string these are; answers hold text alone."""

    async def test(there: House) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "d"}]},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ]
        answer = await there.post(CHAT, chat(messages=messages, parallel_tool_calls=True))
        message = answer.json["choices"][0]["message"]
        assert answer.status == 200 and "tool_calls" not in message and message["content"]

    served(test)


def test_04_the_first_chunk_has_the_role_and_no_choices_are_empty() -> None:
    async def test(there: House) -> None:
        answer = await there.post(CHAT, chat(stream=True))
        first, *others = answer.chunks
        assert first["choices"][0]["delta"]["role"] == "assistant" and first["choices"][0]["delta"]["content"]
        assert all("role" not in chunk["choices"][0]["delta"] for chunk in others)

    served(test)


def test_05_errors_have_one_shape_in_http_and_in_streams() -> None:
    async def test(there: House) -> None:
        wrong = await there.post(CHAT, chat(temperature=3))
        assert wrong.status == 400 and set(wrong.error) == {"message", "type", "param", "code"}
        assert wrong.error["type"] == "invalid_request_error" and wrong.error["param"] == "temperature"
        there.actor.fails_after = {3: Finish(0, Reason.FAILED, 3, text="secret words of the engine")}
        before = await there.post(CHAT, chat())
        assert before.status == 500 and before.error["type"] == "server_error" and b"secret" not in before.body
        inside = await there.post(CHAT, chat(stream=True))
        assert inside.status == 200 and b"[DONE]" not in inside.body and b"secret" not in inside.body
        last = json.loads(inside.events[-1].removeprefix(b"data: "))
        assert set(last) == {"error"} and last["error"] == before.error
        there.actor.fails_after = {0: Finish(0, Reason.BUSY, 0, retry_ms=700)}
        early = await there.post(CHAT, chat(stream=True))
        assert early.status == 503 and early.headers["retry-after-ms"] == "700"

    served(test)


def test_06_statuses() -> None:
    async def test(there: House) -> None:
        unknown = await there.post(CHAT, chat(model="nobody"))
        assert (unknown.status, unknown.error["code"], unknown.error["param"]) == (404, "model_not_found", "model")
        long = await there.post(TEXT, prompt(max_tokens=5000))
        assert (long.status, long.error["code"]) == (400, "context_length_exceeded")
        assert "maximum context length is 2048 tokens" in long.error["message"]
        there.frontend.registry.models.offered({}, there.frontend.now())
        gone = await there.post(CHAT, chat())
        assert (gone.status, gone.error["code"], gone.headers["x-should-retry"]) == (503, "model_unavailable", "true")
        assert int(gone.headers["retry-after"]) >= 1 and int(gone.headers["retry-after-ms"]) >= 1

    served(test)


def test_06_a_client_that_goes_is_a_499_in_the_log() -> None:
    async def test(there: House) -> None:
        there.actor.pace_s = 0.005
        reading = await there.open(CHAT, chat(stream=True, max_tokens=500))
        await reading.piece()
        reading.close()
        await eventually(there.actor.abandoned)
        await eventually(there.log)
        told = there.log()[0]
        assert told["status"] == 499 and told["outcome"] == "disconnected" and 0 < told["output_tokens"] < 500
        assert there.frontend.tally.counts["cancellations"] == 1 and not there.frontend.running

    served(test)


def test_06_keys_and_their_quota() -> None:
    async def test(there: House) -> None:
        there.frontend.keyring = Keyring({"sk-1": "me"}, b"s" * 32)
        for headers in ({}, {"authorization": "Bearer sk-2"}, {"authorization": "Basic sk-1"}):
            answer = await there.post(CHAT, chat(), **headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert (await there.get("/v1/models")).status == 401
        good = await there.post(CHAT, chat(), authorization="Bearer sk-1")
        assert good.status == 200
        limited = await there.post(CHAT, chat(), authorization="Bearer sk-1")
        assert (limited.status, limited.error["code"]) == (429, "rate_limit_exceeded")
        assert 0 < int(limited.headers["retry-after-ms"]) <= 1000 and limited.headers["retry-after"] == "1"
        assert "sk-" not in json.dumps(there.log())

    served(test, rate_per_key=1)


def test_07_unknown_fields_travel_byte_for_byte() -> None:
    async def test(there: House) -> None:
        body = json.dumps(chat())[:-1] + ',"zzz" : {"b": 1.50, "a":[ true ]}}'
        assert (await there.post(CHAT, body.encode())).status == 200
        assert there.actor.asked[0].metadata["extra.zzz"] == '{"b": 1.50, "a":[ true ]}'
        large = await there.post(CHAT, chat(zzz="x" * 5000))
        assert large.status == 400 and large.error["param"] == "zzz"

    served(test)


def test_08_models() -> None:
    async def test(there: House) -> None:
        listed = (await there.get("/v1/models")).json
        assert listed["object"] == "list" and {one["id"] for one in listed["data"]} == {"org/tiny", "a/b/c"}
        for one in listed["data"]:
            assert isinstance(one["created"], int) and one["max_model_len"] == 2048 and one["owned_by"] == "wiremesh"
            assert (await there.get(f"/v1/models/{one['id']}")).json == one
        missing = await there.get("/v1/models/a/b")
        assert missing.status == 404 and missing.error["code"] == "model_not_found"

    served(test, models=("org/tiny", "a/b/c"))


def test_09_several_choices_prompts_and_tokens() -> None:
    async def test(there: House) -> None:
        ids = byte_level().encode("hello world")
        four = ("hello world", ["hello world"], ids, [ids])
        answers = [await there.post(TEXT, prompt(prompt=one)) for one in four]
        assert len({answer.json["choices"][0]["text"] for answer in answers}) == 1
        batch = await there.post(TEXT, prompt(prompt=["hello", "world"], n=2))
        choices = batch.json["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
        assert batch.json["usage"]["completion_tokens"] == 24 and batch.json["usage"]["prompt_tokens"] <= 6
        streamed = await there.post(TEXT, prompt(prompt=["hello", "world"], n=2, stream=True))
        for choice in choices:
            mine = [c["choices"][0] for c in streamed.chunks if c["choices"][0]["index"] == choice["index"]]
            assert "".join(one["text"] for one in mine) == choice["text"] and mine[-1]["finish_reason"] == "length"

    served(test)


def test_09_log_probabilities_echo_and_best_of() -> None:
    async def test(there: House) -> None:
        told = (await there.post(TEXT, prompt(logprobs=2))).json["choices"][0]["logprobs"]
        assert len(told["tokens"]) == 6 and all(len(top) >= 2 for top in told["top_logprobs"])
        whole = (await there.post(CHAT, chat(logprobs=True, top_logprobs=3))).json["choices"][0]["logprobs"]
        assert len(whole["content"]) == 6 and len(whole["content"][0]["top_logprobs"]) == 3
        streamed = await there.post(CHAT, chat(logprobs=True, top_logprobs=3, stream=True))
        entries = [e for c in streamed.chunks for e in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
        assert entries == whole["content"]
        plain = (await there.post(TEXT, prompt())).json["choices"][0]["text"]
        assert (await there.post(TEXT, prompt(echo=True))).json["choices"][0]["text"] == "hello world" + plain
        assert (await there.post(TEXT, prompt(echo=True, stream=True))).text == "hello world" + plain
        best = await there.post(TEXT, prompt(best_of=3, n=1))
        assert len(best.json["choices"]) == 1 and best.json["usage"]["completion_tokens"] == 18
        refused = await there.post(TEXT, prompt(echo=True, logprobs=1))
        assert refused.status == 400 and refused.error["param"] == "logprobs"

    served(test)


def test_09_stop_strings_end_the_work_too() -> None:
    async def test(there: House) -> None:
        tokens = byte_level().encode("hello world, this stop and go in tokens")
        there.actor.says = lambda ask: tokens
        there.actor.pace_s = 0.001
        for stream in (False, True):
            answer = await there.post(TEXT, prompt(max_tokens=100, stop=["XX", "op an"], stream=stream))
            text = answer.text if stream else answer.json["choices"][0]["text"]
            assert text == "hello world, this st"
            last = answer.chunks[-1] if stream else answer.json
            assert last["choices"][0]["finish_reason"] == "stop"
        kept = await there.post(TEXT, prompt(max_tokens=100, stop="op", include_stop_str_in_output=True))
        assert kept.json["choices"][0]["text"] == "hello world, this stop"
        assert len(there.actor.abandoned()) == 3
        five = await there.post(TEXT, prompt(stop=["a1", "b2", "c3", "d4", "e5"]))
        assert five.status == 200

    served(test)


def test_09_stop_tokens_are_not_shown() -> None:
    async def test(there: House) -> None:
        tokens = byte_level().encode("hello world")
        there.actor.says = lambda ask: [*tokens, 300]
        there.actor.ends = Reason.COMPLETE
        for stream in (False, True):
            answer = await there.post(TEXT, prompt(max_tokens=100, stop_token_ids=[300], stream=stream))
            assert (answer.text if stream else answer.json["choices"][0]["text"]) == "hello world"
        shown = await there.post(TEXT, prompt(max_tokens=100, stop_token_ids=[300], include_stop_str_in_output=True))
        assert shown.json["choices"][0]["text"] == byte_level().decode([*tokens, 300])

    served(test)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("store", True),
        ("prompt_logprobs", 1),
        ("guided_regex", "a*"),
    ],
)
def test_09_what_cannot_be_served_is_refused_by_name(field: str, value: Any) -> None:
    async def test(there: House) -> None:
        answer = await there.post(CHAT, chat(**{field: value}))
        assert answer.status == 400 and answer.error["param"].startswith(field)

    served(test)
