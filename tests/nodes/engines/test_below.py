"""Blocks that the cache has no room for go below and come back; no token tells, whatever is lost on the way."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import chain
from nodes.contract.engine import Job, Output
from nodes.engines.sim import continuation
from nodes.transfer.layout import Layout
from tests.nodes.engines import models
from tests.nodes.engines.handing import advanced
from tests.nodes.engines.models import collect, greedy
from tests.nodes.engines.test_sim import RANGE, engine_of, jobs, promised


class Shelf:
    """Host memory without an end. What is sought comes when the test says so."""

    def __init__(self, layout: Layout, slow: bool = False) -> None:
        self.layout = layout
        self.slow = slow
        self.held: dict[int, bytes] = {}
        self.parents: dict[int, int] = {}
        self.spilled: list[int] = []
        self.sought: dict[Hashable, int] = {}  # how many it asked for beyond those here
        self.calls: list[str] = []

    def attach(self, copy_out: Callable[[int, memoryview], None]) -> None:
        self.copy_out = copy_out

    def seek(self, key: Hashable, parent: int, hashes: Sequence[int], here: int) -> None:
        self.calls.append("seek")
        self.sought[key] = len(hashes) - here

    def waits(self, key: Hashable) -> bool:
        return self.slow and bool(self.sought.get(key))

    def ready(self, key: Hashable, hashes: Sequence[int]) -> Sequence[memoryview]:
        found = []
        for name in hashes:
            if name not in self.held:
                break
            found.append(memoryview(self.held[name]))
        return found

    def leave(self, key: Hashable) -> None:
        self.sought.pop(key, None)

    def used(self, parent: int, hashes: Sequence[int], blocks: Sequence[int]) -> None:
        assert len(hashes) == len(blocks)

    def spill(self, name: int, parent: int, block: int) -> None:
        out = memoryview(bytearray(self.layout.block_bytes))
        self.copy_out(block, out)
        self.held[name] = bytes(out)
        self.parents[name] = parent
        self.spilled.append(name)

    def flush(self, blocks: Sequence[tuple[int, int, int]]) -> None:
        self.calls.append("flush")
        for name, parent, block in blocks:
            self.spill(name, parent, block)


def with_shelf(engine: Any, slow: bool = False) -> Shelf:
    shelf = Shelf(engine.start().layout if not hasattr(engine, "_model") else engine._running._exchange.layout, slow)
    engine.attach(shelf)
    return shelf


def run(engine: Any, *jobs: Job) -> dict[Any, Output]:
    for job in jobs:
        assert engine.submit(job) is None
    return models.run(engine)


def evict(engine: Any) -> None:
    """All its blocks are used for something else."""
    run(engine, *(Job(("other", key), [key + 120] * 30, max_tokens=1) for key in range(8)))


def test_an_evicted_prompt_comes_back() -> None:
    engine = engine_of(blocks=16)
    shelf, prompt = with_shelf(engine), list(range(23))
    run(engine, Job(1, prompt, max_tokens=1))
    evict(engine)
    names = chain(prompt, 4, 0, xxh3_64_intdigest)
    assert [shelf.parents[name] for name in names] == [0, *names[:-1]]
    assert engine.submit(Job(2, prompt, max_tokens=3)) is None
    first = engine.step()
    assert first.prefilled_tokens == 3
    assert first.outputs[0].cached_tokens == 20
    assert sum(len(event.hashes) for event in first.events if event.kind == "stored") == 5
    found: dict[Any, Output] = {}
    collect(first, found)
    advanced(engine, 10, found)
    assert found[2].tokens == continuation(prompt, 3, RANGE)


def test_a_wrong_byte_from_below_shows() -> None:
    engine = engine_of(blocks=16)
    shelf, prompt = with_shelf(engine), list(range(23))
    run(engine, Job(1, prompt, max_tokens=1))
    evict(engine)
    for name, content in shelf.held.items():
        shelf.held[name] = content[:-1] + bytes([content[-1] ^ 1])
    assert run(engine, Job(2, prompt, max_tokens=3))[2].tokens != continuation(prompt, 3, RANGE)


def test_who_waits_for_something_is_passed_and_does_not_spin() -> None:
    engine = engine_of()
    shelf = with_shelf(engine, slow=True)
    engine.submit(Job(1, list(range(23)), max_tokens=1))
    found = run(engine, Job(2, [1, 2], max_tokens=1))
    assert found.keys() == {2} and engine.idle() and engine.load().waiting == 1
    shelf.slow = False
    engine.stir()
    assert not engine.idle()
    assert models.run(engine)[1].tokens


def test_a_cancel_while_it_waits() -> None:
    engine = engine_of()
    shelf = with_shelf(engine, slow=True)
    engine.submit(Job(1, list(range(23)), max_tokens=1))
    engine.step()
    assert shelf.sought
    engine.cancel(1)
    assert not shelf.sought
    assert models.run(engine).keys() == {1} and engine.idle()


def test_what_is_known_goes_below_when_it_stops() -> None:
    """The jobs that run too; and another engine begins with it."""
    engine, other = engine_of(), engine_of()
    shelf = with_shelf(engine)
    engine.submit(Job(1, list(range(23)), max_tokens=9))
    engine.step()
    engine.stop()
    engine.stop()
    assert shelf.calls.count("flush") == 1
    with_shelf(other).held = shelf.held
    assert run(other, Job(1, list(range(23)), max_tokens=1))[1].cached_tokens == 20


@given(jobs(), st.integers(1, 4), st.integers(6, 20), st.integers(16, 24), st.data())
@settings(max_examples=60)
def test_every_stream_is_what_was_promised(
    jobs: list[Job], slots: int, step: int, blocks: int, data: st.DataObject
) -> None:
    """Few blocks, all the time something goes and comes; what is below may be lost at any moment, or come late."""
    engine = engine_of(slots=slots, step_tokens=step, blocks=blocks)
    shelf = with_shelf(engine, slow=data.draw(st.booleans()))
    found: dict[Any, Output] = {}
    for job in jobs:
        assert engine.submit(job) is None
    for turn in range(2):
        for _ in range(1000):
            if engine.idle():
                if not shelf.slow:
                    break
                shelf.slow = False
                engine.stir()
            collect(engine.step(), found)
            engine.check()
            if data.draw(st.integers(0, 9)) == 0 and shelf.held:
                del shelf.held[data.draw(st.sampled_from(sorted(shelf.held)))]
        for job in jobs:
            assert (found[job.key].tokens, found[job.key].ending) == promised(job)
        if turn == 0:
            found.clear()
            for job in jobs:
                assert engine.submit(job) is None
    assert not shelf.sought


@pytest.mark.parametrize("name", ["llama", "qwen2-window"])
def test_the_numpy_engine_to_the_bit(name: str) -> None:
    engine = models.engine_of(name, exact=True, slots=2, cache_bytes=12 * bytes_of_block(name))
    with_shelf(engine)
    prompt = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    whole = run(engine, greedy(1, prompt, 6))[1]
    run(engine, *(greedy(key, [key] * 30, 1) for key in range(2, 8)))
    assert engine.submit(greedy(9, prompt, 6)) is None
    found: dict[Any, Output] = {}
    assert advanced(engine, 100, found) == 2
    assert (found[9].tokens, found[9].cached_tokens) == (whole.tokens, 12)


def bytes_of_block(name: str) -> int:
    """Of 4 positions."""
    layout = models.engine_of(name)._running._exchange.layout
    return layout.block_bytes
