"""Full jitter."""

from random import Random

import pytest

from mesh.backoff import backoff_s
from proto import limits


@pytest.mark.parametrize("failures", [0, 1, 2, 3, 6, 7, 20, 10**9])
def test_it_is_between_zero_and_a_bound_that_doubles(failures: int) -> None:
    bound = min(limits.BACKOFF_BASE_S * 2 ** min(failures, 30), limits.BACKOFF_MAX_S)
    waits = [backoff_s(failures, Random(seed)) for seed in range(300)]
    assert 0 <= min(waits) < bound / 10
    assert bound * 0.9 < max(waits) <= bound


def test_many_that_lost_the_same_peer_do_not_come_back_together() -> None:
    waits = sorted(backoff_s(10, Random(seed)) for seed in range(500))
    busiest = max(sum(start <= wait < start + 0.1 for wait in waits) for start in waits)
    assert busiest < 30, "500 nodes over five seconds are ten in a tenth of a second"
