"""Our engines over tiers: what was turned out of the cache is not computed again, and no token is another."""

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from nodes.contract.engine import Job, Output, Sampling
from nodes.engines.numpy.engine import NumpyEngine, configuration
from nodes.engines.numpy.engine import Settings as NumpySettings
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Settings, SimEngine, continuation
from nodes.engines.timing import Timing
from nodes.tiers import options
from nodes.tiers.shelves import HOST
from nodes.tiers.tiers import Tiers, open_tiers
from tests.nodes.engines import models
from tests.nodes.engines.models import collect, run

PATIENCE_S = 20.0
BLOCK_TOKENS = 4
CACHE_BLOCKS = 24
RANGE = (5, 250)
TOKENS = 60  # that prompts are made of


def sim() -> SimEngine:
    limits = Limits(
        vocabulary=256, context=80, slots=4, step_tokens=64, block_tokens=BLOCK_TOKENS, blocks=CACHE_BLOCKS, spare=0.0
    )
    return SimEngine(Settings(limits, Timing(speedup=0.0), RANGE), xxh3_64_intdigest)


def numpy() -> NumpyEngine:
    folder = models.GOLDEN / "llama"
    config, _ = configuration(folder)
    token_bytes = 2 * 4 * config.layers * config.key_heads * config.head_width
    cache_bytes = CACHE_BLOCKS * BLOCK_TOKENS * token_bytes
    return NumpyEngine(
        NumpySettings(str(folder), exact=True, slots=4, block_tokens=BLOCK_TOKENS, cache_bytes=cache_bytes)
    )


ENGINES = {"sim": sim, "numpy": numpy}


class Served:
    """An engine that is served as a host serves it, over tiers."""

    def __init__(self, engine: Any, host_blocks: int = 0, disk: str = "", store: str = "", uses: int = 1) -> None:
        self.engine = engine
        self.card = engine.start()
        self.prefilled = 0
        self._news = threading.Event()
        self._keys = 0
        self.tiers: Tiers | None = None
        if host_blocks:
            asked = options.read(host_blocks * self.card.layout.block_bytes, disk, store, uses)
            assert asked is not None
            self.tiers = open_tiers(asked, self.card.layout, "model", self.card.engine)
            self.tiers.on_news(lambda has_arrived: self._news.set())
            engine.attach(self.tiers)

    def said(self, *prompts: list[int], seed: int | None = None, max_tokens: int = 4) -> list[list[int]]:
        """What it says to these prompts at once."""
        found: dict[Any, Output] = {}
        keys = []
        for prompt in prompts:
            self._keys += 1
            keys.append(self._keys)
            sampling = Sampling(temperature=0.0) if seed is None else Sampling(seed=seed)
            job = Job(self._keys, prompt, max_tokens=max_tokens, ignore_eos=True, sampling=sampling)
            assert self.engine.submit(job) is None
        while not all(key in found and found[key].ending is not None for key in keys):
            if self.engine.idle():
                assert self._news.wait(PATIENCE_S), "an engine that is idle was never stirred"
            if self._news.is_set():
                self._news.clear()
                self.engine.stir()
            step = self.engine.step()
            self.prefilled += step.prefilled_tokens
            collect(step, found)
            self.engine.check()
        if self.tiers is not None:
            self.tiers.check()
        return [list(found[key].tokens) for key in keys]

    def prefilled_for(self, prompt: list[int]) -> int:
        before = self.prefilled
        self.said(prompt)
        return self.prefilled - before

    def close(self) -> None:
        self.engine.stop()
        if self.tiers is not None:
            self.tiers.close()


@pytest.fixture
def closing() -> Iterator[list[Served]]:
    served: list[Served] = []
    yield served
    for one in served:
        one.close()


