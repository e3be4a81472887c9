"""`/v1/embeddings`: what may be asked, and how vectors are written."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from nodes.openai import limits
from nodes.openai.demand import Embeddings, Kind
from nodes.openai.embeddings import answer, shown
from nodes.openai.errors import Problem
from nodes.openai.requests import parse


def asked(**fields: Any) -> Embeddings | Problem:
    found = parse(Kind.EMBEDDING, json.dumps({"model": "m", **fields}).encode())
    assert isinstance(found, Embeddings | Problem)
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a text", ["a text"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["one", [2]], ["one", [2]]),
    ],
)
def test_the_forms_of_an_input(given: Any, expected: list[Any]) -> None:
    found = asked(input=given)
    assert isinstance(found, Embeddings) and list(found.demand.prompts) == expected
    assert (found.encoding, found.dimensions, found.demand.model, found.demand.add_special) == ("float", 0, "m", True)


def test_what_else_may_be_said() -> None:
    found = asked(input="a", encoding_format="base64", dimensions=5, user="me", priority=3, add_special_tokens=False)
    assert isinstance(found, Embeddings) and (found.encoding, found.dimensions) == ("base64", 5)
    assert (found.demand.user, found.demand.priority, found.demand.add_special) == ("me", 3, False)
    found = asked(input="a", encoding_format=None, dimensions=None, user=None, strange=7)
    assert isinstance(found, Embeddings) and bytes(found.demand.extra["strange"]) == b"7"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": {"a": 1}}, "input", "invalid_value"),
        ({"input": [1, "a"]}, "input[1]", "invalid_value"),
        ({"input": [-1]}, "input[0]", "invalid_value"),
        ({"input": ["a"] * (limits.INPUTS_MAX + 1)}, "input", "invalid_value"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "unsupported_value"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": "a", "stream": True}, "stream", "unsupported_parameter"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "unsupported_parameter"),
        ({"input": "a", "model": ""}, "model", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    found = asked(**fields)
    assert isinstance(found, Problem)
    assert (found.status, found.param, found.code) == (400, param, code)


def test_an_answer_is_of_openais_shape() -> None:
    vectors = np.asarray([[0.25, -1.5], [3e-8, 1.0]], "<f4")
    parts = [shown(index, vector.tobytes(), "float") for index, vector in enumerate(vectors)]
    found = json.loads(answer(parts, 'a "model" [] {}', 7))
    assert found["object"] == "list" and found["model"] == 'a "model" [] {}'
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [one["index"] for one in found["data"]] == [0, 1]
    assert all(one["object"] == "embedding" for one in found["data"])
    assert np.array_equal(np.asarray([one["embedding"] for one in found["data"]], "<f4"), vectors), "to the bit"


def test_base64_is_of_the_same_numbers() -> None:
    vector = np.asarray([0.1, -2.0, 5.0], "<f4")
    found = json.loads(shown(3, vector.tobytes(), "base64"))
    assert found["index"] == 3 and base64.b64decode(found["embedding"]) == vector.tobytes()
