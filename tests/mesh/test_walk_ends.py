"""Itineraries: how requests with several legs end, live caches, routers, suspects, and what breaks the rules."""

import pytest

from mesh.core import (
    Abandon,
    Consumed,
    Found,
    Halt,
    Hint,
    Leave,
    Produced,
    Start,
    Stepped,
    Yielded,
)
from proto.errors import Reason
from proto.messages import Chunk, End, Fed, Offer, Part, Strength, Submit
from proto.placing import Parked, Place
from tests.mesh.walkers import GENERATE, PREFILL, Mesh
from tests.pair import Wire

# --- The end of the request --------------------------------------------------------------------------------


def test_a_kill_reaches_all_legs(wire: Wire) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    wire.tell(mesh.client, Abandon(request, Strength.KILL))
    wire.settle()
    assert wire.reason(mesh.client, request) is Reason.KILLED
    for node in (prefill, decode):
        assert wire.did(node, Halt) == [Halt(mesh.leg(node))]
        wire.tell(node, Yielded(mesh.leg(node)))
    wire.settle()
    assert wire.quiet() and not mesh.sent(Fed)


@pytest.mark.parametrize("first", ["prefill", "decode"])
def test_a_stop_reaches_all_legs_and_what_is_made_is_delivered(wire: Wire, first: str) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    wire.tell(mesh.client, Abandon(request, Strength.STOP))
    wire.settle()
    assert wire.did(prefill, Hint) and wire.did(decode, Hint)
    if first == "decode":
        mesh.finish(decode)
        assert wire.reason(mesh.client, request) is None
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    if first == "prefill":
        assert wire.reason(mesh.client, request) is None
        mesh.finish(decode)
    assert wire.reason(mesh.client, request) is Reason.STOPPED and wire.delivered(mesh.client, request) == [10]
    assert wire.quiet()


def test_a_stop_before_the_hand_over_begins_no_further_leg(wire: Wire) -> None:
    mesh = Mesh(wire)
    request = mesh.ask()
    wire.tell(mesh.client, Abandon(request, Strength.STOP))
    mesh.hand(mesh.prefills[0])
    mesh.finish(mesh.prefills[0])
    assert wire.reason(mesh.client, request) is Reason.STOPPED and len(mesh.sent(Submit)) == 1 and wire.quiet()


def test_a_deadline_ends_all_legs(wire: Wire) -> None:
    mesh = Mesh(wire)
    request = mesh.ask(timeout_s=1.0)
    mesh.hand(mesh.prefills[0])
    wire.advance(1.5)
    assert wire.reason(mesh.client, request) is Reason.DEADLINE
    for node in (mesh.prefills[0], mesh.decodes[0]):
        wire.tell(node, Yielded(mesh.leg(node)))
    wire.settle()
    assert wire.quiet()


def test_credit_goes_to_every_leg(wire: Wire) -> None:
    mesh = Mesh(wire)
    request = mesh.ask(window=1)
    prefill, decode = mesh.prefills[0], mesh.decodes[0]
    mesh.hand(prefill)
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    mesh.step(decode, 11)
    assert wire.delivered(mesh.client, request) == [10]
    wire.tell(mesh.client, Consumed(request, 1))
    wire.settle()
    assert wire.delivered(mesh.client, request) == [10, 11]


# --- A live cache ------------------------------------------------------------------------------------------


def test_a_live_cache_goes_straight_to_the_last_stop(wire: Wire) -> None:
    mesh = Mesh(wire, prefills=2)
    request, prefill, decode = mesh.walked()
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    mesh.step(decode, 11)
    other, third = wire.worker([Offer(GENERATE)]), wire.worker([Offer(GENERATE)], slots=1)
    mesh.find(other)
    wire.tell(decode, Found(wire.nodes[other].record()))
    wire.tell(decode, Leave(10.0))
    wire.settle()
    assert wire.did(decode, Halt) == [Halt(mesh.leg(decode), keep=True)]
    wire.tell(decode, Yielded(mesh.leg(decode), handle=b"cache"))
    wire.settle()
    (start,) = wire.did(other, Start)
    assert (start.handles, start.awaits, start.position, start.tokens) == ([b"cache"], False, 2, [10, 11])
    assert len(mesh.sent(Submit)) == 3, "no prefill"
    mesh.step(other, 12)
    mesh.find(third)
    wire.crash(other)
    wire.advance(0.1)
    mesh.hand(mesh.holder(mesh.prefills), b"anew")
    assert wire.did(third, Start)[-1].handles == [b"anew"], "the old one may be of no use any more"
    assert wire.reason(mesh.client, request) is None


# --- What is against the rules ----------------------------------------------------------------------------


def test_a_unit_of_a_leg_that_awaits_costs_the_session(wire: Wire) -> None:
    mesh = Mesh(wire)
    request, _, decode = mesh.walked()
    wire.forge(decode, mesh.client, Chunk([Part(request, 2, 0, [10])]))
    wire.settle()
    assert wire.stat(mesh.client, "peers.dropped.illegal") == 1 and wire.delivered(mesh.client, request) == []


def test_items_of_a_feeder_cost_the_session(wire: Wire) -> None:
    mesh = Mesh(wire)
    mesh.ask()
    wire.tell(mesh.prefills[0], Produced(mesh.leg(mesh.prefills[0]), [b"item"]))
    wire.settle()
    assert wire.stat(mesh.client, "peers.dropped.illegal") == 1


def test_a_leg_that_awaits_cannot_end_by_itself(wire: Wire) -> None:
    mesh = Mesh(wire)
    request, _, decode = mesh.walked()
    wire.forge(decode, mesh.client, End(request, 2, 0))
    wire.settle()
    assert wire.reason(mesh.client, request) is None and wire.stat(mesh.client, "requests.moved") == 1


