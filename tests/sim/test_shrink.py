"""Shrinking: what is left still fails, and nothing of it can be left out."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mesh.simulation.draw import draw
from mesh.simulation.plan import Plan
from mesh.simulation.shrink import ddmin, shrink


@given(st.lists(st.integers(0, 30), max_size=40), st.sets(st.integers(0, 30), max_size=4))
def test_ddmin_keeps_just_what_it_takes(items: list[int], needed: set[int]) -> None:
    def fails(kept: Sequence[int]) -> bool:
        return needed <= set(kept)

    if fails(items):
        assert sorted(ddmin(items, fails)) == sorted(needed)


def test_a_plan_becomes_small() -> None:
    plan = next(plan for plan in map(draw, range(100)) if len(plan.faults) > 5 and len(plan.calls) > 5)
    wanted = plan.faults[3].kind

    def fails(candidate: Plan) -> bool:
        return any(fault.kind == wanted for fault in candidate.faults) and len(candidate.calls) >= 2

    small = shrink(plan, fails)
    assert [fault.kind for fault in small.faults] == [wanted]
    assert len(small.calls) == 2
    assert small.faults[0].at_s == round(small.faults[0].at_s, 1)
    assert all(not call.cancel and not call.stall_s for call in small.calls)
    assert all(place.clock_s == 0 and not place.newer for place in small.places)
