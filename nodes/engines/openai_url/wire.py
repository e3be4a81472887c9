"""Pure. What servers of completions are asked, and what they answer: one language, and its dialects.

All take `POST /completions` and stream server-sent events; Ollama is asked in its own language, because only there a
prompt is taken as it is. Dialects differ in what they add: token ids in the prompt, and four ways to give ids back.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from nodes.contract.engine import Ending, Job, Logprobs

TEXT_CHARS_MAX = 300  # of what a server says went wrong
LINE_BYTES_MAX = 4 << 20  # of one event: a token with all its log-probabilities has some kilobytes
SEED_MAX = 2**31  # some servers take no more
NOTHING: Mapping[str, object] = {}
LEAST = -9999.0  # what JSON says for minus infinity


class Way(StrEnum):
    """How a server tells which tokens it made; in the order in which they are tried."""

    IDS = "ids"  # return_token_ids (vLLM)
    NUMBERED = "numbered"  # tokens of log-probabilities as token_id:5 (vLLM before that, Wiremesh)
    CONTENT = "content"  # log-probabilities with ids (llama.cpp)
    TEXT = "text"  # not at all: its text is made into tokens here
    OLLAMA = "ollama"  # likewise, in Ollama's own language


WAYS: dict[Way, dict[str, object]] = {
    Way.IDS: {"return_token_ids": True},
    Way.NUMBERED: {"logprobs": 0, "return_tokens_as_token_ids": True},
    Way.CONTENT: {"logprobs": 1},
    Way.TEXT: {},
}  # what a request says for it

# Fields that only some servers know. One that does not know a field may ignore it, and say nothing.
LACKS = ("min_tokens", "stop_tokens", "ignore_eos", "cache_salt", "priority")
LACKS_OF = {"wiremesh": (), "vllm": ("priority",), "sglang": ("cache_salt", "priority")}  # vLLM takes it if told to


class Dialect(Struct, frozen=True):
    """What a server can do, found by asking it."""

    model: str  # its name there
    owner: str = ""  # who made the server, as its list of models says
    way: Way = Way.TEXT
    takes_ids: bool = False  # a prompt of token ids
    context: int = 0  # positions; Ollama takes any, and by itself a short one
    seeds: bool = True  # it takes one: a mesh of ours may refuse it
    tongue: str = ""  # how it is told what an answer must be, see `guides`; empty: it cannot be

    @property
    def path(self) -> str:
        return "/api/generate" if self.way is Way.OLLAMA else "/completions"

    @property
    def lacks(self) -> tuple[str, ...]:
        """Fields of a job that it cannot do."""
        blind = () if self.way in (Way.IDS, Way.NUMBERED, Way.CONTENT) else ("logprobs",)
        return LACKS_OF.get(self.owner, LACKS) + blind


class Said(Struct):
    """One event of a stream."""

    text: str = ""
    tokens: Sequence[int] | None = None  # None: it gives text alone
    logprobs: Sequence[Logprobs] = ()
    ending: Ending | None = None
    prompt_tokens: int = -1  # by its usage; -1: it has not said
    completion_tokens: int = -1
    cached_tokens: int = 0
    error: str = ""


def asked(
    dialect: Dialect, job: Job, prompt: str | Sequence[int], budget: int, more: Mapping[str, object] = NOTHING
) -> bytes:
    """The body of a request. `more`: what else it says."""
    sampling = job.sampling
    seed = (sampling.seed + len(job.generated)) % SEED_MAX  # a stream that has moved must not draw the same again
    body: dict[str, object] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({"seed": seed} if dialect.seeds else {}),
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
    }
    usual = type(sampling)()
    named = {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty"}
    if dialect.owner in ("llamacpp", "library"):
        named["repetition_penalty"] = "repeat_penalty"
    body |= {theirs: getattr(sampling, ours) for ours, theirs in named.items() if _differs(sampling, usual, ours)}
    if dialect.way is Way.OLLAMA:
        options = {**body, "num_predict": budget, "num_ctx": dialect.context}
        given = {"model": dialect.model, "prompt": prompt, "raw": True, "stream": True, "options": options}
        return _json({**given, **more})
    body |= {"model": dialect.model, "prompt": prompt, "max_tokens": budget, "stream": True, **more}
    body |= {"stream_options": {"include_usage": True}, **WAYS[dialect.way]}
    if sampling.logprobs >= 0:
        numbered = {} if dialect.way is Way.CONTENT else WAYS[Way.NUMBERED]
        body |= {**numbered, "logprobs": max(sampling.logprobs, int(dialect.way is Way.CONTENT))}
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if job.ignore_eos:
        body["ignore_eos"] = True
    if job.stop_tokens:
        body["stop_token_ids"] = list(job.stop_tokens)
    if job.min_tokens > len(job.generated):
        body["min_tokens"] = min(budget, job.min_tokens - len(job.generated))
    if job.priority:
        body["priority"] = job.priority
    if job.cache_salt:
        body["cache_salt"] = job.cache_salt
    return _json(body)


def _differs(one: object, other: object, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def _json(body: dict[str, object]) -> bytes:
    return msgspec.json.encode(body)


class Events:
    """Cuts a body into events: server-sent ones, or one JSON object a line. Bytes may come in any pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, content: bytes) -> list[bytes]:
        """More of the body; the events that are complete. Raises ValueError for a line without an end."""
        lines = (self._rest + content).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_BYTES_MAX:
            raise ValueError(f"an event has more than {LINE_BYTES_MAX} bytes")
        return [event for line in lines for event in self._line(line.rstrip(b"\r"))]

    def finish(self) -> list[bytes]:
        """The body is over: what came without an end."""
        line, self._rest = self._rest, b""
        return [event for end in (line.rstrip(b"\r"), b"") for event in self._line(end)]

    def _line(self, line: bytes) -> list[bytes]:
        if line.startswith(b"{"):  # a line of JSON; or the whole answer of a server that does not stream
            return [line]
        field, _, value = line.partition(b":")
        if field in (b"data", b"error"):  # llama.cpp has a field of its own for errors
            self._data.append(value.removeprefix(b" "))
            return []
        if line or not self._data:  # a comment, another field, or one empty line more
            return []
        event, self._data = b"\n".join(self._data), []
        return [event]


