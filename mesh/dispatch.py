"""Pure. From a request that needs a holder to its Submits: ask a router, or choose, or wait.

Routers advise and may be late, wrong or gone; then the choice is made here, by the request's own policy. A request
whose last two holders died of it, as far as one can see, waits for a verdict: who only lost a link comes back.
"""

from collections.abc import Callable
from typing import Any

from msgspec import structs

from mesh.claims import Claim, Claims
from mesh.peer import Peer
from mesh.placing import Placing
from mesh.ports import Ports, Table
from mesh.request import Request, Stop
from mesh.settling import Settling
from mesh.timers import Timers
from proto import limits
from proto.errors import Reason
from proto.placing import Parked, Place, Placed

ROUTER_S = 0.25  # a router answers within a millisecond; one that does not is not worth waiting for
ASK_AGAIN_S = 0.25  # a stop is missing: nodes come up no faster
PARKED_S = 5.0  # a router that has put a request into its queue says so every two seconds
PARKED_S_MAX = 60.0  # nobody waits longer in a router's queue: a load balancer in front would not
VERDICT_S = 2.0  # a node that lost its link but lives is back within that: a backoff and a handshake
WAIT, ROUTE, STALL = "wait", "route", "stall"

Finish = Callable[..., None]  # request, reason, now, text=


