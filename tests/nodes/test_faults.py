"""Faults on command: at a step, or when they are called up."""

from math import inf

import pytest
from xxhash import xxh3_64_intdigest

from nodes.contract.engine import Job
from nodes.engines.faulty import FaultyEngine
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Crashed, Settings
from nodes.engines.timing import Timing
from nodes.faults import Fault, Plan, parse

STEP_MS = 10.0


def engine_of(text: str) -> FaultyEngine:
    timing = Timing(decode_ms=((0, STEP_MS),), prefill_ms=((0, STEP_MS),))
    limits = Limits(vocabulary=200, context=4096, blocks=512)
    engine = FaultyEngine(Settings(limits, timing, (20, 119)), xxh3_64_intdigest, parse(text))
    engine.start()
    engine.submit(Job("a", [1, 2], max_tokens=1000))
    return engine


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("", Plan()),
        ("crash", Plan(Fault.CRASH, 10.0)),
        ("hang@200", Plan(Fault.HANG, 10.0, 200)),
        ("slow", Plan(Fault.SLOW, 10.0)),
        ("slow:2.5@7", Plan(Fault.SLOW, 2.5, 7)),
    ],
)
def test_a_plan_is_read(text: str, plan: Plan) -> None:
    assert parse(text) == plan


@pytest.mark.parametrize("text", ["none", "crash:2", "hang@", "slow:x", "slow:-1", "@3", "crash@1@2", "boom"])
def test_what_is_no_plan(text: str) -> None:
    with pytest.raises(ValueError, match="it must be crash, hang or slow"):
        parse(text)


def test_a_fault_comes_with_its_step() -> None:
    engine = engine_of("crash@3")
    for _ in range(2):
        assert engine.step().outputs[0].tokens
    with pytest.raises(Crashed):
        engine.step()
    assert engine.faults == 1


def test_a_fault_on_demand_heals_on_demand() -> None:
    engine = engine_of("hang")
    assert engine.step().wait_s == STEP_MS / 1000
    engine.toggle()
    assert engine.step().wait_s == inf
    engine.toggle()
    assert engine.step().wait_s == STEP_MS / 1000
    assert engine.faults == 1


def test_a_slow_engine_takes_so_many_times_as_long() -> None:
    engine = engine_of("slow:4@2")
    assert [round(engine.step().wait_s * 1000, 3) for _ in range(3)] == [10.0, 40.0, 40.0]


def test_without_a_plan_nothing_fails() -> None:
    engine = engine_of("")
    for _ in range(5):
        assert engine.step().wait_s == STEP_MS / 1000
    assert engine.faults == 0
