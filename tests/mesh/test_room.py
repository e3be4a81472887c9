"""Where requests go and who takes them: policies, slots, queues, rejects, deadlines, patience."""

from typing import Any

import pytest

from mesh.core import Consumed, Finished, Halt, Leave, Produced, Start, Yielded
from mesh.request import EXCLUDE_S, REJECTS_MAX
from proto.errors import Reason
from proto.messages import Error, Migrate, Offer, Reject, Resume, Role, Submit
from tests.pair import COUNT, ECHO, Wire


def mesh(wire: Wire, workers: int, **changes: Any) -> tuple[int, list[int]]:
    """A client and its workers."""
    client, nodes = wire.client(), [wire.worker(**changes) for _ in range(workers)]
    wire.meet(client, *nodes)
    return client, nodes


def placed(wire: Wire, client: int) -> list[int]:
    """Where each Submit went."""
    return [entry.target for entry in wire.sent if entry.source == client and isinstance(entry.message, Submit)]


# --- Policies -----------------------------------------------------------------------------------------


def test_round_robin_shares(wire: Wire) -> None:
    client, nodes = mesh(wire, 3)
    for _ in range(6):
        wire.ask(client)
    assert placed(wire, client) == nodes * 2


def test_least_loaded_goes_where_nobody_is(wire: Wire) -> None:
    client, nodes = mesh(wire, 3)
    for _ in range(4):
        wire.ask(client, pinned=nodes[0], policy="direct")
    wire.advance(1.0)
    for _ in range(4):
        wire.ask(client, policy="least_loaded")
    assert sorted(placed(wire, client)[4:]) == sorted(nodes[1:] * 2)


def test_direct_goes_there_and_nowhere_else(wire: Wire) -> None:
    client, nodes = mesh(wire, 3)
    for node in reversed(nodes):
        wire.ask(client, pinned=node, policy="direct")
    assert placed(wire, client) == nodes[::-1]


def test_direct_to_an_unknown_instance_names_the_ones_there_are(wire: Wire) -> None:
    client, nodes = mesh(wire, 2)
    request = wire.ask(client, pinned=99, policy="direct", patience_s=1.0)
    wire.advance(1.1)
    finish = wire.finished(client, request)
    assert finish is not None and finish.reason is Reason.UNAVAILABLE
    assert finish.text == f"instance {99:016x} of {ECHO} is not there; live: node {nodes[0]}, node {nodes[1]}"
    assert not placed(wire, client)


# --- Patience -----------------------------------------------------------------------------------------


def test_a_request_waits_for_a_first_instance(wire: Wire) -> None:
    client = wire.client()
    request = wire.ask(client, patience_s=2.0)
    wire.advance(1.5)
    worker = wire.worker()
    wire.meet(client, worker)
    assert wire.leg(worker).request == request


def test_a_request_does_not_wait_for_ever(wire: Wire) -> None:
    client = wire.client()
    request = wire.ask(client, patience_s=2.0)
    wire.advance(1.9)
    assert wire.reason(client, request) is None
    wire.advance(0.2)
    finish = wire.finished(client, request)
    assert finish is not None and finish.reason is Reason.UNAVAILABLE
    assert finish.text == f"no instance of {ECHO} takes work; live: none" and wire.quiet()


# --- Slots and queues ---------------------------------------------------------------------------------


def test_what_does_not_fit_waits_and_what_cannot_wait_is_refused(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1, slots=2, queue=1)
    requests = [wire.ask(client) for _ in range(4)]
    assert len(wire.did(worker, Start)) == 2
    (reject,) = wire.said(worker, client, Reject)
    assert (reject.request, reject.reason, reject.text) == (requests[3], Reason.BUSY, "2 running, 1 waiting")
    assert reject.retry_ms > 0
    wire.tell(worker, Finished(wire.did(worker, Start)[0].leg))
    wire.settle()
    assert [start.leg.request for start in wire.did(worker, Start)] == requests[:3]


def test_an_endpoint_may_have_fewer_slots_than_its_node(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1, offers=(Offer(ECHO, slots=1), Offer(COUNT, True)))
    wire.ask(client, ECHO)
    wire.ask(client, ECHO)
    wire.ask(client, COUNT)
    assert [start.endpoint for start in wire.did(worker, Start)] == [ECHO, COUNT]


