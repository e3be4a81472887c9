"""Pure. The judge of what routers know of caches: in peace each knows exactly what each worker has, and soon.

Both halves are judged: what a worker's publisher shows must be what its engine has, and a router's index must be that.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from mesh.simulation.violation import require
from nodes.routing.placer import Placer
from nodes.routing.source import Source
from nodes.simulation.telling import SimTeller
from proto.session import State

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

KNOWN_S = 5.0  # a beat notices what was lost, and then a replay or a copy comes: each takes a second at most


class Caches:
    """See above. Asked only when all else is at peace."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._since = inf  # since when there is nothing else to wait for

    def restless(self) -> None:
        """There is work, or somebody is not linked: nothing need be known yet."""
        self._since = inf

    def unrest(self) -> str:
        """What is not known yet."""
        why = next(filter(None, map(self._differs, self._world.processes())), "")
        self._since = min(self._since, self._world.clock.now)
        late = self._world.clock.now - self._since > KNOWN_S
        require(not (why and late), "28 caches", f"{KNOWN_S:.0f} s into peace {why}")
        return why

    def _differs(self, router: "Process") -> str:
        placer: Placer | None = getattr(router, "aide", None)
        if placer is None:
            return ""
        if placer._parked:
            return f"{router.label} still lets {len(placer._parked)} requests wait"
        for worker in self._world.processes():
            if why := _unknown(router, placer, worker):
                return f"{router.label} does not know {worker.label}: {why}"
        return ""


def _unknown(router: "Process", placer: Placer, worker: "Process") -> str:
    """What this router does not know of that worker, or encoder."""
    node = worker.node.settings.node
    teller: SimTeller | None = getattr(worker, "teller", None)
    peer = router.node.peers.by_node.get(node)
    if placer._policy != "kv" or teller is None or peer is None or peer.state is not State.UP:
        return ""
    found = teller.publisher.closure
    shown = {name for piece in range(found.pieces) for name in found.piece(piece)}
    cached: Callable[[], set[int]] = worker.cached  # type: ignore[attr-defined]
    if shown != (true := cached()):
        return f"it shows {len(shown)} blocks, and has {len(true)}"
    sources = placer.advisors[worker.spec.offers[0]].sources
    source: Source = sources._nodes[node][0]
    if not source.exact(router.local()):
        return f"{source.staleness(router.local())}"
    holders = list(source.holders)
    if not holders:
        return f"nothing of {len(true)} blocks" if true else ""
    index, holder = sources.index, holders[0]
    known = sum(index.at(name) >> holder & 1 for name in true)
    looked_at = sources._wanted >> holder & 1
    alike = looked_at and known == len(true) == index.held(holder)
    return "" if alike else f"{known} of {len(true)} blocks, and {index.held(holder) - known} that it has not"
