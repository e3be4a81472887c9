"""Handlers of every kind: what they take, what they make, and how they fail."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest

from mesh.context import Context
from mesh.core import (
    Checkpointed,
    Failed,
    Finished,
    Produced,
)
from mesh.endpoint import Checkpoint
from proto import limits
from proto.errors import Reason
from tests.mesh.stage import LEG, Stage, play

# --- What handlers may be ---------------------------------------------------------------------------------


async def async_generator(request: Any) -> AsyncIterator[int]:
    yield 1
    await asyncio.sleep(0)
    yield 2


async def coroutine(request: Any) -> list[int]:
    return [1, 2]


async def coroutine_of_iterator(request: Any) -> AsyncIterator[int]:
    return async_generator(request)


def generator(request: Any) -> Iterator[int]:
    yield 1
    yield 2


def function(request: Any) -> str:
    return "one"


async def silent(request: Any) -> AsyncIterator[int]:
    return
    yield


class Callable_:
    async def __call__(self, request: Any, context: Context) -> AsyncIterator[int]:
        yield context.attempt


@pytest.mark.parametrize(
    ("handler", "items"),
    [
        (async_generator, [1, 2]),
        (coroutine, [[1, 2]]),
        (coroutine_of_iterator, [1, 2]),
        (generator, [1, 2]),
        (function, ["one"]),
        (silent, []),
        (Callable_(), [2]),
    ],
)
def test_every_kind_of_handler(handler: Callable[..., Any], items: list[Any]) -> None:
    async def body(stage: Stage) -> None:
        stage.start()
        assert await stage.end() == Finished(LEG)
        assert stage.items == items

    play(handler, body)


def test_a_handler_gets_its_request_and_its_context() -> None:
    seen = []

    async def handler(request: dict[str, int], context: Context) -> AsyncIterator[None]:
        seen.append(
            (
                request,
                context.request,
                context.attempt,
                context.id,
                context.trace,
                context.metadata,
                context.remaining_s,
            )
        )
        seen.append((context.stopped, context.killed))
        return
        yield

    async def body(stage: Stage) -> None:
        deadline = asyncio.get_running_loop().time() + 100
        stage.start({"a": 1}, trace="00-x", metadata={"user": "ada"}, deadline=deadline)
        await stage.end()
        stage.start({"a": 1})
        await stage.until(lambda: len(seen) == 4)

    play(handler, body)
    request, number, attempt, name, trace, metadata, remaining_s = seen[0]
    assert (request, number, attempt, name) == ({"a": 1}, 1, 2, "0000000000000007-1")
    assert (trace, metadata) == ("00-x", {"user": "ada"})
    assert 99 < remaining_s <= 100 and seen[2][-1] is None
    assert seen[1] == (False, False)


# --- Requests, items and states that do not fit ----------------------------------------------------------


def test_a_bad_request_never_reaches_the_handler() -> None:
    called = []

    async def handler(request: list[int]) -> None:
        called.append(request)

    async def body(stage: Stage) -> None:
        stage.start(["x"])
        end = await stage.end()
        assert end == Failed(LEG, Reason.INVALID, text="expects list[int]: Expected `int`, got `str` - at `$[0]`")

    play(handler, body)
    assert called == []


@pytest.mark.parametrize("item", [object(), bytes(limits.ITEM_BYTES_MAX), 2**70])
def test_an_item_that_cannot_be_sent_is_the_handlers_mistake(item: Any) -> None:
    closed = []

    async def handler(request: Any) -> AsyncIterator[Any]:
        try:
            yield "first"
            yield item
        finally:
            closed.append(True)

    async def body(stage: Stage) -> None:
        stage.start()
        end = await stage.end()
        assert isinstance(end, Failed) and (end.reason, end.name) == (Reason.FAILED, "TypeError")
        assert "the item" in end.text
        assert stage.items == ["first"]

    play(handler, body)
    assert closed == [True]


# --- Checkpoints --------------------------------------------------------------------------------------------


async def counter(request: int, resume: Any = "nothing") -> AsyncIterator[Any]:
    start = resume or 0
    for number in range(start, request):
        yield number
        yield Checkpoint(number + 1)


def test_checkpoints_come_between_the_items_and_go_back_in() -> None:
    async def body(stage: Stage) -> None:
        stage.start(2)
        await stage.end()
        states = [event for event in stage.events if type(event) is not Produced]
        assert states == [
            Checkpointed(LEG, msgspec.msgpack.encode(1)),
            Checkpointed(LEG, msgspec.msgpack.encode(2)),
            Finished(LEG),
        ]
        stage.events.clear()
        stage.start(4, state=msgspec.msgpack.encode(2))
        await stage.end()
        assert stage.items == [2, 3]

    play(counter, body)


def test_resume_is_none_without_a_checkpoint_and_a_state_may_be_none() -> None:
    seen = []

    async def handler(request: Any, *, resume: Any) -> AsyncIterator[Any]:
        seen.append(resume)
        yield Checkpoint(None)

    async def body(stage: Stage) -> None:
        stage.start()
        await stage.end()
        assert stage.events[0] == Checkpointed(LEG, b"\xc0")

    play(handler, body)
    assert seen == [None]


def test_a_state_that_cannot_be_read_is_refused() -> None:
    async def body(stage: Stage) -> None:
        stage.start(4, state=b"\xc1")
        end = await stage.end()
        assert isinstance(end, Failed) and end.reason is Reason.INVALID and "another version" in end.text

    play(counter, body)


def test_a_checkpoint_of_a_handler_that_cannot_resume_is_its_mistake() -> None:
    async def handler(request: Any) -> AsyncIterator[Any]:
        yield Checkpoint(1)

    async def body(stage: Stage) -> None:
        stage.start()
        end = await stage.end()
        assert isinstance(end, Failed) and "takes no 'resume'" in end.text

    play(handler, body)


# --- Exceptions ---------------------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (ValueError("boom"), "ValueError", "boom"),
        (Unspeakable(), "Unspeakable", "(its text cannot be had: RuntimeError)"),
        (KeyError("\ud800"), "KeyError", "'\\ud800'"),
        (OSError("half \ud800"), "OSError", "half ?"),
        (SystemExit(3), "SystemExit", "3"),
        (StopIteration(), "RuntimeError", "async generator raised StopIteration"),
        (RuntimeError("x" * 10_000), "RuntimeError", "x" * limits.TEXT_CHARS_MAX),
    ],
)
def test_an_exception_comes_after_the_items_named_and_without_a_traceback(
    error: BaseException, name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Any) -> AsyncIterator[int]:
        yield 1
        raise error

    async def body(stage: Stage) -> None:
        stage.start()
        assert await stage.end() == Failed(LEG, Reason.FAILED, name, text)
        assert stage.items == [1]

    with caplog.at_level(logging.ERROR):
        play(handler, body)
    (record,) = caplog.records
    assert record.exc_info, "the traceback is in the log of the process that ran it"
