"""Delivery, exceptions, credit, and what no honest node sends."""

import pytest

from mesh.core import (
    Consumed,
    Failed,
    Finished,
    Halt,
    Pause,
    Produced,
    Start,
    Unpause,
    Yielded,
)
from proto import limits
from proto.errors import Reason
from proto.messages import (
    Accept,
    Cancel,
    Cancelled,
    Chunk,
    Credit,
    End,
    Error,
    Grant,
    Offer,
    Part,
    Reject,
    Reset,
    Strength,
    Submit,
)
from tests.mesh.parties import end, pair, produce, running
from tests.pair import COUNT, ECHO, Wire

STOP, KILL = int(Strength.STOP), int(Strength.KILL)


# --- Delivery -----------------------------------------------------------------------------------------


def test_from_ask_to_finish(wire: Wire) -> None:
    client, worker, request, leg = running(wire, payload=b"hello", trace="trace", metadata={"tenant": "t"})
    start = wire.did(worker, Start)[0]
    assert (start.endpoint, start.payload, start.trace, start.metadata) == (ECHO, b"hello", "trace", {"tenant": "t"})
    assert (start.position, start.state, start.deadline) == (0, b"", float("inf"))
    produce(wire, leg, worker, b"one")
    produce(wire, leg, worker, b"two", b"three")
    end(wire, leg, worker)
    assert wire.delivered(client, request) == [b"one", b"two", b"three"]
    finish = wire.finished(client, request)
    assert finish is not None
    assert (finish.reason, finish.position, finish.attempts, finish.nodes) == (Reason.COMPLETE, 3, 1, (worker,))
    assert wire.quiet()


