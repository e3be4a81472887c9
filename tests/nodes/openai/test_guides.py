"""What an answer must be, in all the ways that clients say it."""

import json
from typing import Any

import msgspec
import pytest

from nodes.contract.guide import Guide
from nodes.openai.demand import Demand
from nodes.openai.errors import Problem
from tests.nodes.openai.test_requests import chat, completion, refused, taken

DEEP: dict[str, Any] = {}
for _ in range(100):
    DEEP = {"items": DEEP}
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("more", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            "json_schema",
            1,
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "json_object", ""),
        ({"guided_json": SCHEMA}, "json_schema", 1),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", json.dumps(SCHEMA)),
        ({"guided_regex": "[0-9]+"}, "regex", "[0-9]+"),
        ({"guided_choice": ["yes", "no"]}, "choice", '["yes","no"]'),
        ({"guided_grammar": "start: /a/"}, "grammar", "start: /a/"),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", 1),
        ({"structured_outputs": {"regex": "a", "json_object": False}}, "regex", "a"),
        ({"structured_outputs": {"choice": ["a"]}}, "choice", '["a"]'),
        ({"structured_outputs": {"grammar": "start: /a/"}}, "grammar", "start: /a/"),
        ({"structured_outputs": {"json_object": True}, "response_format": {"type": "text"}}, "json_object", ""),
    ],
)
def test_what_an_answer_must_be(more: dict[str, Any], kind: str, text: str | int) -> None:
    """In all the ways that clients say it, and with a schema's properties in their order."""
    for found in (taken(chat(**more)), taken(completion(**more))):
        assert found.guide == Guide(kind, msgspec.json.encode(SCHEMA).decode() if text == 1 else str(text))
        assert found.guide_param in more


def test_an_answer_may_be_anything() -> None:
    none: dict[str, Any] = {"structured_outputs": {}, "guided_json": None, "response_format": {"type": "text"}}
    for more in ({}, none):
        assert taken(chat(**more)).guide is None


@pytest.mark.parametrize(
    ("found", "param"),
    [
        (chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
        (chat(response_format={"type": "json_schema", "json_schema": {}}), "response_format.json_schema.name"),
        (completion(guided_choice=[]), "guided_choice"),
        (completion(guided_regex="a", guided_choice=["a"]), "guided_choice"),
        (chat(response_format={"type": "json_object"}, guided_regex="a"), "guided_regex"),
        (chat(structured_outputs={"regex": "a", "choice": ["a"]}), "structured_outputs"),
        (chat(structured_outputs={"structural_tag": "x"}), "structured_outputs"),
        (chat(guided_regex="\u00e9" * 40_000), "guided_regex"),
        (chat(guided_json=DEEP), "guided_json"),
    ],
)
def test_what_is_wrong_with_it_is_named(found: Demand | Problem, param: str) -> None:
    refused(found, param)
