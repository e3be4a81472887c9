"""Pure. A run of a serving mesh: workers with engines, routers, frontends, and the peace that must come in the end."""

from collections.abc import Callable
from typing import Any

from msgspec import structs

from mesh.aide import Aide
from mesh.settings import Settings
from mesh.simulation.nemesis import Nemesis
from mesh.simulation.oracles import Oracles
from mesh.simulation.plan import Call, Plan
from mesh.simulation.process import Process
from mesh.simulation.streams import ClientStream
from mesh.simulation.violation import require
from mesh.simulation.world import Trace, World
from nodes.routing.knobs import KV, SECOND_BEST, Knobs
from nodes.routing.placer import Placer
from nodes.routing.split import SplitKnobs
from nodes.simulation.caches import Caches
from nodes.simulation.caller import ServingStream
from nodes.simulation.judges import ServingOracles
from nodes.simulation.nemesis import ServingNemesis
from nodes.simulation.plan import CALM, FRONTEND, ROUTER, WORKER, ServingCall, ServingPlace
from nodes.simulation.planes import SimPlane
from nodes.simulation.worker import Worker
from proto.session import State


class Router(Process):
    """A node that advises: all of it is in the core."""

    aide: Placer | None = None

    def _settings(self, node: int, incarnation: int) -> Settings:
        assert isinstance(self.spec, ServingPlace)
        plain = SECOND_BEST if self.spec.policy == KV else self.spec.policy
        return structs.replace(super()._settings(node, incarnation), policy=plain)

    def _aide(self) -> Aide | None:
        spec = self.spec
        assert isinstance(spec, ServingPlace)
        if spec.policy != KV and not (spec.splits or spec.sees):
            return None
        knobs = Knobs(queue_threshold=spec.queue_steps or None, queue_policy=spec.queue_policy)
        splitting = SplitKnobs(uncached_tokens_max=0) if spec.splits else SplitKnobs()
        self.aide = Placer(spec.policy, knobs, splitting)
        return self.aide


class Frontend(Process):
    """A node that asks, and lays out what its callers show."""

    def __init__(self, world: World, place: int, incarnation: int, node: int, addresses: tuple[str, ...]) -> None:
        super().__init__(world, place, incarnation, node, addresses)
        self.plane = SimPlane(self)

    def busy(self) -> str:
        """What still keeps peace from it."""
        return f"{len(self.plane.offers)} offers of pictures" if self.plane.offers else ""


STAY_S = 0.1  # between two looks at whether somebody who leaves is still needed
KINDS: dict[str, type[Process]] = {WORKER: Worker, ROUTER: Router, FRONTEND: Frontend}


class ServingWorld(World):
    """A world in which handlers are engines. Nobody in it can see: `nodes.simulation.seeing` has one who can."""

    kinds = KINDS

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        super().__init__(plan, trace)
        self.caches = Caches(self)

    def _oracles(self) -> Oracles:
        return ServingOracles(self)

    def _nemesis(self) -> Nemesis:
        return ServingNemesis(self)

    def _process(self, place: int, number: int, node: int, address: str) -> Process:
        spec = self.plan.places[place]
        assert isinstance(spec, ServingPlace)
        return self.kinds[spec.kind](self, place, number, node, (address,))

    def _stream(self, process: Process, call: Call) -> ClientStream:
        assert isinstance(call, ServingCall)
        return ServingStream(process, call)

    def unrest(self) -> str:
        """What still keeps peace from the mesh: in the end no engine holds anything."""
        if why := super().unrest() or self._engines_busy():
            self.caches.restless()
            return why
        return self.caches.unrest()

    def _engines_busy(self) -> str:
        for process in self.processes():
            busy: Callable[[], str] | None = getattr(process, "busy", None)
            if busy is not None and (why := busy()):
                return f"{process.label} still has {why}"
        return ""

    def departed(self, process: Process) -> None:
        """It has said Bye; it stays until what it has kept for others was fetched, or nobody came for it."""
        if getattr(process, "promises", False) and process.alive:
            process.departed = True
            self.clock.at(self.clock.now + STAY_S, self.departed, process)
        else:
            super().departed(process)

    def _stats(self) -> dict[str, int]:
        stats = super()._stats()
        for process in self.processes():
            if isinstance(process, Worker):
                handing = process.host.core.handing
                for name, count in {**handing.counts, "spared": handing.spared_positions}.items():
                    stats[f"handing.{name}"] = stats.get(f"handing.{name}", 0) + count
        return stats

    def _unlinked(self, process: Process) -> str:
        """Whom it wants and cannot reach; and whether it knows whom it can."""
        for wish in process.spec.wants:
            offered: dict[str, list[int]] = {}
            for other in self.processes():
                found = [endpoint for endpoint in other.spec.offers if _means(wish, endpoint)]
                if found and other is not process and not (_up(process, other) and _up(other, process)):
                    return f"{process.label} and {other.label} are not linked"
                for endpoint in found if other is not process else []:
                    offered.setdefault(endpoint, []).append(other.node.settings.node)
            seen = {name: list(nodes) for name, nodes in process.instances.items() if nodes and _means(wish, name)}
            true = {name: sorted(nodes) for name, nodes in offered.items()}
            if seen != true:
                return f"{process.label} believes that {wish} is {seen}, not {true}"
            asked = {name: list(nodes) for name, nodes in process.node.offered(wish).items()}
            require(asked == true, "14 instances", f"{process.label} offers {asked} for {wish}, not {true}")
        return ""

    def _undisturbed(self) -> None:
        """Invariants 22 and 25: without a fault every request is placed once, and nothing is repaired."""
        if self.plan.profile != CALM:
            return  # a prompt may be a fault, and so may too much work
        super()._undisturbed()
        for stream in self.oracles.streams:
            once = stream.attempt <= 1 + stream.advances + stream.rejects + stream.retried
            require(once, "22 moves", f"{stream.process.label}/{stream.request} took {stream.attempt} attempts")
        judges: Any = self.oracles
        judges.thrift.judge(self.processes(), self.oracles.streams)


def _means(wish: str, endpoint: str) -> bool:
    return endpoint.startswith(wish) if wish.endswith("/") else endpoint == wish


def _up(one: Process, other: Process) -> bool:
    peer = one.node.peers.by_node.get(other.node.settings.node)
    return peer is not None and peer.state is State.UP