def said(event: bytes) -> Said | None:
    """What an event says; None for the last, which says nothing. Raises ValueError."""
    if event.strip() == b"[DONE]":
        return None
    try:
        found = msgspec.json.decode(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"the server said what is no JSON: {event[:80]!r}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the server said what is no object: {event[:80]!r}")
    try:
        return _said(found)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise ValueError(f"the server said what is no completion: {event[:80]!r}") from None


def _said(found: dict[str, Any]) -> Said:
    if found.get("error") or found.get("object") == "error" or ("code" in found and "message" in found):
        return Said(error=error_of(found))
    if "done" in found:
        return _of_ollama(found)
    made = Said()
    usage = found.get("usage") or {}
    made.prompt_tokens = int(usage.get("prompt_tokens", -1))
    made.completion_tokens = int(usage.get("completion_tokens", -1))
    made.cached_tokens = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    for choice in (found.get("choices") or [])[:1]:
        made.text = choice.get("text") or ""
        made.ending = ending_of(choice.get("finish_reason"))
        made.tokens, made.logprobs = _tokens(choice)
    return made


def _of_ollama(found: dict[str, Any]) -> Said:
    made = Said(found.get("response") or "")
    if found["done"]:
        made.ending = ending_of(found.get("done_reason") or "stop")
        made.prompt_tokens = int(found.get("prompt_eval_count", -1))
        made.completion_tokens = int(found.get("eval_count", -1))
    return made


def ending_of(reason: object) -> Ending | None:
    """Why a server says that it is over."""
    if not reason:
        return None
    return Ending.LENGTH if reason == "length" else Ending.LOST if reason in ("abort", "error") else Ending.STOP


def error_of(found: dict[str, Any]) -> str:
    """The sentence in an error, wherever a server puts it."""
    inner = found.get("error", found)
    text = (inner.get("message") or inner) if isinstance(inner, dict) else inner
    return " ".join(str(text).split())[:TEXT_CHARS_MAX]


def _tokens(choice: dict[str, Any]) -> tuple[Sequence[int] | None, Sequence[Logprobs]]:
    """The ids in a choice, in whichever way it has them; None if in none."""
    ids = choice.get("token_ids")
    logprobs = choice.get("logprobs") or {}
    content, names = logprobs.get("content"), logprobs.get("tokens")
    tokens: list[int] | None = None
    rows: list[Logprobs] = []
    if content and all("id" in item for item in content):
        tokens = [int(item["id"]) for item in content]
        rows = [_row(item) for item in content]
    elif names and all(_number(name) is not None for name in names):
        tokens = [_number(name) or 0 for name in names]
        tops = logprobs.get("top_logprobs") or [None] * len(names)
        rows = [
            Logprobs(_finite(chosen), _top(top)) for chosen, top in zip(logprobs["token_logprobs"], tops, strict=True)
        ]
    if isinstance(ids, list):
        tokens = [int(token) for token in ids]
    return tokens, rows if tokens is not None and len(rows) == len(tokens) else ()


def _row(item: dict[str, Any]) -> Logprobs:
    """As llama.cpp says it."""
    top = [(int(one["id"]), _finite(one["logprob"])) for one in item.get("top_logprobs") or ()]
    return Logprobs(_finite(item["logprob"]), top)


def _top(top: dict[str, float] | None) -> list[tuple[int, float]]:
    found = [(_number(name) or 0, _finite(logprob)) for name, logprob in (top or {}).items()]
    return sorted(found, key=lambda pair: -pair[1])


def _number(name: str) -> int | None:
    number = name.removeprefix("token_id:")
    return int(number) if number != name and number.isdecimal() else None


def _finite(value: float | None) -> float:
    return float(value) if value is not None and isfinite(value) else LEAST
