"""Bodies become demands or problems that name what is wrong; no bytes whatever make the parser raise."""

import json
from typing import Any

import msgspec
import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params

from nodes.contract.engine import Sampling
from nodes.openai import limits, refusals, schema
from nodes.openai.demand import Chat, Demand, Detokenization, Kind, Tokenization
from nodes.openai.errors import Problem
from nodes.openai.requests import parse
from proto.limits import TOKENS_MAX

HELLO = [{"role": "user", "content": "hi"}]


def chat(**more: Any) -> Demand | Problem:
    return parsed(Kind.CHAT, {"model": "m", "messages": HELLO, **more})


def completion(**more: Any) -> Demand | Problem:
    return parsed(Kind.COMPLETION, {"model": "m", "prompt": "hi", **more})


def parsed(kind: Kind, body: dict[str, Any]) -> Demand | Problem:
    found = parse(kind, json.dumps(body).encode())
    assert isinstance(found, Demand | Problem)
    return found


def taken(found: Demand | Problem) -> Demand:
    assert isinstance(found, Demand), found
    return found


def refused(found: object, param: str | None, code: str | None = None) -> Problem:
    assert isinstance(found, Problem), found
    assert (found.status, found.param) == (400, param), found
    assert code is None or found.code == code
    return found


# --- What is asked for ------------------------------------------------------------------------------------


def test_the_least_that_a_chat_needs() -> None:
    found = taken(chat())
    assert found == Demand(kind=Kind.CHAT, model="m", chat=Chat([{"role": "user", "content": "hi"}]), add_special=False)


def test_every_parameter_of_sampling() -> None:
    asked = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": -0.4,
        "logit_bias": {"5": -100, "6": 1.5},
        "logprobs": True,
        "top_logprobs": 4,
        "seed": -3,
    }
    found = taken(chat(**asked))
    assert found.sampling == Sampling(0.0, 0.5, 7, 0.1, 1.2, 0.3, -0.4, {5: -100.0, 6: 1.5}, 0, 4)
    assert (found.seed, found.logprobs) == (-3, 4)


def test_every_other_parameter() -> None:
    found = taken(
        completion(
            n=2,
            best_of=3,
            max_tokens=9,
            min_tokens=2,
            stop=["a", "b", "a"],
            stop_token_ids=[4, 5],
            ignore_eos=True,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            add_special_tokens=False,
            echo=True,
            priority=-2,
            user="u",
            prompt_cache_key="k",
            cache_salt="s",
            metadata={"a": "b"},
            return_tokens_as_token_ids=True,
        )
    )
    assert (found.choices, found.candidates, found.max_tokens, found.min_tokens) == (2, 3, 9, 2)
    assert (found.stops, found.stop_tokens) == (("a", "b"), (4, 5))
    assert found.ignore_eos and found.include_stop and not found.skip_special and not found.add_special
    assert found.echo and found.numbered and found.priority == -2
    assert (found.user, found.cache_key, found.cache_salt, found.metadata) == ("u", "k", "s", {"a": "b"})
    assert found.sampling.logprobs == 0 and found.logprobs == -1  # the best of several needs them, the client does not


def test_null_is_as_good_as_absent() -> None:
    names = [field.name for field in msgspec.structs.fields(schema.ChatOptions) if field.name != "model"]
    assert chat(**dict.fromkeys(names), tools=None) == chat()
    names = [field.name for field in msgspec.structs.fields(schema.CompletionOptions) if field.name != "model"]
    assert completion(**dict.fromkeys(names)) == completion()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), ([1, 2], [[1, 2]]), (["a", "b"], ["a", "b"]), ([[1], [2, 3]], [[1], [2, 3]]), ("", [""])],
)
def test_the_forms_of_a_prompt(prompt: object, prompts: object) -> None:
    assert taken(completion(prompt=prompt)).prompts == prompts


def test_streams() -> None:
    found = taken(chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    assert found.stream and found.usage and found.running_usage
    found = taken(chat(stream=True))
    assert found.stream and not found.usage and not found.running_usage


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert taken(chat(max_tokens=5, max_completion_tokens=6)).max_tokens == 6
    assert taken(chat(max_tokens=5)).max_tokens == 5


def test_service_tiers_are_priorities() -> None:
    tiers = [taken(chat(service_tier=tier)).priority for tier in ("priority", "auto", "flex")]
    assert tiers == sorted(tiers) and tiers[0] < tiers[1] < tiers[2]
    assert taken(chat(service_tier="flex", priority=0)).priority == 0


def test_unknown_fields_are_passed_on_byte_for_byte() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"zz":{"a":[1.50, 1e2]},"y": "\\u0041"}'
    found = parse(Kind.CHAT, body)
    assert isinstance(found, Demand)
    assert {name: bytes(raw) for name, raw in found.extra.items()} == {"zz": b'{"a":[1.50, 1e2]}', "y": b'"\\u0041"'}


