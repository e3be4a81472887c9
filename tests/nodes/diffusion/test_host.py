"""The host of a painter: one picture at a time, each leg ends once, and its room is free when its step is over."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

import pytest

from mesh.core import Event, Failed, Finished, Halt, Hint, Leg, Produced, Progressed, Start, Yielded
from nodes.contract.pictures import PainterDead, Piece, Scene, Step, Whole, encode, fitted, unit_of
from nodes.diffusion import host as module
from nodes.diffusion.files import filed_by
from nodes.diffusion.host import PictureHost
from proto.errors import Reason
from tests.nodes.diffusion.painters import CARD, Played, pixels_of


class Play:
    """A host and all that it has said."""

    def __init__(self, painter: Played) -> None:
        self.painter = painter
        self.deaths: list[BaseException] = []
        self.host = PictureHost(painter, CARD, filed_by(CARD), self.deaths.append)
        self.items: dict[int, list[bytes]] = {}
        self.ends: dict[int, Event] = {}
        self.progress = 0

    def post(self, event: Event) -> None:
        if isinstance(event, Progressed):
            self.progress += 1
            return
        assert isinstance(event, Produced | Finished | Failed | Yielded)
        number = event.leg.request
        assert number not in self.ends, "a second end, or something after it"
        if isinstance(event, Produced):
            self.items.setdefault(number, []).extend(event.items)
        else:
            self.ends[number] = event

    def ask(self, number: int, scene: Scene | bytes) -> Leg:
        payload = scene if isinstance(scene, bytes) else encode(scene)
        leg = Leg(7, number, 1)
        self.host.start(Start(leg, "imagine/m", payload, [], 0, [], b"", inf, "", {}))
        return leg

    def steps(self, number: int) -> list[int]:
        units = [unit_of(item) for item in self.items.get(number, ())]
        return [unit.made for unit in units if isinstance(unit, Step)]

    def file(self, number: int) -> bytes:
        units = [unit_of(item) for item in self.items[number]]
        content = b"".join(unit.data for unit in units if isinstance(unit, Piece))
        whole = units[-1]
        assert isinstance(whole, Whole) and whole.size == len(content)
        return content

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.001)


def played(test: Callable[[Play], Awaitable[None]], painter: Played | None = None) -> Play:
    play = Play(painter or Played())

    async def main() -> None:
        play.host.attach(play.post, asyncio.get_running_loop())
        try:
            await test(play)
        finally:
            play.painter.let(1_000)
            await play.host.close()

    asyncio.run(main())
    return play


def test_each_step_is_a_unit_and_then_comes_the_file() -> None:
    async def test(play: Play) -> None:
        play.ask(1, Scene("a cat", seed=5))
        play.ask(2, Scene("a dog", seed=5))
        await play.until(lambda: len(play.ends) == 2)
        assert play.steps(1) == play.steps(2) == [1, 2, 3, 4]
        assert all(play.ends[number] == Finished(Leg(7, number, 1)) for number in (1, 2))
        scene = fitted(Scene("a cat", seed=5), CARD)
        assert play.file(1) == filed_by(CARD)(scene, pixels_of(scene))[1] != play.file(2)
        assert play.progress >= 8 and play.host.outcomes["complete"] == 2 and not play.host.active
        names = [family.name for family in play.host.families()]
        assert "wiremesh_pictures_total" in names

    assert played(test).painter.stops == 1


def test_who_is_halted_makes_no_further_step_and_frees_its_room_when_it_has_ended() -> None:
    async def test(play: Play) -> None:
        leg = play.ask(1, Scene("a cat"))
        play.painter.let(2)
        await play.until(lambda: play.steps(1) == [1, 2])
        play.host.halt(Halt(leg))
        play.host.halt(Halt(leg))
        assert play.host.holds(leg) and not play.ends, "its step is not over"
        play.painter.let(1)
        await play.until(lambda: play.ends)
        assert play.ends == {1: Yielded(leg)} and play.steps(1) == [1, 2] and play.painter.steps == 3
        assert not play.host.holds(leg) and play.host.outcomes["cancelled"] == 1
        play.painter.let(4)
        play.ask(2, Scene("a dog"))
        await play.until(lambda: 2 in play.ends)
        assert play.ends[2] == Finished(Leg(7, 2, 1)), "the next is as good as any"

    played(test, Played(0))


def test_who_is_asked_to_stop_ends_well() -> None:
    async def test(play: Play) -> None:
        leg = play.ask(1, Scene("a cat"))
        play.host.hint(Hint(leg))
        play.painter.let(4)
        await play.until(lambda: play.ends)
        assert play.ends == {1: Finished(leg)} and play.host.outcomes["stopped"] == 1
        play.host.halt(Halt(leg))  # too late, and no error

    played(test, Played(0))


def test_what_cannot_be_made_is_refused_and_what_fails_fails_alone() -> None:
    async def test(play: Play) -> None:
        play.ask(1, b"\x00nonsense")
        play.ask(2, Scene("a cat", width=33))
        for number, words in ((1, "no scene"), (2, "multiples of 8")):
            end = play.ends[number]
            assert isinstance(end, Failed) and end.reason is Reason.INVALID and words in end.text
        play.painter.raises = MemoryError("too large")
        play.ask(3, Scene("a cat"))
        await play.until(lambda: 3 in play.ends)
        end = play.ends[3]
        assert isinstance(end, Failed) and end.reason is Reason.FAILED and end.text == "MemoryError: too large"
        play.painter.raises = None
        play.ask(4, Scene("a cat"))
        await play.until(lambda: 4 in play.ends)
        assert isinstance(play.ends[4], Finished) and not play.deaths
        assert play.host.outcomes == {"complete": 1, "refused": 2, "failed": 1, "cancelled": 0, "stopped": 0}

    played(test)


def test_an_engine_that_is_gone_is_told_once() -> None:
    async def test(play: Play) -> None:
        play.painter.raises = PainterDead("the GPU is gone")
        play.ask(1, Scene("a cat"))
        await play.until(lambda: play.deaths)
        assert not play.ends, "its worker ends at once, and the request goes on elsewhere"

    assert len(played(test).deaths) == 1


def test_a_step_that_does_not_end_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(play: Play) -> None:
        monkeypatch.setattr(module, "STEP_S_MAX", 0.0)
        assert play.host._is_well(), "it has nothing to do"
        play.ask(1, Scene("a cat"))
        assert not play.host._is_well()
        monkeypatch.setattr(module, "STEP_S_MAX", 1_000.0)
        assert play.host._is_well()

    played(test, Played(0))
