"""Itineraries: a last leg that computes no prompts, and whose feeder is gone before it has fed it."""

import pytest

from mesh.budget import BURST_RETRIES_MAX
from mesh.core import TICK, Failed, Prepared, Start
from mesh.request import EXCLUDE_S, MOVED_PATIENCE_S
from proto.errors import Reason
from tests.mesh.walkers import PREFILL, Mesh
from tests.pair import Wire

UNFED = "nobody has computed this prompt"


def refuse_unfed(mesh: Mesh, decode: int) -> None:
    """All legs there were told that nobody makes units for them any more, and they cannot."""
    for start in mesh.wire.did(decode, Start):
        if start.leg in mesh.wire.nodes[decode].holder.legs:
            mesh.wire.tell(decode, Failed(start.leg, Reason.UNAVAILABLE, text=UNFED, retryable=True))
    mesh.wire.settle()


@pytest.mark.parametrize("prefills", [1, 2])
def test_who_was_not_fed_is_innocent(wire: Wire, prefills: int) -> None:
    """The last leg's holder goes on with it at once; who let it down is left alone for a while."""
    mesh = Mesh(wire, prefills=prefills)
    request = mesh.ask(musts=(PREFILL,), stall_s=1.0)
    first = mesh.holder(mesh.prefills)
    mesh.hand(first)
    wire.advance(1.1)
    refuse_unfed(mesh, mesh.decodes[0])
    wire.advance(0.1 if prefills == 2 else EXCLUDE_S)
    second = mesh.holder(mesh.prefills)
    mesh.hand(second)
    mesh.step(second, 10)
    mesh.finish(second)
    mesh.step(mesh.decodes[0], 11)
    assert wire.delivered(mesh.client, request) == [10, 11] and (first != second) == (prefills == 2)


def test_a_feeder_that_lets_many_down_fails_none(wire: Wire) -> None:
    """Each lost its feeder once: that is a loss, and no try that a budget has to bound."""
    mesh = Mesh(wire, prefills=2, slots=64)
    first = mesh.prefills[0]
    many = int(BURST_RETRIES_MAX) + 5
    requests = [mesh.ask(musts=(PREFILL,)) for _ in range(2 * many)]
    for start in wire.did(first, Start):
        wire.tell(first, Prepared(start.leg, b"blocks"))
    wire.settle()
    assert len(wire.did(first, Start)) == many
    wire.nodes[mesh.client].owner.peer_hung(first, wire.now)
    wire.tell(mesh.client, TICK)
    wire.settle()
    refuse_unfed(mesh, mesh.decodes[0])
    assert [wire.reason(mesh.client, request) for request in requests] == [None] * len(requests)
    assert len(wire.did(mesh.prefills[1], Start)) == 2 * many


def test_the_time_in_which_it_was_fed_is_no_search(wire: Wire) -> None:
    """Its prompt was long at work when its feeder was lost: its patience begins then."""
    mesh = Mesh(wire)
    wire.advance(1.0)
    request = mesh.ask(musts=(PREFILL,))
    mesh.hand(mesh.prefills[0])
    wire.advance(MOVED_PATIENCE_S + 5.0)
    wire.crash(mesh.prefills[0])
    wire.settle()
    refuse_unfed(mesh, mesh.decodes[0])
    wire.advance(MOVED_PATIENCE_S - 5.0)
    assert wire.reason(mesh.client, request) is None
