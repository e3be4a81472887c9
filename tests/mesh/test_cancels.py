"""Every Cancel gets exactly one answer, whatever it crosses: the races of proto/README.md."""

import pytest

from mesh.core import (
    Abandon,
    Failed,
    Halt,
    Hint,
    Start,
    Yielded,
)
from proto import limits
from proto.errors import Reason
from proto.messages import Cancel, Cancelled, Chunk, Fate, Reject, Strength, Submit
from tests.mesh.parties import end, pair, produce, running
from tests.pair import COUNT, ECHO, Wire

STOP, KILL = int(Strength.STOP), int(Strength.KILL)


def answers(wire: Wire, worker: int, client: int) -> list[tuple[int, int, int]]:
    """(strength, fate, position) of each Cancelled."""
    return [(said.strength, said.fate, said.position) for said in wire.said(worker, client, Cancelled)]


def test_a_kill_ends_the_request_at_once_and_the_leg_when_its_room_is_free(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    produce(wire, leg, worker, b"one")
    wire.tell(client, Abandon(request, Strength.KILL))
    assert wire.reason(client, request) is Reason.KILLED
    wire.settle()
    assert wire.did(worker, Halt) == [Halt(leg)] and not answers(wire, worker, client)
    wire.tell(worker, Yielded(leg))
    wire.settle()
    assert answers(wire, worker, client) == [(KILL, Fate.FREED, 1)]
    assert wire.quiet()


def test_a_stop_delivers_what_is_still_produced(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.tell(client, Abandon(request, Strength.STOP))
    wire.settle()
    assert wire.did(worker, Hint) == [Hint(leg)] and wire.reason(client, request) is None
    produce(wire, leg, worker, b"last")
    end(wire, leg, worker)
    assert wire.delivered(client, request) == [b"last"] and wire.reason(client, request) is Reason.STOPPED
    assert answers(wire, worker, client) == [(STOP, Fate.FREED, 1)]
    assert wire.quiet()


def test_a_cancel_that_crosses_the_end(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.hold(worker, client)
    end(wire, leg, worker)
    wire.tell(client, Abandon(request, Strength.KILL))
    wire.settle()
    wire.release(worker, client)
    assert answers(wire, worker, client) == [(KILL, Fate.ENDED, 0)]
    assert wire.reason(client, request) is Reason.KILLED and wire.quiet()


def test_a_stop_that_crosses_the_end(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.hold(worker, client)
    produce(wire, leg, worker, b"one")
    end(wire, leg, worker)
    wire.tell(client, Abandon(request, Strength.STOP))
    wire.settle()
    wire.release(worker, client)
    assert wire.delivered(client, request) == [b"one"] and wire.reason(client, request) is Reason.COMPLETE
    assert answers(wire, worker, client) == [(STOP, Fate.ENDED, 1)] and wire.quiet()


@pytest.mark.parametrize("strength", Strength)
def test_a_cancel_that_crosses_an_error(wire: Wire, strength: Strength) -> None:
    client, worker, request, leg = running(wire)
    wire.hold(worker, client)
    wire.tell(worker, Failed(leg, Reason.FAILED, "ValueError"))
    wire.settle()
    wire.tell(client, Abandon(request, strength))
    wire.settle()
    wire.release(worker, client)
    assert wire.reason(client, request) is (Reason.FAILED if strength is Strength.STOP else Reason.KILLED)
    assert len(answers(wire, worker, client)) == 1 and wire.quiet()


@pytest.mark.parametrize("strength", Strength)
def test_a_cancel_that_crosses_the_accept(wire: Wire, strength: Strength) -> None:
    client, worker = pair(wire)
    wire.hold(worker, client)
    request = wire.ask(client)
    wire.tell(client, Abandon(request, strength))
    wire.settle()
    wire.release(worker, client)
    end(wire, wire.leg(worker), worker)
    assert len(answers(wire, worker, client)) == 1 and wire.quiet()


@pytest.mark.parametrize("strength", Strength)
def test_a_cancel_that_crosses_a_reject(wire: Wire, strength: Strength) -> None:
    client, worker = pair(wire, slots=1, queue=0)
    other = wire.ask(client)
    wire.hold(worker, client)
    request = wire.ask(client)
    wire.tell(client, Abandon(request, strength))
    wire.settle()
    wire.release(worker, client)
    wire.advance(5.0)
    assert wire.reason(client, request) is (Reason.STOPPED if strength is Strength.STOP else Reason.KILLED)
    assert len(wire.said(client, worker, Submit)) == 2, "not placed again"
    assert [fate for _, fate, _ in answers(wire, worker, client)] == [Fate.UNKNOWN]
    assert wire.reason(client, other) is None


def test_a_cancel_before_its_submit(wire: Wire) -> None:
    """It comes by another way: a tombstone remembers it, and the late Submit is refused."""
    client, worker = pair(wire)
    wire.forge(client, worker, Cancel(77, 3, 0, KILL))
    wire.settle()
    assert answers(wire, worker, client) == [(KILL, Fate.UNKNOWN, 0)]
    for attempt in (3, 2):
        wire.forge(client, worker, Submit(77, attempt, 0, 9, ECHO))
    wire.forge(client, worker, Submit(77, 4, 0, 9, ECHO))
    wire.settle()
    assert [(reject.attempt, reject.reason) for reject in wire.said(worker, client, Reject)] == [
        (3, Reason.STALE),
        (2, Reason.STALE),
    ]
    assert [start.leg.attempt for start in wire.did(worker, Start)] == [4]


def test_a_tombstone_does_not_last_for_ever(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.forge(client, worker, Cancel(77, 1, 0, KILL))
    wire.advance(limits.TOMBSTONE_S + 1)
    wire.forge(client, worker, Submit(77, 1, 0, 9, ECHO))
    wire.settle()
    assert not wire.said(worker, client, Reject) and wire.did(worker, Start)


@pytest.mark.parametrize("first", Strength)
@pytest.mark.parametrize("second", Strength)
def test_each_of_two_cancels_of_a_running_leg_gets_its_answer(wire: Wire, first: Strength, second: Strength) -> None:
    client, worker, _, leg = running(wire)
    for strength in (first, second):
        wire.forge(client, worker, Cancel(leg.request, leg.attempt, 0, int(strength)))
    wire.settle()
    assert not answers(wire, worker, client), "its room is not free"
    wire.hold(worker, client)
    wire.tell(worker, Yielded(leg))
    wire.settle()
    assert [strength for strength, _, _ in answers(wire, worker, client)] == [first, second]


def test_a_double_cancel_of_an_ended_leg(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    end(wire, leg, worker)
    for _ in range(2):
        wire.forge(client, worker, Cancel(request, 1, 0, KILL))
    wire.settle()
    assert [fate for _, fate, _ in answers(wire, worker, client)] == [Fate.ENDED, Fate.ENDED]
    assert wire.state(client, worker) == "up", "an answer that nobody waits for is no error"


def test_a_stop_and_then_a_kill(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    for strength in Strength:
        wire.tell(client, Abandon(request, strength))
        wire.tell(client, Abandon(request, strength))
    wire.settle()
    assert wire.reason(client, request) is Reason.KILLED
    assert [cancel.strength for cancel in wire.said(client, worker, Cancel)] == [STOP, KILL]
    wire.tell(worker, Yielded(leg))
    wire.settle()
    assert answers(wire, worker, client) == [(STOP, Fate.FREED, 0), (KILL, Fate.FREED, 0)]
    assert wire.quiet()


def test_a_stop_whose_end_crosses_the_kill(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.tell(client, Abandon(request, Strength.STOP))
    wire.settle()
    wire.hold(worker, client)
    end(wire, leg, worker)
    wire.tell(client, Abandon(request, Strength.KILL))
    wire.settle()
    wire.release(worker, client)
    assert answers(wire, worker, client) == [(STOP, Fate.FREED, 0), (KILL, Fate.ENDED, 0)]
    assert wire.reason(client, request) is Reason.KILLED and wire.quiet()


@pytest.mark.parametrize("strength", Strength)
def test_a_cancel_while_no_leg_exists(wire: Wire, strength: Strength) -> None:
    client = wire.client()
    request = wire.ask(client)
    wire.tell(client, Abandon(request, strength))
    assert wire.reason(client, request) is (Reason.STOPPED if strength is Strength.STOP else Reason.KILLED)
    worker = wire.worker()
    wire.meet(client, worker)
    assert not wire.said(client, worker, Submit) and wire.quiet()


@pytest.mark.parametrize("strength", Strength)
def test_a_cancel_of_a_leg_that_waits_for_a_slot_frees_its_place(wire: Wire, strength: Strength) -> None:
    client, worker = pair(wire, slots=1, queue=1)
    wire.ask(client)
    request = wire.ask(client)
    wire.tell(client, Abandon(request, strength))
    wire.settle()
    assert [fate for _, fate, _ in answers(wire, worker, client)] == [Fate.FREED]
    assert len(wire.did(worker, Start)) == 1 and not wire.did(worker, Halt)
    wire.ask(client)
    assert not wire.said(worker, client, Reject)


def test_chunks_after_a_kill_are_discarded(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.hold(worker, client)
    produce(wire, leg, worker, b"under way")
    wire.tell(client, Abandon(request, Strength.KILL))
    wire.settle()
    wire.release(worker, client)
    assert wire.delivered(client, request) == []
    produce(wire, leg, worker, b"after")
    assert len(wire.said(worker, client, Chunk)) == 1


def test_the_holder_dies_while_it_is_cancelling(wire: Wire) -> None:
    client, worker, request, _ = running(wire, COUNT)
    wire.tell(client, Abandon(request, Strength.KILL))
    wire.settle()
    wire.crash(worker)
    wire.settle()
    assert wire.reason(client, request) is Reason.KILLED and wire.quiet()


def test_the_holder_dies_while_it_is_stopping(wire: Wire) -> None:
    client, worker, request, _ = running(wire, COUNT)
    wire.tell(client, Abandon(request, Strength.STOP))
    wire.settle()
    wire.crash(worker)
    wire.advance(40.0)
    assert wire.reason(client, request) is Reason.STOPPED and wire.quiet()


def test_the_owner_dies(wire: Wire) -> None:
    client, worker, _, leg = running(wire, COUNT)
    wire.crash(client)
    wire.settle()
    assert wire.did(worker, Halt) == [Halt(leg)]
    wire.tell(worker, Yielded(leg))
    assert wire.stat(worker, "legs.orphaned") == 1 and wire.quiet()


def test_a_slot_is_taken_until_the_handler_is_gone(wire: Wire) -> None:
    """Else a loop of submits and kills would run any number of handlers."""
    client, worker = pair(wire, slots=1)
    first = wire.ask(client)
    leg = wire.leg(worker)
    wire.ask(client)
    wire.tell(client, Abandon(first, Strength.KILL))
    wire.settle()
    assert len(wire.did(worker, Start)) == 1
    wire.tell(worker, Yielded(leg))
    assert len(wire.did(worker, Start)) == 2
