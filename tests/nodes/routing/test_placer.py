"""Routers that know caches: cores on a wire, from a worker's block events to an owner's Submit."""

import pytest

from mesh.core import Abandon
from nodes.contract.engine import BlockEvent
from nodes.names import ALONE
from nodes.routing.itinerary import unique
from nodes.routing.split import SplitKnobs
from proto.basics import LegName
from proto.errors import Reason
from proto.messages import Strength
from proto.placing import Blocks, Copy, Cut, Parked, Piece, Place, Placed, Replay, Report, Routed, Settled, Wish
from tests.nodes.routing.mesh import ENC, GEN, PRE, Mesh, prompt, wish

CONTENT = bytes(range(16))


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def test_a_request_goes_where_its_prompt_is_cached(mesh: Mesh) -> None:
    router, workers, client = mesh.router(), [mesh.worker() for _ in range(4)], mesh.client()
    for number, worker in enumerate(workers):
        mesh.store(worker, prompt(number))
    for number, worker in enumerate(workers):
        request = mesh.ask(client, prompt(number) + prompt(9, 1))
        assert mesh.holder(client, request) == worker
        placed = mesh.placed(client)
        assert (placed.itinerary, placed.endpoints, placed.cached_blocks) == ([worker], [GEN], 8)
        assert "8 of 9 blocks cached" in placed.why
    assert mesh.wire.stat(router, "router.placed.kv") == 4


def test_a_router_that_comes_late_asks_for_all_and_knows_at_once(mesh: Mesh) -> None:
    workers, client = [mesh.worker() for _ in range(3)], mesh.client()
    for number, worker in enumerate(workers):
        mesh.store(worker, prompt(number))
    router = mesh.router()
    assert mesh.wire.said(router, workers[0], Replay)
    mesh.wire.settle()
    request = mesh.ask(client, prompt(1))
    assert mesh.holder(client, request) == workers[1]


def test_what_the_ring_has_forgotten_is_copied(mesh: Mesh) -> None:
    worker, _ = mesh.worker(), mesh.worker()
    mesh.tellers[worker].publishers[0]._ring._changes_max = 1
    for number in range(5):
        mesh.store(worker, prompt(number))
    router, client = mesh.router(), mesh.client()
    assert mesh.wire.said(worker, router, Cut)
    assert mesh.wire.said(router, worker, Copy)
    assert mesh.wire.said(worker, router, Piece)
    for number in range(5):
        request = mesh.ask(client, prompt(number))
        assert mesh.holder(client, request) == worker
        mesh.end(client, request)


def test_a_worker_that_comes_back_is_asked_anew(mesh: Mesh) -> None:
    router, worker = mesh.router(), mesh.worker()
    mesh.store(worker, prompt(1))
    mesh.wire.drop(router, worker)
    mesh.wire.advance(1.0)
    assert mesh.wire.state(router, worker) == "up" and len(mesh.wire.said(router, worker, Replay)) == 2
    assert mesh.placers[router].advisors[GEN].sources.exact == [True]
    mesh.store(worker, prompt(2))
    assert mesh.placers[router].advisors[GEN].sources.index.blocks == 16


def test_removed_blocks_are_not_counted_on(mesh: Mesh) -> None:
    router, worker, other = mesh.router(), mesh.worker(), mesh.worker()
    mesh.store(worker, prompt(1))
    mesh.tellers[worker].feed([BlockEvent("cleared")])
    mesh.wire.settle()
    assert mesh.placers[router].advisors[GEN].sources.staleness(mesh.wire.now)[0].blocks == 0
    mesh.store(other, prompt(1))
    client = mesh.client()
    assert mesh.holder(client, mesh.ask(client, prompt(1))) == other


def test_a_worker_that_has_nothing_to_say_says_so(mesh: Mesh) -> None:
    router, worker = mesh.router(), mesh.worker()
    mesh.wire.advance(10.0)
    beats = mesh.wire.said(worker, router, Blocks)
    assert 9 <= len(beats) <= 12 and not any(beat.changes for beat in beats)
    assert mesh.placers[router].advisors[GEN].sources.exact == [True]


