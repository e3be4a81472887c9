"""Holders that hand over, and views that are compared: Migrate, Leave and Sync."""

import pytest

from mesh.core import (
    Abandon,
    Checkpointed,
    Finished,
    Found,
    Halt,
    Leave,
    Produced,
    Start,
    Yielded,
)
from proto.basics import LegName
from proto.errors import Reason
from proto.messages import Bye, Cancel, Cancelled, Migrate, Ping, Resume, Strength, Sync
from tests.mesh.parties import begin, finish
from tests.pair import COUNT, ECHO, Wire

PROMPT = [1, 2, 3]


# --- Migrate -----------------------------------------------------------------------------------------------


def test_a_holder_that_leaves_hands_over(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire)
    wire.meet(holder, other)
    wire.tell(holder, Produced(leg, [b"0"]))
    wire.tell(holder, Checkpointed(leg, b"one"))
    wire.tell(holder, Leave(10.0))
    wire.settle()
    assert wire.did(holder, Halt) == [Halt(leg, keep=True)]
    wire.tell(holder, Yielded(leg))
    wire.settle()
    (migrate,) = wire.said(holder, client, Migrate)
    assert (migrate.position, migrate.reason, migrate.resume) == (1, Reason.DRAIN, Resume(1, state=b"one"))
    assert [type(entry.message) for entry in wire.sent if entry.source == holder][-1] is Bye
    assert (wire.did(other, Start)[0].position, wire.did(other, Start)[0].state) == (1, b"one")
    wire.tell(other, Produced(wire.leg(other), [b"1"]))
    wire.settle()
    finish(wire, other)
    assert wire.delivered(client, request) == [b"0", b"1"] and wire.reason(client, request) is Reason.COMPLETE


def test_a_migrate_delivers_tokens_that_credit_held_back(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire, ECHO, prompt=PROMPT, window=2)
    wire.tell(holder, Produced(leg, tokens=[10, 11, 12, 13]))
    wire.tell(holder, Leave(0.0))
    wire.advance(0.1)
    wire.tell(holder, Yielded(leg))
    wire.settle()
    assert wire.delivered(client, request) == [10, 11, 12, 13]
    assert list(wire.did(other, Start)[0].tokens) == [10, 11, 12, 13]


def test_who_has_finished_but_was_not_read_hands_over_too(wire: Wire) -> None:
    """Its handler has ended and its reader is behind: no loss, though the grace is over."""
    client, holder, other, request, leg = begin(wire, window=2)
    wire.tell(holder, Produced(leg, [b"0"]))
    wire.tell(holder, Checkpointed(leg, b"one"))
    wire.tell(holder, Produced(leg, [b"1", b"2"]))
    wire.tell(holder, Finished(leg))
    wire.tell(holder, Leave(1.0))
    wire.advance(1.1)
    assert wire.said(holder, client, Migrate) and wire.reason(client, request) is None
    assert (wire.did(other, Start)[0].position, wire.did(other, Start)[0].state) == (1, b"one")


