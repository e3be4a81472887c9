"""Answers and events, read by OpenAI's own models, which find nothing missing and nothing that they do not know."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from nodes.contract.engine import Ending
from nodes.openai.chunks import DONE, Chunks
from nodes.openai.demand import Chat, Demand, Kind
from nodes.openai.responses import Answer, Outcome, answer_id, finish_reason, usage_of, whole
from nodes.text.stream import Entry

ENTRIES = [
    Entry(5, b"hi", -0.5, 0, [(5, b"hi", -0.5), (6, b"\xf0\x9f", float("-inf"))]),
    Entry(6, b"\xf0\x9f", -1.5, 2, [(5, b"hi", -0.5)]),
]


def answer(chat: bool, **more: Any) -> Answer:
    kind = Kind.CHAT if chat else Kind.COMPLETION
    asked = Demand(kind=kind, model="org/m", chat=Chat([]) if chat else None, stream=True, **more)
    return Answer(answer_id(kind, "7"), 123, asked, "fp_1")


def data(event: bytes) -> Any:
    """The JSON of one event, whose frame clients are particular about."""
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 2
    return json.loads(event[6:])


def known(model: BaseModel) -> bool:
    """Whether OpenAI's model has a field for everything in it."""
    inner = [value for field in type(model).model_fields for value in listed(getattr(model, field))]
    return not model.model_extra and all(known(value) for value in inner if isinstance(value, BaseModel))


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def chunk(event: bytes, chat: bool = True) -> Any:
    made = (ChatCompletionChunk if chat else Completion).model_validate(data(event), strict=False)
    assert known(made)
    return made


def test_a_chat() -> None:
    made = ChatCompletion.model_validate_json(
        whole(answer(True, logprobs=2), [Outcome(0, "hi", "stop", ENTRIES)], usage_of(10, 2, 8))
    )
    assert known(made)
    assert (made.id, made.object, made.created, made.model) == ("chatcmpl-7", "chat.completion", 123, "org/m")
    assert made.choices[0].message.content == "hi" and made.choices[0].finish_reason == "stop"
    assert made.usage and made.usage.total_tokens == 12
    assert made.usage.prompt_tokens_details and made.usage.prompt_tokens_details.cached_tokens == 8
    logprobs = made.choices[0].logprobs
    assert logprobs and logprobs.content
    assert logprobs.content[1].token == "\\xf0\\x9f" and logprobs.content[1].bytes == [0xF0, 0x9F]
    assert logprobs.content[0].top_logprobs[1].logprob == -9999.0


def test_a_completion() -> None:
    outcomes = [Outcome(0, "hi", "stop", ENTRIES), Outcome(1, "", "length")]
    made = Completion.model_validate_json(whole(answer(False, logprobs=1), outcomes, usage_of(10, 2)))
    assert known(made)
    assert (made.id, made.object) == ("cmpl-7", "text_completion")
    assert [choice.index for choice in made.choices] == [0, 1]
    logprobs = made.choices[0].logprobs
    assert logprobs and logprobs.text_offset == [0, 2] and logprobs.token_logprobs == [-0.5, -1.5]
    assert logprobs.tokens == ["hi", "bytes:\\xf0\\x9f"]
    assert logprobs.top_logprobs == [{"hi": -0.5}, {"hi": -0.5, "bytes:\\xf0\\x9f": -1.5}]


def test_without_log_probabilities_there_is_null() -> None:
    for chat in (True, False):
        made = json.loads(whole(answer(chat), [Outcome(0, "hi", "stop", ENTRIES)], usage_of(1, 1)))
        assert made["choices"][0]["logprobs"] is None


def test_tokens_by_number() -> None:
    made = json.loads(
        whole(answer(False, logprobs=0, numbered=True), [Outcome(0, "", "stop", ENTRIES)], usage_of(1, 1))
    )
    assert made["choices"][0]["logprobs"]["tokens"] == ["token_id:5", "token_id:6"]


def test_a_chat_in_a_stream() -> None:
    chunks = Chunks(answer(True), 1)
    first, second, last = (chunk(event) for event in (chunks.text("a"), chunks.text("b"), chunks.last("length")))
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "a")
    assert (second.choices[0].delta.role, second.choices[0].delta.content) == (None, "b")
    assert second.choices[0].finish_reason is None and second.choices[0].index == 1
    assert last.choices[0].finish_reason == "length" and last.choices[0].delta.content is None


def test_a_chat_without_text_still_says_whose_it_is() -> None:
    only = chunk(Chunks(answer(True)).last("stop"))
    assert only.choices[0].delta.role == "assistant" and only.choices[0].finish_reason == "stop"
    chunks = Chunks(answer(True))
    assert chunk(chunks.opening()).choices[0].delta.content == ""
    assert chunk(chunks.text("x")).choices[0].delta.role is None


def test_a_completion_in_a_stream() -> None:
    chunks = Chunks(answer(False, logprobs=1))
    event = chunks.event("hi", ENTRIES)
    made = data(event)
    assert made["choices"][0]["text"] == "hi" and made["choices"][0]["finish_reason"] is None
    assert made["choices"][0]["logprobs"]["text_offset"] == [0, 2]
    assert chunk(chunks.last("stop"), chat=False).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("chat", [True, False])
def test_usage_only_where_it_was_asked_for(chat: bool) -> None:
    silent = Chunks(answer(chat))
    assert all("usage" not in data(event) for event in (silent.text("a"), silent.last("stop")))
    asked = answer(chat, usage=True)
    chunks = Chunks(asked)
    assert all(data(event)["usage"] is None for event in (chunks.text("a"), chunks.text("b"), chunks.last("stop")))
    made = data(Chunks(asked).tally(usage_of(5, 6)))
    assert made["choices"] == [] and made["usage"]["total_tokens"] == 11
    running = data(chunks.event("c", usage=usage_of(5, 1)))
    assert running["usage"]["completion_tokens"] == 1 and running["choices"]
    with pytest.raises(AssertionError):
        Chunks(answer(chat)).tally(usage_of(5, 6))


@given(st.text(max_size=30), st.booleans(), st.booleans())
def test_the_fast_way_writes_what_the_slow_way_writes(text: str, chat: bool, usage: bool) -> None:
    fast, slow = Chunks(answer(chat, usage=usage)), Chunks(answer(chat, usage=usage))
    assert [fast.text("a"), fast.text(text)] == [slow.event("a"), slow.event(text)]
    assert data(fast.text(text)) == data(slow.event(text))


def test_ids_come_first_and_only_if_asked_for() -> None:
    chunks = Chunks(answer(True), id_prefix="0:")
    event = chunks.text("a", position=12)
    assert event.startswith(b"id: 0:12\ndata: {") and event.endswith(b"}\n\n")
    assert data(chunks.text("b"))["choices"][0]["delta"] == {"content": "b"}
    assert chunks.last("stop", position=13).startswith(b"id: 0:13\n")


def test_the_end_of_a_stream() -> None:
    assert DONE == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("ending", "stopped", "reason"),
    [
        (Ending.STOP, False, "stop"),
        (Ending.LENGTH, False, "length"),
        (Ending.LENGTH, True, "stop"),
        (None, True, "stop"),
    ],
)
def test_finish_reasons(ending: Ending | None, stopped: bool, reason: str) -> None:
    assert finish_reason(ending, stopped) == reason


def test_cached_tokens_are_of_the_prompt() -> None:
    assert usage_of(5, 1, 9).prompt_tokens_details.cached_tokens == 5
