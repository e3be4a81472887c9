"""The advisor as its owner sees it."""

from random import Random

import pytest

from nodes.routing.advisor import DECISIONS_MAX, Advisor, Asked
from nodes.routing.explain import Decision, explain
from nodes.routing.hashes import pack
from nodes.routing.knobs import read
from nodes.routing.metrics import of as families
from proto.basics import LegName
from proto.placing import Blocks, Change, Kind, Parked, Placement, Report, Routed, Settled, Wish
from tests.nodes.routing.trees import BLOCK, blocks

NODES = (5, 6, 7)
PATH = [0, 1, 0, 1]


def advisor(**knobs: object) -> Advisor:
    made = Advisor(read(knobs), Random(1), lambda rank: (100, 50))
    for node in NODES:
        made.up(node, 0.0)
        made.heard(node, Blocks(0, 1, 0), 0.0)
    return made


def cache(made: Advisor, node: int, path: "list[int]", rank: int = 0, ranks: int = 1) -> None:
    made.heard(node, Blocks(rank, 1, 1, [Change(Kind.STORED, pack(blocks(path)))], ranks), 0.0)


def asked(request: int, path: "list[int]" = PATH, **wish: object) -> Asked:
    return Asked(request, 1, Wish(pack(blocks(path)), 2 * len(path) + 1, BLOCK, **wish))  # type: ignore[arg-type]


def placed(made: Advisor, request: int, path: "list[int]" = PATH, now: float = 1.0, **wish: object) -> Decision:
    decision = made.place(asked(request, path, **wish), NODES, now)
    assert isinstance(decision, Decision)
    return decision


def test_it_goes_where_its_blocks_are_and_counts_there() -> None:
    made = advisor()
    cache(made, 6, PATH[:3])
    decision = placed(made, 1)
    assert (decision.rank, decision.cached, decision.attempt) == ((6, 0), 3, 1)
    assert made.tracking.prefill_tokens == [0, 3, 0] and made.tracking.blocks == [0, 5, 0]
    assert made.decision(1) is decision and explain(decision).candidates[0].exact
    made.settled(Settled(freed=[LegName(1, 1)]), 2.0)
    assert made.tracking.blocks == [0, 0, 0]


def test_only_to_those_that_may() -> None:
    made = advisor()
    cache(made, 6, PATH)
    decision = made.place(asked(1), (5, 7), 1.0)
    assert isinstance(decision, Decision) and decision.rank in ((5, 0), (7, 0))
    nobody = made.place(asked(2), (), 1.0)
    assert isinstance(nobody, Decision) and nobody.rank is None and nobody.cached == 0


def test_advice_alone_counts_nothing() -> None:
    made = advisor()
    assert made.best(asked(1), NODES, 1.0).rank is not None
    assert made.tracking.requests == [0, 0, 0] and made.decision(1) is None and made.outbox.flush() == []


def test_a_worker_that_went_is_forgotten_and_its_seat_is_clean() -> None:
    made = advisor()
    cache(made, 6, PATH)
    placed(made, 1)
    made.down(6)
    made.up(8, 1.0)
    made.heard(8, Blocks(0, 1, 0), 1.0)
    decision = made.place(asked(2), (5, 7, 8), 1.0)
    assert isinstance(decision, Decision) and decision.cached == 0
    assert list(decision.snapshot.blocks) == [0, 0, 0]
    made.reported((6, 0), Report(running=9), 2.0)
    assert made.tracking.requests.count(9) == 0, "word from the dead"


def test_what_tells_nothing_is_guessed_from_what_was_sent_there() -> None:
    made = advisor(events=False)
    first = placed(made, 1)
    made.settled(Settled(freed=[LegName(1, 1)]), 2.0)
    again = placed(made, 2, now=3.0)
    assert again.rank == first.rank and again.cached == 4
    assert not explain(again).candidates[0].exact
    late = placed(made, 3, [1, 1], now=3.0)
    made.settled(Settled(freed=[LegName(request, 1) for request in (2, 3)]), 4.0)
    assert placed(made, 4, now=500.0).cached == 0 and late.cached == 0


def test_a_rank_that_is_known_is_not_guessed() -> None:
    made = advisor()
    placed(made, 1)
    made.settled(Settled(freed=[LegName(1, 1)]), 2.0)
    assert placed(made, 2, now=2.0).cached == 0, "the worker did not say that it kept it"


def test_a_guess_ends_when_the_worker_speaks_or_goes() -> None:
    made = Advisor(read({}), Random(1))
    made.up(5, 0.0)
    for request, cached in ((1, 0), (2, 4)):
        decision = made.place(asked(request), (5,), 1.0)
        assert isinstance(decision, Decision) and decision.cached == cached
        made.settled(Settled(freed=[LegName(request, 1)]), 1.0)
    made.heard(5, Blocks(0, 1, 0), 1.0)
    assert made.best(asked(3), (5,), 1.0).cached == 0
    made.tick(99.0)
    assert made.best(asked(3), (5,), 99.0).cached == 4, "it is silent: a guess is better than nothing"
    made.down(5)
    made.up(6, 99.0)
    assert made.best(asked(3), (6,), 99.0).cached == 0


def test_what_runs_there_is_there() -> None:
    made = advisor()
    first = placed(made, 1)
    made.settled(Settled(prefilled=[LegName(1, 1)]), 2.0)
    assert placed(made, 2, now=2.0).rank == first.rank
    other = advisor(predict=False)
    placed(other, 1)
    assert max(placed(other, 2).snapshot.device) == 0