# --- Messages -----------------------------------------------------------------------------------------------


def message(**given: Any) -> dict[str, Any]:
    found = taken(chat(messages=[given])).chat
    assert found is not None
    return found.messages[0]


def test_messages_are_plain_for_the_template() -> None:
    assert message(role="developer", content="x", name=None) == {"role": "system", "content": "x"}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert message(role="user", content=parts, odd=[1]) == {"role": "user", "content": "a\nb", "odd": [1]}
    assert message(role="assistant", content=None, tool_calls=[]) == {"role": "assistant", "content": ""}


def test_pictures_go_apart_and_leave_their_places() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "high"}},
        {"type": "image_url", "image_url": "data:y"},
        {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "https://x"}},
        {"type": "image_embeds", "image_embeds": "QUI="},
    ]
    found = taken(chat(messages=[*HELLO, {"role": "user", "content": parts}])).chat
    assert found is not None and found.messages[0] == HELLO[0]
    kinds = ["text", "image", "image", "audio", "video", "image"]
    assert [part["type"] for part in found.messages[1]["content"]] == kinds
    assert [clip.source for clip in found.clips] == ["data:x", "data:y", "QQ==", "https://x", "QUI="]
    assert [clip.embeds for clip in found.clips] == [False, False, False, False, True]
    assert found.clips[0].place == "messages[1].content[1].image_url"
    assert parts[1]["image_url"] == {"url": "data:x", "detail": "high"}, "the request is not changed"
    assert taken(chat()).chat.clips == ()  # type: ignore[union-attr]


def test_arguments_of_tool_calls_are_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    made = message(role="assistant", content=None, tool_calls=[call])
    assert made["tool_calls"] == [{**call, "function": {"name": "f", "arguments": {"a": 1}}}]
    bad = {**call, "function": {"name": "f", "arguments": "{"}}
    assert message(role="assistant", tool_calls=[bad])["tool_calls"] == [bad]


def test_tools_reach_the_template_unless_they_are_not_to_be_used() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}, "odd": 1}]
    asked = taken(chat(tools=tools, tool_choice="auto")).chat, taken(chat(tools=tools, tool_choice="none")).chat
    assert [each and each.tools for each in asked] == [tools, []]


def test_how_the_template_is_called() -> None:
    found = taken(chat(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})).chat
    assert found and found.arguments == {"reasoning_effort": "low", "enable_thinking": False}
    found = taken(chat(continue_final_message=True)).chat
    assert found and found.continue_last and not found.open_answer
    refused(chat(continue_final_message=True, add_generation_prompt=True), "continue_final_message")


# --- What is refused, by name ------------------------------------------------------------------------------

WRONG: list[tuple[str, Any]] = [
    ("model", ""),
    ("model", 1),
    ("messages", []),
    ("messages", None),
    ("messages", "x"),
    ("temperature", 2.1),
    ("temperature", "1"),
    ("top_p", 0),
    ("top_k", -2),
    ("min_p", 2),
    ("repetition_penalty", 0),
    ("frequency_penalty", 3),
    ("presence_penalty", -3),
    ("n", 0),
    ("n", limits.CHOICES_MAX + 1),
    ("n", True),
    ("n", 1.5),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 10**30),
    ("max_completion_tokens", 0),
    ("min_tokens", -1),
    ("seed", 2**63),
    ("seed", "x"),
    ("stop", ""),
    ("stop", 1),
    ("stop", ["x"] * (limits.STOPS_MAX + 1)),
    ("stop", ["x"] * 100_000),
    ("stop", "é" * limits.STOP_BYTES_MAX),
    ("stop_token_ids", [1] * (limits.STOP_TOKENS_MAX + 1)),
    ("logit_bias", [1]),
    ("logit_bias", {str(token): 1 for token in range(limits.BIASES_MAX + 1)}),
    ("stream", "yes"),
    ("stream_options", {"include_usage": True}),
    ("top_logprobs", 3),
    ("best_of", 0),
    ("metadata", {str(number): "x" for number in range(limits.METADATA_ENTRIES_MAX + 1)}),
    ("service_tier", "gold"),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ("user", "x" * 1000),
    ("tools", {}),
    ("tools", [{"type": "function", "function": {"name": "f", "description": "x" * limits.TOOLS_BYTES_MAX}}]),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_value_is_named(name: str, value: Any) -> None:
    refused(chat(**{name: value}), name)


