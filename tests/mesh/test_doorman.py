"""Who may say what, and what becomes of those who say more."""

import pytest

from mesh.core import (
    Garbled,
    Heard,
    LinkDown,
    Produced,
)
from proto import limits
from proto.basics import Message
from proto.errors import Reason
from proto.messages import (
    Bye,
    Chunk,
    Credit,
    End,
    Gossip,
    Hello,
    Ignored,
    Offer,
    Part,
    Ping,
    Pong,
    Reset,
    Submit,
    Welcome,
)
from tests.mesh.parties import pair
from tests.pair import COUNT, ECHO, OFFERS, Wire

# --- Who may say what -------------------------------------------------------------------------------


EARLY = [Ping(1), Bye(), Welcome(1, 1, 1), Gossip([]), Submit(1, 1, 0, 1, ECHO)]


@pytest.mark.parametrize("message", EARLY, ids=lambda value: type(value).__name__)
def test_before_hello_nothing_counts_but_strikes(wire: Wire, message: Message) -> None:
    worker = wire.worker()
    for _ in range(limits.STRIKES_MAX):
        wire.knock(worker, message)
    assert wire.stat(worker, "frames.stranger") == limits.STRIKES_MAX
    wire.knock(worker, message)
    assert wire.stat(worker, "frames.muted") == 1
    assert not wire.sent


def test_a_muted_connection_may_not_even_greet(wire: Wire) -> None:
    client, worker = pair(wire)
    hello = wire.said(client, worker, Hello)[0]
    fresh = wire.worker()
    for _ in range(limits.STRIKES_MAX):
        wire.tell(fresh, Garbled(b"stranger", Reason.MALFORMED))
    wire.knock(fresh, hello)
    assert wire.stat(fresh, "frames.muted") == 1 and not wire.said(fresh, client, Hello)
    wire.knock(fresh, hello, zid=b"another")
    assert wire.stat(fresh, "hellos.refused.wrong_node") == 1


def test_a_hello_must_be_first_and_small(wire: Wire) -> None:
    client, worker = pair(wire)
    hello = wire.said(client, worker, Hello)[0]
    fresh = wire.worker(node=worker + 50)
    hello.destination = fresh
    wire.knock(fresh, hello, zid=b"second", sequence=2)
    hello.offers = [Offer("x" * 250, False, number) for number in range(limits.OFFERS_MAX)]
    wire.knock(fresh, hello, zid=b"large")
    assert wire.stat(fresh, "frames.stranger") == 2 and not wire.sessions(fresh, client)


@pytest.mark.parametrize("skip", [1, 5, -1])
def test_a_gap_or_a_repeat_ends_the_pair(wire: Wire, skip: int) -> None:
    client, worker = pair(wire)
    wire.forge(client, worker, Ping(1), skip=skip)
    wire.deliver()
    assert wire.stat(worker, "peers.dropped.sequence") == 1
    assert wire.said(worker, client, Reset)[0].reason == Reason.SEQUENCE
    wire.advance(1.0)
    assert wire.state(client, worker) == wire.state(worker, client) == "up"
    assert wire.stat(client, "sessions.reset.sequence") == 1


@pytest.mark.parametrize("message", [Chunk([Part(1, 1, 0, [1])]), End(1, 1, 0)], ids=lambda value: type(value).__name__)
def test_a_client_may_not_answer(wire: Wire, message: Message) -> None:
    client, worker = pair(wire)
    wire.forge(client, worker, message)
    wire.settle()
    assert wire.stat(worker, "peers.dropped.forbidden") == 1
    (reset,) = wire.said(worker, client, Reset)
    assert (reset.reason, reset.text) == (Reason.FORBIDDEN, type(message).__name__)


@pytest.mark.parametrize("message", [Submit(1, 1, 0, 9, ECHO), Credit([])], ids=lambda value: type(value).__name__)
def test_a_worker_may_not_ask(wire: Wire, message: Message) -> None:
    client, worker = pair(wire)
    wire.forge(worker, client, message)
    wire.settle()
    assert wire.stat(client, "peers.dropped.forbidden") == 1


def test_a_role_of_a_newer_version_may_only_keep_its_session(wire: Wire) -> None:
    client, newer = wire.client(), wire.node(9, OFFERS)
    wire.meet(client, newer)
    wire.forge(newer, client, Ping(7))
    wire.settle()
    assert 7 in [pong.time_us for pong in wire.said(client, newer, Pong)]
    wire.forge(newer, client, Chunk([]))
    wire.settle()
    assert wire.stat(client, "peers.dropped.forbidden") == 1


def test_a_frame_that_is_no_message_ends_the_pair(wire: Wire) -> None:
    client, worker = pair(wire)
    zid = f"{client}/{wire.sessions(client, worker)[0]}".encode()
    wire.tell(worker, Garbled(zid, Reason.UNSUPPORTED))
    wire.settle()
    assert wire.said(worker, client, Reset)[0].reason == Reason.UNSUPPORTED
    wire.advance(1.0)
    assert wire.state(client, worker) == "up"


def test_an_optional_message_of_a_newer_version_keeps_its_place(wire: Wire) -> None:
    client, worker = pair(wire)
    zid = f"{client}/{wire.sessions(client, worker)[0]}".encode()
    number = len([entry for entry in wire.sent if (entry.source, entry.target) == (client, worker)])
    wire.tell(worker, Heard(zid, number + 1, Ignored(100), 10))
    assert wire.state(worker, client) == "up"
    wire.tell(worker, Heard(zid, number + 2, Ping(5), 10))
    assert wire.said(worker, client, Pong)[-1].time_us == 5


def test_a_reset_needs_the_number_of_the_session(wire: Wire) -> None:
    client, worker = pair(wire)
    session = wire.sessions(client, worker)[0]
    for guess in (0, 1, session - 1, session + 1, wire.sessions(worker, client)[0]):
        wire.knock(client, Reset(guess, int(Reason.FENCED)), zid=b"%d" % guess)
    assert wire.state(client, worker) == "up"
    wire.knock(client, Reset(session, int(Reason.FENCED)), zid=b"knows")
    assert wire.state(client, worker) == "backoff"


# --- Fences -----------------------------------------------------------------------------------------


def test_who_was_frozen_is_told_once_a_second_that_its_session_is_void(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.freeze(worker)
    wire.advance(limits.DEAD_S + 0.5)
    assert wire.state(client, worker) in ("backoff", "dialling")
    wire.hold(client, worker)
    wire.thaw(worker)
    told = len(wire.said(client, worker, Hello))
    for _ in range(20):
        wire.forge(worker, client, Pong(1))
    wire.settle()
    assert wire.stat(client, "frames.fenced") >= 20
    notes = len(wire.said(client, worker, Hello)) + len(wire.said(client, worker, Reset)) - told
    assert notes <= 1
    wire.release(client, worker)
    wire.advance(2 * limits.DEAD_S)
    assert wire.state(client, worker) == wire.state(worker, client) == "up"


def test_what_comes_on_a_void_session_changes_nothing(wire: Wire) -> None:
    client, worker = pair(wire)
    request = wire.ask(client, COUNT)
    leg = wire.leg(worker)
    wire.hold(worker, client)
    wire.tell(worker, Produced(leg, [b"late"]))
    wire.settle()
    wire.tell(client, LinkDown(wire.sessions(client, worker)[0]))
    wire.release(worker, client)
    assert wire.delivered(client, request) == []
    assert wire.stat(client, "frames.fenced") > 0
