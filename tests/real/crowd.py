"""Requests of every kind, streamed at once, and what must be right about each of them whatever happens to workers."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from nodes.engines.sim import continuation
from tests.nodes.text.tiny import byte_level
from tests.real.raw_http import CHAT, COMPLETIONS, Told, ask
from tests.real.serving import MODEL, Frontend, chat, chat_tokens, says, span

TOKENS = 300  # a second and a half
LOGPROBS = {"logprobs": True, "top_logprobs": 2, "return_tokens_as_token_ids": True}


class Case(NamedTuple):
    """A streamed request, and what is wrong with its answer, if anything."""

    path: str
    body: dict[str, Any]
    check: Callable[[Told], None]


def plain(name: str) -> Case:
    """The hot path: text alone; and the usage, of the prompt as it was."""

    def check(told: Told) -> None:
        assert told.texts == [says(name, TOKENS)] and told.reasons == {0: "length"}
        prompt = len(chat_tokens(name))
        assert told.usage is not None and told.usage["total_tokens"] == prompt + TOKENS
        assert told.usage["prompt_tokens"] == prompt and told.usage["completion_tokens"] == TOKENS

    return Case(CHAT, chat(name, TOKENS, stream=True, stream_options={"include_usage": True}), check)


def with_tokens(name: str) -> Case:
    """Log-probabilities, which name each token."""

    def check(told: Told) -> None:
        assert told.tokens == {0: continuation(chat_tokens(name), TOKENS, span())}
        assert told.texts == [says(name, TOKENS)]

    return Case(CHAT, chat(name, TOKENS, stream=True, **LOGPROBS), check)


def several(name: str) -> Case:
    """Two choices with a seed."""

    def check(told: Told) -> None:
        assert told.texts == [says(name, TOKENS)] * 2 and told.reasons == {0: "length", 1: "length"}

    return Case(CHAT, chat(name, TOKENS, stream=True, n=2, seed=7), check)


def stopped(name: str) -> Case:
    """A stop string that comes late, in the middle of others."""
    prompt = byte_level().encode(name, add_special=False)
    text = says(prompt, TOKENS)
    end = next(place for place in range(TOKENS - 60, TOKENS) if text.index(text[place : place + 3]) == place)

    def check(told: Told) -> None:
        assert told.texts == [text[:end]] and told.reasons == {0: "stop"}

    stop = ["\N{SNOWMAN}", text[end : end + 3]]
    body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "stop": stop, "stream": True}
    return Case(COMPLETIONS, body, check)


KINDS = (plain, plain, with_tokens, several, stopped)


async def crowd(front: Frontend, name: str, disturb: Callable[[], Any], begin: str = "") -> list[dict[str, Any]]:
    """Stream one of each kind, disturb them when all have begun, and check every answer. What the frontend tells of
    them comes back. `begin` is the worker that gets them first."""
    pinned = {"x_wiremesh_worker": begin} if begin else {}
    cases = [kind(f"{name} {number}") for number, kind in enumerate(KINDS)]
    tolds = [Told() for _ in cases]
    async with asyncio.TaskGroup() as group:
        for number, (case, told) in enumerate(zip(cases, tolds, strict=True)):
            group.create_task(told.run(front.port, case.path, case.body, x_request_id=f"{name}-{number}", **pinned))
        whole = group.create_task(ask(front.port, CHAT, chat(name, TOKENS), x_request_id=f"{name}-whole", **pinned))
        for told in tolds:
            await told.until(20)
        disturb()
    for case, told in zip(cases, tolds, strict=True):
        assert told.complete and told.error is None
        case.check(told)
    assert whole.result().json["choices"][0]["message"]["content"] == says(name, TOKENS)
    assert whole.result().json["usage"]["prompt_tokens"] == len(chat_tokens(name))
    assert whole.result().headers["x-request-id"] == f"{name}-whole"
    return [front.line(f"{name}-{number}") for number in (*range(len(cases)), "whole")]
