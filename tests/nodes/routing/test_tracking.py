"""Loads: what was sent, until the worker's report or the end of the request says otherwise."""

import itertools
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from nodes.routing import replicas
from nodes.routing.hashes import pack
from nodes.routing.replicas import EXPECTED_TOKENS_MAX, HASH_BYTES_MAX, PLACEMENTS_MAX, Outbox
from nodes.routing.seats import Seats, numbers_in
from nodes.routing.tracking import UNDER_WAY_S, Entry, Tracking
from proto.basics import LegName
from proto.placing import ENTRIES_MAX, ROUTED_BYTES_TARGET, Placement, Report, Routed, Settled
from tests.nodes.routing.trees import blocks, turns


def entry(
    request: int, path: "list[int]", rank: "tuple[int, int]" = (9, 0), at: float = 0.0, attempt: int = 1
) -> Entry:
    return Entry(
        request=request,
        attempt=attempt,
        rank=rank,
        at=at,
        prefill_tokens=10 * len(path),
        blocks=len(path) + 1,
        hashes=blocks(path),
    )


def columns(tracking: Tracking) -> "tuple[int, int, float]":
    return tracking.requests[0], tracking.prefill_tokens[0], tracking.blocks[0]


def test_blocks_in_common_count_once() -> None:
    tracking = Tracking(Seats())
    tracking.placed(entry(1, [0, 1, 0]))
    assert columns(tracking) == (1, 30, 4)
    tracking.placed(entry(2, [0, 1, 1]))
    assert columns(tracking) == (2, 60, 6), "one more full block, and one that is not full"
    assert tracking.common(blocks([0, 1, 1, 0])) == [3]
    tracking.prefilled(1, 1)
    assert columns(tracking) == (2, 30, 6)
    tracking.freed(1, 1)
    assert columns(tracking) == (1, 30, 4)
    tracking.freed(2, 1)
    assert columns(tracking) == (0, 0, 0) and tracking.common(blocks([0])) == [0]
    tracking.check()


def test_a_prompt_is_computed_since_the_one_before_it_was_done() -> None:
    tracking = Tracking(Seats())
    for request in (1, 2, 3):
        tracking.placed(entry(request, [request], at=float(request)))
    assert tracking.since == [1.0]
    tracking.prefilled(2, 1, 4.0)
    assert tracking.since == [1.0], "it went before its turn"
    tracking.prefilled(1, 1, 5.0)
    assert tracking.since == [5.0]
    tracking.freed(3, 1)
    assert tracking.since == [float("-inf")]
    tracking.check()


def test_without_hashes_every_block_counts() -> None:
    tracking = Tracking(Seats())
    for request in (1, 2):
        one = entry(request, [0, 1])
        one.hashes = None
        tracking.placed(one)
    assert columns(tracking) == (2, 40, 6)
    tracking.freed(1, 1)
    assert columns(tracking) == (1, 20, 3)


def test_the_report_drops_what_the_worker_does_not_have_and_adds_what_we_do_not_know() -> None:
    tracking = Tracking(Seats())
    for request in range(3):
        tracking.placed(entry(request, [request], at=float(request)))
    tracking.report((9, 0), Report(running=1), 1.0 + UNDER_WAY_S)
    assert tracking.rank_of(0) is None and tracking.rank_of(1) and tracking.rank_of(2), "the young one is on its way"
    assert tracking.requests == [2]
    tracking.report((9, 0), Report(running=3, waiting=2, prefill_tokens=100, blocks_used=50, blocks_total=99), 9.0)
    assert columns(tracking) == (5, 100, 50)
    assert tracking.blocks_total == [99]
    tracking.placed(entry(7, [0, 0], at=9.1))
    assert columns(tracking) == (6, 120, 53), "sent since: on top"
    tracking.report((9, 0), Report(running=3, prefill_tokens=5, blocks_used=7, blocks_total=99), 9.5)
    assert columns(tracking) == (3, 5, 7), "computed, whatever we were told"
    tracking.check()
    tracking.report((9, 0), Report(blocks_total=99), 10.0)
    assert columns(tracking) == (0, 0, 0) and len(tracking) == 0
    tracking.check()


def test_a_request_that_nobody_ends_expires_unless_the_worker_still_has_it() -> None:
    tracking = Tracking(Seats(), expiry_s=10.0)
    tracking.placed(entry(1, [0], rank=(9, 0)))
    tracking.placed(entry(2, [0], rank=(8, 0)))
    tracking.report((8, 0), Report(running=1), 9.0)
    tracking.expire(10.0)
    assert tracking.rank_of(1) is None and tracking.rank_of(2) == (8, 0)
    tracking.expire(19.9)
    assert tracking.rank_of(2) == (8, 0)
    tracking.expire(20.0)
    assert tracking.rank_of(2) is None
    tracking.check()


def test_what_a_report_may_know_already_is_not_counted_twice() -> None:
    """A request reaches its worker at once; that a report might not know it yet only keeps it from being dropped."""
    tracking = Tracking(Seats())
    tracking.placed(entry(1, [0, 1, 0], at=1.0))
    tracking.report((9, 0), Report(running=1, prefill_tokens=30, blocks_used=4, blocks_total=99), 1.1)
    assert columns(tracking) == (1, 30, 4)
    tracking.report((9, 0), Report(running=3, prefill_tokens=50, blocks_used=9, blocks_total=99), 1.2)
    assert columns(tracking) == (3, 50, 9), "the rest is somebody else's"
    tracking.report((9, 0), Report(blocks_total=99), 1.2)
    assert columns(tracking) == (1, 30, 4)
    tracking.report((9, 0), Report(blocks_total=99), 1.0 + UNDER_WAY_S)
    assert columns(tracking) == (0, 0, 0)
    tracking.check()


