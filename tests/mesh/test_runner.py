"""Handlers of every kind: what they make, how they end, and that each gives its room back exactly once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from math import inf
from typing import Any

import msgspec
import pytest

from mesh import runner as module
from mesh.context import Context
from mesh.core import (
    Checkpointed,
    Event,
    Failed,
    Finished,
    Halt,
    Hint,
    Leg,
    Pause,
    Produced,
    Start,
    Unpause,
    Yielded,
)
from mesh.endpoint import Checkpoint, define
from mesh.runner import BURST_MAX, Runner
from proto import limits
from proto.errors import Reason

LEG = Leg(owner=7, request=1, attempt=2)
NAME = "test.runner.it"


class Stage:
    """A runner, what it posts, and shorthands for the effects of a core."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.events: list[Event] = []
        self.on_post: Callable[[Event], None] = lambda event: None
        self.runner = Runner({NAME: define(NAME, handler)}, self.post, asyncio.get_running_loop())

    def post(self, event: Event) -> None:
        self.events.append(event)
        self.on_post(event)

    def start(self, request: Any = None, leg: Leg = LEG, **changes: Any) -> None:
        fields = {"leg": leg, "endpoint": NAME, "payload": msgspec.msgpack.encode(request), "deadline": inf}
        fields |= {"prompt": [], "position": 0, "tokens": [], "state": b"", "trace": "", "metadata": {}}
        self.runner.start(Start(**(fields | changes)))

    @property
    def items(self) -> list[Any]:
        return [
            msgspec.msgpack.decode(data) for event in self.events if type(event) is Produced for data in event.items
        ]

    @property
    def ends(self) -> list[Event]:
        return [event for event in self.events if type(event) in (Finished, Failed, Yielded)]

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0)

    async def end(self) -> Event:
        """The one event that gives the room back."""
        await self.until(lambda: self.ends)
        for _ in range(5):
            await asyncio.sleep(0)
        (end,) = self.ends
        assert self.events[-1] is end and len(self.runner) == 0
        return end


