"""Pure. What an answer must be, in the words of servers: each has its own, and many ignore what they do not know.

So a server is asked for an answer that nobody gives by chance, and who gives it understands. Every server begins to
count where its request begins. A stream that has moved is therefore asked for anew, from its prompt on, and what was
said before is skipped: as long as the server says it again.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from nodes.contract.guide import CHOICE, GRAMMAR, JSON_OBJECT, JSON_SCHEMA, KINDS, REGEX, Guide
from nodes.engines.openai_url.wire import Said

RARE = "Zq7"  # said by nobody who is not made to
RARE_TOKENS = 12  # enough for it in the smallest vocabulary, with quotes
OBJECT = {"type": "object"}
Words = dict[str, object]


class Otherwise(Exception):
    """A server does not say again what it, or another, has said before."""


def _schema(guide: Guide) -> object:
    """Its JSON schema, as an object: some servers take no text."""
    return OBJECT if guide.kind == JSON_OBJECT else msgspec.json.decode(guide.text)


def _choices(guide: Guide) -> list[str]:
    return msgspec.json.decode(guide.text, type=list[str])


def _structured(guide: Guide) -> Words:
    """vLLM, Wiremesh."""
    held: dict[str, Callable[[], object]] = {
        JSON_OBJECT: lambda: {"json_object": True},
        JSON_SCHEMA: lambda: {"json": _schema(guide)},
        CHOICE: lambda: {"choice": _choices(guide)},
    }
    return {"structured_outputs": held.get(guide.kind, lambda: {guide.kind: guide.text})()}


def _guided(guide: Guide) -> Words:
    """vLLM before that."""
    if guide.kind in (JSON_OBJECT, JSON_SCHEMA):
        return {"guided_json": _schema(guide)}
    return {f"guided_{guide.kind}": _choices(guide) if guide.kind == CHOICE else guide.text}


def _sglang(guide: Guide) -> Words:
    if guide.kind in (JSON_OBJECT, JSON_SCHEMA):
        return {"json_schema": msgspec.json.encode(_schema(guide)).decode()}
    if guide.kind == CHOICE:
        return {"regex": "|".join(f"({re.escape(text)})" for text in _choices(guide))}
    return {"regex" if guide.kind == REGEX else "ebnf": guide.text}


def _llama(guide: Guide) -> Words:
    """llama.cpp: its grammars are GBNF."""
    if guide.kind in (JSON_OBJECT, JSON_SCHEMA):
        return {"json_schema": _schema(guide)}
    if guide.kind == CHOICE:
        return {"grammar": "root ::= " + " | ".join(msgspec.json.encode(one).decode() for one in _choices(guide))}
    return {"grammar": guide.text}


def _format(guide: Guide) -> Words:
    """OpenAI."""
    if guide.kind == JSON_OBJECT:
        return {"response_format": {"type": "json_object"}}
    named = {"name": "answer", "strict": True, "schema": _schema(guide)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _ollama(guide: Guide) -> Words:
    return {"format": "json" if guide.kind == JSON_OBJECT else _schema(guide)}


class Tongue(Struct, frozen=True):
    """A way to say it."""

    kinds: tuple[str, ...]
    words: Callable[[Guide], Words]
    probe: Guide


_JSON = (JSON_SCHEMA, JSON_OBJECT)
_RARE_JSON = Guide(JSON_SCHEMA, msgspec.json.encode({"enum": [RARE]}).decode())
_RARE_CHOICE = Guide(CHOICE, msgspec.json.encode([RARE]).decode())
TONGUES: Mapping[str, Tongue] = {
    "structured_outputs": Tongue(KINDS, _structured, _RARE_CHOICE),
    "guided": Tongue(KINDS, _guided, _RARE_CHOICE),
    "sglang": Tongue(KINDS, _sglang, Guide(REGEX, RARE)),
    "llama.cpp": Tongue((*_JSON, CHOICE, GRAMMAR), _llama, Guide(GRAMMAR, f'root ::= "{RARE}"')),
    "response_format": Tongue(_JSON, _format, _RARE_JSON),
}  # in the order in which they are tried
OLLAMA: Mapping[str, Tongue] = {"ollama": Tongue(_JSON, _ollama, _RARE_JSON)}
_ALL = {**TONGUES, **OLLAMA}


def guided(tongue: str, guide: Guide | None) -> Words:
    """What a request says for it. Raises ValueError with a sentence."""
    if guide is None:
        return {}
    try:
        return _ALL[tongue].words(guide)
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise ValueError(f"The {guide.kind} cannot be followed: it is no JSON.") from None


def refusal(tongue: str, guide: Guide | None) -> str | None:
    """Why a server cannot be asked for it."""
    kinds = _ALL[tongue].kinds if tongue else ()
    if guide is None or guide.kind in kinds:
        return None
    return f"the server behind this worker keeps to no {guide.kind}: it does to {' and '.join(kinds) or 'nothing'}"


def understood(said: str) -> bool:
    """Whether this is the answer to a probe."""
    return said.strip().strip('"') == RARE


class Skipping:
    """Leaves out of a stream what was said before: by its tokens, or by its text where a server gives no tokens."""

    def __init__(self, tokens: list[int], text: str) -> None:
        self._tokens, self._text = tokens, text

    def rest(self, one: Said) -> Said:
        """What is new in it. Raises Otherwise."""
        if one.tokens is None:
            self._text, text = _cut(self._text, one.text)
            return _new(one, text=text)
        count = min(len(one.tokens), len(self._tokens))
        if list(one.tokens[:count]) != self._tokens[:count]:
            raise Otherwise
        del self._tokens[:count]
        return _new(one, tokens=one.tokens[count:], logprobs=one.logprobs[count:])

    @property
    def over(self) -> bool:
        """Whether all of it came."""
        return not (self._tokens and self._text)


def _cut(known: str, text: str) -> tuple[str, str]:
    count = min(len(known), len(text))
    if known[:count] != text[:count]:
        raise Otherwise
    return known[count:], text[count:]


def _new(one: Said, **fields: Any) -> Said:
    return msgspec.structs.replace(one, **fields)