def test_a_slow_reader_holds_no_slot(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1, slots=1)
    slow = wire.ask(client, window=1)
    wire.tell(worker, Produced(wire.leg(worker), [b"a", b"b"]))
    wire.tell(worker, Finished(wire.leg(worker)))
    wire.ask(client)
    assert len(wire.did(worker, Start)) == 2 and wire.reason(client, slow) is None
    wire.tell(client, Consumed(slow, 1))
    wire.settle()
    assert wire.delivered(client, slow) == [b"a", b"b"]


# --- Rejects ------------------------------------------------------------------------------------------


def test_a_busy_instance_is_followed_by_another(wire: Wire) -> None:
    client, (left, right) = mesh(wire, 2, slots=1, queue=0)
    requests = [wire.ask(client, policy="direct", pinned=left), wire.ask(client)]
    requests += [wire.ask(client)]
    assert sorted(start.leg.request for node in (left, right) for start in wire.did(node, Start)) == requests[:2]
    wire.tell(right, Finished(wire.leg(right)))
    wire.advance(1.0)
    assert wire.leg(right).request == requests[2]


def test_who_is_always_refused_hears_of_it(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1, slots=1, queue=0)
    wire.ask(client)
    request = wire.ask(client, patience_s=100.0)
    wire.advance(10.0)
    finish = wire.finished(client, request)
    assert finish is not None
    assert (finish.reason, finish.attempts) == (Reason.BUSY, REJECTS_MAX)
    assert finish.retry_ms > 0 and len(wire.said(worker, client, Reject)) == REJECTS_MAX


def test_a_leaving_instance_is_followed_by_another(wire: Wire) -> None:
    """Its Drain and the Submit cross."""
    client, (left, right) = mesh(wire, 2)
    wire.ask(client, policy="direct", pinned=left)
    wire.hold(left, client)
    wire.tell(left, Leave(5.0))
    wire.ask(client, COUNT, policy="direct", pinned=right)
    request = wire.ask(client, COUNT)
    assert placed(wire, client)[-1] == left
    wire.release(left, client)
    assert [reject.reason for reject in wire.said(left, client, Reject)] == [Reason.DRAINING]
    assert wire.leg(right).request == request


def test_an_endpoint_that_is_not_served_there(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1)
    wire.forge(client, worker, Submit(77, 1, 0, 9, "demo.none.run"))
    wire.settle()
    (reject,) = wire.said(worker, client, Reject)
    assert (reject.reason, reject.text) == (Reason.NO_ENDPOINT, "demo.none.run is not served here")


@pytest.mark.parametrize("reason", [Reason.INVALID, Reason.TOO_LARGE])
def test_some_refusals_are_final(wire: Wire, reason: Reason) -> None:
    client, (left, right) = mesh(wire, 2)
    wire.hold(client, left)
    wire.hold(client, right)
    request = wire.ask(client)
    holder = placed(wire, client)[0]
    wire.forge(holder, client, Reject(request, 1, 0, int(reason), 0, "why"))
    wire.settle()
    finish = wire.finished(client, request)
    assert finish is not None and (finish.reason, finish.text) == (reason, "why")
    assert len(placed(wire, client)) == 1


def test_other_refusals_exclude_an_instance_for_a_while(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1)
    wire.hold(client, worker)
    request = wire.ask(client, patience_s=60.0)
    wire.forge(worker, client, Reject(request, 1, 0, int(Reason.STALE)))
    wire.settle()
    wire.release(client, worker)
    wire.advance(EXCLUDE_S - 0.5)
    assert placed(wire, client) == [worker]
    wire.advance(1.0)
    assert placed(wire, client) == [worker, worker]


def test_state_for_an_endpoint_that_cannot_resume_is_refused(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1)
    wire.forge(client, worker, Submit(77, 1, 0, 9, ECHO, resume=Resume(0, state=b"x")))
    wire.settle()
    assert [reject.reason for reject in wire.said(worker, client, Reject)] == [Reason.INVALID]


# --- Deadlines ----------------------------------------------------------------------------------------


