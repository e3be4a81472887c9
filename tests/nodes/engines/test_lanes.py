"""Lanes: whatever the scheduler does, each sequence names just its own positions, and there are cells for all."""

from random import Random
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from nodes.contract.engine import Ending, Job, Sampling
from nodes.engines.llama.lanes import SCRATCH, Lanes, Move, lanes_for
from nodes.engines.scheduler import Limits, Part, Scheduler

SIZE = 4
Cell = list[tuple[int, ...]]  # one cell, told apart from others that say the same; what was said up to its position


class Cells:
    """Does what llama.cpp does with a unified cache: a cell is there as long as a lane names it."""

    def __init__(self, lanes: int, count: int) -> None:
        self.lanes: list[dict[int, Cell]] = [{} for _ in range(lanes)]
        self.count = count
        self.most = 0

    def move(self, moves: list[Move]) -> None:
        for one in moves:
            source = self.lanes[one.lane]
            some = [place for place in source if one.start < 0 or one.start <= place < one.stop]
            for place in some:
                if one.to >= 0:
                    assert self.lanes[one.to].get(place, source[place]) is source[place], "two cells at one position"
                    self.lanes[one.to][place] = source[place]
                else:
                    del source[place]

    def compute(self, lane: int, part: Part) -> None:
        tokens = part.running.tokens
        assert sorted(self.lanes[lane]) == [*range(part.start)], "positions follow each other"
        for place in range(part.start, part.start + part.count):
            self.lanes[lane][place] = [tuple(tokens[: place + 1])]
        for place, cell in self.lanes[lane].items():
            assert cell == [tuple(tokens[: place + 1])], "what it sees is its own sequence"
        used = len({id(cell) for cells in self.lanes for cell in cells.values()})
        self.most = max(self.most, used)
        assert used <= self.count, "there are cells for all"


def driven(seed: int, slots: int, blocks: int, caching: bool, turns: int) -> tuple[Cells, int, dict[Any, Ending]]:
    """Jobs that share prefixes, go on from each other, are cancelled, and have too little room."""
    random = Random(seed)
    limits = Limits(16, blocks * SIZE, slots, step_tokens=13, block_tokens=SIZE, blocks=blocks, caching=caching)
    exchange: Any = None  # nothing is handed over
    scheduler = Scheduler(limits, xxh3_64_intdigest, exchange)
    lanes = Lanes(slots, SIZE, caching, scheduler.pool)
    cells = Cells(lanes_for(slots, caching), blocks * SIZE)
    said: list[list[int]] = [[1, 2, 3, 4, 5]]
    ends: dict[Any, Ending] = {}
    cached = 0
    for turn in range(turns):
        if random.random() < 0.4:
            before = random.choice(said[-6:])
            prompt = [*before, *(random.randrange(16) for _ in range(random.randint(1, 9)))][-blocks * SIZE // 2 :]
            scheduler.submit(Job(turn, prompt, max_tokens=random.randint(1, 12), sampling=Sampling(temperature=0.0)))
        if random.random() < 0.05:
            scheduler.cancel(random.randrange(turn + 1))
        plan = scheduler.plan()
        lanes.settle([*scheduler.decoding, *scheduler.filling, *scheduler.landing])
        lanes.check()
        scheduler.check()
        parts = [Part(running, len(running.tokens) - 1, 1) for running in plan.decoding] + plan.parts
        of = [lanes.begin(part) for part in parts]
        cells.move(lanes.taken())
        for lane, part in zip(of, parts, strict=True):
            assert lane != SCRATCH
            cells.compute(lane, part)
        if plan.heads or plan.parts:
            heads = {running.key: running for running in plan.heads}
            for output in scheduler.apply(plan, [random.randrange(16) for _ in plan.heads]):
                cached += output.cached_tokens
                if output.ending is not None:
                    ends[output.key] = output.ending
                    said += [heads[output.key].tokens] if output.key in heads else []
    return cells, cached, ends


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_each_sequence_sees_itself(seed: int, caching: bool) -> None:
    cells, cached, ends = driven(seed, slots=4, blocks=24, caching=caching, turns=400)
    assert len(ends) > 50 and bool(cached) == caching
    assert cells.most > cells.count // 2, "room was short"


def test_when_lanes_run_out_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.engines.llama.lanes.BEHIND", 2)
    for seed in range(6):
        _, cached, ends = driven(seed, slots=3, blocks=60, caching=True, turns=400)
        assert cached and len(ends) > 50


def test_a_conversation_leaves_one_lane_behind() -> None:
    """Each turn takes over what the one before it kept; another conversation has a lane of its own."""
    limits = Limits(16, 400, 2, step_tokens=64, block_tokens=SIZE, blocks=100)
    exchange: Any = None  # nothing is handed over
    scheduler = Scheduler(limits, xxh3_64_intdigest, exchange)
    lanes = Lanes(2, SIZE, True, scheduler.pool)
    said = {voice: [voice, *([3, 4, 5, 6, 7] * 3)] for voice in (1, 2)}
    for turn in range(6):
        for voice, prompt in said.items():
            assert scheduler.submit(Job((turn, voice), prompt, max_tokens=2)) is None
            said[voice] = [*prompt, 9, 9, 3, 4, 5, 6, 7]
        while not scheduler.idle():
            plan = scheduler.plan()
            lanes.settle([*scheduler.decoding, *scheduler.filling])
            for part in [Part(running, len(running.tokens) - 1, 1) for running in plan.decoding] + plan.parts:
                lanes.begin(part)
            scheduler.apply(plan, [9 for _ in plan.heads])
            scheduler.events()
        lanes.settle([])
        lanes.check()
        assert len(lanes._behind) == 2
