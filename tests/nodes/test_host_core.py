"""The engine host against the simulated engine, in virtual time: each leg ends once, and says what it should."""

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from mesh.core import Event, Failed, Finished, Halt, Hint, Leg, Start, Stepped, Yielded
from nodes import generation
from nodes.contract.engine import Ending, Job, Output, Sampling, Step
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Crashed, Settings, SimEngine, continuation
from nodes.engines.timing import Timing
from nodes.faults import Fault
from nodes.generation import Generation
from nodes.host_core import HostCore
from nodes.host_metrics import families
from proto.errors import Reason
from tests.nodes.hosting import AT_ONCE, CONTEXT, PACED, RANGE, STEP_S, Play, engine_of, start_of


@st.composite
def starts(draw: st.DrawFn) -> list[Start]:
    shared = draw(st.lists(st.integers(0, 199), min_size=1, max_size=30))
    found = []
    for number in range(draw(st.integers(1, 10))):
        prompt = [*shared[: draw(st.integers(1, len(shared)))], *draw(st.lists(st.integers(0, 3), max_size=8))]
        generated = continuation(prompt, draw(st.integers(0, 4)), RANGE)
        wanted = Generation(
            max_tokens=draw(st.integers(0, 40)),
            stop_tokens=tuple(draw(st.lists(st.integers(*RANGE), max_size=3))),
            sampling=Sampling(logprobs=draw(st.sampled_from([-1, -1, 0, 2]))),
            priority=draw(st.integers(-1, 1)),
        )
        stopped = generated and generated[-1] in wanted.stop_tokens
        found.append(start_of(number, prompt, [] if stopped else generated, wanted))
    return found


moves = st.lists(st.tuples(st.sampled_from(["halt", "hint", "wait", "turn"]), st.integers(0, 9), st.floats(0, 0.05)))


@given(starts(), moves, st.sampled_from([PACED, AT_ONCE]), st.booleans(), st.integers(16, 64), st.integers(1, 4))
@settings(max_examples=200)
def test_each_leg_ends_once_and_says_what_it_should(
    starts: list[Start], moves: list[Any], timing: Timing, hand_over: bool, blocks: int, slots: int
) -> None:
    play = Play(engine_of(timing, hand_over=hand_over, blocks=blocks, slots=slots))
    waiting: Iterator[Start] = iter(starts)
    halted, hinted = set(), set()
    for what, number, wait_s in [*moves, *[("wait", 0, 0.0)] * len(starts)]:
        leg = Leg(7, number, 1)
        if leg in play.started and what == "halt":
            halted.add(leg)
            play.host.halt(Halt(leg), play.now)
        elif leg in play.started and what == "hint":
            hinted.add(leg)
            play.host.hint(Hint(leg), play.now)
        elif what == "turn":
            play.turn() if play.host.deadline() < inf else None
        elif (start := next(waiting, None)) is not None:
            play.start(start)
            play.until(play.now + wait_s)
    play.finish()
    assert play.ends.keys() == play.started.keys(), "each has one end"
    for leg, end in play.ends.items():
        promised, said = play.promised(leg), play.tokens[leg]
        assert said == promised[: len(said)]
        judge(end, said == promised, leg in halted, leg in hinted, hand_over)
    assert play.engine.load().running == play.engine.load().waiting == play.engine.load().blocks_used == 0


def judge(end: Event, whole: bool, halted: bool, hinted: bool, hand_over: bool) -> None:
    """Whether a leg could end like that."""
    match end:
        case Finished(reason=Reason.LENGTH):
            assert whole
        case Finished():
            assert whole or hinted
        case Yielded(reason=Reason.PREEMPT):
            assert hand_over and not hinted
        case Yielded():
            assert halted
        case _:
            raise AssertionError(end)


def test_tokens_come_when_their_step_is_over() -> None:
    play = Play(engine_of())
    begin = play.now
    leg = play.start(start_of(0, [1, 2, 3], [], Generation(4)))
    play.finish()
    assert play.tokens[leg] == continuation([1, 2, 3], 4, RANGE)
    assert [round(time - begin, 6) for time, _ in play.steps] == [0.03, 0.05, 0.07, 0.09]
    assert play.ends[leg] == Finished(leg, Reason.LENGTH)


