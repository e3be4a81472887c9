"""Pure. What an answer must be, in each of the ways that clients say it: OpenAI's, vLLM's and vLLM's older one."""

from operator import attrgetter
from typing import Any

import msgspec

from nodes.contract.guide import CHOICE, GRAMMAR, JSON_OBJECT, JSON_SCHEMA, REGEX, Guide, guide_complaint
from nodes.openai.errors import invalid
from nodes.openai.reading import Bad, weigh
from nodes.openai.schema import Common, JsonObjectFormat, JsonSchemaFormat

Found = tuple[str, Guide]  # by which parameter
_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_given = attrgetter("response_format", "structured_outputs", *_GUIDED)
_NOTHING = (None,) * (2 + len(_GUIDED))


def guide_of(options: Common) -> tuple[Guide | None, str]:
    """What the request prescribes, and the parameter that says so."""
    if _given(options) == _NOTHING:
        return None, ""
    found = [*_format(options), *_guided(options), *_structured(options)]
    if not found:
        return None, ""
    if len(found) > 1:
        reason = f"`{found[1][0]}` and `{found[0][0]}` exclude each other."
        raise Bad(invalid(reason, found[1][0], "invalid_value"))
    param, guide = found[0]
    if complaint := guide_complaint(guide):
        raise Bad(invalid(f"`{param}`: {complaint}.", param, "invalid_value"))
    return guide, param


def _format(options: Common) -> list[Found]:
    match options.response_format:
        case JsonObjectFormat():
            return [("response_format", Guide(JSON_OBJECT))]
        case JsonSchemaFormat(json_schema=named) if named.schema is None:
            return [("response_format", Guide(JSON_OBJECT))]
        case JsonSchemaFormat(json_schema=named):
            return [("response_format", Guide(JSON_SCHEMA, _text(named.schema, "response_format")))]
    return []


def _guided(options: Common) -> list[Found]:
    said = (
        ("guided_json", JSON_SCHEMA, options.guided_json),
        ("guided_regex", REGEX, options.guided_regex),
        ("guided_choice", CHOICE, options.guided_choice),
        ("guided_grammar", GRAMMAR, options.guided_grammar),
    )
    return [(name, Guide(kind, _text(value, name))) for name, kind, value in said if value is not None]


def _structured(options: Common) -> list[Found]:
    given = options.structured_outputs
    if given is None:
        return []
    name = "structured_outputs"
    said = ((JSON_SCHEMA, given.json), (REGEX, given.regex), (CHOICE, given.choice), (GRAMMAR, given.grammar))
    found = [(name, Guide(kind, _text(value, name))) for kind, value in said if value is not None]
    return [*found, (name, Guide(JSON_OBJECT))] if given.json_object else found


def _text(value: Any, name: str) -> str:
    """As it travels. The order of a schema's properties is kept: it is the answer's."""
    if isinstance(value, str):
        return value
    weigh(value, name)
    return msgspec.json.encode(value).decode()
