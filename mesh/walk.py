"""Pure. The walk along an itinerary: which legs of a request live at once, who makes units, and who comes next.

A request's `claim` is the leg whose units are taken. The legs `ahead` of it were submitted since, each when the one
before it had handed over, and await their turn: when the leg before them is over they are fed what it made, once. A
leg with a stop after it is a feeder. One that has handed is spent: losing it costs nothing. proto/README.md, rule 10.
"""

from collections.abc import Callable

from mesh.claims import Claim, Claims
from mesh.dispatch import Dispatch
from mesh.ports import Ports
from mesh.request import Request
from proto import codec
from proto.errors import Reason
from proto.messages import Fed, Handed, Strength
from proto.request import OWNER, Verb, send


class Walk:
    """The legs of all requests of one owner, as far as they depend on each other."""

    def __init__(
        self,
        requests: dict[int, Request],
        claims: Claims,
        dispatch: Dispatch,
        ports: Ports,
        finish: Callable[[Request, Reason, float], None],
    ) -> None:
        self._requests = requests
        self._claims = claims
        self._dispatch = dispatch
        self._send = ports.send
        self._count = ports.count
        self._finish = finish

    def of(self, claim: Claim) -> Request | None:
        """The request that a leg serves now; None if it goes on without."""
        request = self._requests.get(claim.request)
        return request if request is not None and (request.claim is claim or claim in request.ahead) else None

    def handed(self, peer: int, message: Handed, now: float) -> None:
        """What a later leg needs lies there, or will: that leg may begin."""
        claim = self._claims.get(peer, message.request, message.attempt)
        if claim is None:
            self._count("requests.stale")
            return
        claim.receive(Verb.HANDED)
        request = self.of(claim)
        if request is None or not claim.feeder:
            return
        request.heard, claim.handed = now, True
        request.handles.append(message.handle)
        self.go_on(request, now)

    def go_on(self, request: Request, now: float) -> None:
        """A leg is over, or has handed: feed who is next to make units, and submit the next stop."""
        if request.claim is None and request.ahead:
            self._feed(request, request.ahead.pop(0), now)
        if request.stopping:
            if request.claim is None:
                self._finish(request, Reason.STOPPED, now)
            return
        legs = request.legs()
        due = bool(request.stops) and (not legs or legs[-1].handed)
        if due and not self._dispatch.next_stop(request, now):
            self.anew(request, now)

    def anew(self, request: Request, now: float) -> None:
        """Nobody takes its next stop now. What lies ready for it stays good; what is still being made is given up."""
        request.turn_back(now)
        if request.legs() or not request.handles:
            self.leave(request, now)
        request.carries = bool(request.handles)
        request.stops = []
        self._dispatch.place(request, now)

    def _feed(self, request: Request, claim: Claim, now: float) -> None:
        request.claim, claim.awaits, request.heard = claim, False, now
        claim.state = send(OWNER, claim.state, Verb.FED)
        tokens = request.tokens[claim.start :]
        self._send(claim.peer, Fed(request.number, claim.attempt, claim.start, codec.pack(tokens)), now)
        claim.start = request.position

    def over(self, request: Request, reason: Reason, now: float) -> None:
        """The request has ended: so do its legs."""
        for claim in request.legs():
            self.cancel(claim, Strength.KILL, reason, request.position, now)

    def leave(self, request: Request, now: float) -> None:
        """It is to be placed anew: nothing of this itinerary goes on."""
        self.over(request, Reason.MOVED, now)
        request.claim, request.carries, request.housed = None, False, 0.0
        request.ahead.clear()
        request.stops = []
        request.handles.clear()

    def dismiss(self, request: Request, claim: Claim, now: float) -> None:
        """A feeder that has handed holds up the others: they go on without what it still owes."""
        self._count("requests.feeders_lost")
        request.exclude(claim.peer, now)
        request.drop(claim)
        request.let_down = True
        self.cancel(claim, Strength.KILL, Reason.MOVED, request.position, now)
        self.go_on(request, now)

    def cancel(self, claim: Claim, strength: Strength, reason: Reason, position: int, now: float) -> None:
        """Tell its holder, unless the leg is past that."""
        if (message := claim.cancel(strength, reason, position)) is not None:
            self._send(claim.peer, message, now)