def test_what_waits_for_a_slot_is_handed_over_at_once(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker(slots=1)
    wire.meet(client, worker)
    wire.ask(client, ECHO)
    waiting = wire.ask(client, ECHO)
    wire.tell(worker, Leave(10.0))
    wire.settle()
    (migrate,) = wire.said(worker, client, Migrate)
    assert (migrate.request, migrate.resume) == (waiting, None)
    other = wire.worker()
    wire.meet(client, other)
    assert [start.leg.request for start in wire.did(other, Start)] == [waiting]


def test_what_cannot_move_may_finish_within_the_grace(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire, ECHO)
    wire.meet(holder, other)
    wire.tell(holder, Leave(10.0))
    wire.advance(5.0)
    assert not wire.did(holder, Halt)
    finish(wire, holder)
    assert wire.reason(client, request) is Reason.COMPLETE and wire.said(holder, client, Bye)


def test_what_cannot_move_and_does_not_finish_fails(wire: Wire) -> None:
    client, holder, _, request, leg = begin(wire, ECHO)
    wire.tell(holder, Leave(1.0))
    wire.advance(1.1)
    assert wire.did(holder, Halt) == [Halt(leg)]
    wire.tell(holder, Yielded(leg))
    wire.settle()
    assert wire.reason(client, request) is Reason.DRAINING and wire.said(holder, client, Bye)


def test_a_handler_that_ignores_its_end_does_not_keep_a_node_for_ever(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire)
    wire.tell(holder, Leave(1.0))
    wire.advance(7.0)
    assert wire.said(holder, client, Bye)
    assert wire.did(other, Start)[0].leg.request == request, "its session took the leg along"


def test_a_holder_without_anybody_to_hand_over_to_waits_for_one(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.meet(client, worker)
    wire.ask(client, COUNT)
    leg = wire.leg(worker)
    wire.tell(worker, Leave(20.0))
    wire.advance(5.0)
    assert not wire.did(worker, Halt)
    wire.tell(worker, Found(wire.nodes[wire.worker()].record()))
    assert wire.did(worker, Halt) == [Halt(leg, keep=True)]


@pytest.mark.parametrize("strength", Strength)
def test_a_migrate_that_crosses_a_cancel(wire: Wire, strength: Strength) -> None:
    client, holder, other, request, leg = begin(wire)
    wire.meet(holder, other)
    wire.hold(holder, client)
    wire.tell(holder, Leave(10.0))
    wire.tell(holder, Yielded(leg))
    wire.settle()
    wire.tell(client, Abandon(request, strength))
    wire.settle()
    wire.release(holder, client)
    assert wire.reason(client, request) is (Reason.STOPPED if strength is Strength.STOP else Reason.KILLED)
    wire.settle()
    assert not wire.did(other, Start) and wire.quiet()


def test_a_migrate_with_other_tokens_than_were_sent_costs_the_session_but_not_the_request(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire, ECHO, prompt=PROMPT)
    wire.tell(holder, Produced(leg, tokens=[10, 11]))
    wire.settle()
    wire.forge(holder, client, Migrate(request, 1, 2, int(Reason.DRAIN), Resume(3, [10, 99, 12])))
    wire.settle()
    assert wire.stat(client, "peers.dropped.illegal") == 1
    assert list(wire.did(other, Start)[0].tokens) == [10, 11] and wire.delivered(client, request) == [10, 11]


def test_a_rolling_restart_costs_no_retry(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire, moves_max=0)
    for _ in range(3):
        wire.meet(holder, other)
        wire.tell(holder, Leave(10.0))
        wire.settle()
        wire.tell(holder, Yielded(wire.leg(holder)))
        wire.settle()
        holder, other = other, wire.worker()
        wire.meet(client, other)
    assert wire.reason(client, request) is None and wire.leg(holder).attempt == 4


# --- Sync --------------------------------------------------------------------------------------------------


def test_a_leg_that_its_owner_does_not_know_is_cancelled(wire: Wire) -> None:
    client, holder, _, _, _ = begin(wire)
    wire.forge(holder, client, Sync(1, [LegName(1, 1), LegName(77, 2)]))
    wire.settle()
    cancels = wire.said(client, holder, Cancel)
    assert [(cancel.request, cancel.attempt, cancel.reason) for cancel in cancels] == [(77, 2, Reason.ORPHAN)]
    assert len(wire.said(holder, client, Cancelled)) == 1


def test_a_leg_that_its_holder_does_not_know_is_placed_elsewhere(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire)
    wire.forge(holder, client, Sync(submits=1, legs=[]))
    wire.settle()
    assert wire.stat(client, "sync.vanished") == 1
    assert [start.leg.attempt for worker in (holder, other) for start in wire.did(worker, Start)] == [1, 2]
    assert wire.reason(client, request) is None


def test_a_leg_that_is_under_way_has_not_vanished(wire: Wire) -> None:
    client, holder, _, _, _ = begin(wire)
    wire.forge(holder, client, Sync(submits=0, legs=[]))
    wire.settle()
    assert wire.stat(client, "sync.vanished") == 0


def test_equal_views_are_not_discussed(wire: Wire) -> None:
    _, holder, _, _, _ = begin(wire)
    wire.advance(10.0)
    finish(wire, holder)
    wire.advance(10.0)
    assert not [entry for entry in wire.sent if isinstance(entry.message, Sync)]


def test_one_differing_heartbeat_is_a_message_under_way(wire: Wire) -> None:
    client, holder, _, _, _ = begin(wire)
    wire.forge(client, holder, Ping(1, 5, 5))
    wire.settle()
    assert not wire.said(holder, client, Sync)
    wire.advance(2.0)
    assert not wire.said(holder, client, Sync)
    for _ in range(2):
        wire.forge(client, holder, Ping(1, 5, 5))
    wire.settle()
    assert wire.said(holder, client, Sync) == [Sync(1, [LegName(1, 1)])]