def test_a_late_loop_does_not_make_the_steps_longer() -> None:
    play = Play(engine_of())
    play.start(start_of(0, [1, 2, 3], [], Generation(10)))
    begin = play.now
    while play.host.deadline() < inf:
        play.now = max(play.now, play.host.deadline()) + 0.004
        play.host.turn(play.now, play.post)
    assert play.now - begin == pytest.approx(0.004 + 0.03 + 9 * STEP_S + 0.004)


def test_a_step_after_a_rest_is_as_long_as_it_says() -> None:
    """The end of the last one is no excuse to begin in the past."""
    play = Play(engine_of())
    play.start(start_of(0, [1, 2, 3], [], Generation(2)))
    play.finish()
    play.now += 0.001
    begin = play.now
    play.start(start_of(1, [4, 5, 6], [], Generation(1)))
    play.finish()
    assert play.now - begin == pytest.approx(0.03)


def test_what_follows_from_a_step_is_in_the_next() -> None:
    """A slot that has come free is not idle for a step: its successor starts from within `post`."""
    play = Play(engine_of(slots=1))
    waiting = [start_of(number, [number + 1], [], Generation(1)) for number in range(1, 4)]
    original = play.post

    def post(event: Event) -> None:
        original(event)
        if isinstance(event, Finished) and waiting:
            play.start(waiting.pop(0))

    play.post = post  # type: ignore[method-assign]
    begin = play.now
    play.start(start_of(0, [1], [], Generation(1)))
    play.finish()
    assert len(play.ends) == 4
    assert play.now - begin == pytest.approx(4 * 0.03)


@pytest.mark.parametrize("running", [True, False])
def test_a_cancel_frees_at_the_next_step(running: bool) -> None:
    """Whether it runs or still waits for a slot."""
    play = Play(engine_of(slots=1))
    play.start(start_of(0, [1, 2], [], Generation(30)))
    leg = play.start(start_of(1, [3, 4], [], Generation(30)))
    victim = Leg(7, 0, 1) if running else leg
    play.until(play.now + 0.1)
    play.host.halt(Halt(victim), play.now)
    assert victim not in play.ends
    play.turn()
    assert play.ends == {victim: Yielded(victim)}
    count = len(play.tokens[victim])
    play.turn()
    assert len(play.tokens[victim]) == count
    cancels = play.host.core.counts.cancel_s
    assert cancels.count == 1 and 0 < cancels.sum < STEP_S


def test_a_hint_ends_it_as_if_by_itself() -> None:
    play = Play(engine_of())
    leg = play.start(start_of(0, [1, 2], [], Generation(30)))
    play.until(play.now + 0.1)
    play.host.hint(Hint(leg), play.now)
    play.host.hint(Hint(leg), play.now)
    play.turn()
    assert play.ends == {leg: Finished(leg)}
    play.host.halt(Halt(leg), play.now)
    play.finish()
    assert play.host.core.counts.outcomes["stopped"] == play.host.core.counts.cancels == 1


def test_a_halt_before_the_engine_has_heard_of_it() -> None:
    play = Play(engine_of())
    leg = play.start(start_of(0, [1, 2], [], Generation(30)))
    play.host.halt(Halt(leg), play.now)
    play.finish()
    assert play.ends == {leg: Yielded(leg)} and play.tokens[leg] == []


@pytest.mark.parametrize(
    ("start", "reason", "words"),
    [
        (start_of(0, [1], [], b"\xc1"), Reason.INVALID, "no generation"),
        (start_of(0, [1], [], Generation(-1)), Reason.INVALID, "max_tokens"),
        (start_of(0, [], [], Generation(1)), Reason.INVALID, "prompt is empty"),
        (start_of(0, [1] * CONTEXT, [], Generation(1)), Reason.INVALID, "leave no room"),
        (start_of(0, [999], [], Generation(1)), Reason.INVALID, "outside the vocabulary"),
    ],
)
def test_what_cannot_run_is_said_in_a_sentence(start: Start, reason: Reason, words: str) -> None:
    play = Play(engine_of())
    leg = play.start(start)
    play.finish()
    end = play.ends[leg]
    assert isinstance(end, Failed) and end.reason is reason and words in end.text and not end.retryable


