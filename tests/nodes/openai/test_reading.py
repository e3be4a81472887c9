"""Hostile bodies: no bytes whatever make the parser raise, and each gets a clear answer."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.openai import limits, refusals, schema
from nodes.openai.demand import Demand, Detokenization, Kind, Tokenization
from nodes.openai.errors import Problem
from nodes.openai.requests import parse

HELLO = [{"role": "user", "content": "hi"}]
START = b'{"model":"m","messages":[{"role":"user","content":"hi"}],'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff",
        b'{"\xff":1}',
        b"[" * 1_000_000,
        START + b'"zz":"\xff"}',
        START + b'"zz":NaN}',
        START + b'"zz":"\\ud800"}',
        START + b'"temperature":1e999}',
        START + b'"temperature":1' + b"0" * 1_000_000 + b"}",
        START + b'"seed":1' + b"0" * 10_000 + b"}",
        START + b'"zz":' + b"[" * 70 + b"]" * 70 + b"}",
        START + b'"zz":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        START + b'"zz":"' + b"x" * limits.EXTRA_BYTES_MAX + b'"}',
        START + b'"tools":[{"type":"function","function":{"name":"f","parameters":' + b'{"a":' * 70 + b"1" + b"}" * 74,
        b'{"model":"m","messages":[' + b",".join([b'{"role":"user"}'] * 300_000) + b"]}",
        b'{"model":"m","messages":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
        b'{"model":"m","messages":[{"role":"user","content":[' + b",".join([b'{"type":"text"}'] * 300_000) + b"]}]}",
        b'{"model":"m","messages":[' + b"1," * 4_000_000 + b"1]}",
    ],
    ids=range(21),
)
def test_hostile_bodies(body: bytes) -> None:
    found = parse(Kind.CHAT, body)
    assert isinstance(found, Problem) and found.status == 400
    assert len(found.message) <= limits.REASON_CHARS_MAX


def test_a_body_beyond_the_limit() -> None:
    found = parse(Kind.CHAT, b" " * (limits.BODY_BYTES_MAX + 1))
    assert isinstance(found, Problem) and found.status == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
NAMES = sorted(
    {field.name for kind in (schema.ChatRequest, schema.CompletionRequest) for field in msgspec.structs.fields(kind)}
    | {*refusals.CHAT, *refusals.COMPLETION, "tokens"}
)


@given(st.sampled_from(Kind), st.binary(max_size=200))
def test_no_bytes_make_it_raise(kind: Kind, body: bytes) -> None:
    assert isinstance(parse(kind, body), Problem)


@given(st.sampled_from(Kind), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6), st.booleans(), st.booleans())
def test_no_values_make_it_raise(kind: Kind, body: dict[str, Any], chatty: bool, prompted: bool) -> None:
    good: dict[str, Any] = (
        {"model": "m"} | ({"messages": HELLO} if chatty else {}) | ({"prompt": "x"} if prompted else {})
    )
    found = parse(kind, json.dumps({**good, **body}).encode())
    assert isinstance(found, Demand | Tokenization | Detokenization | Problem)
    assert not isinstance(found, Problem) or 400 <= found.status < 500