def test_owners_say_what_became_of_requests(mesh: Mesh) -> None:
    router, worker, _, client = mesh.router(), mesh.worker(), mesh.worker(), mesh.client()
    mesh.store(worker, prompt(1))
    request = mesh.ask(client, prompt(1) + prompt(2))
    tracking = mesh.placers[router].advisors[GEN].tracking
    assert max(tracking.prefill_tokens) == 8 * 16 and max(tracking.requests) == 1
    mesh.first(client, request)
    assert max(tracking.prefill_tokens) == 0 and max(tracking.requests) == 1
    mesh.end(client, request)
    assert max(tracking.requests) == 0 and max(tracking.blocks) == 0
    told = mesh.wire.said(client, router, Settled)
    assert [leg.request for one in told for leg in one.prefilled] == [request]
    assert [leg.request for one in told for leg in one.freed] == [request]
    assert not mesh.wire.said(client, worker, Settled)


def test_a_request_that_its_caller_gives_up_counts_no_more(mesh: Mesh) -> None:
    router, _, _, client = mesh.router(), mesh.worker(), mesh.worker(), mesh.client()
    request = mesh.ask(client, prompt(1))
    mesh.wire.tell(client, Abandon(request, Strength.KILL))
    mesh.wire.advance(0.1)
    assert max(mesh.placers[router].advisors[GEN].tracking.requests) == 0


def test_two_owners_number_alike(mesh: Mesh) -> None:
    router, _, _ = mesh.router(), mesh.worker(), mesh.worker()
    one, other = mesh.client(), mesh.client()
    assert mesh.ask(one, prompt(1)) == mesh.ask(other, prompt(2))
    assert sum(mesh.placers[router].advisors[GEN].tracking.requests) == 2
    mesh.end(one, 1)
    assert sum(mesh.placers[router].advisors[GEN].tracking.requests) == 1


def test_routers_tell_each_other(mesh: Mesh) -> None:
    first, second = mesh.router(), mesh.router()
    _, _, client = mesh.worker(), mesh.worker(), mesh.client()
    request = mesh.ask(client, prompt(1))
    mesh.wire.advance(0.05)
    told = mesh.wire.said(first, second, Routed) + mesh.wire.said(second, first, Routed)
    assert [one.request for message in told for one in message.placements] == [unique(client, request)]
    sums = [sum(placer.advisors[GEN].tracking.requests) for placer in mesh.placers.values()]
    assert sums == [1, 1]
    mesh.end(client, request)
    mesh.wire.advance(0.05)
    assert [sum(placer.advisors[GEN].tracking.requests) for placer in mesh.placers.values()] == [0, 0]


def test_what_one_router_placed_the_next_one_counts(mesh: Mesh) -> None:
    mesh.router(), mesh.router()
    workers, client = [mesh.worker() for _ in range(4)], mesh.client()
    found = []
    for number in range(8):
        found.append(mesh.holder(client, mesh.ask(client, prompt(number))))
        mesh.wire.advance(0.02)
    assert sorted(found.count(worker) for worker in workers) == [2, 2, 2, 2]


def test_loads_come_with_heartbeats(mesh: Mesh) -> None:
    router, worker, other, client = mesh.router(), mesh.worker(), mesh.worker(), mesh.client()
    mesh.reports[worker].append(Report(9, 3, 4_000, 500, 1_000, 512))
    mesh.wire.advance(1.0)
    tracking = mesh.placers[router].advisors[GEN].tracking
    assert sorted(tracking.prefill_tokens) == [0, 4_000] and sorted(tracking.requests) == [0, 12]
    for number in range(3):
        assert mesh.holder(client, mesh.ask(client, prompt(number))) == other


