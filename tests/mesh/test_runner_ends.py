"""How handlers end and wait: each gives its room back exactly once, when it has really ended."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from mesh import runner as module
from mesh.context import Context
from mesh.core import (
    Finished,
    Halt,
    Hint,
    Leg,
    Pause,
    Unpause,
    Yielded,
)
from mesh.runner import BURST_MAX
from tests.mesh.stage import LEG, Stage, play


async def two(request: Any) -> AsyncIterator[int]:
    yield 1
    await asyncio.sleep(0)
    yield 2


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

    play(two, body)


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

    play(two, body)


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
