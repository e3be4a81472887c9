"""Pure. From a request that needs a holder to its Submit: ask a router, or choose, or wait.

Routers advise and may be late, wrong or gone; then the choice is made here, by the request's own policy. A request
whose last two holders died of it, as far as one can see, waits for a verdict: who only lost a link comes back.
"""

from collections.abc import Callable
from typing import Any

from mesh.claims import Claims
from mesh.peer import Peer
from mesh.placing import Placing
from mesh.ports import Ports, Table
from mesh.request import Request
from mesh.timers import Timers
from proto import limits
from proto.errors import Reason
from proto.placing import Place, Placed

ROUTER_S = 0.25  # a router answers within a millisecond; one that does not is not worth waiting for
VERDICT_S = 2.0  # a node that lost its link but lives is back within that: a backoff and a handshake
WAIT, ROUTE, STALL = "wait", "route", "stall"

Finish = Callable[..., None]  # request, reason, now, text=


class Dispatch:
    """The way of every request to a holder, the first time and each time after."""

    def __init__(
        self,
        placing: Placing,
        requests: dict[int, Request],
        claims: Claims,
        timers: Timers[tuple[str, int]],
        ports: Ports,
        finish: Finish,
    ) -> None:
        self._placing = placing
        self._requests = requests
        self._claims = claims
        self._timers = timers
        self._send = ports.send
        self._count = ports.count
        self._finish = finish
        self.table: Table = {Placed: self.placed}
        self.kinds: dict[str, Callable[[Request, float], Any]] = {WAIT: self._waited, ROUTE: self._router_late}

    def place(self, request: Request, now: float) -> None:
        """Submit it to an instance, ask a router which, or let it wait for one."""
        peers = {} if request.accused else self._placing.able(request, now)
        router = self._placing.router(request, now) if len(peers) > 1 else None
        if not peers:
            self._wait(request, now)
            return
        self.unwait(request)
        if router is not None:
            self._ask(request, router, now)
        else:
            self._submit(request, self._placing.choose(request, peers), now)

    # --- Waiting -----------------------------------------------------------------------------------------

    def _wait(self, request: Request, now: float) -> None:
        due = self._placing.wait(request, now)
        self._timers.set((WAIT, request.number), now + VERDICT_S if request.accused else due)

    def unwait(self, request: Request) -> None:
        """It waits and asks no more."""
        if self._placing.waiting.remove(request):
            self._timers.clear((WAIT, request.number))
        if request.asking:
            request.asking = 0
            self._timers.clear((ROUTE, request.number))

    def _waited(self, request: Request, now: float) -> None:
        if request.accused:
            text = f"node {request.accused:016x} seems to have died of it while it ran there alone"
            self._finish(request, Reason.POISON, now, text=text)
            return
        self.place(request, now)
        if request.waiting and self._placing.out_of_patience(request, now):
            reason, text = self._placing.verdict(request)
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
        name = request.number, request.attempt + 1
        self._send(router.node, Place(*name, request.ask.endpoint, "", length, excluded), now)

    def placed(self, peer: int, message: Placed, now: float) -> None:
        """A router's advice: good if it names who can take the request, else we place it ourselves."""
        request = self._requests.get(message.request)
        if request is None or (request.asking, request.attempt + 1) != (peer, message.attempt):
            self._count("requests.placed_late")
            return
        self._advised(request, message.itinerary[0] if message.itinerary else 0, message.why, now)

    def _router_late(self, request: Request, now: float) -> None:
        self._count("requests.router_late")
        self._placing.late(request.asking, now)
        self._advised(request, 0, "", now)

    def router_down(self, router: int, now: float) -> None:
        """Nobody will answer what it was asked."""
        for request in [request for request in self._requests.values() if request.asking == router]:
            self._advised(request, 0, "", now)

    def _advised(self, request: Request, node: int, why: str, now: float) -> None:
        self.unwait(request)
        peers = self._placing.able(request, now)
        if not peers:
            self._wait(request, now)
            return
        request.why = why if node in peers else ""
        self._submit(request, peers.get(node) or self._placing.choose(request, peers), now)

    # --- Submitting --------------------------------------------------------------------------------------

    def _submit(self, request: Request, peer: Peer, now: float) -> None:
        if request.attempt >= limits.ATTEMPT_MAX:
            self._finish(request, Reason.MOVED_TOO_OFTEN, now, text=f"{request.attempt} attempts")
            return
        request.resumable = request.resumable or peer.offers[request.ask.endpoint].resumable
        request.next_attempt(peer.node, now)
        limit = request.position if request.suspect else request.limit()  # a suspect asks before it runs
        claim = request.claim = self._claims.add(peer.node, request.number, request.attempt, limit)
        claim.start, claim.alone = request.position, request.suspect
        if request.ask.stall_s > 0:
            self._timers.set((STALL, request.number), now + request.ask.stall_s)
        self._send(peer.node, request.submit(limit, now), now)
