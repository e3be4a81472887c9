"""What the reports of faults say of runs whose gaps are known."""

import json
from pathlib import Path

import pytest

from bench.faults import Fault, nodes_of, report, straddling
from bench.figures import Result, Spread, spread
from bench.loadgen import Trace
from bench.systems import Shape, our_pace, peer_pace
from nodes.engine_options import points
from nodes.engines.timing import DECODE_MS, PREFILL_MS, interpolate

STEP_S = 0.01
NOTHING = spread([])
RESULT = Result(
    seconds=1.0,
    right=3,
    wrong=0,
    troubles={},
    tokens_per_s=0.0,
    requests_per_s=0.0,
    tokens_per_event=1.0,
    tokens_per_read=1.0,
    prompt_tokens=0.0,
    first_ms=NOTHING,
    gap_ms=NOTHING,
    whole_ms=NOTHING,
    cpu_us_per_token={},
    cpu_us_per_request={},
    cores={},
    memory_mb={},
    own_cores=0.0,
    foreign_cores=0.0,
)


def paced(begin: float, count: int, gap_at: int = -1, gap_s: float = 0.0) -> list[float]:
    """Arrivals step by step; one of them `gap_s` later than it would be, and all after it."""
    return [begin + index * STEP_S + (gap_s if 0 <= gap_at <= index else 0.0) for index in range(count)]


def trace(name: str, arrivals: list[float]) -> Trace:
    return Trace(f"chatcmpl-{name}", arrivals[0] - 0.1, arrivals[-1], arrivals)


def test_gaps_across_a_fault_are_of_those_who_left_the_worker() -> None:
    kill = Fault(1.055, "a")
    traces = [
        trace("moved", paced(1.0, 20, gap_at=6, gap_s=0.03)),
        trace("stayed", paced(1.0, 20)),
        trace("later", paced(3.0, 20, gap_at=6, gap_s=0.5)),
    ]
    places = {"moved": ["a", "b"], "stayed": ["b"], "later": ["a", "c"]}
    found = report("kill", STEP_S, [kill, Fault(1.155, "b"), Fault(9.0, "c")], RESULT, traces, places)
    assert (found.faults, found.moved) == (3, 2)
    assert found.across_ms == Spread(1, 30.0, 30.0, 30.0)  # `later` had not begun
    assert found.largest_ms == Spread(2, 500.0, 500.0, 500.0)
    assert found.unmoved_ms.max == 0.0


def test_a_worker_may_be_struck_more_than_once() -> None:
    freezes = [Fault(1.055, "a"), Fault(1.155, "a")]
    arrivals = paced(1.0, 30, gap_at=6, gap_s=0.05)
    found = report("freeze", STEP_S, freezes, RESULT, [trace("x", arrivals)], {"x": ["a", "b"]})
    assert found.across_ms == Spread(2, 50.0, 50.0, 50.0)


@pytest.mark.parametrize(("time", "gaps"), [(0.5, 0), (1.0, 1), (1.095, 0), (2.0, 0)])
def test_a_gap_has_two_sides(time: float, gaps: int) -> None:
    assert len(straddling(trace("x", paced(1.0, 10)), time, STEP_S)) == gaps


def test_the_frontend_says_where_requests_were(tmp_path: Path) -> None:
    log = tmp_path / "frontend.err"
    told = {"logger": "wiremesh.request", "id": "1", "nodes": ["a", "b"]}
    lines = ["no JSON", json.dumps({"logger": "wiremesh", "text": "hello"}), json.dumps(told, separators=(",", ":"))]
    log.write_text("\n".join(lines))
    assert nodes_of(log) == {"1": ["a", "b"]}


def test_both_systems_are_told_the_same_pace() -> None:
    """Steps of 20 ms, and prompts at ten times the formula's speed."""
    words = our_pace(Shape(step_ms=20.0))
    flags = list(zip(words[::2], words[1::2], strict=True))
    table = points([point for flag, point in flags if flag == "--prefill-ms"])
    ratio, decode = (float(word) for word in peer_pace(Shape(step_ms=20.0))[1::2])
    assert ("--decode-ms", "0:20.0") in flags
    assert abs(DECODE_MS[-1] / ratio / decode - 20.0) < 0.001
    for tokens in range(0, 8193, 64):
        formula = sum(part * tokens**power for part, power in zip(PREFILL_MS, (2, 1, 0), strict=True))
        assert abs(interpolate(table, tokens) * ratio / formula - 1) < 0.02
