"""The conformance suite, how an engine lives and dies: short of room, handing over, asleep, stopped, crashed.

Some engines take half a minute to start, so what a card says is read from one that is there.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes.contract.engine import ASLEEP, Card, Ending
from tests.conftest import HELPERS
from tests.engines.engines import Row, Shape
from tests.engines.harness import Harness, job
from tests.engines.test_streams import DRAWN, prompt
from tests.nodes.engines.handing import room
from tests.nodes.frontend.fakes import eventually

Fresh = Callable[..., Harness]


@pytest.mark.parametrize("hand_over", [False, True])
def test_who_has_no_room_goes_on_later_or_elsewhere(fresh: Fresh, row: Row, hand_over: bool) -> None:
    if not row.shaped:
        pytest.skip("it takes the memory that it wants")
    engine = fresh(blocks=12, hand_over=hand_over)
    jobs = [job(key, prompt(70 + key, 40), 50) for key in range(4)]
    found = engine.run(*jobs)
    preempted = [output for output in found if output.ending is Ending.PREEMPTED]
    assert bool(preempted) == hand_over, "12 blocks are too few for four"
    for wanted, output in zip(jobs, found, strict=True):
        said = list(output.tokens)
        if output.ending is Ending.PREEMPTED:
            (rest,) = engine.run(job((wanted.key, "again"), wanted.prompt, 50, generated=said))
            said += rest.tokens
        assert said == row.said(wanted.prompt, 50), wanted.key
    engine.rests()


@pytest.mark.parametrize("drawn", [False, True])
def test_a_prompt_computed_here_is_gone_on_with_there(fresh: Fresh, card: Card, drawn: bool) -> None:
    """Prefill, decode, and again: nothing is computed twice, and not a token differs."""
    layout = card.layout
    if layout is None:
        assert not card.exports_kv
        pytest.skip("its card says that it hands nothing over")
    one, two = fresh(), fresh(caching=False)
    assert two.card.layout == layout
    start = prompt(80, 100)
    more = {"sampling": DRAWN} if drawn else {}
    (whole,) = one.run(job("whole", start, 40, **more))
    out = room(layout, len(start))
    (first,) = fresh(caching=False).run(job("first", start, 1, out=out, **more))
    assert (first.exported, list(first.tokens)) == (len(start), list(whole.tokens[:1]))
    two.take(job("rest", start, 40, lands=True, **more))
    two.turn()
    two.engine.land("rest", out, first.exported, first.tokens)
    two.says("rest", 12)
    kept = room(layout, len(start) + 40)
    positions = two.cancel("rest", kept)
    (rest,) = two.ended("rest")
    made = [*first.tokens, *rest.tokens]
    assert made == list(whole.tokens[: len(made)])
    assert positions == len(start) + len(made) - 1
    three = fresh(caching=False)
    three.take(job("last", start, 40, generated=made, lands=True, **more))
    three.engine.land("last", kept, positions, [])
    (last,) = three.ended("last")
    assert [*made, *last.tokens] == list(whole.tokens)


@pytest.mark.parametrize("came", [0, 16, 37, 59])
def test_what_came_in_part_is_gone_on_with(fresh: Fresh, row: Row, card: Card, came: int) -> None:
    if card.layout is None:
        pytest.skip("its card says that it hands nothing over")
    engine = fresh(caching=False)
    start = prompt(84, 60)
    out = room(card.layout, len(start))
    engine.run(job("first", start, 1, out=out))
    size, missing = card.layout.block_bytes, -(-came // engine.card.block_tokens)
    out[missing * size :] = b"\xee" * (len(out) - missing * size)
    engine.take(job("rest", start, 8, lands=True))
    engine.turn()
    engine.engine.land("rest", out, came, row.said(start, 1))
    (rest,) = engine.ended("rest")
    assert list(rest.tokens) == row.said(start, 8)[1:]


def test_what_did_not_come_is_computed(fresh: Fresh, row: Row, card: Card) -> None:
    if card.layout is None:
        pytest.skip("its card says that it hands nothing over")
    engine = fresh()
    start = prompt(81, 60)
    engine.take(job("lost", start, 8, lands=True), job("gone", start, 8, lands=True))
    engine.turn()
    engine.engine.land("lost", None, 0, row.said(start, 2))
    engine.cancel("gone")
    engine.engine.land("gone", None, 0, [])
    lost, gone = engine.ended("lost", "gone")
    assert list(lost.tokens) == row.said(start, 8)[2:]
    assert gone.ending is Ending.CANCELLED
    engine.rests()


@pytest.mark.parametrize("level", [1, 2])
def test_asleep_it_takes_nothing_and_awake_it_is_as_before(harness: Harness, row: Row, level: int) -> None:
    engine = harness
    if not engine.card.sleeps:
        pytest.skip("its card says that it cannot")
    start = prompt(82, 50)
    engine.run(job("before", start, 6))
    engine.events.clear()
    for _ in range(2):
        engine._call(engine.engine.sleep, level)
        engine.until(lambda: engine.load().asleep == level or engine.turn())
    assert engine.submit(job("during", start)) == ASLEEP
    for _ in range(2):
        engine._call(engine.engine.wake)
        engine.until(lambda: engine.load().asleep == 0 or engine.turn())
    (after,) = engine.run(job("after", start, 6))
    assert list(after.tokens) == row.said(start, 6)
    assert after.cached_tokens == 0, "its cache is empty"
    if engine.card.tells_blocks:
        assert "cleared" in [event.kind for event in engine.events], "and routers were told so"


def test_one_that_runs_by_itself_says_that_it_is_well(harness: Harness, row: Row) -> None:
    if not row.outside:
        pytest.skip("it is stepped: it is well as long as it gets on")
    engine = harness
    engine.run(job("a", prompt(83, 30), 4))
    assert engine.loop is not None and engine.loop.run_until_complete(engine.engine._source.well())
    assert engine._call(engine.engine.well)


def test_it_stops_in_time_whatever_runs(row: Row) -> None:
    before = children()
    engine = Harness(row.make(row.folder, Shape()), row.outside)
    engine.take(*[job(key, prompt(90 + key, 300), 500) for key in range(6)])
    engine.turn()
    began = time.monotonic()
    engine._call(engine.engine.stop)
    engine.stop()  # twice is once
    assert time.monotonic() - began < row.stop_s
    asyncio.run(eventually(lambda: not children() - before, row.stop_s))  # no process of it is left


def test_a_dead_engine_says_so(fresh: Fresh, row: Row) -> None:
    if row.die is None:
        pytest.skip("it computes in this process, and dies with it")
    engine = fresh()
    engine.take(job("a", prompt(95, 30), 400))
    engine.says("a", 3)
    row.die(engine.engine)
    with pytest.raises(Exception) as raised:
        engine.until(lambda: engine.found["a"].ending is Ending.LENGTH)
    assert not isinstance(raised.value, AssertionError) and str(raised.value), "it says what happened"


def test_an_engine_that_cannot_start_says_why(row: Row, tmp_path: Path) -> None:
    if not row.refusals:
        pytest.skip("nothing can be missing")
    before = children()
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(row.refusals) as raised:
        row.make(tmp_path, Shape()).start()
    assert 0 < len(str(raised.value)) < 500 and "Traceback" not in str(raised.value)
    assert not children() - before


def children() -> set[int]:
    """All processes that this one has started, and theirs, but for those that multiprocessing keeps until the end."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {process for process in found - {os.getpid()} if not is_helper(process)}


def is_helper(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False
    return any(name in words for name in HELPERS)


def killed(pid: int) -> None:
    """For a row's `die`: nothing is said to it before."""
    os.kill(pid, signal.SIGKILL)
