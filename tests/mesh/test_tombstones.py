"""Ended legs are remembered for a while, and not for ever."""

import pytest

from mesh.core import Leg
from mesh.tombstones import Tombstones
from proto import limits


def test_a_leg_that_is_over() -> None:
    stones = Tombstones()
    leg = Leg(1, 2, 3)
    assert not stones.known(leg) and stones.position(leg) == stones.newest(1, 2) == 0
    stones.add(leg, 77, now=0.0)
    assert stones.known(leg) and stones.position(leg) == 77
    assert not stones.known(Leg(1, 2, 2)) and not stones.known(Leg(9, 2, 3))


@pytest.mark.parametrize("attempts", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_the_newest_attempt_counts_in_whatever_order_they_ended(attempts: tuple[int, ...]) -> None:
    stones = Tombstones()
    for attempt in attempts:
        stones.add(Leg(1, 2, attempt), 0, now=0.0)
    assert stones.newest(1, 2) == 3
    assert stones.newest(2, 2) == stones.newest(1, 1) == 0


def test_time_wears_them_off() -> None:
    stones = Tombstones()
    stones.add(Leg(1, 1, 1), 0, now=0.0)
    stones.add(Leg(1, 2, 1), 0, now=1.0)
    stones.expire(limits.TOMBSTONE_S - 0.01)
    assert stones.known(Leg(1, 1, 1))
    stones.expire(limits.TOMBSTONE_S)
    assert not stones.known(Leg(1, 1, 1)) and stones.newest(1, 1) == 0
    assert stones.known(Leg(1, 2, 1)) and stones.newest(1, 2) == 1
    stones.expire(1e9)
    stones.check()


def test_one_that_is_renewed_lasts_longer() -> None:
    stones = Tombstones()
    stones.add(Leg(1, 1, 1), 5, now=0.0)
    stones.add(Leg(1, 1, 1), 5, now=30.0)
    stones.expire(limits.TOMBSTONE_S + 1)
    assert stones.known(Leg(1, 1, 1))


def test_they_are_bounded_in_number() -> None:
    stones = Tombstones()
    for request in range(limits.TOMBSTONES_MAX + 10):
        stones.add(Leg(1, request, 1), 0, now=0.0)
    assert not stones.known(Leg(1, 9, 1)) and stones.known(Leg(1, 10, 1))
    assert stones.newest(1, 9) == 0
    stones.check()


def test_an_older_attempt_that_outlives_the_newest_keeps_refusing() -> None:
    """The late cancel of attempt 1 is remembered after attempt 2 was; attempt 2 still counts for as long as it is."""
    stones = Tombstones()
    stones.add(Leg(1, 1, 2), 0, now=0.0)
    stones.add(Leg(1, 1, 1), 0, now=50.0)
    assert stones.newest(1, 1) == 2
    stones.expire(limits.TOMBSTONE_S)
    stones.check()
    assert not stones.known(Leg(1, 1, 2)) and stones.known(Leg(1, 1, 1))
