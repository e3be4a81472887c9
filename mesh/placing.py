"""Pure. From a request to an instance: who can take it, whom the policy picks, and who waits how long if nobody can."""

from collections.abc import Callable
from random import Random

from mesh.claims import Claims
from mesh.peer import Peer
from mesh.placement import POLICIES, Candidate
from mesh.request import Request, Stop
from mesh.routing import ROUTER
from mesh.waiting import Waiting
from proto.errors import Reason

LATE_ROUTER_S = 1.0  # a router that did not answer in time is not asked for that long


class Placing:
    """The choice of instances. `serving` lists live peers for an endpoint."""

    def __init__(self, random: Random, claims: Claims, serving: Callable[[str], list[Peer]]) -> None:
        self._random = random
        self._claims = claims
        self._serving = serving
        self._cursor: dict[str, int] = {}
        self._late: dict[int, float] = {}  # routers that are not to be asked before a time
        self._turn = 0
        self.waiting = Waiting()

    def able(self, request: Request, now: float, endpoint: str = "", last: bool = True) -> dict[int, Peer]:
        """Who could take its last stop now, or another one."""
        pinned = request.pinned if last else 0
        peers = self._serving(endpoint or request.ask.endpoint)
        if not (pinned or request.excluded or request.ask.barred):  # what is common, without a call for each
            return {peer.node: peer for peer in peers if peer.ready}
        return {peer.node: peer for peer in peers if _can_take(peer, request, pinned, now)}

    def named(self, request: Request, now: float, node: int, endpoint: str, last: bool) -> Peer | None:
        """This instance, if it could take that stop now."""
        pinned = request.pinned if last else 0
        for peer in self._serving(endpoint):
            if peer.node == node:
                return peer if _can_take(peer, request, pinned, now) else None
        return None

    def fits(self, request: Request, stops: list[Stop], now: float) -> bool:
        """Whether each stop of this advice can be made."""
        last = len(stops) - 1
        if not request.carries and any(all(must != name for _, name, _ in stops) for must in request.ask.musts):
            return False
        able = [self.named(request, now, node, name, at == last) for at, (node, name, _) in enumerate(stops)]
        return bool(able) and None not in able

    def plan(self, request: Request, now: float, last_peers: dict[int, Peer] | None = None) -> list[Stop]:
        """Where it goes if nobody advises; nowhere: it has to wait. `last_peers` could make its last stop."""
        ask, stops = request.ask, []
        for endpoint in (*ask.needs, ask.endpoint):
            last = endpoint == ask.endpoint
            peers = last_peers if last and last_peers is not None else self.able(request, now, endpoint, last)
            if peers:
                rank = request.rank if last else -1
                stops.append((self.choose(request, peers, endpoint).node, endpoint, rank))
            elif last or endpoint in ask.musts or now < request.homeless + ask.patience_s:
                return []  # after that it has to do without what it needs: who cannot says so
        return stops

    def choose(self, request: Request, peers: dict[int, Peer], endpoint: str) -> Peer:
        """The instance that the request's policy picks among these."""
        ask = request.ask
        candidates = [
            Candidate(node, peer.load.running, peer.load.waiting, self._claims.count(node))
            for node, peer in peers.items()
        ]
        policy = "least_loaded" if request.suspect else ask.policy  # a suspect needs a node for itself
        node = POLICIES[policy](candidates, self._cursor.get(endpoint, 0), self._random)
        self._cursor[endpoint] = node
        return peers[node]

    def router(self, request: Request, instances: int, now: float) -> Peer | None:
        """The router to ask about the request; None if it is ours to place, or nobody has a choice."""
        ask = request.ask
        if not ask.routed or request.pinned or request.suspect:
            return None
        if instances == 1 and ask.wish is None and not ask.needs:
            return None
        found = [peer for peer in self._serving(ROUTER) if peer.ready and self._late.get(peer.node, 0.0) <= now]
        if not found:
            return None
        self._turn += 1
        return found[self._turn % len(found)]

    def late(self, router: int, now: float) -> None:
        """This router did not answer in time."""
        self._late = {node: until for node, until in self._late.items() if until > now}
        self._late[router] = now + LATE_ROUTER_S

    def wait(self, request: Request, now: float) -> float:
        """Let it wait; when to look again unless a peer comes first: the end of an exclusion, or of patience."""
        self.waiting.add(request, now)
        looks = [request.patient_until(), *request.excluded.values()]
        if request.ask.needs:
            looks.append(request.homeless + request.ask.patience_s)
        return min((when for when in looks if when > now), default=now)

    def out_of_patience(self, request: Request, now: float) -> bool:
        """Whether it has waited long enough."""
        return now >= request.patient_until()

    def verdict(self, request: Request, now: float) -> tuple[Reason, str]:
        """Why nobody took it."""
        pinned = request.pinned
        missing = [must for must in request.ask.musts if not self.able(request, now, must, last=False)]
        endpoint = missing[0] if missing and not request.carries else request.ask.endpoint
        live = ", ".join(peer.name for peer in self._serving(endpoint)) or "none"
        if request.rejects:
            return Reason.BUSY, f"every instance of {endpoint} is busy; live: {live}"
        if pinned and endpoint == request.ask.endpoint:
            return Reason.UNAVAILABLE, f"instance {pinned:016x} of {endpoint} is not there; live: {live}"
        return Reason.UNAVAILABLE, f"no instance of {endpoint} takes work; live: {live}"


def _can_take(peer: Peer, request: Request, pinned: int, now: float) -> bool:
    if not peer.ready or (pinned and pinned != peer.node):
        return False
    return request.excluded.get(peer.node, 0.0) <= now and peer.node not in request.ask.barred
