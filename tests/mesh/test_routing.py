"""Routers: they advise, owners decide, and nothing depends on them."""

import pytest

from mesh.core import Found, Start, Want
from mesh.dispatch import ROUTER_S
from mesh.routing import ROUTER
from proto.errors import Reason
from proto.messages import Offer, Role
from proto.placing import Place, Placed
from tests.pair import ECHO, Wire

PROMPT = [1, 2, 3]


def mesh(wire: Wire, workers: int = 2, policy: str = "least_loaded") -> tuple[int, int, list[int]]:
    """A client, a router and workers that all know each other."""
    client = wire.client()
    router = wire.node(Role.ROUTER, [Offer(ROUTER)], policy=policy)
    served = [wire.worker() for _ in range(workers)]
    wire.meet(client, *served)
    wire.meet(router, *served)
    wire.tell(client, Want(ROUTER))
    wire.tell(client, Found(wire.nodes[router].record()))
    wire.settle()
    return client, router, served


def test_a_router_says_where_and_why(wire: Wire) -> None:
    client, router, served = mesh(wire)
    request = wire.ask(client, prompt=PROMPT, routed=True)
    assert [(place.request, place.endpoint, place.length) for place in wire.said(client, router, Place)] == [
        (request, ECHO, 3)
    ]
    (placed,) = wire.said(router, client, Placed)
    assert placed.itinerary[0] in served and placed.why == "least_loaded of 2: load 0"
    assert wire.did(placed.itinerary[0], Start)


def test_it_counts_what_it_has_advised_since_the_last_report(wire: Wire) -> None:
    client, _, served = mesh(wire, 3)
    for _ in range(6):
        wire.ask(client, routed=True)
    assert [len(wire.did(worker, Start)) for worker in served] == [2, 2, 2]


def test_nobody_asks_about_what_can_go_to_one_place_only(wire: Wire) -> None:
    client, router, served = mesh(wire, 1)
    wire.ask(client, routed=True)
    assert not wire.said(client, router, Place) and wire.did(served[0], Start)


def test_a_frozen_router_costs_a_moment_and_only_once(wire: Wire) -> None:
    client, router, served = mesh(wire)
    wire.freeze(router)
    first = wire.ask(client, routed=True)
    wire.advance(ROUTER_S + 0.01)
    second = wire.ask(client, routed=True)
    assert sum(len(wire.did(worker, Start)) for worker in served) == 2
    assert len(wire.said(client, router, Place)) == 1 and wire.stat(client, "requests.router_late") == 1
    assert wire.reason(client, first) is wire.reason(client, second) is None


def test_a_router_that_dies_while_it_is_asked(wire: Wire) -> None:
    client, router, served = mesh(wire)
    wire.freeze(router)
    wire.ask(client, routed=True)
    wire.crash(router)
    wire.settle()
    assert sum(len(wire.did(worker, Start)) for worker in served) == 1


def test_advice_that_comes_late_changes_nothing(wire: Wire) -> None:
    client, router, served = mesh(wire)
    wire.freeze(router)
    wire.ask(client, routed=True)
    wire.advance(ROUTER_S + 0.01)
    wire.thaw(router)
    wire.advance(0.1)
    assert wire.said(router, client, Placed) and wire.stat(client, "requests.placed_late") == 1
    assert sum(len(wire.did(worker, Start)) for worker in served) == 1


@pytest.mark.parametrize("itinerary", [[], [4242]])
def test_advice_that_is_no_good_is_not_taken(wire: Wire, itinerary: list[int]) -> None:
    client, router, served = mesh(wire)
    wire.hold(client, router)
    request = wire.ask(client, routed=True)
    wire.forge(router, client, Placed(request, 1, itinerary, "go there"))
    wire.settle()
    assert sum(len(wire.did(worker, Start)) for worker in served) == 1


def test_what_was_refused_is_excluded_in_the_next_question(wire: Wire) -> None:
    client, router = wire.client(), wire.node(Role.ROUTER, [Offer(ROUTER)], policy="round_robin")
    full, free, spare = wire.worker(slots=1, queue=0), wire.worker(), wire.worker()
    for node in (client, router):
        wire.meet(node, full, free, spare)
    wire.tell(client, Want(ROUTER))
    wire.tell(client, Found(wire.nodes[router].record()))
    wire.settle()
    for _ in range(4):
        wire.ask(client, routed=True)
    assert any(place.excluded == [full] for place in wire.said(client, router, Place))
    assert len(wire.did(full, Start)) == 1


def test_without_workers_a_request_waits_and_says_so(wire: Wire) -> None:
    client, _, served = mesh(wire)
    for worker in served:
        wire.crash(worker)
    wire.advance(0.1)
    request = wire.ask(client, routed=True, patience_s=1.0)
    wire.advance(1.5)
    assert wire.reason(client, request) is Reason.UNAVAILABLE


def test_only_routers_may_advise(wire: Wire) -> None:
    client, _, served = mesh(wire)
    wire.forge(served[0], client, Placed(1, 1, [served[0]], "me"))
    wire.settle()
    assert wire.stat(client, "peers.dropped.forbidden") == 1