def test_a_worker_that_is_gone_has_no_load() -> None:
    seats = Seats()
    tracking = Tracking(seats)
    for rank in ((9, 0), (9, 1), (8, 0)):
        tracking.placed(entry(rank[0] * 2 + rank[1], [0], rank=rank))
        tracking.report(rank, Report(running=4, prefill_tokens=9, blocks_used=9, blocks_total=9), 0.1)
    tracking.gone(9)
    assert numbers_in(sum(1 << seat for seat in seats.drop(9))) == [0, 1]
    assert tracking.requests == [0, 0, 4] and tracking.blocks[:2] == [0, 0] and tracking.prefill_tokens[:2] == [0, 0]
    assert not tracking.placed(entry(18, [0])), "news of before its end"
    tracking.check()


def test_news_of_a_later_attempt_ends_the_one_before() -> None:
    for news in (Tracking.prefilled, Tracking.freed):
        tracking = Tracking(Seats())
        tracking.placed(entry(1, [0]))
        news(tracking, 1, 2)
        assert columns(tracking) == (0, 0, 0)


# --- Told twice, late, in any order ------------------------------------------------------------------------

news = st.tuples(
    *(st.sampled_from(["placed", "prefilled", "freed"]), st.integers(1, 3)),
    *(st.integers(1, 3), st.integers(8, 9), turns.filter(bool)),
)


def messages(told: "list[tuple[str, int, int, int, list[int]]]") -> "list[Routed | Settled]":
    """A placement of one attempt by one router always says the same."""
    said: dict[tuple[int, int, int], list[int]] = {}
    result: list[Routed | Settled] = []
    for what, request, attempt, node, path in told:
        leg = LegName(request, attempt)
        if what == "placed":
            path = said.setdefault((request, attempt, node), path)
            hashes = pack(blocks(path))
            result.append(Routed([Placement(request, attempt, node, 0, 9, 10 * len(path), len(path), 2, hashes)]))
        else:
            result.append(Settled([leg]) if what == "prefilled" else Settled(freed=[leg]))
    return result


def state(told: "list[Routed | Settled]") -> "list[object]":
    tracking = Tracking(Seats())
    for node in (8, 9):
        tracking.reserve((node, 0))
    for message in told:
        replicas.merge(tracking, message, 0.0)
        tracking.check()
    return [
        [tracking.rank_of(request) for request in (1, 2, 3)],
        tracking.requests,
        tracking.prefill_tokens,
        tracking.blocks,
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(news, max_size=12), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_give_the_same(
    told: "list[tuple[str, int, int, int, list[int]]]", random: Random
) -> None:
    once = messages(told)
    again = [*once, *random.choices(once, k=5)] if once else []
    random.shuffle(again)
    assert state(again) == state(once)


def test_every_order_of_one_requests_life() -> None:
    life = messages(
        [("placed", 1, 1, 9, [0]), ("prefilled", 1, 1, 0, []), ("placed", 1, 2, 8, [1]), ("prefilled", 1, 2, 0, [])]
    )
    for order in itertools.permutations(life):
        assert state(list(order))[:3] == [[(8, 0), None, None], [1, 0], [0, 0]]
    for order in itertools.permutations([*life, *messages([("freed", 1, 2, 0, [])])]):
        assert state(list(order)) == [[None] * 3, [0, 0], [0, 0], [0, 0]]


# --- What is told ------------------------------------------------------------------------------------------


def placement(request: int, hashes: int = 0) -> Placement:
    return Placement(request, 1, 9, hashes=bytes(8 * hashes))


def test_messages_are_bounded() -> None:
    outbox = Outbox()
    for request in range(ENTRIES_MAX + 10):
        outbox.placed(placement(request, 1000))
    outbox.settled(Settled([LegName(1, 1)] * ENTRIES_MAX, [LegName(2, 1)]))
    told = outbox.flush()
    assert [len(message.freed) for message in told if isinstance(message, Settled)] == [1]
    sent = [message.placements for message in told if isinstance(message, Routed)]
    assert [one.request for batch in sent for one in batch] == list(range(ENTRIES_MAX + 10))
    assert all(sum(len(one.hashes) for one in batch) <= ROUTED_BYTES_TARGET for batch in sent)
    assert outbox.bared == ENTRIES_MAX + 10 - HASH_BYTES_MAX // 8000, "over its room they go without hashes"
    assert outbox.flush() == []


def test_what_cannot_be_told_is_dropped_and_counted() -> None:
    outbox = Outbox()
    for request in range(PLACEMENTS_MAX + 3):
        outbox.placed(placement(request))
    outbox.placed(placement(7, ROUTED_BYTES_TARGET))
    outbox.settled(Settled([LegName(1, 1)] * PLACEMENTS_MAX))
    outbox.settled(Settled([LegName(1, 1)]))
    assert outbox.dropped == 5 and outbox.bared == 1
    told = outbox.flush()
    assert [len(message.placements) for message in told if isinstance(message, Routed)] == [ENTRIES_MAX] * 8


def test_half_of_an_answer_that_was_announced_counts_from_the_start() -> None:
    tracking = Tracking(Seats())
    for request, expected in ((1, 0), (2, 64), (3, 2**32 - 1)):
        before = tracking.blocks[0] if request > 1 else 0
        told = structs.replace(placement(request), expected_tokens=expected, blocks=5, hashes=b"")
        tracking.placed(replicas.entry(told, 0.0, None))
        assert tracking.blocks[0] - before == 5 + min(expected, EXPECTED_TOKENS_MAX) // 2 // told.block_tokens
    tracking.check()
