"""Retries have a budget."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.budget import BURST_RETRIES_MAX, RETRIES_PER_S, RETRIES_PER_SUCCESS, Budget


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.5))))
def test_never_more_than_a_burst_and_a_rate(events: list[tuple[bool, float]]) -> None:
    budget, now, spent, earned = Budget(0.0), 0.0, 0, 0
    for earns, pause_s in events:
        now += pause_s
        if earns:
            budget.earn()
            earned += 1
        else:
            spent += budget.spend(now)
        assert spent <= BURST_RETRIES_MAX + now * RETRIES_PER_S + earned * RETRIES_PER_SUCCESS + 1e-6


def test_a_quiet_node_has_its_burst_and_then_waits() -> None:
    budget = Budget(0.0)
    assert [budget.spend(0.0) for _ in range(int(BURST_RETRIES_MAX) + 1)] == [True] * int(BURST_RETRIES_MAX) + [False]
    assert budget.spend(1 / RETRIES_PER_S)
