"""Silence, hangs, losses, leaving and forgetting."""

from itertools import pairwise

import pytest
from msgspec import structs

from mesh.core import (
    Close,
    Found,
    Leave,
    Lost,
    Open,
    Overdue,
    Progressed,
    Remark,
    Transmit,
    Want,
)
from proto import limits
from proto.errors import Reason
from proto.messages import Bye, Drain, Hello, Load, Ping, Pong, Sync
from tests.mesh.parties import pair
from tests.pair import COUNT, ECHO, Wire

# --- Silence and hangs --------------------------------------------------------------------------------


def test_silence_is_suspicious_first_and_deadly_later(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.advance(5.0)
    wire.freeze(worker)
    heard = wire.now
    wire.wait_for(client, worker, "suspect")
    assert limits.SUSPECT_S - 0.5 <= wire.now - heard <= limits.SUSPECT_S + 0.5
    assert wire.nodes[client].instances(ECHO) == (), "no new work"
    wire.wait_for(client, worker, "backoff")
    assert limits.DEAD_S - 0.5 <= wire.now - heard <= limits.DEAD_S + 0.5
    assert wire.stat(client, "peers.down.silent") == 1


def test_any_message_ends_a_suspicion(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.hold(worker, client)
    wire.advance(2.0)
    assert wire.state(client, worker) == "suspect"
    wire.release(worker, client)
    assert wire.state(client, worker) == "up" and wire.nodes[client].instances(ECHO) == (worker,)


def busy_engine(wire: Wire) -> tuple[int, int, int]:
    """A client whose request runs on an engine that then stops moving."""
    client, worker = pair(wire)
    request = wire.ask(client, COUNT)
    wire.tell(worker, Progressed(1))
    wire.advance(1.0)
    return client, worker, request


def test_a_hung_engine_is_found_although_its_loop_answers(wire: Wire) -> None:
    client, worker, _ = busy_engine(wire)
    since = wire.now
    wire.wait_for(client, worker, "hung")
    assert limits.HUNG_S - 1 <= wire.now - since <= limits.HUNG_S + 1
    assert wire.nodes[client].instances(COUNT) == ()


def test_only_progress_rehabilitates(wire: Wire) -> None:
    """A Pong proves that the loop turns, and any message that its sender lives: neither proves an engine."""
    client, worker, _ = busy_engine(wire)
    wire.ask(client, ECHO)  # cannot move: so the engine stays busy
    wire.advance(limits.HUNG_S + 1)
    assert wire.state(client, worker) == "hung"
    pongs = len(wire.said(worker, client, Pong))
    wire.forge(worker, client, Sync(2))
    wire.advance(3.0)
    assert len(wire.said(worker, client, Pong)) > pongs
    assert wire.state(client, worker) == "hung"
    wire.tell(worker, Progressed(1))
    wire.advance(1.0)
    assert wire.state(client, worker) == "up"


def test_an_idle_engine_does_not_hang(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.tell(worker, Progressed(1))
    wire.advance(3 * limits.HUNG_S)
    assert wire.state(client, worker) == "up"


def test_an_engine_that_was_idle_for_long_has_its_time_when_work_comes(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.tell(worker, Progressed(1))
    wire.advance(3 * limits.HUNG_S)
    wire.ask(client, ECHO)
    wire.advance(limits.HUNG_S - 1)
    assert wire.state(client, worker) == "up"


def test_a_component_without_an_engine_does_not_hang(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.ask(client, ECHO)
    wire.advance(3 * limits.HUNG_S)
    assert wire.state(client, worker) == "up"


def test_who_was_stopped_does_not_accuse_others(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.freeze(client)
    wire.advance(30.0)
    wire.thaw(client)
    wire.tell(client, Overdue(30.0))
    assert wire.state(client, worker) == "up"
    wire.settle()
    assert wire.stat(client, "peers.down.silent") == 0


def test_without_saying_so_it_would(wire: Wire) -> None:
    """The check on the test above: the same without Overdue, and before its inbox is read."""
    client, worker = pair(wire)
    wire.freeze(client)
    wire.hold(worker, client)
    wire.advance(30.0)
    wire.thaw(client)
    wire.settle()
    assert wire.stat(client, "peers.down.silent") == 1


def test_how_late_a_node_was_is_said_once(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.tell(worker, Overdue(1.5))
    wire.advance(2.0)
    late = [pong.late_ms for pong in wire.said(worker, client, Pong)]
    assert [value for value in late if value] == [1500]


def test_a_pair_beats_at_the_faster_wish(wire: Wire) -> None:
    client, worker = pair(wire, beat_ms=100)
    before = len(wire.said(client, worker, Ping))
    wire.advance(2.0)
    assert 19 <= len(wire.said(client, worker, Ping)) - before <= 21


def test_load_is_told(wire: Wire) -> None:
    client, worker = pair(wire, slots=1)
    wire.ask(client)
    wire.ask(client)
    wire.advance(1.0)
    assert wire.said(worker, client, Pong)[-1].load == Load(1, 1, 1)


# --- Losing, leaving, forgetting ----------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_dead_session_takes_the_other_one_along(wire: Wire, direction: str) -> None:
    client, worker = pair(wire)
    source, target = (client, worker) if direction == "there" else (worker, client)
    before = set(wire.sessions(client, worker) + wire.sessions(worker, client))
    wire.drop(source, target)
    wire.advance(1.0)
    after = set(wire.sessions(client, worker) + wire.sessions(worker, client))
    assert len(after) == 2 and not before & after
    assert wire.state(client, worker) == wire.state(worker, client) == "up"


def test_both_directions_dead_at_once(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.drop(client, worker)
    wire.drop(worker, client)
    wire.advance(5.0)
    assert wire.state(client, worker) == wire.state(worker, client) == "up"


def test_a_killed_process_is_dialled_ever_more_rarely_and_forgotten_after_a_minute(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.crash(worker)
    died = wire.now
    dials = []
    while wire.state(client, worker):
        before = len(wire.said(client, 0, Hello))
        wire.advance(0.05)
        dials += [wire.now] * (len(wire.said(client, 0, Hello)) - before)
        assert wire.now - died < 3 * limits.FORGET_S
    assert limits.FORGET_S <= wire.now - died <= limits.FORGET_S + limits.BACKOFF_MAX_S + 1
    pauses = [after - before for before, after in pairwise(dials)]
    assert max(pauses) <= limits.BACKOFF_MAX_S + 0.1
    assert limits.FORGET_S / limits.BACKOFF_MAX_S <= len(dials) <= 60
    sent = len(wire.sent)
    wire.advance(limits.FORGET_S)
    assert len(wire.sent) == sent


def test_who_is_announced_is_not_forgotten(wire: Wire) -> None:
    client, worker = pair(wire)
    record = wire.nodes[worker].record()
    wire.crash(worker)
    for _ in range(10):
        wire.advance(20.0)
        wire.tell(client, Found(record))
    assert wire.state(client, worker) in ("backoff", "dialling")


def test_who_nobody_needs_is_forgotten_too(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.tell(client, Found(wire.nodes[worker].record()))
    wire.advance(limits.FORGET_S - 1)
    assert wire.state(client, worker) == "idle"
    wire.advance(2.0)
    assert wire.state(client, worker) == "" and not wire.sent


def test_discovery_does_not_decide_who_lives(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.tell(client, Lost(worker))
    wire.advance(limits.FORGET_S * 3)
    assert wire.state(client, worker) == "up"


def test_discovery_ends_the_dialling_of_the_dead(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.crash(worker)
    wire.tell(client, Lost(worker))
    assert wire.state(client, worker) == ""


def test_who_said_bye_is_never_dialled_again(wire: Wire) -> None:
    client, worker = pair(wire)
    record = wire.nodes[worker].record()
    effects = wire.tell(worker, Leave(1.0))
    wire.settle()
    assert wire.said(worker, client, Drain) == [Drain(1000)]
    assert wire.said(worker, client, Bye) == [Bye(int(Reason.LEFT))]
    assert isinstance(wire.sent[-1].message, Bye), "the last message of the session"
    assert any(isinstance(effect, Close) and effect.linger_ms > 0 for effect in effects)
    assert wire.state(client, worker) == ""
    wire.tell(client, Found(record))
    wire.advance(10.0)
    assert wire.state(client, worker) == "" and isinstance(wire.sent[-1].message, Bye)


def test_who_drains_gets_no_new_work_but_keeps_its_sessions(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.ask(client, ECHO)
    wire.tell(worker, Leave(10.0))
    wire.settle()
    assert wire.nodes[client].instances(ECHO) == ()
    assert wire.state(client, worker) == "up"


def test_a_younger_process_of_the_same_name_takes_over(wire: Wire) -> None:
    old, young = wire.worker(name="same", boot=1), wire.worker(name="same", boot=2)
    wire.tell(young, Want(ECHO))
    wire.tell(young, Found(wire.nodes[old].record()))
    wire.settle()
    assert any("a younger node" in remark.text for remark in wire.did(old, Remark))
    assert wire.said(old, young, Bye) and not wire.said(young, old, Bye)


def test_an_address_that_fails_is_followed_by_the_next_one(wire: Wire) -> None:
    client = wire.client(host="elsewhere", addresses=("tcp://10.0.0.9:1",))
    worker = wire.worker(addresses=("ipc:///w", "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"))
    wire.listen("tcp://10.0.0.1:1", 0)
    wire.tell(client, Want(ECHO))
    effects = wire.tell(client, Found(wire.nodes[worker].record()))
    assert [effect.address for effect in effects if isinstance(effect, Open)] == ["tcp://10.0.0.1:1"]
    wire.advance(1.0)
    assert wire.state(client, worker) == "up"
    wire.drop(client, worker)
    wire.advance(1.0)
    assert wire.state(client, worker) == "up", "the address that worked is tried first"


def test_sessions_have_growing_numbers_that_cannot_be_guessed(wire: Wire) -> None:
    client, worker = pair(wire)
    numbers = []
    for _ in range(5):
        numbers += wire.sessions(client, worker)
        wire.drop(client, worker)
        wire.advance(3.0)
    assert numbers == sorted(numbers) and len(set(numbers)) == 5
    assert len({number & 0xFFFFFFFF for number in numbers}) == 5


def test_a_node_that_is_gone_says_and_does_nothing_more(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.tell(worker, Leave(0.0))
    wire.settle()
    assert wire.nodes[worker].deadline() == float("inf")
    assert wire.tell(worker, Found(wire.nodes[client].record())) == []
    assert not [effect for effect in wire.effects[-1:] if isinstance(effect, Transmit)]


def test_a_peer_that_can_no_longer_be_dialled_is_forgotten_too(wire: Wire) -> None:
    """Its newest record names no address that we can use: no dial, but no peer for ever either."""
    client, worker = pair(wire)
    record = wire.nodes[worker].record()
    wire.crash(worker)
    wire.tell(client, Found(structs.replace(record, addresses=["ipc:///elsewhere"], host="there")))
    wire.advance(limits.FORGET_S - 2)
    assert wire.state(client, worker) == "backoff"
    wire.advance(limits.BACKOFF_MAX_S + 3)
    assert wire.state(client, worker) == ""


def test_who_leaves_does_not_wait_for_the_dead(wire: Wire) -> None:
    client, alive, dead = wire.client(), wire.worker(), wire.worker()
    wire.meet(client, alive, dead)
    wire.freeze(dead)
    wire.drop(client, dead)
    wire.advance(0.5)
    living = wire.sessions(client, alive)[-1]
    effects = wire.tell(client, Leave(0.0))
    closed = {effect.session: effect.linger_ms for effect in effects if isinstance(effect, Close)}
    assert closed[living] > 0
    assert len(closed) > 1 and all(linger_ms == 0 for other, linger_ms in closed.items() if other != living)
