"""Pure. How requests lose legs, and what becomes of them then: they go on without, begin anew, or end."""

from collections.abc import Callable

from mesh.claims import Claim, Claims
from mesh.dispatch import STALL, Dispatch
from mesh.ports import Ports
from mesh.request import Request
from mesh.timers import Timers
from mesh.walk import Walk
from proto.errors import Reason
from proto.request import Leg


class Losses:
    """What happens to the requests of one owner when a leg is gone, hangs or is silent."""

    def __init__(
        self,
        requests: dict[int, Request],
        claims: Claims,
        timers: Timers[tuple[str, int]],
        walk: Walk,
        dispatch: Dispatch,
        ports: Ports,
        finish: Callable[..., None],
    ) -> None:
        self._requests = requests
        self._claims = claims
        self._timers = timers
        self._walk = walk
        self._dispatch = dispatch
        self._count = ports.count
        self._finish = finish

    def gone(self, peer: int, claims: list[Claim], reason: Reason, now: float) -> None:
        """These legs are over without a word; a request may have several among them."""
        lost: dict[int, list[Claim]] = {}
        for claim in claims:
            if (request := self._walk.of(claim)) is not None:
                request.drop(claim)
                lost.setdefault(request.number, []).append(claim)
        for number, legs in lost.items():
            self._legs_gone(self._requests[number], legs, peer, reason, now)

    def _legs_gone(self, request: Request, legs: list[Claim], peer: int, reason: Reason, now: float) -> None:
        if reason is Reason.LINK_LOST:
            blamed = [request.blame(claim) for claim in legs]
            if any(blamed):
                self._count("requests.suspects")
        vital = [claim for claim in legs if not claim.spent]
        if not vital:
            request.let_down = True
            self._count("requests.feeders_lost")
            self._walk.go_on(request, now)
        elif reason is Reason.LEFT and all(claim.state is Leg.SUBMITTED for claim in vital):
            self._walk.anew(request, now)  # an Accept would have come before the Bye: nothing was started
        else:
            self.lost(request, reason, peer, now)

    def peer_hung(self, peer: int, now: float) -> None:
        """What can go on elsewhere does; the rest waits for the engine or for its deadline."""
        for claim in self._claims.of(peer):
            request = self._walk.of(claim)
            if request is not None and claim.spent:
                self._walk.dismiss(request, claim, now)
            elif request is not None and request.resumable:
                self.move(request, claim, Reason.HUNG, now)

    def lost(self, request: Request, reason: Reason, peer: int, now: float) -> None:
        """A leg that was needed is gone."""
        self._count("requests.lost_legs")
        request.homeless = now
        if request.stopping:
            self._finish(request, Reason.STOPPED, now)
        elif request.resumable:
            self.again(request, reason, now)
        else:
            text = f"the instance {peer:016x} was lost ({reason.label}) and {request.ask.endpoint} cannot resume"
            self._finish(request, Reason.LOST, now, text=text)

    def move(self, request: Request, claim: Claim, reason: Reason, now: float) -> None:
        """Take the request away from a live holder."""
        request.exclude(claim.peer, now)
        self.lost(request, reason, claim.peer, now)

    def again(self, request: Request, reason: Reason, now: float) -> None:
        """Place it anew, if that has not happened too often."""
        self._walk.leave(request, now)
        request.moves += 1
        if request.moves > request.ask.moves_max:
            text = f"lost {request.moves} instances, the last one because: {reason.label}"
            self._finish(request, Reason.MOVED_TOO_OFTEN, now, text=text)
        else:
            self._count("requests.moved")
            self._dispatch.place(request, now)

    def look_at_stall(self, request: Request, now: float) -> None:
        """Its caller does not want to wait in silence for longer."""
        due = request.heard + request.ask.stall_s
        claim = request.claim
        if now < due or claim is None:
            self._timers.set((STALL, request.number), due if due > now else now + request.ask.stall_s)
        elif claim.spent and request.ahead:
            request.heard = now
            self._timers.set((STALL, request.number), now + request.ask.stall_s)
            self._walk.dismiss(request, claim, now)
        elif request.resumable:
            self.move(request, claim, Reason.STALLED, now)
        else:
            self._finish(request, Reason.STALLED, now, text=f"nothing for {request.ask.stall_s:g} s")