def test_a_stream_without_units(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    end(wire, leg, worker)
    assert wire.reason(client, request) is Reason.COMPLETE and wire.delivered(client, request) == []


def test_one_step_for_many_requests_is_one_message(wire: Wire) -> None:
    client, worker = pair(wire)
    requests = [wire.ask(client) for _ in range(50)]
    for start in wire.did(worker, Start):
        wire.tell(worker, Produced(start.leg, [b"x"]))
    wire.settle()
    (chunk,) = wire.said(worker, client, Chunk)
    assert len(chunk.parts) == 50
    assert all(wire.delivered(client, request) == [b"x"] for request in requests)


def test_an_exception_reaches_the_caller_after_what_was_yielded(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.tell(worker, Produced(leg, [b"one"]))
    wire.tell(worker, Failed(leg, Reason.FAILED, "ValueError", "no such name"))
    wire.settle()
    finish = wire.finished(client, request)
    assert finish is not None and wire.delivered(client, request) == [b"one"]
    assert (finish.reason, finish.name, finish.text) == (Reason.FAILED, "ValueError", "no such name")
    assert wire.quiet()


def test_words_that_are_too_long_are_cut(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.tell(worker, Failed(leg, Reason.FAILED, "E" * 1_000, "x" * 10_000))
    wire.settle()
    finish = wire.finished(client, request)
    assert finish is not None
    assert (len(finish.name), len(finish.text)) == (limits.NAME_CHARS_MAX, limits.TEXT_CHARS_MAX)


def test_what_a_handler_says_after_its_end_is_nothing(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    end(wire, leg, worker)
    for event in (Produced(leg, [b"late"]), Finished(leg), Failed(leg), Yielded(leg)):
        wire.tell(worker, event)
    wire.settle()
    assert wire.delivered(client, request) == [] and wire.reason(client, request) is Reason.COMPLETE


# --- Credit -------------------------------------------------------------------------------------------


def test_a_holder_sends_no_further_than_it_may(wire: Wire) -> None:
    client, worker, request, leg = running(wire, window=4)
    produce(wire, leg, worker, *(b"%d" % number for number in range(6)))
    assert len(wire.delivered(client, request)) == 4
    assert wire.did(worker, Pause) == [Pause(leg)]
    wire.tell(client, Consumed(request, 1))
    wire.settle()
    assert not wire.said(client, worker, Credit), "half a window first"
    wire.tell(client, Consumed(request, 2))
    wire.settle()
    assert wire.said(client, worker, Credit) == [Credit([Grant(request, 1, 6)])]
    assert wire.delivered(client, request) == [b"%d" % number for number in range(6)]
    assert wire.did(worker, Unpause) == [Unpause(leg)]


def test_an_end_waits_for_the_units_before_it(wire: Wire) -> None:
    client, worker, request, leg = running(wire, window=1)
    produce(wire, leg, worker, b"a", b"b")
    end(wire, leg, worker)
    assert wire.reason(client, request) is None
    assert wire.nodes[worker].snapshot()["running"] == 0, "a slow reader holds no slot"
    wire.tell(client, Consumed(request, 1))
    wire.settle()
    assert wire.delivered(client, request) == [b"a", b"b"] and wire.reason(client, request) is Reason.COMPLETE


def test_who_sends_beyond_its_credit_is_dropped(wire: Wire) -> None:
    client, worker, request, _ = running(wire, window=4)
    wire.forge(worker, client, Chunk([Part(request, 1, 0, [], [b"x"] * 5)]))
    wire.settle()
    assert wire.said(client, worker, Reset)[0].reason == Reason.ILLEGAL
    assert wire.delivered(client, request) == [] and wire.reason(client, request) is Reason.LOST


def test_credit_that_comes_after_the_end_is_ignored(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    end(wire, leg, worker)
    wire.forge(client, worker, Credit([Grant(request, 1, 999), Grant(77, 1, 5)]))
    wire.settle()
    assert wire.state(worker, client) == "up"


def test_credit_never_shrinks(wire: Wire) -> None:
    client, worker, request, leg = running(wire, window=4)
    wire.forge(client, worker, Credit([Grant(request, 1, 2)]))
    produce(wire, leg, worker, b"a", b"b", b"c")
    assert len(wire.delivered(client, request)) == 3


def test_many_readers_of_one_holder_give_credit_in_one_message(wire: Wire) -> None:
    client, worker = pair(wire)
    requests = [wire.ask(client, window=2) for _ in range(30)]
    for start in wire.did(worker, Start):
        wire.tell(worker, Produced(start.leg, [b"x"]))
    wire.settle()
    for request in requests:
        wire.tell(client, Consumed(request, 1))
    wire.settle()
    (credit,) = wire.said(client, worker, Credit)
    assert len(credit.grants) == 30


# --- Messages that no honest node sends ----------------------------------------------------------------


@pytest.mark.parametrize("message", [Accept(1, 1, 0), Reject(1, 1, 0, int(Reason.BUSY))])
def test_an_answer_twice_is_illegal(wire: Wire, message: Accept | Reject) -> None:
    client, worker, request, _ = running(wire)
    message.request = request
    wire.forge(worker, client, message)
    wire.settle()
    assert wire.stat(client, "peers.dropped.illegal") == 1 and wire.reason(client, request) is Reason.LOST


def test_an_attempt_submitted_twice_is_illegal(wire: Wire) -> None:
    client, worker, request, leg = running(wire)
    wire.forge(client, worker, Submit(request, 1, 0, 9, ECHO))
    wire.settle()
    assert wire.stat(worker, "peers.dropped.illegal") == 1 and wire.did(worker, Halt) == [Halt(leg)]


def test_words_about_unknown_legs_change_nothing(wire: Wire) -> None:
    client, worker = pair(wire)
    for message in (End(9, 1, 0), Error(9, 1, 0, int(Reason.FAILED)), Cancelled(9, 1, 0, 1, 2), Reject(9, 1, 0, 32)):
        wire.forge(worker, client, message)
    wire.settle()
    assert wire.state(client, worker) == "up" and not wire.said(client, worker, Cancel)
    for told in (Chunk([Part(9, 1, 0, [1])]), Accept(9, 1, 0)):
        wire.forge(worker, client, told)
    wire.settle()
    assert [(cancel.request, cancel.reason) for cancel in wire.said(client, worker, Cancel)] == [(9, Reason.ORPHAN)] * 2


@pytest.mark.parametrize("waiting", [False, True], ids=["starts", "waits"])
def test_a_prompt_of_broken_bytes_costs_its_sender_the_session_and_nobody_else_anything(
    wire: Wire, waiting: bool
) -> None:
    client, other = wire.client(), wire.client()
    worker = wire.worker([Offer(ECHO)], slots=1)
    for node in (client, other):
        wire.meet(node, worker)
    if waiting:
        wire.ask(other)
    wire.hold(worker, client)
    wire.forge(client, worker, Submit(1, 1, 0, 9, ECHO, prompt=b"\0\0\0"))
    wire.settle()
    if waiting:
        end(wire, wire.leg(worker), worker)
    wire.settle()
    assert wire.stat(worker, "peers.dropped.malformed") == 1
    assert wire.state(worker, other) == "up"
    assert not wire.nodes[worker].snapshot()["legs"] and not wire.did(worker, Halt)


def test_tokens_and_items_in_one_part_are_illegal(wire: Wire) -> None:
    client, worker, request, _ = running(wire)
    wire.forge(worker, client, Chunk([Part(request, 1, 0, [7], [b"a", b"b"])]))
    wire.settle()
    assert wire.delivered(client, request) == [] and wire.stat(client, "peers.dropped.illegal") == 1


def test_a_stream_does_not_turn_from_items_to_tokens(wire: Wire) -> None:
    client, worker, request, leg = running(wire, COUNT)
    produce(wire, leg, worker, b"a")
    wire.forge(worker, client, Chunk([Part(request, 1, 1, [7])]))
    wire.settle()
    assert wire.delivered(client, request) == [b"a"] and wire.stat(client, "peers.dropped.illegal") == 1