# --- Prefill and encoders ----------------------------------------------------------------------------------


def places(mesh: Mesh, client: int, given: Wish) -> Placed:
    """What a router answers; nobody takes it."""
    request = mesh.wire.nodes[client].next_request()
    router = next(iter(mesh.placers))
    mesh.wire.forge(client, router, Place(request, 1, GEN, wish=given))
    mesh.wire.settle()
    return mesh.wire.said(router, client, Placed)[-1]


def test_a_long_prompt_is_computed_by_a_prefill_worker(mesh: Mesh) -> None:
    router, decode, prefill, client = mesh.router(), mesh.worker(), mesh.worker(PRE), mesh.client()
    long, short = prompt(1, 200), prompt(2, 10)
    placed = places(mesh, client, wish(long))
    assert (placed.itinerary, placed.endpoints) == ([prefill, decode], [PRE, GEN])
    assert "3200 of 3200 tokens are to be computed" in placed.why
    advisors = mesh.placers[router].advisors
    assert (advisors[GEN].tracking.prefill_tokens, advisors[PRE].tracking.prefill_tokens) == ([0], [3200])
    assert places(mesh, client, wish(short)).itinerary == [decode]
    mesh.store(decode, long)
    assert places(mesh, client, wish(long)).itinerary == [decode]


def test_a_prefill_worker_is_chosen_by_its_cache_and_done_with_the_first_token(mesh: Mesh) -> None:
    router, decode, *prefill = mesh.router(), mesh.worker(), mesh.worker(PRE), mesh.worker(PRE)
    client = mesh.client()
    mesh.store(prefill[1], prompt(1, 150))
    for number in range(2):
        given = wish(prompt(1, 150) + prompt(2 + number, 140))
        assert places(mesh, client, given).itinerary == [prefill[1], decode]
    tracking = mesh.placers[router].advisors[PRE].tracking
    assert sum(tracking.requests) == 2
    mesh.wire.forge(client, router, Settled(prefilled=[LegName(1, 1)]))
    mesh.wire.settle()
    assert sum(tracking.requests) == 1


def test_a_prompt_that_a_prefill_worker_knows_goes_there_and_one_that_it_does_not_stays(mesh: Mesh) -> None:
    _, decode, prefill, client = mesh.router(), mesh.worker(), mesh.worker(PRE), mesh.client()
    short, long = prompt(1, 100), prompt(2, 1000)
    assert places(mesh, client, wish(prompt(3, 100))).itinerary == [decode]
    mesh.store(prefill, short)
    placed = places(mesh, client, wish(short))
    assert placed.itinerary == [prefill, decode] and "1600 of 1600 tokens are to be computed, 0 at" in placed.why
    mesh.store(decode, long[:13_000])
    placed = places(mesh, client, wish(long))
    assert placed.itinerary == [decode] and "at a prefill worker" in placed.why


def test_enforced_disaggregation_names_what_is_missing(mesh: Mesh) -> None:
    router, _, client = mesh.router(splitting=SplitKnobs(enforce=True)), mesh.worker(), mesh.client()
    placed = places(mesh, client, wish(prompt(1)))
    assert (placed.itinerary, placed.endpoints) == ([], [PRE]) and "no prefill worker of m" in placed.why
    prefill = mesh.worker(PRE)
    assert places(mesh, client, wish(prompt(1))).itinerary[0] == prefill and router


@pytest.mark.parametrize("policy", ["kv", "least_loaded", "round_robin"])
def test_who_takes_nothing_over_is_not_fed(mesh: Mesh, policy: str) -> None:
    """It would compute the prompt again, and so would everybody after a prefill worker that hands nothing over."""
    mesh.router(policy)
    decode, _, client = mesh.worker(GEN, ALONE), mesh.worker(PRE), mesh.client()
    assert places(mesh, client, wish(prompt(1, 200))).itinerary == [decode]
    mesh.wire.crash(decode)
    other = mesh.worker(GEN)
    fed = places(mesh, client, wish(prompt(2, 200)))
    assert fed.endpoints == [PRE, GEN] and fed.itinerary[-1] == other
    mesh.wire.crash(fed.itinerary[0])
    mesh.worker(PRE, ALONE)
    assert places(mesh, client, wish(prompt(3, 200))).itinerary == [other]


