"""Pure. A run of a serving mesh: workers with engines, routers, frontends, and the peace that must come in the end."""

from msgspec import structs

from mesh.settings import Settings
from mesh.simulation.nemesis import Nemesis
from mesh.simulation.oracles import Oracles
from mesh.simulation.plan import Call
from mesh.simulation.process import Process
from mesh.simulation.streams import ClientStream
from mesh.simulation.violation import require
from mesh.simulation.world import World
from nodes.simulation.caller import ServingStream
from nodes.simulation.judges import ServingOracles
from nodes.simulation.nemesis import ServingNemesis
from nodes.simulation.plan import CALM, ROUTER, WORKER, ServingCall, ServingPlace
from nodes.simulation.worker import Worker
from proto.session import State


class Router(Process):
    """A node that advises: all of it is in the core."""

    def _settings(self, node: int, incarnation: int) -> Settings:
        assert isinstance(self.spec, ServingPlace)
        return structs.replace(super()._settings(node, incarnation), policy=self.spec.policy)


KINDS = {WORKER: Worker, ROUTER: Router}


class ServingWorld(World):
    """A world in which handlers are engines."""

    def _oracles(self) -> Oracles:
        return ServingOracles(self)

    def _nemesis(self) -> Nemesis:
        return ServingNemesis(self)

    def _process(self, place: int, number: int, node: int, address: str) -> Process:
        spec = self.plan.places[place]
        assert isinstance(spec, ServingPlace)
        return KINDS.get(spec.kind, Process)(self, place, number, node, (address,))

    def _stream(self, process: Process, call: Call) -> ClientStream:
        assert isinstance(call, ServingCall)
        return ServingStream(process, call)

    def unrest(self) -> str:
        """What still keeps peace from the mesh: in the end no engine holds anything."""
        if why := super().unrest():
            return why
        for process in self.processes():
            if isinstance(process, Worker):
                load = process.engine.load()
                if load.running or load.waiting or load.blocks_used or process.host.core.runs:
                    return f"the engine of {process.label} still has {load}, {list(process.host.core.runs)}"
        return ""

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
            once = stream.attempt <= 1 + stream.rejects + stream.retried
            require(once, "22 moves", f"{stream.process.label}/{stream.request} took {stream.attempt} attempts")


def _means(wish: str, endpoint: str) -> bool:
    return endpoint.startswith(wish) if wish.endswith("/") else endpoint == wish


def _up(one: Process, other: Process) -> bool:
    peer = one.node.peers.by_node.get(other.node.settings.node)
    return peer is not None and peer.state is State.UP
