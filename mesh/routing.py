"""Pure. The router's half of placing: a Place comes in, the advice goes out.

It knows what heartbeats say about each worker, and adds what it has advised since the last one. Several routers share
the work and need not agree: a holder alone decides over its slots. Which instance is a policy, a function of a
snapshot: see `mesh.placement`.
"""

from collections.abc import Callable
from random import Random

from mesh.peer import Peer
from mesh.placement import POLICIES, Candidate, load
from proto.basics import Message
from proto.messages import Load
from proto.placing import Place, Placed

ROUTER = "wiremesh.router.best_worker"  # who serves this endpoint answers Place


class Routing:
    """All that a router does beyond being a node."""

    def __init__(
        self,
        policy: str,
        random: Random,
        serving: Callable[[str], list[Peer]],
        send: Callable[[int, Message, float], bool],
        count: Callable[[str], None],
    ) -> None:
        self._policy = policy
        self._random = random
        self._serving = serving
        self._send = send
        self._count = count
        self._cursor: dict[str, int] = {}
        self._advised: dict[int, tuple[Load, int]] = {}

    def received(self, peer: int, message: Message, now: float) -> bool:
        """Answer a Place; False if it is none."""
        if not isinstance(message, Place):
            return False
        node, why = self.choose(message.endpoint, message.policy, tuple(message.excluded))
        itinerary = [node] if node else []
        self._send(peer, Placed(message.request, message.attempt, itinerary, why), now)
        return True

    def choose(self, endpoint: str, policy: str = "", excluded: tuple[int, ...] = ()) -> tuple[int, str]:
        """The node that should get the next request for an endpoint, and why; 0 if there is none."""
        peers = [peer for peer in self._serving(endpoint) if peer.ready and peer.node not in excluded]
        name = policy if policy in POLICIES else self._policy
        if not peers:
            self._count("router.nobody")
            return 0, f"no instance of {endpoint} takes work"
        candidates = [self._candidate(peer) for peer in peers]
        node = POLICIES[name](candidates, self._cursor.get(endpoint, 0), self._random)
        self._cursor[endpoint] = node
        self._count(f"router.placed.{name}")
        chosen = next(candidate for candidate in candidates if candidate.node == node)
        self._advise(next(peer for peer in peers if peer.node == node))
        return node, f"{name} of {len(candidates)}: load {load(chosen)}"

    def _candidate(self, peer: Peer) -> Candidate:
        report, advised = self._advised.get(peer.node, (peer.load, 0))
        return Candidate(peer.node, peer.load.running, peer.load.waiting, advised if report is peer.load else 0)

    def _advise(self, peer: Peer) -> None:
        """Count it until the worker's next report, which will."""
        report, advised = self._advised.get(peer.node, (peer.load, 0))
        self._advised[peer.node] = (peer.load, advised + 1 if report is peer.load else 1)

    def peer_down(self, peer: int) -> None:
        """Its load is void."""
        self._advised.pop(peer, None)
