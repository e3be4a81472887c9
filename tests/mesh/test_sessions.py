"""Nodes that meet, and nodes that stay apart."""

from typing import Any

import pytest

from mesh.core import (
    Found,
    Instances,
    Remark,
    Seed,
    Want,
)
from proto import limits
from proto.errors import Reason
from proto.messages import Gossip, Hello, Record, Reset, Role, Welcome
from tests.mesh.parties import pair
from tests.pair import COUNT, ECHO, OFFERS, Wire

# --- Handshakes -------------------------------------------------------------------------------------


def test_a_handshake_is_two_hellos_and_two_welcomes(wire: Wire) -> None:
    client, worker = pair(wire)
    for source, target in ((client, worker), (worker, client)):
        assert len(wire.sessions(source, target)) == len(wire.said(source, target, Hello)) == 1
        (welcome,) = wire.said(source, target, Welcome)
        assert (welcome.version, welcome.session) == (1, wire.sessions(target, source)[0])


def test_both_dial_at_once(wire: Wire) -> None:
    one, two = wire.node(Role.COMPONENT, OFFERS), wire.node(Role.COMPONENT, OFFERS)
    for node, other in ((one, two), (two, one)):
        wire.tell(node, Want(ECHO))
        wire.tell(node, Found(wire.nodes[other].record()))
    assert isinstance(wire.under_way(one, two)[0], Hello) and isinstance(wire.under_way(two, one)[0], Hello)
    wire.settle()
    assert wire.state(one, two) == wire.state(two, one) == "up"
    assert len(wire.sessions(one, two)) == len(wire.sessions(two, one)) == 1