class Dispatch:
    """The way of every request to its holders, the first time and each time after."""

    def __init__(
        self,
        placing: Placing,
        requests: dict[int, Request],
        claims: Claims,
        timers: Timers[tuple[str, int]],
        settling: Settling,
        ports: Ports,
        finish: Finish,
    ) -> None:
        self._placing = placing
        self._requests = requests
        self._claims = claims
        self._timers = timers
        self._settling = settling
        self._send = ports.send
        self._count = ports.count
        self._finish = finish
        self.table: Table = {Placed: self.placed, Parked: self.parked}
        self.kinds: dict[str, Callable[[Request, float], Any]] = {WAIT: self._waited, ROUTE: self._router_late}

    def place(self, request: Request, now: float) -> None:
        """Submit it to an instance, ask a router which, or let it wait for one."""
        peers = self._placing.able(request, now)
        router = self._placing.router(request, len(peers), now) if peers else None
        if router is not None:
            self.unwait(request)
            self._ask(request, router, now)
        else:
            self._by_itself(request, now, peers)

    # --- Waiting -----------------------------------------------------------------------------------------

    def _wait(self, request: Request, now: float) -> None:
        due = self._placing.wait(request, now)
        self._timers.set((WAIT, request.number), now + VERDICT_S if request.accused else due)

    def unwait(self, request: Request) -> None:
        """It waits and asks no more."""
        if self._placing.waiting.remove(request):
            self._timers.clear((WAIT, request.number))
        if request.asking:
            request.asking, request.parked = 0, 0.0
            self._timers.clear((ROUTE, request.number))

    def _waited(self, request: Request, now: float) -> None:
        if request.accused:
            text = f"node {request.accused:016x} seems to have died of it while it ran there alone"
            self._finish(request, Reason.POISON, now, text=text)
            return
        self.place(request, now)
        if request.waiting and self._placing.out_of_patience(request, now):
            reason, text = self._placing.verdict(request, now)
            self._finish(request, reason, now, text=text)

    def peer_ready(self, peer: Peer, now: float) -> None:
        """A peer came up or changed: what waits for its endpoints may go there."""
        waiting = self._placing.waiting
        if not waiting:
            return
        for number in waiting.all():
            if self._requests[number].accused == peer.node:
                self._requests[number].accused = 0  # it had lost its link, not its life
        for endpoint in peer.offers if peer.ready else ():
            for number in waiting.of(endpoint):
                self.place(self._requests[number], now)

    # --- Routers -----------------------------------------------------------------------------------------

    def _ask(self, request: Request, router: Peer, now: float) -> None:
        request.asking = router.node
        self._timers.set((ROUTE, request.number), now + ROUTER_S)
        self._count("requests.routed")
        excluded = [node for node, until in request.excluded.items() if until > now]
        excluded = [*request.ask.barred, *excluded][-limits.EXCLUDED_MAX :]
        length = len(request.ask.prompt) + request.position
        wish = request.ask.wish
        if wish is not None and request.position:
            wish = structs.replace(wish, tokens=length)
        name = request.number, request.attempt + 1
        self._settling.placed(router.node, *name, now)
        self._send(router.node, Place(*name, request.ask.endpoint, "", length, excluded, wish), now)

    def placed(self, peer: int, message: Placed, now: float) -> None:
        """A router's advice: good if it names who can take the request, else we place it ourselves."""
        request = self._requests.get(message.request)
        if request is None or (request.asking, request.attempt + 1) != (peer, message.attempt):
            self._count("requests.placed_late")
            return
        if message.refused and not message.itinerary:
            request.why = message.why
            self._finish(request, Reason.of(message.refused), now, text=message.why)
            return
        self.unwait(request)
        if message.endpoints and not message.itinerary:
            self._do_without(request, message, now)
            return
        stops = _stops(message, request.ask.endpoint)
        if request.accused or not self._placing.fits(request, stops, now):
            self._by_itself(request, now)
            return
        request.why = message.why
        self._begin(request, stops, now)

    def _do_without(self, request: Request, message: Placed, now: float) -> None:
        """A stop that it must not go without is missing: we ask again until there is one, or patience ends."""
        if self._placing.out_of_patience(request, now):
            request.why = message.why
            self._finish(request, Reason.UNAVAILABLE, now, text=message.why)
            return
        self._placing.wait(request, now)
        self._timers.set((WAIT, request.number), now + ASK_AGAIN_S)

    def parked(self, peer: int, message: Parked, now: float) -> None:
        """It stands in a router's queue."""
        request = self._requests.get(message.request)
        if request is not None and (request.asking, request.attempt + 1) == (peer, message.attempt):
            self._count("requests.parked")
            request.parked = request.parked or now
            self._timers.set((ROUTE, request.number), min(now + PARKED_S, request.parked + PARKED_S_MAX))

    def _router_late(self, request: Request, now: float) -> None:
        self._count("requests.router_late")
        if not request.parked:
            self._placing.late(request.asking, now)
        self.unwait(request)
        self._by_itself(request, now)

    def router_down(self, router: int, now: float) -> None:
        """Nobody will answer what it was asked."""
        for request in [request for request in self._requests.values() if request.asking == router]:
            self.unwait(request)
            self._by_itself(request, now)

    def _by_itself(self, request: Request, now: float, last_peers: dict[int, Peer] | None = None) -> None:
        """Nobody advises: by the request's own policy, or it waits."""
        stops = [] if request.accused else self._placing.plan(request, now, last_peers)
        if not stops:
            self._wait(request, now)
            return
        self.unwait(request)
        self._settling.over(request.number, now)
        request.why = ""
        self._begin(request, stops, now)

    # --- Submitting --------------------------------------------------------------------------------------

    def _begin(self, request: Request, stops: list[Stop], now: float) -> None:
        """Set out; whose cache lies ready needs its last stop only."""
        assert not request.legs()
        if request.carries:
            stops = stops[-1:]
        else:
            request.handles.clear()
        request.stops, request.let_down = stops, False
        request.placements += 1
        if request.position and request.started:
            request.moved_at.append(request.position)
        request.walk, request.walk_start, request.housed = request.attempt + 1, request.position, 0.0
        self.next_stop(request, now)

    def next_stop(self, request: Request, now: float) -> bool:
        """Submit the next leg; False if nobody can take it."""
        node, endpoint, rank = request.stops.pop(0)
        last = not request.stops
        peer = self._placing.named(request, now, node, endpoint, last)
        if peer is None:
            peers = self._placing.able(request, now, endpoint, last)
            if not peers:
                return False
            peer, rank = self._placing.choose(request, peers, endpoint), request.rank if last else -1
        self._submit(request, peer, endpoint, rank, now)
        return True

    def instead(self, request: Request, claim: Claim, now: float) -> bool:
        """A leg was not taken, and what its forerunners made is still good: another holder for it, if there is one."""
        request.stops.insert(0, (0, claim.endpoint, -1))
        request.placements += 1
        return self.next_stop(request, now)

    def _submit(self, request: Request, peer: Peer, endpoint: str, rank: int, now: float) -> None:
        if request.attempt >= limits.ATTEMPT_MAX:
            self._finish(request, Reason.MOVED_TOO_OFTEN, now, text=f"{request.attempt} attempts")
            return
        request.resumable = request.resumable or peer.offers[endpoint].resumable
        request.next_attempt(peer.node, endpoint, now)
        limit = request.position if request.suspect else request.limit()  # a suspect asks before it runs
        claim = self._claims.add(peer.node, request.number, request.attempt, limit)
        claim.endpoint, claim.feeder = endpoint, bool(request.stops)
        claim.start, claim.alone = request.position, request.suspect
        claim.rank = rank if rank < peer.ranks > 1 else -1
        claim.awaits = request.claim is not None
        if claim.awaits:
            request.ahead.append(claim)
        else:
            request.claim = claim
        if request.ask.stall_s > 0:
            self._timers.set((STALL, request.number), now + request.ask.stall_s)
        self._send(peer.node, request.submit(claim, now), now)


def _stops(message: Placed, asked: str) -> list[Stop]:
    """What a router advises; an endpoint that it does not name is the one that was asked for."""
    nodes = message.itinerary
    before = max(0, len(nodes) - 1)
    ranks = [*[*message.ranks, *[0] * before][:before], message.rank]
    return list(zip(nodes, [*message.endpoints, *[asked] * len(nodes)], ranks, strict=False))
