"""Sessions, the queue, seats and the split of prefill and decode."""

import pytest

from nodes.routing.parking import Parking
from nodes.routing.seats import Seats, numbers_in
from nodes.routing.sessions import Sessions
from nodes.routing.split import Scene, SplitKnobs, Where, split


def test_sessions_are_bounded_in_number_and_time() -> None:
    sessions = Sessions(ttl_s=10.0, sessions_max=2)
    sessions.put("a", (1, 0), 0.0)
    sessions.put("b", (2, 0), 1.0)
    sessions.put("a", (3, 0), 2.0)
    sessions.put("c", (4, 0), 3.0)
    assert [sessions.get(name, 4.0) for name in "abc"] == [(3, 0), None, (4, 0)]
    assert sessions.get("a", 12.0) is None
    sessions.put("", (1, 0), 0.0)
    assert len(sessions) == 2
    off = Sessions(ttl_s=0.0, sessions_max=2)
    off.put("a", (1, 0), 0.0)
    assert len(off) == 0


def order(policy: str, *asked: "tuple[float, int, int, int]") -> "list[int]":
    """Requests in the order in which they leave: (when, tier, priority, uncached tokens)."""
    parking: Parking[int] = Parking(policy, 10)
    for number, (at, tier, priority, tokens) in enumerate(asked):
        assert parking.put(number, number, at, tier, priority, tokens) >= 0
    left = []
    while (first := parking.first()) is not None:
        left.append(first)
        parking.drop(first)
    return left


def test_who_goes_first() -> None:
    same = [(0.0, 0, 0, 9), (1.0, 0, 0, 5), (2.0, 0, 0, 7)]
    assert order("fcfs", *same) == [0, 1, 2]
    assert order("lcfs", *same) == [2, 1, 0]
    assert order("wspt", *same) == [1, 2, 0]
    assert order("fcfs", *same, (3.0, 0, -2, 9)) == [0, 1, 3, 2], "two seconds earlier"
    assert order("wspt", *same, (3.0, 0, -1, 9)) == [3, 1, 2, 0], "twice the weight"
    assert order("wspt", *same, (3.0, 0, 3, 4)) == [1, 2, 0, 3], "a quarter of it"
    assert order("fcfs", *same, (3.0, -1, 0, 9)) == [3, 0, 1, 2], "a tier goes before all others"


def test_the_queue_is_bounded_and_a_request_waits_once() -> None:
    parking: Parking[str] = Parking("fcfs", 2)
    assert parking.put(1, "a", 0.0, 0, 0, 1) == 0
    assert parking.put(2, "b", 1.0, 0, 0, 1) == 1
    assert parking.put(3, "c", 2.0, 0, 0, 1) == -1
    assert parking.put(1, "again", 2.0, 0, 0, 1) == 1
    assert len(parking) == 2 and parking.first() == "b"
    parking.drop(9)
    parking.drop(2)
    assert parking.first() == "again"


def test_seats() -> None:
    seats = Seats()
    assert [seats.add((5, 0)), seats.add((6, 1)), seats.add((6, 0)), seats.add((5, 0))] == [0, 2, 1, 0]
    assert seats.rows((6, 5))("abc") == ("b", "c", "a")
    assert seats.rows((6, 5))("abc") == ("b", "c", "a")
    assert seats.rows((6, 5), 1)("abc") == ("c",) and seats.rows((7,))("abc") == ()
    assert seats.drop(6) == [1, 2] and seats.rows((6, 5))("abc") == ("a",)
    assert seats.add((7, 0)) == 1 and seats.find((6, 0)) == -1


@pytest.mark.parametrize("mask", [0, 1, 0b1010, 2**64 - 1, 1 << 200 | 0b1111111])
def test_numbers_of_bits(mask: int) -> None:
    assert numbers_in(mask) == [bit for bit in range(300) if mask >> bit & 1]


def where(
    knobs: SplitKnobs,
    tokens: int,
    cached: int,
    workers: int = 1,
    queued: float = 0.0,
    used: float = 0.0,
    there: int = 0,
) -> Where:
    return split(Scene(tokens, cached, workers, there, queued, used), knobs)[0]


def test_whether_prefill_is_worth_the_trip() -> None:
    plain = SplitKnobs()
    assert where(plain, 2048, 0) == Where.HERE, "short"
    assert where(plain, 9000, 7000) == Where.HERE, "well cached"
    assert where(plain, 9000, 100) == Where.THERE
    assert where(plain, 9000, 0, workers=0) == Where.HERE
    assert where(SplitKnobs(enforce=True), 9, 0, workers=0) == Where.NOWHERE
    assert where(SplitKnobs(enforce=True), 9, 9) == Where.THERE
    assert where(SplitKnobs(decode_busy=0.9), 9, 9, used=0.95) == Where.THERE
    assert where(SplitKnobs(uncached_ratio_max=0.7), 1000, 100) == Where.THERE
    by_load = SplitKnobs("prefill_load", prefill_busy=2.0)
    assert where(by_load, 9, 9, queued=1.9) == Where.THERE and where(by_load, 9000, 0, queued=2.1) == Where.HERE
    either = SplitKnobs("either", prefill_busy=2.0)
    assert where(either, 9, 9) == Where.HERE and where(either, 9000, 0, queued=2.1) == Where.HERE
    assert where(by_load, 9000, 8000, there=0) == Where.THERE, "caches are not asked"
    with pytest.raises(ValueError, match="it must be one of length, load, either"):
        SplitKnobs("often")


def test_what_prefill_workers_have_cached_counts_too() -> None:
    plain, always = SplitKnobs(), SplitKnobs(uncached_tokens_max=0)
    assert where(plain, 2000, 0, there=1900) == Where.THERE, "short, and cached there"
    assert where(plain, 2000, 0, there=600) == Where.HERE, "it saves 1,400 of 2,000, less 200 for the blocks: not there"
    assert where(plain, 2000, 1500, there=1999) == Where.HERE, "not worth the trip"
    assert where(plain, 20_000, 17_000) == Where.HERE, "2,000 more would have to be computed there than are here"
    assert where(plain, 20_000, 17_000, there=16_000) == Where.THERE, "long, and cached alike"
    assert where(plain, 20_000, 0) == Where.THERE, "long, and cached nowhere"
    assert where(always, 20_000, 17_000) == Where.THERE, "somebody wants to see all trips"