def test_who_is_not_wanted_is_not_dialled(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.tell(client, Want("demo.other.run"))
    wire.tell(client, Found(wire.nodes[worker].record()))
    wire.advance(5.0)
    assert wire.state(client, worker) == "idle"
    wire.tell(client, Want(ECHO))
    wire.settle()
    assert wire.state(client, worker) == "up"


def test_a_record_that_does_not_list_all_endpoints_is_worth_a_call(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.tell(client, Want(ECHO))
    record = wire.nodes[worker].record()
    wire.tell(client, Found(Record(*[*record_fields(record)[:7], ["demo.first.run"], True])))
    wire.settle()
    assert wire.nodes[client].instances(ECHO) == (worker,)


def record_fields(record: Record) -> list[Any]:
    return [getattr(record, name) for name in record.__struct_fields__]


def test_instances_are_told_as_they_change(wire: Wire) -> None:
    client, worker = pair(wire)
    assert wire.did(client, Instances)[-1:] == [Instances(COUNT, (worker,))]
    wire.crash(worker)
    assert {told.endpoint: told.nodes for told in wire.did(client, Instances)} == {ECHO: (), COUNT: ()}


def test_a_hello_that_was_overtaken_is_void(wire: Wire) -> None:
    client, worker = pair(wire)
    old = wire.said(client, worker, Hello)[0]
    wire.drop(client, worker)
    wire.advance(1.0)
    assert wire.state(worker, client) == "up"
    before = len(wire.sent)
    wire.knock(worker, old, zid=b"late")
    assert wire.stat(worker, "sessions.outdated") == 1
    assert wire.state(worker, client) == "up" and len(wire.sent) == before


def test_a_younger_hello_voids_both_sessions_of_a_live_pair(wire: Wire) -> None:
    client, worker = pair(wire)
    first = wire.sessions(client, worker)
    hello = wire.said(client, worker, Hello)[0]
    hello.session = first[0] + (1 << 40)
    wire.knock(worker, hello, zid=b"younger")
    assert wire.stat(worker, "peers.down.fenced") == 1
    assert wire.state(worker, client) == "dialling"


def test_a_second_hello_on_one_session_is_illegal(wire: Wire) -> None:
    client, worker = pair(wire)
    wire.forge(client, worker, wire.said(client, worker, Hello)[0])
    wire.settle()
    assert wire.stat(worker, "peers.dropped.illegal") == 1


def test_an_unanswered_handshake_is_given_up_and_tried_again(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.freeze(worker)
    wire.tell(client, Want(ECHO))
    wire.tell(client, Found(wire.nodes[worker].record()))
    wire.advance(limits.HANDSHAKE_S - 0.01)
    assert wire.state(client, worker) == "dialling"
    wire.advance(0.02)
    assert wire.stat(client, "sessions.unanswered") == 1
    wire.thaw(worker)
    wire.advance(limits.HANDSHAKE_S + 1)
    assert wire.state(client, worker) == wire.state(worker, client) == "up"


def test_a_welcome_that_is_lost_with_its_session(wire: Wire) -> None:
    """One side is up, the other is not: both come up again."""
    client, worker = wire.client(), wire.worker()
    wire.hold(worker, client)
    wire.tell(client, Want(ECHO))
    wire.tell(client, Found(wire.nodes[worker].record()))
    wire.settle()
    wire.drop(worker, client)
    wire.release(worker, client)
    wire.advance(10.0)
    assert wire.state(client, worker) == wire.state(worker, client) == "up"


def test_three_nodes_learn_of_each_other_by_gossip(wire: Wire) -> None:
    client, left, right = wire.client(), wire.worker(), wire.worker()
    wire.tell(client, Want(ECHO))
    wire.tell(left, Want(ECHO))
    wire.tell(client, Found(wire.nodes[left].record()))
    wire.settle()
    wire.tell(right, Found(wire.nodes[client].record()))
    wire.tell(right, Want("demo.none.run"))
    wire.tell(client, Found(wire.nodes[right].record()))
    wire.settle()
    assert [message.records[0].node for message in wire.said(client, left, Gossip)] == [right]
    assert wire.state(left, right) == wire.state(right, left) == "up"


# --- Refusals ---------------------------------------------------------------------------------------


def refused(wire: Wire, source: int, target: int, **changes: Any) -> list[Reset]:
    """Let one node dial another by a stale record; what it was told."""
    record = wire.nodes[target].record()
    for name, value in changes.items():
        record = Record(*[value if field == name else getattr(record, field) for field in record.__struct_fields__])
    wire.tell(source, Want(ECHO))
    wire.tell(source, Found(record))
    wire.settle()
    return wire.said(target, source, Reset)


def test_a_stale_address_leads_to_another_node_and_is_forgotten(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    (reset,) = refused(wire, client, worker, node=77)
    assert reset.reason == Reason.WRONG_NODE
    assert f"this is node {worker:016x}, not {77:016x}" in reset.text
    assert wire.state(client, 77) == ""
    assert any("the address was reused" in remark.text for remark in wire.did(client, Remark))
    wire.advance(20.0)
    assert len(wire.said(client, worker, Hello)) == 1, "not dialled again"


@pytest.mark.parametrize(("changes", "why"), [({"mesh": "other"}, "another name"), ({"tag": b"k"}, "another key")])
def test_another_mesh_stays_apart_and_both_say_so(wire: Wire, changes: dict[str, Any], why: str) -> None:
    client, worker = wire.client(), wire.worker(**changes)
    wire.tell(client, Want(ECHO))
    wire.tell(client, Found(wire.nodes[worker].record()))
    wire.settle()
    assert why in wire.did(client, Remark)[0].text
    assert wire.state(client, worker) == "" and not wire.sent

    mine = {name: getattr(wire.nodes[client].record(), name) for name in changes}
    (reset,) = refused(wire, client, worker, **mine)
    assert reset.reason == Reason.OTHER_MESH
    assert any(why in remark.text for remark in wire.did(worker, Remark))
    assert any("refused us" in remark.text for remark in wire.did(client, Remark))
    assert wire.state(client, worker) == wire.state(worker, client) == ""


def test_no_common_version(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker(version_min=2, version_max=3)
    (reset,) = refused(wire, client, worker)
    assert reset.reason == Reason.VERSION
    assert "upgrade the older node" in reset.text
    assert wire.state(client, worker) == ""


@pytest.mark.parametrize("newer", ["client", "worker"])
def test_a_node_and_its_successor_speak_the_older_version(wire: Wire, newer: str) -> None:
    ranges: dict[str, Any] = {"version_min": 1, "version_max": 2}
    client = wire.client(**(ranges if newer == "client" else {}))
    worker = wire.worker(**(ranges if newer == "worker" else {}))
    wire.meet(client, worker)
    assert {message.version for entry in wire.sent if isinstance(message := entry.message, Welcome)} == {1}


def test_two_successors_speak_the_newer_one(wire: Wire) -> None:
    client, worker = wire.client(version_max=2), wire.worker(version_max=2)
    wire.meet(client, worker)
    assert wire.said(worker, client, Welcome)[0].version == 2


# --- Seeds ------------------------------------------------------------------------------------------


def test_a_seed_leads_to_its_node(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.tell(client, Seed(f"ipc:///{worker}"))
    wire.settle()
    assert wire.state(client, worker) == wire.state(worker, client) == "up"
    assert wire.nodes[client].snapshot()["seeds"] == {f"ipc:///{worker}": worker}
    assert len(wire.sessions(client, worker)) == 1, "the probe is closed"


def test_an_own_address_is_no_seed(wire: Wire) -> None:
    client = wire.client(addresses=("ipc:///1", "tcp://10.0.0.1:1"))
    wire.tell(client, Seed("tcp://10.0.0.1:1"))
    assert wire.nodes[client].snapshot()["seeds"] == {} and not wire.sent


def test_an_own_address_under_another_name_is_found_out(wire: Wire) -> None:
    client = wire.client()
    wire.listen("tcp://localhost:1", client)
    wire.tell(client, Seed("tcp://localhost:1"))
    wire.advance(10.0)
    assert wire.nodes[client].snapshot()["seeds"] == {}
    assert len(wire.sent) == 1


def test_a_seed_that_is_not_there_yet(wire: Wire) -> None:
    client = wire.client()
    wire.tell(client, Seed("ipc:///2"))
    wire.advance(20.0)
    worker = wire.worker(node=2)
    wire.advance(limits.BACKOFF_MAX_S)
    assert wire.state(client, worker) == "up"


def test_a_node_that_restarts_under_a_seed_is_found_with_its_new_id(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.tell(client, Seed(f"ipc:///{worker}"))
    wire.settle()
    wire.crash(worker)
    again = wire.worker(node=99, addresses=(f"ipc:///{worker}",))
    wire.advance(5.0)
    assert wire.state(client, again) == "up"
    assert wire.nodes[client].snapshot()["seeds"] == {f"ipc:///{worker}": again}


def test_a_seed_of_another_mesh_refuses_and_is_named(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker(mesh="other")
    wire.tell(client, Seed(f"ipc:///{worker}"))
    wire.settle()
    assert any(
        f"ipc:///{worker} refused us: this is mesh 'other'" in remark.text for remark in wire.did(client, Remark)
    )
    assert wire.nodes[client].snapshot()["seeds"] == {f"ipc:///{worker}": 0}
