"""Itineraries: several legs of one request, what they hand over, and what happens when one of them is lost."""

import pytest

from mesh.core import (
    TICK,
    Failed,
    Finished,
    Go,
    Halt,
    Leave,
    Leg,
    Start,
    Stepped,
    Yielded,
)
from proto.errors import Reason
from proto.messages import Cancel, Fed, Handed, Offer, Strength, Submit, Sync
from tests.mesh.walkers import ENCODE, GENERATE, PREFILL, PROMPT, Mesh
from tests.pair import Wire


def test_prefill_hands_over_and_decode_goes_on(wire: Wire) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    (handed,) = wire.said(prefill, mesh.client, Handed)
    first, second = mesh.sent(Submit)
    assert (first.endpoint, first.handles, first.awaits) == (PREFILL, [], False)
    assert (second.endpoint, second.handles, second.awaits) == (GENERATE, [handed.handle], True)
    (start,) = wire.did(decode, Start)
    assert start.awaits and list(start.handles) == [b"blocks"] and not wire.did(decode, Go)
    mesh.step(prefill, 10)
    assert wire.delivered(mesh.client, request) == [10] and not wire.did(decode, Go)
    mesh.finish(prefill)
    assert wire.did(decode, Go) == [Go(mesh.leg(decode), 0, [10])]
    mesh.step(decode, 11)
    mesh.step(decode, 12)
    mesh.finish(decode)
    ended = wire.finished(mesh.client, request)
    assert ended is not None and wire.delivered(mesh.client, request) == [10, 11, 12]
    assert (ended.reason, ended.attempts, ended.nodes) == (Reason.LENGTH, 1, (prefill, decode))
    assert ended.endpoints == (PREFILL, GENERATE) and len(mesh.sent(Fed)) == 1 and wire.quiet()


def test_what_the_first_leg_found_in_its_cache_is_told(wire: Wire) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    wire.tell(prefill, Stepped([(mesh.leg(prefill), [10], ())], [(mesh.leg(prefill), 2)]))
    mesh.finish(prefill)
    wire.tell(decode, Stepped([(mesh.leg(decode), [11], ())], [(mesh.leg(decode), 3)]))
    mesh.finish(decode)
    ended = wire.finished(mesh.client, request)
    assert ended is not None and ended.cached == 2


def test_the_next_stop_of_a_leg_that_has_ended_awaits_nobody(wire: Wire) -> None:
    mesh = Mesh(wire)
    request = mesh.ask()
    prefill, decode = mesh.prefills[0], mesh.decodes[0]
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    submit = mesh.sent(Submit)[-1]
    assert not submit.awaits and submit.resume is not None and (submit.resume.position, submit.handles) == (1, [])
    mesh.step(decode, 11)
    mesh.finish(decode)
    assert wire.delivered(mesh.client, request) == [10, 11] and not mesh.sent(Fed) and wire.quiet()


def test_three_legs_live_at_once_and_each_is_fed_in_its_turn(wire: Wire) -> None:
    mesh = Mesh(wire, encoders=1)
    request = mesh.ask(ENCODE, PREFILL, handles=(b"picture",))
    (encoder,), (prefill,), (decode,) = mesh.encoders, mesh.prefills, mesh.decodes
    mesh.hand(encoder, b"embedding")
    mesh.hand(prefill)
    assert [submit.awaits for submit in mesh.sent(Submit)] == [False, True, True]
    assert mesh.sent(Submit)[-1].handles == [b"picture", b"embedding", b"blocks"]
    mesh.finish(encoder, Reason.COMPLETE)
    assert wire.did(prefill, Go) and not wire.did(decode, Go)
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    assert wire.did(decode, Go) == [Go(mesh.leg(decode), 0, [10])]
    mesh.step(decode, 11)
    mesh.finish(decode)
    assert wire.delivered(mesh.client, request) == [10, 11] and len(mesh.sent(Fed)) == 2 and wire.quiet()


def test_what_comes_before_the_start_needs_no_go(wire: Wire) -> None:
    mesh = Mesh(wire, slots=1)
    wire.ask(mesh.client, GENERATE, prompt=PROMPT)
    request, prefill = mesh.ask(), mesh.prefills[0]
    decode = mesh.decodes[0]
    blocking = mesh.leg(decode)
    mesh.hand(prefill)
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    wire.tell(decode, Finished(blocking))
    wire.settle()
    start = wire.did(decode, Start)[-1]
    assert (start.leg.request, start.awaits, start.position, start.tokens) == (request, False, 1, [10])
    assert not wire.did(decode, Go)


