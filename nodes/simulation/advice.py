"""Pure. Judges of routers: whom they may name, how they spread, that they are heeded, and that nobody waits for them.

Books are kept from the wire: what each Pong reported, and what each Placed has added since.
"""

from math import inf
from typing import TYPE_CHECKING

from mesh.peer import Peer
from mesh.simulation.network import Link
from mesh.simulation.streams import ClientStream, Stream
from mesh.simulation.violation import require
from nodes.simulation.known import Known
from nodes.simulation.plan import ROUTER, ServingPlace
from proto.messages import Load, Submit
from proto.placing import Parked, Place, Placed
from proto.session import State

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

ROUTER_S, LATE_S = 0.25, 1.0  # how long an owner waits for a router, and avoids one that was late
SLACK_S = 0.002
PLACED_S = 1.2  # until a new request is somewhere: a router's patience, and three slow latencies


class Advice:
    """What routers were asked, what they said, and what became of it."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._clock = world.clock
        self._asked: dict[tuple[str, int, int, int], Place] = {}  # router, owner, request, attempt
        self._pending: dict[tuple[str, int, int], tuple[str, float]] = {}  # by owner: which router, and since when
        self._late: dict[tuple[str, str], float] = {}  # until when an owner must not ask a router
        self.known = Known(world)
        self._sent: dict[tuple[str, int], tuple[Load, int]] = {}  # by router and worker: since which report, how many

    # --- The router --------------------------------------------------------------------------------------------

    def asks(self, process: "Process", link: Link, message: Place) -> None:
        """An owner asks a router."""
        stream = process.streams[message.request]
        name = f"{process.label}/{message.request}"
        require(stream.over is None, "10 silence", f"{name} is placed after its end")
        require(message.attempt == stream.attempt + 1, "8 attempts", f"{name} asks about {message.attempt}")
        require(message.length == len(stream.prompt) + stream.position, "3 positions", f"{name}: {message.length}")
        barred = [label for label, until in stream.away.items() if until - SLACK_S > self._clock.now]
        nodes = [other.node.settings.node for other in self._world.processes() if other.label in barred]
        told = all(node in message.excluded for node in nodes)
        require(told, "14 willing", f"{name} does not tell its router to avoid {barred}")
        if link.target is None:
            return
        router = link.target.label
        early = self._late.get((process.label, router), -inf) > process.local() + SLACK_S
        require(not early, "17 placing", f"{name} asks {router}, which has just not answered")
        self._asked[router, process.node.settings.node, message.request, message.attempt] = message
        self._pending[process.label, message.request, message.attempt] = (router, process.local())

    def advises(self, process: "Process", link: Link, message: Placed) -> None:
        """A router answers."""
        assert link.target is not None
        owner = link.target.node.settings.node
        place = self._asked.pop((process.label, owner, message.request, message.attempt), None)
        require(place is not None, "8 advice", f"{process.label} answers {message.request}, and nobody asked")
        assert place is not None
        able = _able(process, place.endpoint, place)
        if not message.itinerary:
            require(not able, "17 advice", f"{process.label} names nobody, and {len(able)} could take it")
            return
        chosen = message.itinerary[-1]
        require(chosen in able, "14 willing", f"{process.label} sends {message.request} to who cannot take it")
        self._spreads(process, able, chosen)
        stops = {endpoint: _able(process, endpoint, place) for endpoint in message.endpoints}
        self.known.advises(process, stops, place, message)

    def lets_wait(self, process: "Process", link: Link, message: Parked) -> None:
        """A router has no answer yet."""
        assert link.target is not None
        asked = (process.label, link.target.node.settings.node, message.request, message.attempt) in self._asked
        require(asked, "8 advice", f"{process.label} lets {message.request} wait, and nobody asked")

    def _spreads(self, process: "Process", able: dict[int, Peer], chosen: int) -> None:
        """Least loaded means: by the last report, and what was sent there since."""
        sent = {node: self._since(process, peer) for node, peer in able.items()}
        loads = {node: peer.load.running + peer.load.waiting + sent[node] for node, peer in able.items()}
        spec = process.spec
        if isinstance(spec, ServingPlace) and spec.policy == "least_loaded":
            text = f"{process.label} sends to {able[chosen].name} with {loads[chosen]}, all: {sorted(loads.values())}"
            require(loads[chosen] == min(loads.values()), "24 spread", text)
        self._sent[process.label, chosen] = (able[chosen].load, sent[chosen] + 1)

    def _since(self, process: "Process", peer: Peer) -> int:
        report, sent = self._sent.get((process.label, peer.node), (peer.load, 0))
        return sent if report is peer.load else 0

    # --- The owner ---------------------------------------------------------------------------------------------

    def followed(self, process: "Process", link: Link, message: Submit) -> None:
        """A request goes where the router says, if it can."""
        router, since = self._pending.pop((process.label, message.request, message.attempt), ("", 0.0))
        if router and process.hearing is None and process.local() - since >= ROUTER_S - SLACK_S:
            self._late[process.label, router] = since + ROUTER_S + LATE_S  # it may have waited for others since
        if process.hearing is None or link.target is None:
            return
        source, advice = process.hearing
        if not isinstance(advice, Placed):
            return
        other = advice.request == message.request and advice.attempt != message.attempt
        name = f"{process.label}/{message.request}"
        require(not other, "8 advice", f"{name} is placed for the {message.attempt}th time by older advice")
        if not advice.itinerary:
            return
        peers = process.node.peers.by_node
        adviser = peers.get(source.source.node.settings.node)
        request = process.node.owner.requests.get(message.request)
        mine = (advice.request, advice.attempt) == (message.request, message.attempt)
        if not mine or adviser is None or adviser.zid != source.zid or request is None:
            return
        first = -1 if request.carries else 0  # whose cache lies ready needs the last stop only
        for node, endpoint in zip(advice.itinerary, [*advice.endpoints, request.ask.endpoint], strict=False):
            peer = peers.get(node)
            if peer is None or peer.state is not State.UP or peer.draining or endpoint not in peer.offers:
                return
            if request.excluded.get(node, 0.0) > process.local():
                return
        there = link.target.node.settings.node == advice.itinerary[first]
        require(there, "17 advice", f"{name} does not go where {source.name} says")

    def waits(self, process: "Process", link: Link, message: Parked) -> None:
        """It hears that it stands in a queue: that router is not late, whatever follows."""
        name = (process.label, message.request, message.attempt)
        if link.source.label == self._pending.get(name, ("", 0.0))[0]:
            self._pending[name] = (link.source.label, inf)

    def looks(self, process: "Process") -> None:
        """Nobody waits for a router that is gone."""
        for request in process.node.owner.requests.values():
            waits = not request.asking or process.node.peers.live(request.asking) is not None
            require(waits, "17 placing", f"{process.label}/{request.number} waits for a router that it has lost")

    # --- The caller --------------------------------------------------------------------------------------------

    def asked(self, stream: Stream) -> None:
        """A request begins. With a free worker in sight it is placed soon, whatever routers do."""
        process = stream.process
        if stream.feeders or (isinstance(stream, ClientStream) and stream.call.pinned >= 0):
            return  # it waits for what it needs
        known = process.instances.get(stream.endpoint, ())
        free = [
            other for other in self._world.processes()
            if other.node.settings.node in known and not other.leaving and not other.frozen and not other.hung
        ]  # fmt: skip
        self._clock.at(self._clock.now + PLACED_S, self._look_if_placed, stream, free, self._clock.now)

    def _look_if_placed(self, stream: Stream, free: list["Process"], since: float) -> None:
        request = stream.process.node.owner.requests.get(stream.request)
        parked = request is not None and request.parked > 0.0  # every worker has too much to do
        if stream.attempt or stream.over is not None or stream.gone or parked:
            return
        troubles = self._world.troubles
        calm = all(
            troubles[place].calm_since < since - PLACED_S
            for place, spec in enumerate(self._world.plan.places)
            if not (isinstance(spec, ServingPlace) and spec.kind == ROUTER)
        )
        if calm and any(process.alive and not process.leaving for process in free):
            name = f"{stream.process.label}/{stream.request}"
            require(False, "17 placing", f"{name} is nowhere after {PLACED_S} s, and somebody could take it")


def _able(router: "Process", endpoint: str, place: Place) -> dict[int, Peer]:
    """Who can take a request there, as a router sees it."""
    return {
        peer.node: peer
        for peer in router.node.peers.by_node.values()
        if peer.state is State.UP and not peer.draining and endpoint in peer.offers
        and peer.node not in place.excluded
    }  # fmt: skip
