"""The simulated engine, and with it the scheduler: whatever happens, each stream is the one its prompt promises."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import chain
from nodes.contract.engine import FULL, Ending, Job, Output, Sampling
from nodes.engines.scheduler import Limits, Plan, Scheduler
from nodes.engines.sim import Crashed, Settings, SimEngine, continuation
from nodes.engines.timing import Timing
from nodes.faults import Fault
from tests.nodes.engines.models import collect, run

RANGE = (20, 119)
ENDS = 31  # a token that the range has
FORMULAS = Timing()


def engine_of(timing: Timing = FORMULAS, poison: int = -1, **limits: Any) -> SimEngine:
    given = {"vocabulary": 200, "context": 64, "block_tokens": 4, "blocks": 64, "slots": 8, "step_tokens": 32, **limits}
    engine = SimEngine(Settings(Limits(**given), timing, RANGE, poison=poison), xxh3_64_intdigest)
    engine.start()
    engine._scheduler.plan = watched(engine._scheduler)  # type: ignore[method-assign]
    return engine


def watched(scheduler: Scheduler) -> Callable[[], Plan]:
    """Its plans, each of which must have a place for all that it computes."""
    original = scheduler.plan

    def plan() -> Plan:
        found = original()
        assert all(len(running.tokens) <= running.room for running in found.heads)
        assert all(part.start + part.count <= part.running.room for part in found.parts)
        assert 0 <= found.computed <= scheduler.limits.step_tokens
        return found

    return plan


def promised(job: Job) -> tuple[list[int], Ending]:
    """What comes after `generated`, by the contract alone."""
    said = list(job.generated)
    while True:
        if said and said[-1] in job.stop_tokens and len(said) > job.min_tokens:
            return said[len(job.generated) :], Ending.STOP
        if len(said) >= job.max_tokens or len(job.prompt) + len(said) >= 64:
            return said[len(job.generated) :], Ending.LENGTH
        said += continuation([*job.prompt, *said], 1, RANGE)


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    shared = draw(st.lists(st.integers(0, 199), min_size=1, max_size=30))
    found = []
    for key in range(draw(st.integers(1, 12))):
        prompt = [*shared[: draw(st.integers(1, len(shared)))], *draw(st.lists(st.integers(0, 3), max_size=8))]
        generated = continuation(prompt, draw(st.integers(0, 3)), RANGE)
        count = draw(st.integers(0, 40))
        more = {"stop_tokens": draw(st.lists(st.integers(*RANGE), max_size=9)), "min_tokens": draw(st.integers(0, 5))}
        priority = draw(st.integers(-1, 1))
        found.append(Job(key, prompt, generated=generated, max_tokens=count, priority=priority, **more))
    return found


@given(jobs(), st.integers(1, 6), st.integers(6, 40), st.integers(16, 40), st.booleans(), st.integers(0, 5))
def test_every_stream_is_what_was_promised(
    jobs: list[Job], slots: int, step: int, blocks: int, caching: bool, gap: int
) -> None:
    """Few blocks: preemption and recompute happen all the time, and those who come later may go before."""
    engine = engine_of(slots=slots, step_tokens=step, blocks=blocks, caching=caching)
    found: dict[Any, Output] = {}
    for job in jobs:
        assert engine.submit(job) is None
        for _ in range(gap):
            collect(engine.step(), found)
            engine.check()
    run(engine, found)
    for job in jobs:
        assert (found[job.key].tokens, found[job.key].ending) == promised(job)
    assert engine.load().blocks_used == 0


@given(jobs(), st.data())
@settings(max_examples=50)
def test_a_cancel_frees_at_once_and_harms_nobody(jobs: list[Job], data: st.DataObject) -> None:
    engine = engine_of(slots=3, blocks=18)
    for job in jobs:
        assert engine.submit(job) is None
    found: dict[Any, Any] = {}
    cancelled = data.draw(st.dictionaries(st.integers(0, 20), st.sampled_from([job.key for job in jobs])))
    for step in range(1000):
        if step in cancelled:
            engine.cancel(cancelled[step])
            engine.check()
        if engine.idle():
            break
        collect(engine.step(), found)
    for job in jobs:
        tokens, ending = promised(job)
        if found[job.key].ending is Ending.CANCELLED:
            assert tokens[: len(found[job.key].tokens)] == found[job.key].tokens
        else:
            assert (found[job.key].tokens, found[job.key].ending) == (tokens, ending)
    assert engine.load().blocks_used == 0


@given(jobs())
@settings(max_examples=50)
def test_handed_over_jobs_go_on_elsewhere(jobs: list[Job]) -> None:
    """What a full engine gives up, another finishes; nothing is lost or said twice."""
    engine, other = engine_of(blocks=17, hand_over=True), engine_of()
    for job in jobs:
        assert engine.submit(job) is None
    for key, output in run(engine).items():
        tokens, ending = output.tokens, output.ending
        if ending is Ending.PREEMPTED:
            job = jobs[key]
            rest = Job(key, job.prompt, [*job.generated, *tokens], job.max_tokens, job.min_tokens, job.stop_tokens)
            assert other.submit(rest) is None
            last = run(other)[key]
            tokens, ending = [*tokens, *last.tokens], last.ending
        assert (tokens, ending) == promised(jobs[key])


def test_a_prefix_is_computed_once() -> None:
    engine = engine_of()
    prompt = list(range(23))
    engine.submit(Job(1, prompt, max_tokens=1))
    first = engine.step()
    engine.submit(Job(2, prompt, max_tokens=1))
    second = engine.step()
    assert (first.computed_tokens, second.computed_tokens) == (23, 3)
    assert second.outputs[0].cached_tokens == 20
    assert [(event.kind, event.hashes) for event in first.events] == [
        ("stored", chain(prompt, 4, 0, xxh3_64_intdigest))
    ]
    assert not second.events


@given(st.integers(1, 40), st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(8, 64))
def test_a_crowd_with_one_prefix_computes_it_once(blocks: int, tails: list[int], step_tokens: int) -> None:
    """They come at once; those after the first wait for what it computes of theirs, and no longer."""
    engine = engine_of(step_tokens=step_tokens, blocks=512, context=512)
    prefix = list(range(4 * blocks))
    for key, tail in enumerate(tails):
        engine.submit(Job(key, [*prefix, *[90 + tail] * (1 + tail)], max_tokens=1))
    computed, steps = 0, 0
    while not engine.idle():
        computed, steps = computed + engine.step().computed_tokens, steps + 1
    assert computed <= len(prefix) + sum(1 + tail for tail in tails)
    assert steps <= 2 * len(tails) + computed // step_tokens + 1


def test_who_waits_for_another_goes_on_without_it() -> None:
    engine = engine_of(step_tokens=8)
    for key in (1, 2):
        engine.submit(Job(key, list(range(24)), max_tokens=1))
    assert engine.step().computed_tokens == 8
    engine.cancel(1)
    assert run(engine)[2].tokens == continuation(range(24), 1, RANGE)


def test_a_prompt_that_is_cached_whole_still_gives_a_token() -> None:
    engine = engine_of()
    for key in (1, 2):
        engine.submit(Job(key, list(range(16)), max_tokens=1))
        assert run(engine)[key].tokens == continuation(range(16), 1, RANGE)


def test_a_salt_keeps_prefixes_apart() -> None:
    engine = engine_of(step_tokens=100)
    for key, salt in enumerate(["", "a", "b", "a"]):
        engine.submit(Job(key, list(range(20)), max_tokens=1, cache_salt=salt))
    assert [output.cached_tokens for output in run(engine).values()] == [0, 0, 0, 16], "the second waited for the first"
    for key, salt in enumerate(["", "a", "c"]):
        engine.submit(Job(key, list(range(20)), max_tokens=1, cache_salt=salt))
    assert [output.cached_tokens for output in run(engine).values()] == [16, 16, 0]


def test_decodes_go_before_prompts_and_prompts_are_cut() -> None:
    engine = engine_of(step_tokens=8)
    engine.submit(Job(1, [1], max_tokens=9))
    engine.step()
    engine.submit(Job(2, list(range(20)), max_tokens=9))
    assert [engine.step().computed_tokens for _ in range(4)] == [8, 8, 7, 2]


def test_priority_goes_first_and_is_preempted_last() -> None:
    engine = engine_of(blocks=16, slots=2)
    for key, priority in ((1, 5), (2, 0), (3, -5)):
        engine.submit(Job(key, [key] * 8, max_tokens=40, priority=priority))
    first = engine.step()
    assert [output.key for output in first.outputs] == [3, 2]
    order = [key for key, _ in sorted(run_ends(engine).items(), key=lambda item: item[1])]
    assert order == [3, 2, 1]


def test_a_prompt_that_goes_first_takes_the_room_of_one_that_decodes() -> None:
    engine = engine_of(blocks=16, slots=2, step_tokens=8)
    later, first = Job(1, [1] * 8, max_tokens=50, priority=1), Job(2, list(range(28)), max_tokens=2)
    found: dict[Any, Output] = {}
    engine.submit(later)
    for _ in range(28):
        collect(engine.step(), found)
    engine.submit(first)  # the 7 free blocks are enough, but the other one takes one of them first
    run(engine, found)
    assert len(found[2].tokens) == 2
    for job in (later, first):
        assert (found[job.key].tokens, found[job.key].ending) == promised(job)


def run_ends(engine: SimEngine) -> dict[Any, int]:
    ends: dict[Any, int] = {}
    for step in range(1000):
        if engine.idle():
            break
        ends |= {output.key: step for output in engine.step().outputs if output.ending}
    return ends


@pytest.mark.parametrize(
    ("job", "word"),
    [
        (Job(1, []), "empty"),
        (Job(1, [200]), "vocabulary"),
        (Job(1, [-1]), "vocabulary"),
        (Job(1, [1], generated=[999]), "vocabulary"),
        (Job(1, [1] * 64), "context"),
        (Job(1, [1] * 60, generated=[1] * 5), "context"),
        (Job(1, [1] * 30, max_tokens=11), "cache"),
        (Job(7, [1]), "key"),
    ],
)
def test_what_can_never_run_is_refused_with_a_reason(job: Job, word: str) -> None:
    engine = engine_of(blocks=10)
    assert engine.submit(Job(7, [1])) is None
    assert word in (engine.submit(job) or "")


def test_a_full_queue_says_so_and_ends() -> None:
    engine = engine_of(waiting_max=2)
    assert [engine.submit(Job(key, [1])) for key in range(4)] == [None, None, FULL, FULL]
    engine.step()
    assert engine.submit(Job(4, [1])) is None


def test_what_is_complete_already_ends_without_a_token() -> None:
    engine = engine_of()
    engine.submit(Job(1, [1], generated=[ENDS], stop_tokens=[ENDS]))
    engine.submit(Job(2, [1], generated=[50, 51], max_tokens=2))
    engine.submit(Job(3, [1], max_tokens=0))
    step = engine.step()
    assert [(output.key, output.ending) for output in step.outputs] == [
        (1, Ending.STOP),
        (2, Ending.LENGTH),
        (3, Ending.LENGTH),
    ]
    assert engine.idle()


def test_end_of_sequence_stops_unless_ignored() -> None:
    engine = engine_of(eos_tokens=tuple(range(20, 120)))
    engine.submit(Job(1, [1]))
    engine.submit(Job(2, [1], max_tokens=3, ignore_eos=True))
    engine.submit(Job(3, [1], min_tokens=2))
    found = run(engine)
    assert [(len(found[key].tokens), found[key].ending) for key in (1, 2, 3)] == [
        (1, Ending.STOP),
        (3, Ending.LENGTH),
        (3, Ending.STOP),
    ]


def test_log_probabilities_are_plausible_and_the_same_after_a_move() -> None:
    engine = engine_of()
    told = Sampling(logprobs=3)
    engine.submit(Job(1, [1, 2], max_tokens=4, sampling=told))
    engine.submit(Job(2, [1, 2], max_tokens=4))
    whole = run(engine)
    assert whole[2].logprobs == []
    for token, row in zip(whole[1].tokens, whole[1].logprobs, strict=True):
        assert row.top[0] == (token, row.chosen)
        assert [value for _, value in row.top] == sorted((value for _, value in row.top), reverse=True)
    engine.submit(Job(3, [1, 2], generated=whole[1].tokens[:2], max_tokens=4, sampling=told))
    assert run(engine)[3].logprobs == whole[1].logprobs[2:]


def test_the_clock() -> None:
    engine = engine_of(Timing(prefill_ms=((0, 10.0), (10, 20.0)), decode_ms=((0, 2.0),), speedup=2.0))
    engine.submit(Job(1, [1] * 5, max_tokens=3))
    assert [round(engine.step().wait_s, 6) for _ in range(2)] == [0.0075, 0.001]
    engine.fault(Fault.SLOW, 10)
    assert round(engine.step().wait_s, 6) == 0.01


def test_what_sequences_share_is_read_by_each() -> None:
    engine = engine_of(Timing(prefill_ms=((0, 0.0),), decode_ms=((0, 0.0), (1000, 1000.0))))
    for number in range(3):
        engine.submit(Job(number, [1] * 20, max_tokens=3))
        engine.step()
    load = engine.load()
    assert load.running == 2 and load.blocks_used == 5 + 2, "five of the prompt, and a last one for each"
    engine.submit(Job(4, [1] * 20, max_tokens=3))
    engine.step()
    step = engine.step()
    assert round(1000 * step.wait_s) == 23 + 22


def test_faults_on_command() -> None:
    engine = engine_of(poison=13)
    engine.submit(Job(1, [1], max_tokens=2))
    engine.fault(Fault.HANG)
    step = engine.step()
    assert (step.wait_s, step.outputs, engine.idle()) == (inf, [], False)
    engine.fault(Fault.NONE)
    assert engine.step().outputs
    engine.submit(Job(2, [13], max_tokens=2))
    for _ in range(2):
        with pytest.raises(Crashed):
            engine.step()


def test_clear_ends_everything() -> None:
    engine = engine_of()
    for key in range(12):
        engine.submit(Job(key, [1] * 8))
    engine.step()
    assert {output.ending for output in engine.clear()} == {Ending.CANCELLED}
    engine.check()
    assert engine.load().blocks_used == engine.load().waiting == 0