def test_a_full_engine_says_try_elsewhere() -> None:
    play = Play(engine_of(slots=1, waiting_max=1))
    legs = [play.start(start_of(number, [1, 2], [], Generation(9))) for number in range(3)]
    play.turn()
    end = play.ends[legs[1]] if legs[1] in play.ends else play.ends[legs[2]]
    assert isinstance(end, Failed) and end.reason is Reason.BUSY and end.retryable
    play.finish()
    assert play.host.core.counts.outcomes == dict.fromkeys(play.host.core.counts.outcomes, 0) | {"full": 2, "length": 1}


def test_log_probabilities_are_one_item_per_token() -> None:
    play = Play(engine_of(AT_ONCE))
    leg = play.start(start_of(0, [1, 2], [], Generation(5, sampling=Sampling(logprobs=2))))
    other = play.start(start_of(1, [1, 2], [], Generation(5)))
    play.finish()
    rows = [generation.decode_logprobs(item) for item in play.items[leg]]
    assert [row.top[0][0] for row in rows] == play.tokens[leg] and len(rows) == 5
    assert play.items[other] == []


def test_a_vector_is_the_one_unit_of_its_leg() -> None:
    core = HostCore()
    start = start_of(0, [1, 2], [], Generation(embeds=True, dimensions=3))
    assert core.start(start, 0.0) == []
    [job] = core.commands
    assert isinstance(job, Job) and job.embeds and job.dimensions == 3
    step = Step([Output(start.leg, ending=Ending.STOP, vector=b"1234")], wait_s=1.0)
    assert core.ended_before(step) == [], "it is not over before its step is"
    told = core.stepped(step, 1.0)
    assert told == [Stepped([(start.leg, (), (b"1234",))], []), Finished(start.leg)]
    core.check()


@pytest.mark.parametrize("dimensions", [-1, 10**6])
def test_a_vector_of_no_size_is_refused(dimensions: int) -> None:
    [failed] = HostCore().start(start_of(0, [1], [], Generation(embeds=True, dimensions=dimensions)), 0.0)
    assert isinstance(failed, Failed) and failed.reason is Reason.INVALID and "dimensions" in failed.text


def test_an_engine_that_generates_makes_no_embeddings() -> None:
    play = Play(engine_of())
    leg = play.start(start_of(0, [1, 2], [], Generation(embeds=True)))
    play.finish()
    end = play.ends[leg]
    assert isinstance(end, Failed) and end.reason is Reason.INVALID and "no embeddings" in end.text


def test_what_was_found_in_the_cache_is_told_once() -> None:
    play = Play(engine_of())
    prompt = list(range(1, 14))
    told: list[tuple[Leg, int]] = []
    original = play.post

    def post(event: Event) -> None:
        if isinstance(event, Stepped):
            told.extend(event.cached)
        original(event)

    play.post = post  # type: ignore[method-assign]
    play.start(start_of(0, prompt, [], Generation(2)))
    play.finish()
    leg = play.start(start_of(1, prompt, [], Generation(5)))
    play.finish()
    assert told == [(leg, 12)]
    assert play.host.core.counts.cached_tokens == 12


def test_a_failed_job_fails_its_leg_alone() -> None:
    class Failing(SimEngine):
        def step(self) -> Step:
            step = super().step()
            if self.load().running == 2:
                self._scheduler.fail(self._scheduler.decoding[0], "its numbers overflowed")
            return step

    limits = Limits(vocabulary=200, context=CONTEXT, block_tokens=4, blocks=64, slots=4, step_tokens=32)
    engine = Failing(Settings(limits, PACED, RANGE), xxh3_64_intdigest)
    engine.start()
    play = Play(engine)
    first = play.start(start_of(0, [1], [], Generation(9)))
    second = play.start(start_of(1, [2], [], Generation(9)))
    play.finish()
    assert play.ends[first] == Failed(first, Reason.FAILED, text="its numbers overflowed")
    assert play.ends[second] == Finished(second, Reason.LENGTH)


