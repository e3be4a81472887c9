"""Requests that kill: suspected when a holder dies without a unit, run alone, and ended when that dies too."""

from mesh.core import Finished, Halt, Start, Stepped, Yielded
from proto.errors import Reason
from proto.messages import Submit
from tests.mesh.parties import begin
from tests.pair import COUNT, ECHO, Wire

PROMPT = [1, 2, 3]


def submits(wire: Wire) -> list[Submit]:
    return [entry.message for entry in wire.sent if isinstance(entry.message, Submit)]


def test_a_request_whose_holder_died_without_a_unit_is_a_suspect(wire: Wire) -> None:
    _, holder, other, _, _ = begin(wire, prompt=PROMPT)
    wire.crash(holder)
    wire.advance(0.1)
    assert [submit.suspect for submit in submits(wire)] == [False, True] and wire.did(other, Start)


def test_one_that_had_made_a_unit_there_is_none(wire: Wire) -> None:
    _, holder, _, _, leg = begin(wire, prompt=PROMPT)
    wire.tell(holder, Stepped([(leg, [7], ())]))
    wire.settle()
    wire.crash(holder)
    wire.advance(0.1)
    assert [submit.suspect for submit in submits(wire)] == [False, False]


def test_one_that_was_waiting_there_is_none(wire: Wire) -> None:
    client, worker, other = wire.client(), wire.worker(slots=1), wire.worker()
    wire.meet(client, worker)
    wire.ask(client, prompt=PROMPT)
    waits = wire.ask(client, prompt=PROMPT)
    wire.meet(client, other)
    wire.crash(worker)
    wire.advance(0.1)
    assert [submit.suspect for submit in submits(wire)].count(True) == 1, "the one that was running"
    assert not any(submit.suspect for submit in submits(wire) if submit.request == waits)


def test_who_kills_alone_is_guilty_and_costs_two_holders(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire, prompt=PROMPT)
    third = wire.worker()
    wire.meet(client, third)
    wire.crash(holder)
    wire.advance(0.1)
    victim, spared = (other, third) if wire.did(other, Start) else (third, other)
    wire.crash(victim)
    wire.advance(5.0)
    assert wire.reason(client, request) is Reason.POISON
    assert not wire.did(spared, Start), "it must not go on killing"


def test_a_lost_link_is_no_death(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire, prompt=PROMPT)
    wire.crash(holder)
    wire.advance(0.1)
    (leg,) = (start.leg for start in wire.did(other, Start))
    wire.drop(client, other)
    wire.settle()
    wire.tell(other, Yielded(leg))
    wire.advance(5.0)
    assert wire.reason(client, request) is None
    assert len(wire.did(other, Start)) == 2, "it is back, so it did not die"


def test_a_unit_clears_a_suspect(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire, prompt=PROMPT)
    wire.crash(holder)
    wire.advance(0.1)
    (leg,) = (start.leg for start in wire.did(other, Start))
    wire.tell(other, Stepped([(leg, [7], ())]))
    wire.settle()
    third = wire.worker()
    wire.meet(client, third)
    wire.crash(other)
    wire.advance(5.0)
    assert [submit.suspect for submit in submits(wire)] == [False, True, False]
    assert wire.reason(client, request) is None


def suspect_at_a_busy_node(wire: Wire, *elsewhere: int) -> tuple[int, int, int, int]:
    """Client, the worker that gets the suspect, what else runs there, and the suspect."""
    client, dies, worker = wire.client(), wire.worker(), wire.worker()
    wire.meet(client, worker)
    running = wire.ask(client, prompt=PROMPT)
    wire.tell(worker, Stepped([(wire.leg(worker), [7], ())]))
    wire.meet(client, dies)
    suspect = wire.ask(client, prompt=PROMPT, policy="least_loaded", barred=elsewhere)
    assert wire.did(dies, Start)
    for node in elsewhere:
        wire.meet(worker, node)
    wire.crash(dies)
    wire.advance(0.01)
    return client, worker, running, suspect


def test_a_suspect_runs_alone(wire: Wire) -> None:
    client, worker, running, suspect = suspect_at_a_busy_node(wire)
    assert len(wire.did(worker, Start)) == 1, "it waits for what cannot go elsewhere"
    late = wire.ask(client, prompt=PROMPT)
    assert wire.stat(worker, "legs.rejected.busy") >= 1 and wire.reason(client, late) is None
    wire.tell(worker, Finished(wire.leg(worker)))
    wire.settle()
    assert [start.leg.request for start in wire.did(worker, Start)] == [running, suspect]
    wire.tell(worker, Finished(wire.did(worker, Start)[-1].leg))
    wire.advance(0.2)
    assert [start.leg.request for start in wire.did(worker, Start)] == [running, suspect, late]


def test_a_suspect_sends_others_away_who_can_go(wire: Wire) -> None:
    spare = wire.worker()
    client, worker, running, suspect = suspect_at_a_busy_node(wire, spare)
    (leg,) = (start.leg for start in wire.did(worker, Start))
    assert wire.did(worker, Halt) == [Halt(leg, keep=True)]
    wire.meet(client, spare)
    wire.tell(worker, Yielded(leg))
    wire.settle()
    assert [start.leg.request for start in wire.did(worker, Start)] == [running, suspect]
    assert [(start.leg.request, start.position) for start in wire.did(spare, Start)] == [(running, 1)]


def test_a_suspect_of_an_engine_lets_others_be(wire: Wire) -> None:
    client, dies = wire.client(), wire.worker()
    worker = wire.worker(engine=ECHO)
    wire.meet(client, worker)
    other = wire.ask(client, COUNT)
    wire.meet(client, dies)
    suspect = wire.ask(client, ECHO, prompt=PROMPT, policy="least_loaded")
    wire.crash(dies)
    wire.advance(0.01)
    assert [start.leg.request for start in wire.did(worker, Start)] == [other, suspect]
    late = wire.ask(client, COUNT)
    assert wire.did(worker, Start)[-1].leg.request == late, "it is no engine's"


def test_one_that_is_lost_unheard_twice_is_a_suspect(wire: Wire) -> None:
    client, left, right, last = wire.client(), wire.worker(), wire.worker(), wire.worker()
    wire.meet(client, left, right, last)
    workers = {left, right, last}
    for node in workers:
        wire.hold(node, client)
    wire.ask(client, prompt=PROMPT)
    for expected in ([False, False], [False, False, True]):
        (holder,) = {node for node in workers if wire.did(node, Start)}
        workers.remove(holder)
        wire.crash(holder)
        wire.advance(0.1)
        assert [submit.suspect for submit in submits(wire)] == expected
