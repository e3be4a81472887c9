"""The legs that we have on others: three views of one table."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.claims import Claims
from proto.basics import LegName
from proto.messages import Sync
from proto.request import digest

STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "drop"]), st.integers(1, 3)), max_size=60)


@given(STEPS)
def test_the_views_agree_with_a_recount(steps: list[tuple[str, int]]) -> None:
    claims = Claims()
    model: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 3: []}
    for request, (step, peer) in enumerate(steps, 1):
        if step == "add":
            claims.add(peer, request, 1, limit=9)
            model[peer].append((request, 1))
        elif step == "drop":
            dropped = claims.drop_peer(peer)
            assert [(claim.request, claim.attempt) for claim in dropped] == model[peer]
            model[peer] = []
        elif model[peer]:
            oldest = claims.get(peer, *model[peer].pop(0))
            assert oldest is not None
            claims.remove(oldest)
        claims.check()
        assert len(claims) == sum(map(len, model.values()))
        assert sorted(claims.peers()) == [number for number, legs in model.items() if legs]
        for number, legs in model.items():
            assert claims.count(number) == len(legs) == len(claims.of(number))
            assert claims.summary(number) == (len(legs), digest(legs))


def test_a_name_has_three_parts() -> None:
    claims = Claims()
    claim = claims.add(1, 2, 3, limit=9)
    assert claims.get(1, 2, 3) is claim
    assert claims.get(2, 2, 3) is claims.get(1, 3, 3) is claims.get(1, 2, 4) is None


def test_a_sync_names_what_is_unknown_and_what_has_vanished() -> None:
    claims = Claims()
    for request in (1, 2, 3):
        claims.add(7, request, 1, limit=9)
    unknown, vanished = claims.compare(7, Sync(submits=3, legs=[LegName(1, 1), LegName(3, 1), LegName(4, 2)]))
    assert unknown == [LegName(4, 2)]
    assert [claim.request for claim in vanished] == [2]


def test_a_leg_whose_submit_was_not_seen_is_under_way() -> None:
    claims = Claims()
    for request in (1, 2, 3):
        claims.add(7, request, 1, limit=9)
    assert [claim.request for claim in claims.compare(7, Sync(submits=2))[1]] == [1, 2]


def test_a_new_session_counts_its_submits_anew() -> None:
    claims = Claims()
    for request in (1, 2, 3):
        claims.add(7, request, 1, limit=9)
    claims.drop_peer(7)
    claims.add(7, 4, 1, limit=9)
    assert [claim.request for claim in claims.compare(7, Sync(submits=1))[1]] == [4]


def test_a_peer_without_legs() -> None:
    assert Claims().summary(7) == (0, 0)
    assert Claims().drop_peer(7) == Claims().of(7) == []
    assert Claims().compare(7, Sync(0, [LegName(1, 1)])) == ([LegName(1, 1)], [])
