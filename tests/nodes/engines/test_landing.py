"""Jobs that go from one simulated engine to another, with what was computed of them: no token may tell."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from nodes.contract.engine import Ending, Job, Output
from nodes.engines.sim import SimEngine, continuation, states_of
from nodes.transfer.layout import Layout
from tests.nodes.engines.handing import advanced, carried, prefilled, room
from tests.nodes.engines.models import collect, run
from tests.nodes.engines.test_sim import RANGE, engine_of, jobs, promised

BIG = 64  # more positions than any of these sequences has


def layout_of(engine: SimEngine) -> Layout:
    layout = engine.start().layout
    assert layout is not None
    return layout


def said(job: Job, *outputs: Output) -> tuple[list[int], Ending | None]:
    return [token for output in outputs for token in output.tokens], outputs[-1].ending


# --- Out -------------------------------------------------------------------------------------------------


def test_blocks_go_out_as_they_are_computed() -> None:
    """Chunk by chunk, from the cached prefix on, and the last may be partial."""
    engine = engine_of(step_tokens=10, slots=2)
    prompt = list(range(23))
    engine.submit(Job(1, prompt[:9], max_tokens=1))
    run(engine)
    out = room(layout_of(engine), 23)
    engine.submit(Job(2, prompt, max_tokens=1, out=out))
    told = [output.exported for _ in range(2) for output in engine.step().outputs]
    assert told == [18, 23]
    assert bytes(out[: 4 * 23]) == states_of(prompt, 0, 23).tobytes()
    assert set(out[4 * 23 :]) == {0xEE}


def test_a_room_that_is_too_small_gets_what_fits() -> None:
    engine = engine_of()
    out = room(layout_of(engine), 8)
    engine.submit(Job(1, list(range(23)), max_tokens=4, out=out))
    assert run(engine)[1].exported == 8
    assert bytes(out) == states_of(range(23), 0, 8).tobytes()


def test_what_decodes_goes_out_too() -> None:
    engine = engine_of()
    out = room(layout_of(engine), BIG)
    engine.submit(Job(1, [1, 2, 3], max_tokens=9, out=out))
    found = run(engine)[1]
    assert found.exported == 3 + 8
    assert bytes(out[: 4 * 11]) == states_of([1, 2, 3, *found.tokens], 0, 11).tobytes()


@given(jobs(), st.integers(1, 4), st.integers(6, 20), st.integers(16, 24))
@settings(max_examples=40)
def test_what_goes_out_is_right_whoever_is_preempted(jobs: list[Job], slots: int, step: int, blocks: int) -> None:
    engine = engine_of(slots=slots, step_tokens=step, blocks=blocks)
    outs = {job.key: room(layout_of(engine), BIG) for job in jobs}
    for job in jobs:
        assert engine.submit(structs.replace(job, out=outs[job.key])) is None
    found = run(engine)
    for job in jobs:
        sequence = [*job.prompt, *job.generated, *found[job.key].tokens]
        count = found[job.key].exported
        assert count == len(sequence) - 1 or not found[job.key].tokens
        assert bytes(outs[job.key][: 4 * count]) == states_of(sequence, 0, count).tobytes()


# --- Landing ---------------------------------------------------------------------------------------------


def landing(job: Job, **more: Any) -> Job:
    return structs.replace(job, lands=True, **more)


@st.composite
def courses(draw: st.DrawFn) -> dict[str, Any]:
    """When a job comes to the second engine, when and what lands there, and when it is taken away."""
    return {
        "comes": draw(st.integers(0, 6)),
        "lands": draw(st.integers(0, 12)),
        "part": draw(st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.0, 1.0])),
        "leaves": draw(st.none() | st.integers(0, 30)),
    }


class Course:
    """One job on its way over three engines."""

    def __init__(self, job: Job, first: Output, out: memoryview, plan: dict[str, Any]) -> None:
        self.job, self.first, self.out, self.plan = job, first, out, plan
        self.saved = memoryview(b"")
        self.positions = -1  # that are saved; -1: it was not taken away

    def act(self, engine: SimEngine, turn: int) -> None:
        plan, job = self.plan, self.job
        if turn == plan["comes"]:
            assert engine.submit(landing(job)) is None
        if turn == max(plan["comes"], plan["lands"]):
            source = self.out if plan["part"] else None
            engine.land(job.key, source, int(self.first.exported * plan["part"]), self.first.tokens)
            self.out[:] = b"\xdd" * len(self.out)  # it may be used again at once
        if turn == plan["leaves"]:
            self.saved = room(layout_of(engine), BIG)
            self.positions = engine.cancel(job.key, self.saved)


ENGINES = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 4),
        "step_tokens": st.integers(6, 20),
        "blocks": st.integers(16, 30),
        "hand_over": st.booleans(),
        "caching": st.booleans(),
    }
)


@given(jobs(), st.data(), ENGINES, st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=100)
def test_no_token_tells_of_the_way(jobs: list[Job], data: st.DataObject, engine: dict[str, Any], size: int) -> None:
    """Prefilled here, decoded there between others, taken away at any moment and ended by a third."""
    first = engine_of(block_tokens=size)
    second = engine_of(**engine)
    third = engine_of(block_tokens=8)
    found: dict[Any, Output] = {}
    ways: list[Course] = []
    for job in jobs:
        output, out = prefilled(first, first.start(), job)
        ways.append(Course(job, output, carried(out, layout_of(first), layout_of(second)), data.draw(courses())))
    for turn in range(32):
        for way in ways:
            way.act(second, turn)
            second.check()
        advanced(second, 1, found)
    run(second, found)
    assert second.load().blocks_used == 0
    for way in ways:
        job, parts = way.job, [way.first, found[way.job.key]]
        if parts[-1].ending in (Ending.CANCELLED, Ending.PREEMPTED):
            # What the first made counts once it was told to the second; who lands is not preempted before.
            told = parts[-1].ending is Ending.PREEMPTED
            told = told or way.plan["leaves"] >= max(way.plan["comes"], way.plan["lands"])
            so_far = [*job.generated, *way.first.tokens, *parts[-1].tokens] if told else [*job.generated]
            parts = [*parts[: 2 if told else 0], finished(third, way, so_far)]
        assert said(job, *parts) == promised(job)


def finished(engine: SimEngine, way: Course, generated: list[int]) -> Output:
    """The rest of a stream that was taken away."""
    job = landing(way.job, generated=generated)
    assert engine.submit(job) is None
    assert way.positions <= len(job.prompt) + len(generated)
    saved = carried(way.saved, engine_layout(4), layout_of(engine))
    engine.land(job.key, saved, way.positions, ())
    return run(engine)[job.key]


def engine_layout(size: int) -> Layout:
    return layout_of(engine_of(block_tokens=size))


def test_nothing_is_prefilled_after_a_hand_over() -> None:
    """At each step of a stream; and the first token of the new holder comes with its first step that computes."""
    job = Job(1, list(range(10)), max_tokens=12)
    for steps in range(1, 12):
        old, new = engine_of(), engine_of()
        found: dict[Any, Output] = {}
        advanced(old, 0, found)
        old.submit(job)
        advanced(old, steps, found)
        out = room(layout_of(old), BIG)
        positions = old.cancel(1, out)
        assert positions == 10 + steps - 1
        new.submit(landing(job, generated=found[1].tokens))
        assert not new.step().computed_tokens
        new.land(1, out, positions, ())
        rest: dict[Any, Output] = {}
        assert advanced(new, 100, rest) == 0
        assert (found[1].tokens + rest[1].tokens, rest[1].ending) == promised(job)


def test_a_landing_job_holds_its_room_and_is_idle() -> None:
    engine = engine_of(slots=1)
    engine.submit(landing(Job(1, list(range(8)), max_tokens=2)))
    engine.submit(Job(2, [5], max_tokens=2))
    engine.step()
    assert engine.idle() and engine.load().running == 1 and engine.load().waiting == 1
    assert engine.load().blocks_used == 2
    engine.land(1, None, 0, [])
    assert not engine.idle()
    assert {key: len(output.tokens) for key, output in run(engine).items()} == {1: 2, 2: 2}


def test_who_waits_for_the_room_of_a_landing_job_gets_it_when_it_goes() -> None:
    engine = engine_of(slots=1)
    engine.submit(landing(Job(1, [5])))
    engine.submit(Job(2, [5], max_tokens=3))
    engine.step()
    assert engine.idle()
    assert engine.cancel(1) == 0
    assert run(engine)[2].ending is Ending.LENGTH


def test_the_cache_here_is_better_than_what_came() -> None:
    engine = engine_of()
    prompt = list(range(23))
    engine.submit(Job(1, prompt, max_tokens=1))
    run(engine)
    wrong = memoryview(bytes(4 * 24))
    engine.submit(landing(Job(2, prompt, max_tokens=3)))
    engine.step()
    engine.land(2, wrong, 12, [])
    found: dict[Any, Output] = {}
    assert advanced(engine, 100, found) == 3
    assert found[2].tokens == continuation(prompt, 3, RANGE)
    assert found[2].cached_tokens == 20


def test_who_has_lost_its_blocks_has_nothing_to_hand_over() -> None:
    engine = engine_of(blocks=16, slots=2)
    for key in (1, 2):
        engine.submit(Job(key, [key] * 8, max_tokens=50))
    found: dict[Any, Output] = {}
    while not engine.load().waiting:
        advanced(engine, 1, found)
    out = room(layout_of(engine), BIG)
    assert engine.cancel(2, out) == 0
    assert {*out} == {0xEE}
    assert said(Job(1, [1] * 8), run(engine, found)[1]) == promised(Job(1, [1] * 8, max_tokens=50))


def test_what_is_shared_is_not_written_again() -> None:
    """Only what follows the cached prefix is taken of what came."""
    engine, prompt = engine_of(), list(range(23))
    engine.submit(Job(1, prompt[:21], max_tokens=1))
    run(engine)
    output, out = prefilled(engine_of(), engine.start(), Job(2, prompt))
    out[: 4 * 20] = bytes(4 * 20)
    engine.submit(landing(Job(2, prompt, max_tokens=3)))
    engine.step()
    engine.land(2, out, 23, output.tokens)
    assert [*output.tokens, *run(engine)[2].tokens] == continuation(prompt, 3, RANGE)


def test_what_landed_is_shared_at_once() -> None:
    engine, prompt = engine_of(), list(range(23))
    output, out = prefilled(engine_of(), engine.start(), Job(1, prompt))
    engine.submit(landing(Job(1, prompt, max_tokens=9)))
    engine.step()
    engine.land(1, out, 23, output.tokens)
    engine.submit(Job(2, prompt, max_tokens=1))
    assert engine.step().prefilled_tokens == 3


def test_what_landed_is_shared() -> None:
    """The cache knows it by its hashes, tells the routers, and the next with this prefix computes only the rest."""
    engine, prompt = engine_of(), list(range(23))
    output, out = prefilled(engine_of(), engine.start(), Job(1, prompt))
    engine.submit(landing(Job(1, prompt, max_tokens=2)))
    engine.step()
    engine.land(1, out, 23, output.tokens)
    events = engine.step().events
    assert [(event.kind, len(event.hashes)) for event in events] == [("stored", 6)]
    engine.submit(Job(2, prompt, max_tokens=1))
    assert engine.step().prefilled_tokens == 3


def test_cached_tokens_are_told_of_a_job_that_goes_straight_to_decode() -> None:
    engine, prompt = engine_of(), list(range(23))
    output, out = prefilled(engine_of(), engine.start(), Job(1, prompt))
    engine.submit(Job(0, prompt[:9], max_tokens=1))
    run(engine)
    engine.submit(landing(Job(1, prompt, max_tokens=3)))
    engine.step()
    engine.land(1, out, 23, output.tokens)
    assert run(engine)[1].cached_tokens == 8


@pytest.mark.parametrize("byte", [0, 13, 39, 91])
def test_each_wrong_byte_shows(byte: int) -> None:
    """In the stream that it landed for, in who shares its blocks, and in who gets them from there."""
    engine, prompt = engine_of(), list(range(23))
    right, rest = continuation(prompt, 3, RANGE), continuation([*prompt[:20], 7, 7], 2, RANGE)
    output, out = prefilled(engine_of(), engine.start(), Job(1, prompt))
    out[byte] ^= 4
    engine.submit(landing(Job(1, prompt, max_tokens=3)))
    engine.step()
    engine.land(1, out, 23, output.tokens)
    assert [*output.tokens, *run(engine)[1].tokens] != right
    if byte < 80:
        onward = Job(2, [*prompt[:20], 7, 7], max_tokens=2)
        engine.submit(onward)
        assert run(engine)[2].tokens != rest
        output, out = prefilled(engine, engine.start(), onward)
        assert bytes(out[: 4 * 22]) != states_of(onward.prompt, 0, 22).tobytes()
    others = [Job(key, [key + 100] * 30, max_tokens=1) for key in range(3, 40)]
    for job in [*others, Job(99, prompt, max_tokens=3)]:  # its blocks are used again and are right then
        engine.submit(job)
        assert run(engine)[job.key].tokens == continuation(job.prompt, job.max_tokens, RANGE)


def test_land_is_forgiving() -> None:
    """A key that has gone, one that did not wait, one that has landed, and what never was so long."""
    engine = engine_of()
    engine.land(7, None, 5, [1])
    engine.submit(Job(1, [1, 2], max_tokens=3))
    engine.land(1, memoryview(bytes(64)), 2, [9])
    engine.submit(landing(Job(2, [1, 2], max_tokens=3)))
    engine.land(2, memoryview(b""), 50, [])
    engine.land(2, memoryview(bytes(64)), 2, [9])
    engine.submit(landing(Job(3, [1, 2], max_tokens=3)))
    found: dict[Any, Output] = {}
    advanced(engine, 1, found)
    engine.land(3, memoryview(b"123"), -4, [])
    run(engine, found)
    assert all(found[key].tokens == continuation([1, 2], 3, RANGE) for key in (1, 2, 3))


@pytest.mark.parametrize("admitted", [False, True])
def test_what_comes_with_it_may_end_it(admitted: bool) -> None:
    engine, found = engine_of(), dict[Any, Output]()
    for key, tokens in enumerate(([50], [31], [999], [50, 51, 52])):
        engine.submit(landing(Job(key, [1, 2], max_tokens=2 if key else 1, stop_tokens=[31])))
        if admitted:
            advanced(engine, 1, found)
        engine.land(key, None, 0, tokens)
    run(engine, found)
    endings = [found[key].ending for key in range(4)]
    assert endings == [Ending.LENGTH, Ending.STOP, Ending.FAILED, Ending.LENGTH]
    assert "vocabulary" in found[2].text
    assert engine.load().blocks_used == 0


def test_what_it_brought_is_kept_until_it_has_blocks() -> None:
    """And can be taken away again before."""
    engine, prompt = engine_of(slots=1), list(range(23))
    output, out = prefilled(engine_of(), engine.start(), Job(1, prompt))
    brought = bytes(out)
    engine.submit(Job(0, [1, 2, 3], max_tokens=5))
    for key in (1, 2):
        engine.submit(landing(Job(key, prompt, max_tokens=3)))
    engine.step()
    for key in (1, 2):
        engine.land(key, out, 23, output.tokens)
    out[:] = bytes(len(out))
    back = room(layout_of(engine), 23)
    assert engine.cancel(2, back) == 23
    assert back[: 4 * 23] == brought[: 4 * 23]
    found: dict[Any, Output] = {}
    assert advanced(engine, 100, found) == 0
    assert [*output.tokens, *found[1].tokens] == continuation(prompt, 3, RANGE)


def test_a_load_says_what_is_to_be_prefilled() -> None:
    engine = engine_of(step_tokens=8, slots=1)
    engine.submit(Job(1, list(range(20)), max_tokens=5))
    engine.submit(Job(2, list(range(9)), max_tokens=5))
    engine.submit(landing(Job(3, list(range(9)), max_tokens=5)))
    collect(engine.step(), {})
    assert engine.load().prefill_tokens == 12 + 9
