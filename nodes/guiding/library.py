"""Shell. From a guide to a grammar of llguidance, which is loaded when the first guide comes.

JSON is written on one line, with a space after its commas and colons or without. Where a grammar allows any white
space, a model may write line breaks until its tokens are used up.
"""

import json
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nodes.contract.guide import CHOICE, GRAMMAR, JSON_OBJECT, JSON_SCHEMA, REGEX, Guide

MISSING = "guided decoding needs 'pip install wiremesh[guided]'"
BLANKS = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}  # regular expressions
REASON_CHARS_MAX = 200  # of what the library says
STATES_MAX = 20_000  # of the lexer: some 40 MB; a large schema has a thousand
OBJECT = '{"type":"object"}'


class GuideRefused(ValueError):
    """A guide that cannot be followed. Its text is one sentence that says why."""


@cache
def installed() -> bool:
    """Whether this process can read guides."""
    return find_spec("llguidance") is not None


@cache
def library() -> Any:
    """Raises ImportError."""
    return import_module("llguidance")


@cache
def limits() -> Any:
    """Of what one guide may cost."""
    return library().LLParserLimits(max_lexer_states=STATES_MAX, verbose_errors=False)


def grammar_of(guide: Guide) -> str:
    """In the library's words. Raises GuideRefused."""
    try:
        return _written(guide)
    except Exception as error:  # Readers of grammars raise anything.
        raise GuideRefused(sentence(guide, str(error) or type(error).__name__)) from None


def _written(guide: Guide) -> str:
    kind, text, matcher = guide.kind, guide.text, library().LLMatcher
    if kind in (JSON_SCHEMA, JSON_OBJECT):
        made = matcher.grammar_from_json_schema(text if kind == JSON_SCHEMA else OBJECT, defaults=BLANKS)
    elif kind == REGEX:
        made = matcher.grammar_from_regex(text)
    elif kind == CHOICE:
        made = matcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(text))))
    else:
        made = matcher.grammar_from_lark(import_module("llguidance.gbnf_to_lark").any_to_lark(text))
    return str(made)


_NAMES = {JSON_SCHEMA: "JSON schema", JSON_OBJECT: "JSON object", REGEX: "regular expression", CHOICE: "choice"}


def sentence(guide: Guide, said: str) -> str:
    """What the library said, in one line."""
    words = [line.strip() for line in said.splitlines()]
    told = [line for line in words if line.startswith("error: ")] or words[:1]
    text = " ".join(" ".join(told).removeprefix("error: ").split())[:REASON_CHARS_MAX]
    return f"The {_NAMES.get(guide.kind, GRAMMAR)} cannot be followed: {text}"