def test_who_loses_its_room_is_told_when_the_step_begins_that_took_it() -> None:
    """It goes on elsewhere while the others wait for the step."""
    play = Play(engine_of(blocks=16, hand_over=True))
    legs = [play.start(start_of(number, [number] * 8, [], Generation(50))) for number in range(2)]
    while not play.ends:
        play.turn()
    assert play.ends == {legs[1]: Yielded(legs[1], Reason.PREEMPT)}
    assert len(play.tokens[legs[0]]) == len(play.tokens[legs[1]]), "the step itself is still to come"


def test_who_had_enough_does_not_move() -> None:
    """A hint may come too late for the engine, which has just taken the room away."""
    play = Play(engine_of())
    leg = play.start(start_of(0, [1], [], Generation(9)))
    play.turn()
    play.host.hint(Hint(leg), play.now)
    assert play.host.core.stepped(Step([Output(leg, ending=Ending.PREEMPTED)]), 0.0)[1:] == [Finished(leg)]


def test_a_step_that_takes_no_time_is_told_at_once() -> None:
    play = Play(engine_of(AT_ONCE))
    leg = play.start(start_of(0, [1], [], Generation(3)))
    for count in (1, 2, 3):
        play.turn()
        assert len(play.tokens[leg]) == count


def test_a_crash_is_passed_on() -> None:
    play = Play(engine_of(poison=13))
    play.start(start_of(0, [13], [], Generation(9)))
    with pytest.raises(Crashed, match="poisonous"):
        play.turn()


def test_a_hung_engine_goes_on_when_it_is_woken() -> None:
    play = Play(engine_of())
    leg = play.start(start_of(0, [1, 2], [], Generation(9)))
    play.until(play.now + 0.05)
    play.engine.fault(Fault.HANG)
    play.turn()
    assert play.host.deadline() == inf
    play.host.halt(Halt(Leg(7, 99, 1)), play.now)
    play.engine.fault(Fault.NONE)
    play.host.wake(play.now)
    play.finish()
    assert play.tokens[leg] == continuation([1, 2], 9, RANGE)


def test_families_tell_what_happened() -> None:
    play = Play(engine_of())
    play.start(start_of(0, [1, 2, 3], [], Generation(4)))
    play.finish()
    found = {
        (family.name, *sample.labels.values()): sample.value or sample.count
        for family in families(play.host.core.counts, play.host.load())
        for sample in family.samples
    }
    assert found["wiremesh_engine_requests_total", "length"] == 1
    assert found["wiremesh_engine_tokens_total", "prompt"] == 3
    assert found["wiremesh_engine_tokens_total", "generated"] == found["wiremesh_engine_steps_total",] == 4
    assert found["wiremesh_engine_tokens_total", "computed"] == 6
    assert found["wiremesh_engine_step_seconds",] == 4
    assert found["wiremesh_engine_blocks", "free"] == 64


def test_an_output_of_somebody_unknown_is_no_leg() -> None:
    """The engine reports a cancelled job once more in its next step; that is no second end."""
    play = Play(engine_of())
    step = Step([Output(Leg(1, 2, 3), ending=None), Output(Leg(1, 2, 3), ending=Ending.CANCELLED)])
    assert [type(event) for event in play.host.core.stepped(step, 0.0)] == [Stepped]


def test_a_job_says_what_was_meant() -> None:
    play = Play(engine_of())
    wanted = Generation(9, 2, (3,), True, Sampling(seed=4), "salt", 5)
    assert play.host.core.start(start_of(0, [1], [2], wanted), 0.0) == []
    [job] = play.host.core.commands
    assert job == Job(Leg(7, 0, 1), [1], [2], 9, 2, (3,), True, Sampling(seed=4), "salt", 5, media=[])


def test_who_knows_other_files_is_sent_elsewhere() -> None:
    core = HostCore(digest="ours")
    for digest, taken in (("", True), ("ours", True), ("theirs", False)):
        made = core.start(start_of(len(core.runs), [1], [], Generation(digest=digest)), 0.0)
        assert bool(made) != taken
        assert taken or (isinstance(made[0], Failed) and made[0].retryable and made[0].reason is Reason.INVALID)
    core.check()