def prompts(count: int, length: int = 41) -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.randrange(5, TOKENS) for _ in range(length)] for _ in range(count)]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("seed", [None, 7])
def test_a_prompt_that_the_cache_turned_out_comes_back(closing: list[Served], name: str, seed: int | None) -> None:
    """Six prompts of ten blocks through a cache of 24: the second time around none is there."""
    plain, tiered = Served(ENGINES[name]()), Served(ENGINES[name](), host_blocks=128)
    closing += [plain, tiered]
    for _ in range(2):
        for prompt in prompts(6):
            assert tiered.said(prompt, seed=seed) == plain.said(prompt, seed=seed)
    assert plain.prefilled == 2 * 6 * 41
    assert tiered.prefilled == 6 * 41 + 6, "of each the last token, whose step gives the next"
    assert tiered.tiers is not None and tiered.tiers._core.counts[HOST].hit == 6 * 10


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("below", ["disk", "store"])
def test_after_a_restart(closing: list[Served], tmp_path: Path, name: str, below: str) -> None:
    where: Any = {"disk": f"{tmp_path}:100M"} if below == "disk" else {"store": f"dir:{tmp_path}"}
    first = Served(ENGINES[name](), host_blocks=128, **where)
    expected = [first.said(prompt) for prompt in prompts(6)]
    first.close()
    assert len(list(tmp_path.glob("**/*.kv"))) >= 6 * 10, "what was still in the cache, too"
    second = Served(ENGINES[name](), host_blocks=128, **where)
    closing.append(second)
    wait_scanned(second, 60 if below == "disk" else 0)
    assert second.said(*prompts(6)) == [said[0] for said in expected], "all at once"
    assert second.prefilled == 6


def wait_scanned(served: Served, files: int) -> None:
    """Until a disk has been looked through."""
    deadline = time.monotonic() + PATIENCE_S
    assert served.tiers is not None
    while files > len(getattr(served.tiers._core.lower[0].index, "files", ())) and time.monotonic() < deadline:
        os.sched_yield()


@pytest.mark.parametrize("name", ENGINES)
def test_a_store_spares_another_worker_the_work(closing: list[Served], tmp_path: Path, name: str) -> None:
    one = Served(ENGINES[name](), host_blocks=128, store=f"dir:{tmp_path}")
    other = Served(ENGINES[name](), host_blocks=128, store=f"dir:{tmp_path}")
    closing += [one, other]
    (prompt,) = prompts(1)
    said = one.said(prompt)
    one.said(prompt)  # used again: it goes down while it is in the cache
    one.close()
    assert other.prefilled_for(prompt) == 1
    assert other.said(prompt) == said


@pytest.mark.parametrize("name", ENGINES)
def test_a_prefill_worker_hands_over_what_came_from_below(closing: list[Served], name: str) -> None:
    """What is exported of a prompt is the same whether it was computed, cached, or restored."""
    served = Served(ENGINES[name](), host_blocks=128)
    closing.append(served)
    first, *others = prompts(6)

    def handed() -> bytes:
        room = bytearray(11 * served.card.layout.block_bytes)
        served._keys += 1
        job = Job(served._keys, first, max_tokens=1, ignore_eos=True, out=memoryview(room))
        assert served.engine.submit(job) is None
        found = run(served.engine)[job.key]
        assert found.exported == len(first)
        return bytes(room)

    computed = handed()
    for prompt in others:
        served.said(prompt)
    assert served.tiers is not None
    hits = served.tiers._core.counts[HOST].hit
    restored = handed()
    assert served.tiers._core.counts[HOST].hit == hits + 10
    cached = handed()
    size = served.card.layout.block_bytes
    assert computed[: 10 * size] == restored[: 10 * size] == cached[: 10 * size]


def test_wrong_bytes_would_be_noticed(closing: list[Served]) -> None:
    """The tests above prove nothing if an engine does not use what it is given."""
    tiered = Served(sim(), host_blocks=128)
    closing.append(tiered)
    for prompt in prompts(6):
        tiered.said(prompt)
    assert tiered.tiers is not None
    tiered.tiers._arena.view[:] = bytes(len(tiered.tiers._arena.view))
    prompt = prompts(6)[0]
    assert tiered.said(prompt) != [continuation(prompt, 4, RANGE)]


@pytest.mark.parametrize("seed", range(4))
def test_many_at_once_in_a_small_cache_over_small_tiers(closing: list[Served], tmp_path: Path, seed: int) -> None:
    """Preemption, restores, spills and a disk that is as small as the rest: every stream is the promised one."""
    draw = random.Random(seed)
    starts = prompts(4, 30)
    served = Served(sim(), host_blocks=20, disk=f"{tmp_path}:{40 * 4096}", uses=1 + seed % 2)
    closing.append(served)
    for _ in range(12):
        asked = [draw.choice(starts)[: draw.randrange(9, 31)] + prompts(1, draw.randrange(1, 9))[0] for _ in range(6)]
        said = served.said(*asked, max_tokens=9)
        assert said == [continuation(prompt, 9, RANGE) for prompt in asked]
    assert served.tiers is not None
    served.tiers.check()