@pytest.mark.parametrize("policy", ["kv", "least_loaded"])
def test_enforced_disaggregation_passes_over_who_takes_nothing_over(mesh: Mesh, policy: str) -> None:
    mesh.router(policy, SplitKnobs(enforce=True))
    mesh.worker(GEN, ALONE)
    prefill, client = mesh.worker(PRE), mesh.client()
    placed = places(mesh, client, wish(prompt(1)))
    assert (placed.itinerary, placed.endpoints) == ([], [GEN]) and "takes over" in placed.why
    decode = mesh.worker(GEN)
    for seed in range(3):
        assert places(mesh, client, wish(prompt(seed))).itinerary == [prefill, decode]


@pytest.mark.parametrize("policy", ["kv", "least_loaded", "round_robin"])
def test_every_policy_makes_itineraries(mesh: Mesh, policy: str) -> None:
    mesh.router(policy)
    decode, prefill, encoder, client = mesh.worker(), mesh.worker(PRE), mesh.worker(ENC), mesh.client()
    given = wish(prompt(1, 200), media=[CONTENT])
    placed = places(mesh, client, given)
    assert (placed.itinerary, placed.endpoints) == ([encoder, prefill, decode], [ENC, PRE, GEN])


def test_a_known_picture_goes_where_its_embedding_is(mesh: Mesh) -> None:
    mesh.router()
    decode, *encoders = mesh.worker(), mesh.worker(ENC), mesh.worker(ENC), mesh.worker(ENC)
    client = mesh.client()
    mesh.tellers[encoders[1]].feed([BlockEvent("stored", [int.from_bytes(CONTENT[:8], "little")], 0, [])])
    mesh.wire.settle()
    for _ in range(3):
        placed = places(mesh, client, wish(prompt(1), media=[CONTENT]))
        assert placed.itinerary == [encoders[1], decode] and "1 of 1 embeddings there" in placed.why
    others = {places(mesh, client, wish(prompt(1), media=[bytes(16)])).itinerary[0] for _ in range(3)}
    assert others == {encoders[0], encoders[2]}  # the third has been sent three already


# --- When all are busy -------------------------------------------------------------------------------------


def test_when_all_are_over_their_threshold_it_is_refused_at_once(mesh: Mesh) -> None:
    mesh.router(busy_prefill_tokens=100)
    mesh.worker(), mesh.worker()
    client = mesh.client()
    requests = [mesh.ask(client, prompt(number, 20)) for number in range(3)]
    assert [mesh.wire.reason(client, request) for request in requests] == [None, None, Reason.BUSY]
    finish = mesh.wire.finished(client, requests[2])
    assert finish is not None and "all 2 that could take it are busy" in finish.text


def test_a_request_waits_in_the_router_until_somebody_has_room(mesh: Mesh) -> None:
    router, workers = mesh.router(queue_threshold=1.0), [mesh.worker(), mesh.worker()]
    client = mesh.client()
    for worker in workers:
        mesh.reports[worker].append(Report(0, 0, 0, 0, 1_000, 100))
    mesh.wire.advance(1.0)
    first, second, third = (mesh.ask(client, prompt(number, 20)) for number in range(3))
    for worker in workers:
        mesh.reports[worker][:] = [Report(1, 0, 320, 20, 1_000, 100)]
    assert len(mesh.wire.said(router, client, Parked)) == 1 and mesh.placers[router].advisors[GEN].parked == 1
    mesh.wire.advance(4.5)
    assert len(mesh.wire.said(router, client, Parked)) == 3
    mesh.first(client, second)
    assert mesh.holder(client, third) == mesh.holder(client, second)
    assert not mesh.placers[router].advisors[GEN].parked and first


