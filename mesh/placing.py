"""Pure. From a request to an instance: who can take it, whom the policy picks, and who waits how long if nobody can."""

from collections.abc import Callable
from random import Random

from mesh.claims import Claims
from mesh.peer import Peer
from mesh.placement import POLICIES, Candidate
from mesh.request import Request
from mesh.waiting import Waiting
from proto.errors import Reason

MOVED_PATIENCE_S = 30.0  # a request that was running waits that long for another instance: time for a restart


class Placing:
    """The choice of instances. `serving` lists live peers for an endpoint."""

    def __init__(self, random: Random, claims: Claims, serving: Callable[[str], list[Peer]]) -> None:
        self._random = random
        self._claims = claims
        self._serving = serving
        self._cursor: dict[str, int] = {}
        self.waiting = Waiting()

    def choose(self, request: Request, now: float) -> Peer | None:
        """The instance that the request's policy picks, or None if nobody can take it now."""
        ask = request.ask
        peers = {peer.node: peer for peer in self._serving(ask.endpoint) if _can_take(peer, request, now)}
        if not peers:
            return None
        candidates = [
            Candidate(node, peer.load.running, peer.load.waiting, self._claims.count(node))
            for node, peer in peers.items()
        ]
        node = POLICIES[ask.policy](candidates, self._cursor.get(ask.endpoint, 0), self._random)
        self._cursor[ask.endpoint] = node
        return peers[node]

    def wait(self, request: Request, now: float) -> float:
        """Let it wait; when to look again unless a peer comes first: the end of an exclusion, or of patience."""
        self.waiting.add(request, now)
        return min([_patient_until(request), *(when for when in request.excluded.values() if when > now)])

    def out_of_patience(self, request: Request, now: float) -> bool:
        """Whether it has waited long enough."""
        return now >= _patient_until(request)

    def verdict(self, request: Request) -> tuple[Reason, str]:
        """Why nobody took it."""
        endpoint, pinned = request.ask.endpoint, request.pinned
        live = ", ".join(peer.name for peer in self._serving(endpoint)) or "none"
        if request.rejects:
            return Reason.BUSY, f"every instance of {endpoint} is busy; live: {live}"
        if pinned:
            return Reason.UNAVAILABLE, f"instance {pinned:016x} of {endpoint} is not there; live: {live}"
        return Reason.UNAVAILABLE, f"no instance of {endpoint} takes work; live: {live}"


def _can_take(peer: Peer, request: Request, now: float) -> bool:
    return peer.ready and request.excluded.get(peer.node, 0.0) <= now and request.pinned in (0, peer.node)


def _patient_until(request: Request) -> float:
    return request.heard + (MOVED_PATIENCE_S if request.started else request.ask.patience_s)
