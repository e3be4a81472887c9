"""Policies are functions of a snapshot."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.placement import POLICIES, Candidate, least_loaded, load, round_robin

CANDIDATES = st.lists(
    st.builds(Candidate, st.integers(1, 99), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    min_size=1,
    unique_by=lambda candidate: candidate.node,
)


def some(*loads: int) -> list[Candidate]:
    return [Candidate(node, running, 0, 0) for node, running in enumerate(loads, 1)]


@given(CANDIDATES, st.integers(0, 99), st.sampled_from(sorted(POLICIES)), st.integers())
def test_every_policy_picks_one_of_them(candidates: list[Candidate], last: int, policy: str, seed: int) -> None:
    choose = POLICIES[policy]
    chosen = choose(candidates, last, Random(seed))
    assert chosen in [candidate.node for candidate in candidates]
    assert chosen == choose(candidates, last, Random(seed))


def test_round_robin_goes_around() -> None:
    last, seen = 0, []
    for _ in range(7):
        last = round_robin(some(0, 9, 5), last, Random(0))
        seen.append(last)
    assert seen == [1, 2, 3, 1, 2, 3, 1]


def test_a_node_that_leaves_or_comes_does_not_disturb_the_circle() -> None:
    one, two, three, four = some(0, 0, 0, 0)
    assert round_robin([one, three, four], 2, Random(0)) == 3
    assert round_robin([one, two, three], 3, Random(0)) == 1


@given(CANDIDATES, st.integers(0, 99))
def test_least_loaded_is_never_busier_than_another(candidates: list[Candidate], last: int) -> None:
    chosen = least_loaded(candidates, last, Random(0))
    loads = {candidate.node: load(candidate) for candidate in candidates}
    assert loads[chosen] == min(loads.values())


def test_equals_share() -> None:
    last, seen = 0, []
    for _ in range(6):
        last = least_loaded(some(1, 1, 1), last, Random(0))
        seen.append(last)
    assert seen == [1, 2, 3, 1, 2, 3]


def test_what_we_sent_since_the_last_report_counts() -> None:
    assert least_loaded([Candidate(1, 0, 0, 3), Candidate(2, 1, 0, 0)], 0, Random(0)) == 2


def test_random_is_fair() -> None:
    random = Random(0)
    counts = Counter(POLICIES["random"](some(0, 9, 5), 0, random) for _ in range(3_000))
    assert min(counts.values()) > 900


@pytest.mark.parametrize("policy", ["round_robin", "random", "least_loaded", "direct"])
def test_the_names_that_users_know(policy: str) -> None:
    assert policy in POLICIES
