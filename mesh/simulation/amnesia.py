"""Pure. Bugs on purpose: a core loses a leg without a word. No session can cause it, and Sync must repair it.

This is the one place of the simulator that reaches into cores.
"""

from typing import TYPE_CHECKING

from mesh.core import TICK
from proto.errors import Reason
from proto.request import Leg

if TYPE_CHECKING:
    from mesh.simulation.process import Process


def forget_held(process: "Process") -> bool:
    """The holder loses its oldest running leg, with its handler. Whether there was one."""
    holder = process.node.holder
    for name, held in list(holder.legs.items()):
        if held.state is Leg.RUNNING and held.started and held.part is None and not held.orphan:
            if process.handlers[name].inner is not None:
                continue  # what it asked for would stay
            process.forget(name)
            held.started = False
            holder.slots.absolve(name)
            holder.slots.give_back(held.submit.endpoint)
            holder._audit.ended(name.owner, name.request, name.attempt)
            holder._timers.clear(name)
            del holder.legs[name]
            holder._fill()
            process.wake(process.run, TICK)
            return True
    return False


def forget_claim(process: "Process") -> bool:
    """The owner loses its oldest running leg that it can place again. Whether there was one."""
    owner = process.node.owner
    for request in list(owner.requests.values()):
        claim = request.claim
        if claim is not None and claim.state is Leg.RUNNING and request.resumable:
            request.drop(claim)
            owner.claims.remove(claim)
            owner._losses.lost(request, Reason.VANISHED, claim.peer, process.local())
            process.wake(process.run, TICK)
            return True
    return False