# --- Losing feeders ------------------------------------------------------------------------------------


def test_a_feeder_lost_before_it_handed_moves_the_request(wire: Wire) -> None:
    mesh = Mesh(wire, prefills=2)
    request = mesh.ask()
    victim = mesh.holder(mesh.prefills)
    wire.crash(victim)
    wire.advance(0.1)
    assert not wire.did(mesh.decodes[0], Start) or mesh.sent(Submit)[-1].suspect
    assert wire.stat(mesh.client, "requests.moved") == 1 and wire.reason(mesh.client, request) is None


@pytest.mark.parametrize("made", [0, 1])
def test_a_feeder_lost_after_it_handed_costs_nothing(wire: Wire, made: int) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    if made:
        mesh.step(prefill, 10)
    wire.crash(prefill)
    wire.settle()
    assert wire.did(decode, Go) == [Go(mesh.leg(decode), 0, [10] * made)]
    assert len(mesh.sent(Submit)) == 2 and wire.stat(mesh.client, "requests.feeders_lost") == 1
    mesh.step(decode, 10, 11)
    mesh.finish(decode)
    wanted = [10, 10, 11] if made else [10, 11]
    assert wire.delivered(mesh.client, request) == wanted and wire.quiet()


@pytest.mark.parametrize("end", ["error", "migrate", "vanish", "left"])
def test_a_feeder_that_has_handed_may_end_as_it_likes(wire: Wire, end: str) -> None:
    mesh = Mesh(wire)
    request, prefill, decode = mesh.walked()
    leg = mesh.leg(prefill)
    if end == "error":
        wire.tell(prefill, Failed(leg, Reason.FAILED, "Oops", "out of memory"))
    elif end == "migrate":
        wire.tell(prefill, Yielded(leg, Reason.PREEMPT))
    elif end == "vanish":
        wire.forge(prefill, mesh.client, Sync(1, []))
    else:
        wire.tell(prefill, Leave(0.0))
        wire.tell(prefill, Yielded(leg))
    wire.settle()
    assert wire.did(decode, Go) == [Go(mesh.leg(decode), 0, [])] and len(mesh.sent(Submit)) == 2
    mesh.step(decode, 10)
    mesh.finish(decode)
    assert wire.delivered(mesh.client, request) == [10] and wire.reason(mesh.client, request) is Reason.LENGTH


def test_a_feeder_that_is_silent_is_dismissed(wire: Wire) -> None:
    mesh = Mesh(wire)
    request = mesh.ask(stall_s=1.0)
    prefill, decode = mesh.prefills[0], mesh.decodes[0]
    mesh.hand(prefill)
    wire.advance(1.1)
    assert wire.did(decode, Go) and wire.did(prefill, Halt) and len(mesh.sent(Submit)) == 2
    mesh.step(decode, 10)
    assert wire.delivered(mesh.client, request) == [10]


def test_a_feeder_whose_engine_hangs_is_dismissed(wire: Wire) -> None:
    mesh = Mesh(wire)
    _, prefill, decode = mesh.walked()
    wire.nodes[mesh.client].owner.peer_hung(prefill, wire.now)
    wire.tell(mesh.client, TICK)
    wire.settle()
    assert wire.did(decode, Go) and wire.did(prefill, Halt) and len(mesh.sent(Submit)) == 2


def test_two_legs_on_one_dead_node(wire: Wire) -> None:
    mesh = Mesh(wire, prefills=0, decodes=1)
    both = wire.worker([Offer(PREFILL), Offer(GENERATE)])
    mesh.find(both)
    request = mesh.ask(pinned=both)
    mesh.hand(both)
    assert [submit.endpoint for submit in wire.said(mesh.client, both, Submit)] == [PREFILL, GENERATE]
    wire.crash(both)
    wire.advance(2.5)
    decode = mesh.decodes[0]
    assert wire.did(decode, Start) and not mesh.sent(Fed), "nobody prefills any more: it has to do without"
    mesh.hand(decode, b"nobody waits for that")
    assert wire.reason(mesh.client, request) is None