def test_who_gives_up_waiting_is_forgotten(mesh: Mesh) -> None:
    router, worker, client = mesh.router(queue_threshold=1.0), mesh.worker(), mesh.client()
    mesh.worker()
    for reports in mesh.reports.values():
        reports.append(Report(0, 0, 0, 0, 1_000, 100))
    mesh.wire.advance(1.0)
    requests = [mesh.ask(client, prompt(number, 20)) for number in range(3)]
    mesh.wire.tell(client, Abandon(requests[2], Strength.KILL))
    mesh.wire.advance(0.05)
    assert not mesh.placers[router].advisors[GEN].parked and worker


# --- Explaining --------------------------------------------------------------------------------------------


def test_a_router_explains(mesh: Mesh) -> None:
    router, worker, _, client = mesh.router(), mesh.worker(), mesh.worker(), mesh.client()
    mesh.store(worker, prompt(1))
    request = mesh.ask(client, prompt(1))
    told = mesh.placers[router].told(unique(client, request), mesh.wire.now)
    assert told is not None and (told.owner, told.request, told.endpoint) == (client, request, GEN)
    (stop,) = told.stops
    assert stop.node == worker and stop.explanation is not None and len(stop.explanation.candidates) == 2
    assert mesh.placers[router].told(unique(client, request + 1), mesh.wire.now) is None


def test_overrides_are_heeded_and_senseless_ones_refused(mesh: Mesh) -> None:
    mesh.router()
    worker, other, client = mesh.worker(), mesh.worker(), mesh.client()
    mesh.store(worker, prompt(1))
    load = mesh.ask(client, prompt(1))
    assert mesh.holder(client, load) == worker
    blind = mesh.ask(client, prompt(1), wish=wish(prompt(1), overrides={"overlap_credit": 0.0, "assume_reuse": 0.0}))
    assert mesh.holder(client, blind) == other
    wrong = mesh.ask(client, prompt(1), wish=wish(prompt(1), overrides={"temprature": 1.0}))
    assert mesh.wire.reason(client, wrong) is Reason.INVALID


def test_hashes_that_are_none_cost_nobody_anything(mesh: Mesh) -> None:
    router, _, client = mesh.router(), mesh.worker(), mesh.client()
    mesh.worker()
    request = mesh.ask(client, prompt(1), wish=Wish(b"12345", 5))
    assert mesh.wire.reason(client, request) is Reason.INVALID
    assert mesh.wire.stat(router, "router.senseless") == 1 and mesh.wire.state(router, client) == "up"


def test_a_worker_lies_about_ranks_that_it_has_not(mesh: Mesh) -> None:
    router, worker = mesh.router(), mesh.worker()
    mesh.wire.forge(worker, router, Piece(200, 0, 4, 1, [b"x" * 8]))
    mesh.wire.forge(worker, router, Blocks(3, 1, 1, []))
    mesh.wire.settle()
    assert mesh.wire.state(router, worker) == "up"
    mesh.wire.forge(router, worker, Replay(9))
    mesh.wire.forge(router, worker, Copy(0, 7, 9))
    mesh.wire.settle()
    assert mesh.wire.state(worker, router) == "up" and mesh.wire.stat(worker, "caches.no_rank") == 1


def test_when_the_last_worker_goes_nothing_is_kept(mesh: Mesh) -> None:
    router, worker, client = mesh.router(), mesh.worker(), mesh.client()
    mesh.reports[worker].append(Report(1, 0, 0, 0, 1_000, 100))
    mesh.wire.advance(1.0)
    mesh.store(worker, prompt(1))
    mesh.ask(client, prompt(1))
    mesh.wire.crash(worker)
    mesh.wire.advance(0.1)
    placer = mesh.placers[router]
    assert not placer.advisors and placer.deadline() > mesh.wire.now