@pytest.mark.parametrize("position", [0, 7])
def test_a_leg_is_fed_once_and_where_it_stands(wire: Wire, position: int) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    if position == 0:
        mesh.finish(prefill)
    wire.forge(mesh.client, decode, Fed(request, 2, position, [1]))
    wire.settle()
    assert wire.stat(decode, "peers.dropped.illegal") == 1


def test_our_own_leg_must_not_make_a_unit_before_it_may(wire: Wire) -> None:
    mesh = Mesh(wire)
    _, _, decode = mesh.walked()
    with pytest.raises(AssertionError, match="awaits"):
        wire.tell(decode, Stepped([(mesh.leg(decode), [10], ())]))


def test_a_leg_with_nothing_to_make_ends_when_it_was_fed(wire: Wire) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    mesh.finish(decode)
    assert wire.reason(mesh.client, request) is None and not wire.said(decode, mesh.client, End)
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    assert wire.reason(mesh.client, request) is Reason.LENGTH and wire.delivered(mesh.client, request) == [10]
    assert wire.quiet()


# --- Routers ------------------------------------------------------------------------------------------------


def test_a_router_names_the_stops(wire: Wire) -> None:
    mesh = Mesh(wire, prefills=2, decodes=2)
    request = mesh.ask_routed((mesh.prefills[1], PREFILL), (mesh.decodes[1], GENERATE))
    mesh.hand(mesh.prefills[1])
    mesh.finish(mesh.prefills[1])
    mesh.step(mesh.decodes[1], 10)
    mesh.finish(mesh.decodes[1])
    ended = wire.finished(mesh.client, request)
    assert ended is not None and (ended.nodes, ended.why) == ((mesh.prefills[1], mesh.decodes[1]), "so")


def test_advice_is_taken_as_a_whole_or_not_at_all(wire: Wire) -> None:
    mesh = Mesh(wire, decodes=2)
    request = mesh.ask_routed((4242, PREFILL), (mesh.decodes[1], GENERATE))
    mesh.hand(mesh.prefills[0])
    assert [submit.endpoint for submit in mesh.sent(Submit) if submit.request == request] == [PREFILL, GENERATE]


def test_a_stop_that_has_gone_meanwhile_is_replaced(wire: Wire) -> None:
    mesh = Mesh(wire, decodes=2)
    mesh.ask_routed((mesh.prefills[0], PREFILL), (mesh.decodes[0], GENERATE))
    wire.crash(mesh.decodes[0])
    wire.advance(0.1)
    mesh.hand(mesh.prefills[0])
    assert wire.did(mesh.decodes[1], Start)


def test_who_is_parked_waits_for_the_router(wire: Wire) -> None:
    mesh = Mesh(wire)
    router = mesh.router()
    request = mesh.ask(routed=True)
    wire.forge(router, mesh.client, Parked(request, 1, 3))
    wire.settle()
    wire.advance(1.0)
    assert not mesh.sent(Submit)
    mesh.advise(router, request, (mesh.decodes[0], GENERATE))
    assert wire.did(mesh.decodes[0], Start)


def test_who_is_parked_for_too_long_goes_by_itself(wire: Wire) -> None:
    mesh = Mesh(wire)
    router = mesh.router()
    request = mesh.ask(routed=True)
    wire.forge(router, mesh.client, Parked(request, 1, 3))
    wire.settle()
    wire.crash(router)
    wire.settle()
    assert wire.did(mesh.prefills[0], Start)


def test_a_router_may_refuse(wire: Wire) -> None:
    mesh = Mesh(wire)
    router = mesh.router()
    request = mesh.ask(routed=True)
    mesh.advise(router, request, why="the queue is full", refused=int(Reason.BUSY), endpoints=[])
    ended = wire.finished(mesh.client, request)
    assert ended is not None and (ended.reason, ended.text) == (Reason.BUSY, "the queue is full")


def test_a_stop_that_must_not_be_missing_is_waited_for(wire: Wire) -> None:
    mesh = Mesh(wire)
    router = mesh.router()
    request = mesh.ask(routed=True, patience_s=0.4)
    for _ in range(2):
        mesh.advise(router, request, endpoints=[PREFILL], why="no prefill/m")
        wire.advance(0.26)
    assert len(mesh.sent(Place)) == 3 and not mesh.sent(Submit)
    mesh.advise(router, request, endpoints=[PREFILL], why="no prefill/m")
    ended = wire.finished(mesh.client, request)
    assert ended is not None and (ended.reason, ended.text) == (Reason.UNAVAILABLE, "no prefill/m")


# --- Poison -------------------------------------------------------------------------------------------------


def test_a_feeder_that_dies_of_it_makes_it_a_suspect(wire: Wire) -> None:
    mesh = Mesh(wire, prefills=2)
    mesh.ask()
    wire.crash(mesh.holder(mesh.prefills))
    wire.advance(0.1)
    assert [submit.suspect for submit in mesh.sent(Submit)] == [False, True]


def test_a_unit_of_a_feeder_does_not_absolve_the_next_leg(wire: Wire) -> None:
    mesh = Mesh(wire, prefills=2, decodes=2)
    mesh.ask()
    wire.crash(mesh.holder(mesh.prefills))
    wire.advance(0.1)
    prefill = mesh.holder(mesh.prefills)
    mesh.hand(prefill)
    assert mesh.sent(Submit)[-1].suspect, "nothing has come of it yet"
    mesh.step(prefill, 10)
    wire.crash(prefill)
    wire.settle()
    decode = mesh.holder(mesh.decodes)
    wire.crash(decode)
    wire.advance(0.1)
    assert mesh.sent(Submit)[-1].suspect, "it had made no unit of its own"