def test_what_it_must_have_is_waited_for(wire: Wire) -> None:
    """A decode worker that computes no prompt could only say no."""
    mesh = Mesh(wire, prefills=0)
    request = mesh.ask(musts=(PREFILL,), patience_s=2.0)
    wire.advance(1.5)
    late = wire.worker([Offer(PREFILL)])
    mesh.find(late)
    assert wire.did(late, Start) and not wire.did(mesh.decodes[0], Start)
    wire.crash(late)
    wire.advance(10.0)
    assert not wire.did(mesh.decodes[0], Start) and wire.reason(mesh.client, request) is None
    wire.advance(30.0)
    ended = wire.finished(mesh.client, request)
    assert ended is not None and ended.reason is Reason.UNAVAILABLE and not wire.did(mesh.decodes[0], Start)
    assert ended.text == f"no instance of {PREFILL} takes work; live: none", "what is missing, not what is there"


def test_advice_without_what_it_must_have_is_not_taken(wire: Wire) -> None:
    mesh = Mesh(wire)
    router = mesh.router()
    request = mesh.ask(routed=True, musts=(PREFILL,))
    mesh.advise(router, request, (mesh.decodes[0], GENERATE))
    assert [submit.endpoint for submit in mesh.sent(Submit)] == [PREFILL]
    mesh.hand(mesh.prefills[0])
    assert wire.did(mesh.decodes[0], Start)


# --- Losing the last leg ---------------------------------------------------------------------------------


def test_when_the_last_leg_is_lost_its_feeders_are_cancelled(wire: Wire) -> None:
    mesh = Mesh(wire, decodes=2)
    request, prefill, decode = mesh.walked()
    mesh.step(prefill, 10)
    wire.crash(decode)
    wire.settle()
    kills = wire.said(mesh.client, prefill, Cancel)
    assert [(kill.strength, kill.reason) for kill in kills] == [(Strength.KILL, Reason.MOVED)]
    wire.tell(prefill, Yielded(Leg(mesh.client, request, 1)))
    wire.settle()
    assert mesh.sent(Submit)[-1].attempt == 3 and not mesh.sent(Fed)


def test_a_busy_last_stop_is_replaced_and_the_feeder_goes_on(wire: Wire) -> None:
    mesh = Mesh(wire, decodes=2, slots=1, queue=0)
    wire.ask(mesh.client, GENERATE, prompt=PROMPT)
    blocked = mesh.holder(mesh.decodes)
    request = mesh.ask_routed((mesh.prefills[0], PREFILL), (blocked, GENERATE))
    mesh.hand(mesh.prefills[0])
    endpoints = [submit.endpoint for submit in mesh.sent(Submit) if submit.request == request]
    assert endpoints == [PREFILL, GENERATE, GENERATE]
    free = mesh.holder(mesh.decodes)
    assert free != blocked and wire.did(free, Start)[-1].handles == [b"blocks"] and wire.did(free, Start)[-1].awaits


def test_who_finds_no_last_stop_waits_with_what_lies_ready(wire: Wire) -> None:
    mesh = Mesh(wire)
    prefill, decode = mesh.prefills[0], wire.worker([Offer(GENERATE)], slots=1, queue=0)
    wire.crash(mesh.decodes[0])
    mesh.find(decode)
    wire.ask(mesh.client, GENERATE, prompt=PROMPT)
    blocking = mesh.leg(decode)
    request = mesh.ask()
    wire.hold(decode, mesh.client)
    mesh.hand(prefill)
    mesh.step(prefill, 10)
    mesh.finish(prefill)
    wire.release(decode, mesh.client)
    assert wire.reason(mesh.client, request) is None
    wire.tell(decode, Finished(blocking))
    wire.advance(1.0)
    assert [submit.endpoint for submit in mesh.sent(Submit) if submit.request == request].count(PREFILL) == 1
    assert wire.did(decode, Start)[-1].handles == [b"blocks"] and wire.did(decode, Start)[-1].tokens == [10]


def test_a_refusing_feeder_moves_the_request(wire: Wire) -> None:
    mesh = Mesh(wire, prefills=2, slots=1, queue=0)
    first = mesh.ask()
    second = mesh.ask()
    third = mesh.ask()
    assert wire.reason(mesh.client, third) is None and not wire.did(mesh.decodes[0], Start)
    for node in mesh.prefills:
        mesh.hand(node)
    assert len(wire.said(mesh.client, mesh.decodes[0], Submit)) == 2 and first != second