def test_ranks_of_one_worker() -> None:
    made = advisor()
    cache(made, 6, PATH, rank=1, ranks=2)
    assert placed(made, 1).rank == (6, 1)
    assert placed(made, 2, rank=0).rank in ((5, 0), (6, 0), (7, 0))
    assert placed(made, 3, rank=1).rank == (6, 1)


def test_a_request_may_bring_knobs_of_its_own() -> None:
    made = advisor()
    cache(made, 6, PATH)
    rows = {placed(made, request, overrides={"overlap_credit": 0.0}).rank for request in range(6)}
    assert len(rows) == 3
    with pytest.raises(ValueError, match="sessions_max cannot be set for one request"):
        placed(made, 9, overrides={"sessions_max": 1.0})
    with pytest.raises(ValueError):
        made.place(Asked(9, 1, Wish(b"123")), NODES, 1.0)


def test_a_session_goes_back() -> None:
    made = advisor(predict=False)
    first = placed(made, 1, [0], session="agent")
    made.settled(Settled(freed=[LegName(1, 1)]), 1.0)
    for request in range(2, 9):
        assert placed(made, request, [1, request % 2, 0], session="agent").rank == first.rank
        made.settled(Settled(freed=[LegName(request, 1)]), 1.0)
    cache(made, 7 if first.rank != (7, 0) else 5, [1, 1, 1])
    assert placed(made, 9, [1, 1, 1], session="agent").rank != first.rank, "a hint loses to a real cache"


def test_requests_wait_when_every_rank_has_enough_and_leave_in_order() -> None:
    made = advisor(queue_threshold=0.5, queue_policy="wspt", queue_requests_max=2)
    for request in range(3):
        placed(made, request, [request % 2, request // 2] * 7)
    assert made.place(asked(3, [1] * 9), NODES, 2.0) == Parked(3, 1, 0)
    assert made.place(asked(4, [0]), NODES, 2.0) == Parked(4, 1, 0), "the shorter goes first"
    full = made.place(asked(5), NODES, 2.0)
    assert isinstance(full, Decision) and full.choice.refused == "every worker is busy, and 2 requests wait already"
    assert made.next_parked(lambda asked: NODES, 2.0) is None and made.parked == 2
    made.settled(Settled(prefilled=[LegName(1, 1)]), 3.0)
    found = made.next_parked(lambda asked: NODES, 3.0)
    assert found is not None and found[0].request == 4 and found[1].rank == made.tracking.rank_of(4)
    made.drop(3)
    assert made.parked == 0 and made.next_parked(lambda asked: NODES, 4.0) is None


def test_busy_ranks_by_what_they_can() -> None:
    made = advisor(busy_prefill_fraction=0.5)
    for node in (5, 6):
        made.reported((node, 0), Report(running=1, prefill_tokens=26, blocks_total=100), 1.0)
    assert {placed(made, request, [0]).rank for request in range(3)} == {(7, 0)}


def test_two_routers_that_tell_each_other_do_not_herd() -> None:
    made, other = advisor(), advisor()
    for request in range(30):
        first, second = (made, other) if request % 2 else (other, made)
        placed(first, request, [request & 1, request >> 1 & 1, request >> 2 & 1, request >> 3 & 1])
        for message in first.outbox.flush():
            second.replicated(message, 1.0)
    assert made.tracking.requests == other.tracking.requests and max(made.tracking.requests) <= 13
    assert made.tracking.blocks == other.tracking.blocks
    made.settled(Settled(freed=[LegName(request, 1) for request in range(30)]), 2.0)
    for message in made.outbox.flush():
        other.replicated(message, 2.0)
    assert other.tracking.requests == [0, 0, 0] and not other.outbox.flush(), "what routers told is not passed on"


def test_placements_on_workers_that_it_does_not_see_mean_nothing_to_it() -> None:
    made = advisor()
    made.replicated(Routed([Placement(1, 1, 99), Placement(2, 1, 5, 7), Placement(3, 1, 5, hashes=b"1234567")]), 1.0)
    assert made.tracking.requests == [1, 0, 0]


def test_alone_it_tells_nobody() -> None:
    made = advisor(replica_sync=False)
    placed(made, 1)
    made.settled(Settled(freed=[LegName(1, 1)]), 1.0)
    assert made.outbox.flush() == []


def test_decisions_are_kept_for_a_while() -> None:
    made = advisor()
    for request in range(DECISIONS_MAX + 2):
        placed(made, request)
        made.settled(Settled(freed=[LegName(request, 1)]), 1.0)
    assert made.decision(1) is None and made.decision(2) is not None


def test_ticks_ask_again_and_expire() -> None:
    made = Advisor(read({"active_expiry_s": 5}), Random(1))
    made.up(5, 0.0)
    made.place(asked(1), (5,), 0.0)
    assert made.deadline() == 1.0
    assert [node for node, _ in made.tick(1.0)] == [5]
    made.tick(6.0)
    assert made.tracking.requests == [0]


def test_metrics() -> None:
    made = advisor()
    cache(made, 6, PATH)
    made.heard(5, Blocks(0, 9, 9, [Change(Kind.CLEARED)]), 1.0)
    found = {family.name: family for family in families({"generate/m": made}, 2.0)}
    assert found["wiremesh_index_blocks"].samples[0].value == 4
    behind = {sample.labels["worker"]: sample.value for sample in found["wiremesh_index_behind_changes"].samples}
    assert behind == {f"{5:016x}": 9.0, f"{6:016x}": 0.0, f"{7:016x}": 0.0}
    exact = [sample.value for sample in found["wiremesh_index_exact_ratio"].samples]
    assert exact == [0.0, 1.0, 1.0]