def play(handler: Callable[..., Any], body: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await body(Stage(handler))

    asyncio.run(run())


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


# --- Stop and kill --------------------------------------------------------------------------------------------


def test_a_hint_is_seen_and_the_handler_finishes_by_itself() -> None:
    async def handler(request: Any, context: Context) -> AsyncIterator[Any]:
        yield "begin"
        await context.until_stopped()
        yield (context.stopped, context.killed)

    async def body(stage: Stage) -> None:
        stage.start()
        await stage.until(lambda: stage.items)
        stage.runner.hint(Hint(LEG))
        stage.runner.hint(Hint(LEG))
        assert await stage.end() == Finished(LEG)
        assert stage.items == ["begin", [True, False]]

    play(handler, body)


def test_a_halt_cancels_the_handler_where_it_waits() -> None:
    seen = []

    async def handler(request: Any, context: Context) -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            seen.append((context.stopped, context.killed))
            raise
        yield 2

    async def body(stage: Stage) -> None:
        stage.start()
        await stage.until(lambda: stage.items)
        stage.runner.halt(Halt(LEG))
        stage.runner.halt(Halt(LEG))
        assert await stage.end() == Yielded(LEG)
        assert stage.items == [1]

    play(handler, body)
    assert seen == [(True, True)]


def test_a_halt_before_the_first_step_gives_the_room_back() -> None:
    async def body(stage: Stage) -> None:
        stage.start()
        stage.runner.halt(Halt(LEG))
        assert await stage.end() == Yielded(LEG)
        assert stage.items == []

    play(async_generator, body)


def test_a_halted_handler_that_goes_on_is_not_heard_and_keeps_its_slot_until_it_ends() -> None:
    async def handler(request: Any) -> AsyncIterator[int]:
        yield 1
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        try:
            yield 2
        finally:
            await asyncio.sleep(0.02)

    async def body(stage: Stage) -> None:
        stage.start()
        await stage.until(lambda: stage.items)
        stage.runner.halt(Halt(LEG))
        await asyncio.sleep(0.01)
        assert stage.ends == [] and len(stage.runner) == 1
        assert await stage.end() == Yielded(LEG)
        assert stage.items == [1]

    play(handler, body)


def test_a_handler_that_swallows_its_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HALT_AGAIN_S", 0.001)
    swallowed = []

    async def handler(request: Any) -> AsyncIterator[int]:
        while len(swallowed) < 3:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                swallowed.append(True)
        return
        yield

    async def body(stage: Stage) -> None:
        stage.start()
        await asyncio.sleep(0)
        stage.runner.halt(Halt(LEG))
        assert await stage.end() == Yielded(LEG)

    play(handler, body)
    assert len(swallowed) == 3


def test_a_handler_that_returns_when_halted_has_not_finished_its_stream() -> None:
    """A drain halts it, too: an early return must not look like the end of the stream."""

    async def handler(request: Any) -> AsyncIterator[int]:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return
        yield 1

    async def body(stage: Stage) -> None:
        stage.start()
        await asyncio.sleep(0)
        stage.runner.halt(Halt(LEG))
        assert await stage.end() == Yielded(LEG)

    play(handler, body)


def test_a_generator_that_ignores_its_close_ends_all_the_same() -> None:
    async def handler(request: Any) -> AsyncIterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2

    async def body(stage: Stage) -> None:
        stage.start()
        await stage.until(lambda: stage.items)
        stage.runner.halt(Halt(LEG))
        assert await stage.end() == Yielded(LEG)
        assert 2 not in stage.items

    play(handler, body)


def test_a_cancellation_of_the_handlers_own_making() -> None:
    async def handler(request: str, context: Context) -> AsyncIterator[int]:
        if request == "after a stop":
            await context.until_stopped()
        raise asyncio.CancelledError
        yield

    async def body(stage: Stage) -> None:
        stage.start("at once")
        assert await stage.end() == Yielded(LEG)
        stage.events.clear()
        stage.start("after a stop")
        await asyncio.sleep(0)
        stage.runner.hint(Hint(LEG))
        assert await stage.end() == Finished(LEG)

    play(handler, body)


def test_what_a_handler_made_with_its_context_ends_with_it() -> None:
    children: list[Context] = []

    async def handler(request: Any, context: Context) -> AsyncIterator[int]:
        children.append(context.child())
        yield 1

    async def body(stage: Stage) -> None:
        stage.start()
        assert await stage.end() == Finished(LEG)

    play(handler, body)
    assert children[0].killed


# --- Flow -----------------------------------------------------------------------------------------------------


def test_a_paused_handler_makes_no_more_until_it_is_unpaused() -> None:
    made = []

    async def handler(request: Any) -> AsyncIterator[int]:
        for number in range(6):
            made.append(number)
            yield number

    async def body(stage: Stage) -> None:
        stage.on_post = lambda event: stage.runner.pause(Pause(LEG)) if len(stage.items) == 2 else None
        stage.start()
        await stage.until(lambda: len(stage.items) == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert made == [0, 1]
        stage.runner.unpause(Unpause(LEG))
        stage.runner.pause(Pause(LEG))
        for _ in range(20):
            await asyncio.sleep(0)
        assert made == [0, 1], "it was paused again before it could go on"
        stage.runner.unpause(Unpause(LEG))
        assert await stage.end() == Finished(LEG)
        assert stage.items == [0, 1, 2, 3, 4, 5]

    play(handler, body)


def test_a_paused_handler_can_be_halted() -> None:
    closed = []

    async def handler(request: Any) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def body(stage: Stage) -> None:
        stage.on_post = lambda event: stage.runner.pause(Pause(LEG))
        stage.start()
        await stage.until(lambda: stage.items)
        stage.runner.halt(Halt(LEG))
        assert await stage.end() == Yielded(LEG)

    play(handler, body)
    assert closed == [True]


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_a_handler_that_never_waits_leaves_others_their_turn(kind: str) -> None:
    async def endless(request: Any) -> AsyncIterator[int]:
        while True:
            yield 1

    def endless_plain(request: Any) -> Iterator[int]:
        while True:
            yield 1

    async def body(stage: Stage) -> None:
        stage.start()
        await asyncio.sleep(0)
        before = len(stage.items)
        await asyncio.sleep(0)
        assert 0 < len(stage.items) - before <= BURST_MAX
        stage.runner.halt(Halt(LEG))
        assert await stage.end() == Yielded(LEG)

    play(endless if kind == "async" else endless_plain, body)


def test_legs_run_side_by_side_and_effects_on_strangers_change_nothing() -> None:
    async def body(stage: Stage) -> None:
        legs = [Leg(7, number, 1) for number in range(5)]
        for leg in legs:
            stage.start(leg=leg)
        stranger = Leg(9, 9, 9)
        for effect in (Hint, Halt, Pause, Unpause):
            getattr(stage.runner, effect.__name__.lower())(effect(stranger))
        await stage.until(lambda: len(stage.ends) == 5)
        assert stage.ends == [Finished(leg) for leg in legs]

    play(async_generator, body)


def test_closing_ends_everything_and_leaves_the_stubborn_behind() -> None:
    release = []

    async def handler(request: str) -> None:
        while request == "stubborn" and not release:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        await asyncio.sleep(100 if request != "stubborn" else 0)

    async def body(stage: Stage) -> None:
        stage.start("meek", leg=Leg(1, 1, 1))
        stage.start("stubborn", leg=Leg(1, 2, 1))
        await asyncio.sleep(0)
        await stage.runner.close(0.05)
        assert stage.ends == [Yielded(Leg(1, 1, 1))]
        release.append(True)
        await stage.until(lambda: len(stage.ends) == 2)

    play(handler, body)