@pytest.mark.parametrize(
    ("found", "param"),
    [
        (chat(stop=["a", ""]), "stop[1]"),
        (chat(response_format={"type": "xml"}), "response_format.type"),
        (chat(modalities=["audio"]), "modalities[0]"),
        (chat(messages=[{"role": "king", "content": ""}]), "messages[0].role"),
        (chat(messages=[*HELLO, {"content": ""}]), "messages[1].role"),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_file", "image_file": {}}]}]),
            "messages[0].content[0].type",
        ),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[0].image_url.url",
        ),
        (chat(tools=[{"type": "function"}]), "tools[0].function"),
        (chat(stream=True, stream_options={"include_obfuscation": True}), "stream_options.include_obfuscation"),
        (chat(chat_template_kwargs={"a": []}), "chat_template_kwargs[...]"),
        (completion(prompt=[]), "prompt"),
        (completion(prompt=None), "prompt"),
        (completion(prompt=[1, "a"]), "prompt[1]"),
        (completion(prompt=["a", 1]), "prompt[1]"),
        (completion(prompt=[[1], [-1]]), "prompt[1][0]"),
        (completion(prompt=[True]), "prompt[0]"),
        (completion(prompt=["a"] * (limits.PROMPTS_MAX + 1)), "prompt"),
        (completion(prompt=["a"] * 100, n=16), "n"),
        (completion(echo=True, logprobs=1), "logprobs"),
        (completion(n=3, best_of=2), "best_of"),
        (completion(best_of=2, stream=True), "best_of"),
        (completion(logprobs=21), "logprobs"),
    ],
)
def test_a_wrong_part_is_named(found: object, param: str) -> None:
    refused(found, param)


def test_what_is_missing_is_named() -> None:
    refused(parse(Kind.CHAT, b"{}"), "model", "missing_required_parameter")
    refused(parse(Kind.CHAT, b'{"model":"m"}'), "messages", "missing_required_parameter")
    refused(parse(Kind.COMPLETION, b'{"model":"m"}'), "prompt", "missing_required_parameter")
    refused(parse(Kind.DETOKENIZE, b"{}"), "tokens", "missing_required_parameter")
    refused(parse(Kind.TOKENIZE, b"{}"), "prompt", "missing_required_parameter")


@pytest.mark.parametrize("name", refusals.CHAT)
def test_what_a_chat_cannot_have_is_named(name: str) -> None:
    refused(chat(**{name: ["x"]}), name, "unsupported_parameter")
    assert chat(**{name: None}) == chat()


def test_what_belongs_to_the_other_endpoint_is_sent_there() -> None:
    found = [chat(prompt="hello"), completion(messages=[{"role": "user", "content": "hello"}])]
    said = [one.message for one in found if isinstance(one, Problem)]
    assert said == ["`prompt` is for /v1/completions.", "`messages` is for /v1/chat/completions."]


@pytest.mark.parametrize("name", refusals.COMPLETION)
def test_what_a_completion_cannot_have_is_named(name: str) -> None:
    refused(completion(**{name: ["x"]}), name, "unsupported_parameter")
    assert completion(**{name: None}) == completion()


def test_values_that_mean_what_we_do_anyway() -> None:
    assert chat(function_call="none", length_penalty=1.0, detokenize=True, store=False) == chat()
    refused(chat(detokenize=False), "detokenize")


def test_every_parameter_of_openai_is_known() -> None:
    """What their client can send either has a field or is refused by name."""
    for params, kind, apart, names in (
        (chat_params, schema.ChatRequest, "stream", refusals.CHAT),
        (completion_params, schema.CompletionRequest, "stream", refusals.COMPLETION),
    ):
        theirs = {*params.CompletionCreateParamsBase.__annotations__, apart}
        ours = {field.name for field in msgspec.structs.fields(kind)}
        assert theirs <= ours | set(names)
        assert not ours & set(names)


def test_long_texts_are_no_offence() -> None:
    """Not even when they are full of what counts as values elsewhere."""
    text = '{"a": [1, 2, "x"]}, ' * 100_000
    found = taken(chat(messages=[{"role": "user", "content": text}])).chat
    assert found and found.messages[0]["content"] == text
    assert taken(completion(prompt=[1] * TOKENS_MAX)).prompts == [[1] * TOKENS_MAX]


def test_problems_do_not_repeat_what_was_sent() -> None:
    for found in (
        chat(tool_choice="my secret"),
        chat(response_format={"type": "my secret"}),
        chat(stop=["my secret" * 50]),
    ):
        assert "secret" not in refused(found, found.param if isinstance(found, Problem) else None).message


# --- Tokenizing -------------------------------------------------------------------------------------------


def test_tokenize() -> None:
    assert parse(Kind.TOKENIZE, b'{"prompt":"x"}') == Tokenization(prompt="x")
    found = parse(Kind.TOKENIZE, b'{"model":"m","messages":[{"role":"user","content":"x"}],"return_token_strs":true}')
    chatted = Chat([{"role": "user", "content": "x"}])
    assert found == Tokenization(model="m", chat=chatted, add_special=False, show_tokens=True)
    refused(parse(Kind.TOKENIZE, b'{"prompt":["x"]}'), "prompt")


def test_detokenize() -> None:
    assert parse(Kind.DETOKENIZE, b'{"tokens":[1,2]}') == Detokenization(tokens=[1, 2])
    refused(parse(Kind.DETOKENIZE, b'{"tokens":[1,-2]}'), "tokens[1]")