def test_a_deadline_ends_both_sides(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1)
    request = wire.ask(client, timeout_s=2.0)
    assert wire.did(worker, Start)[0].deadline == pytest.approx(wire.now + 2.0, abs=0.01)
    wire.advance(2.1)
    finish = wire.finished(client, request)
    assert finish is not None
    assert (finish.reason, finish.text) == (Reason.DEADLINE, "not done within 2 s")
    assert len(wire.did(worker, Halt)) == 1
    wire.tell(worker, Yielded(wire.leg(worker)))
    wire.settle()
    assert wire.quiet()


def test_a_holder_keeps_the_deadline_by_itself(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1)
    wire.ask(client, timeout_s=2.0)
    wire.hold(client, worker)
    wire.freeze(client)
    wire.advance(2.1)
    assert len(wire.did(worker, Halt)) == 1
    wire.tell(worker, Yielded(wire.leg(worker)))
    wire.settle()
    assert [error.reason for error in wire.said(worker, client, Error)] == [Reason.DEADLINE]


def test_what_waits_is_ended_by_its_deadline_too(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1, slots=1)
    wire.ask(client)
    waiting = wire.ask(client, timeout_s=1.0)
    nowhere = wire.ask(client, "demo.none.run", timeout_s=1.0, patience_s=9.0)
    wire.advance(1.1)
    assert wire.reason(client, waiting) is wire.reason(client, nowhere) is Reason.DEADLINE
    assert len(wire.did(worker, Start)) == 1 and wire.nodes[worker].snapshot()["legs"] == 1


def test_a_deadline_travels_as_what_remains_of_it(wire: Wire) -> None:
    client, (left, right) = mesh(wire, 2)
    wire.ask(client, COUNT, timeout_s=10.0)
    holder = placed(wire, client)[0]
    wire.advance(4.0)
    wire.crash(holder)
    wire.settle()
    first, second = (
        submit.deadline_ms for node in (holder, left + right - holder) for submit in wire.said(client, node, Submit)
    )
    assert first == 10_000 and 5_900 <= second <= 6_000


# --- Nodes that do both, and nodes that leave -------------------------------------------------------------


def test_a_chain(wire: Wire) -> None:
    """A client, a middle that asks in its turn, and a back end."""
    client, middle, back = wire.client(), wire.node(Role.COMPONENT, [Offer(ECHO)]), wire.worker([Offer(COUNT, True)])
    wire.meet(client, middle)
    wire.meet(middle, back)
    outer = wire.ask(client, ECHO)
    inner = wire.ask(middle, COUNT)
    wire.tell(back, Produced(wire.leg(back), [b"x"]))
    wire.settle()
    wire.tell(middle, Produced(wire.leg(middle), wire.delivered(middle, inner)))
    wire.settle()
    assert wire.delivered(client, outer) == [b"x"]


def test_a_leaving_owner_waits_for_its_own_requests(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1)
    request = wire.ask(client)
    wire.tell(client, Leave(5.0))
    wire.advance(2.0)
    assert wire.state(worker, client) == "up"
    wire.tell(worker, Finished(wire.leg(worker)))
    wire.settle()
    assert wire.reason(client, request) is Reason.COMPLETE and wire.state(worker, client) == ""


def test_a_leaving_owner_does_not_wait_for_ever(wire: Wire) -> None:
    client, (worker,) = mesh(wire, 1)
    request = wire.ask(client)
    wire.tell(client, Leave(1.0))
    wire.advance(10.0)
    assert wire.reason(client, request) is Reason.DRAINING and wire.state(worker, client) == ""
    assert len(wire.did(worker, Halt)) == 1


def test_workers_of_one_client_know_each_other_and_can_hand_over(wire: Wire) -> None:
    client, (left, right) = mesh(wire, 2)
    request = wire.ask(client, COUNT, policy="direct", pinned=left)
    wire.tell(left, Leave(60.0))
    wire.settle()
    wire.tell(left, Yielded(wire.leg(left)))
    wire.settle()
    assert wire.said(left, client, Migrate) and wire.reason(client, request) is None
    assert wire.did(right, Start), "direct says where it begins; once it has begun it may move"
