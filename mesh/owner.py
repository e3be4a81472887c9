"""Pure. The owner's side of requests: place, submit, deliver, cancel, move, and end each exactly once.

A request is in one of three conditions: it waits for an instance, it has legs (mesh/walk.py), or it is over and gone.
Legs outlive their request until the holder has answered what it owes. Units are taken if and only if they come from
the current leg (`claim`) and continue what was delivered. `_finish` is the only door out. proto/README.md, "Requests".
"""

from collections.abc import Callable
from math import inf
from random import Random

from mesh.budget import Budget
from mesh.claims import Claim, Claims
from mesh.core import Abandon, Ask, Consumed, Deliver
from mesh.dispatch import STALL, Dispatch
from mesh.grants import Grants
from mesh.losses import Losses
from mesh.peer import Peer
from mesh.placing import Placing
from mesh.ports import Ports, Table
from mesh.request import Request, begun
from mesh.routing import ROUTER
from mesh.settling import Settling
from mesh.timers import Timers
from mesh.walk import Walk
from proto import codec
from proto.errors import Reason, RemoteError
from proto.messages import Accept, Cancel, Cancelled, Chunk, End, Error, Handed, Migrate, Part, Reject, Strength, Sync
from proto.request import OWNER, Leg, Verb, send

MIGRATIONS_MAX = 64  # moves that a holder asked for: a rolling restart of that many nodes during one request
DEADLINE = "deadline"


class Owner:
    """All requests of this node. `serving` lists live peers for an endpoint."""

    def __init__(self, random: Random, ports: Ports, serving: Callable[[str], list[Peer]], now: float) -> None:
        self._out = ports.out
        self._count = ports.count
        self._send = ports.send
        self.requests: dict[int, Request] = {}
        self.claims = Claims()
        self._placing = Placing(random, self.claims, serving)
        self._grants = Grants()
        self._budget = Budget(now)
        self._timers: Timers[tuple[str, int]] = Timers()
        self._settling = Settling(lambda: [peer.node for peer in serving(ROUTER)])
        of_ours = self.requests, self.claims
        self._dispatch = Dispatch(self._placing, *of_ours, self._timers, self._settling, ports, self._finish)
        self._walk = Walk(*of_ours, self._dispatch, ports, self._finish)
        self._losses = Losses(*of_ours, self._timers, self._walk, self._dispatch, ports, self._finish)
        self.peer_ready, self.peer_hung = self._dispatch.peer_ready, self._losses.peer_hung
        self.table: Table = {
            Chunk: self._chunk,
            Accept: self._accept,
            Reject: self._reject,
            End: self._end,
            Error: self._error,
            Migrate: self._migrate,
            Cancelled: self._cancelled,
            Handed: self._walk.handed,
            Sync: self._sync,
            **self._dispatch.table,
        }

    def deadline(self) -> float:
        """When `tick` is wanted; the past while there is credit to flush."""
        return min(self._grants.deadline(), self._timers.deadline(), self._settling.deadline())

    def tick(self, now: float) -> None:
        """Flush credit, then let due timers act."""
        for peer, credit in self._grants.take():
            self._send(peer, credit, now)
        self._settling.tick(now, self._send)
        for kind, number in self._timers.due(now):
            request = self.requests[number]
            if kind == DEADLINE:
                self._finish(request, Reason.DEADLINE, now)
            elif kind == STALL:
                self._losses.look_at_stall(request, now)
            else:
                self._dispatch.kinds[kind](request, now)

    def overdue(self, late_s: float, now: float) -> None:
        """We were stopped: a stream's silence in that time does not count. Deadlines do: they are promises."""
        for request in self.requests.values():
            request.heard = min(request.heard + late_s, now)

    # --- Events from the caller ----------------------------------------------------------------------

    def ask(self, ask: Ask, now: float) -> None:
        """Begin a request."""
        assert ask.request not in self.requests, "request numbers are never reused"
        request = self.requests[ask.request] = begun(ask, now)
        self._count("requests.asked")
        if request.deadline < inf:
            self._timers.set((DEADLINE, request.number), request.deadline)
        self._dispatch.place(request, now)

    def consumed(self, event: Consumed, now: float) -> None:
        """The caller has taken more: grant more once half the window is used."""
        request = self.requests.get(event.request)
        if request is None or event.position <= request.consumed:
            return
        request.consumed = min(event.position, request.position)
        limit = request.limit()
        for claim in request.legs():
            if limit - claim.limit >= (request.ask.window + 1) // 2 and (claim.running or not claim.alone):
                claim.state = send(OWNER, claim.state, Verb.CREDIT)
                self._grants.add(claim, limit)

    def _run(self, request: Request | None, claim: Claim) -> None:
        """It has its slot. A suspect waits for our word: only who got it can have killed its holder."""
        if claim.alone and not claim.running and request is not None:
            claim.state = send(OWNER, claim.state, Verb.CREDIT)
            self._grants.add(claim, request.limit())
        claim.running = True

    def abandon(self, event: Abandon, now: float) -> None:
        """The caller wants no more: a stop lets the leg finish, a kill ends the request here and now."""
        if (request := self.requests.get(event.request)) is None:
            return
        if event.strength == Strength.KILL:
            self._finish(request, event.reason, now)
        elif request.claim is None:
            self._finish(request, Reason.STOPPED, now)
        elif not request.stopping:
            request.stopping = True
            for claim in request.legs():
                self._walk.cancel(claim, Strength.STOP, Reason.STOPPED, request.position, now)

    # --- Messages from holders -------------------------------------------------------------------------

    def _claim(self, peer: int, message: Accept | Reject | End | Error | Migrate | Part, now: float) -> Claim | None:
        """The leg that a message names. One that we do not know is stale: counted, and told to stop."""
        claim = self.claims.get(peer, message.request, message.attempt)
        if claim is None:
            self._count("requests.stale")
            if isinstance(message, Accept | Part):
                self._tell_stale(peer, message.request, message.attempt, now)
        return claim

    def _tell_stale(self, peer: int, request: int, attempt: int, now: float) -> None:
        self._send(peer, Cancel(request, attempt, 0, int(Strength.KILL), int(Reason.ORPHAN)), now)

    def _accept(self, peer: int, message: Accept, now: float) -> None:
        claim = self._claim(peer, message, now)
        if claim is not None:
            claim.receive(Verb.ACCEPT)
            request = self._walk.of(claim)
            if message.waiting == 0:
                self._run(request, claim)
            if request is not None:
                request.heard = now
                request.housed = request.housed or now
                if not claim.feeder:
                    request.rejects = request.pinned = 0

    def _chunk(self, peer: int, message: Chunk, now: float) -> None:
        """What is common is inline, for it runs for each token: tokens that continue a request, within its credit."""
        claims, requests, out = self.claims.at(peer), self.requests, self._out
        for part in message.parts:
            claim = claims.get((part.request, part.attempt))
            request = requests.get(part.request)
            tokens = part.tokens
            if (
                claim is None
                or request is None
                or request.claim is not claim
                or claim.state is not Leg.RUNNING
                or type(tokens) is not list
                or not tokens
                or part.position != request.position
                or part.items is not None
                or part.cached
                or part.position + len(tokens) > claim.limit
                or len(request.tokens) != request.position
            ):
                self._part(peer, part, now)
                continue
            request.position += len(tokens)
            request.tokens += tokens
            request.heard = now
            if request.uneasy:
                self._unit_came(request, now)
            out.append(Deliver(part.request, part.position, (), tokens))

    def _part(self, peer: int, part: Part, now: float) -> None:
        claim = self._claim(peer, part, now)
        if claim is None:
            return
        claim.receive(Verb.CHUNK)
        request = self._walk.of(claim)
        self._run(request, claim)
        if request is not None:
            if request.position == request.walk_start:  # later legs were handed what they do not compute
                request.cached = part.cached or request.cached
            self._take(request, claim, part, now)

    def _take(self, request: Request, claim: Claim, part: Part, now: float) -> None:
        """Deliver what continues the request; drop what was delivered before; move on a gap."""
        end = part.position + (codec.count(part.tokens) or len(part.items or ()))
        if end > claim.limit and end > part.position:
            raise RemoteError(Reason.ILLEGAL, f"position {end} beyond the credit of {claim.limit}")
        if claim.awaits and end > part.position:
            raise RemoteError(Reason.ILLEGAL, "a unit of a leg that awaits another")
        if claim.feeder and part.items and not codec.count(part.tokens):
            raise RemoteError(Reason.ILLEGAL, "a feeder makes tokens, or nothing")
        start = request.position
        if part.position > start:
            self._count("requests.gaps")
            self._losses.move(request, claim, Reason.GAP, now)
            return
        request.heard = now
        tokens, items = request.take(part)
        if tokens or items:
            self._unit_came(request, now)
            self._out.append(Deliver(request.number, start, items, tokens))
        elif end > part.position:
            self._count("requests.duplicates")

    def _unit_came(self, request: Request, now: float) -> None:
        """The first unit of a leg, or after a loss."""
        request.absolve()
        self._settling.first(request.number, request.walk, now)

    def _ended(
        self, peer: int, message: Reject | End | Error | Migrate, verb: Verb, now: float
    ) -> tuple[Request, Claim] | None:
        """A leg is over by one of four messages: the request that has to do without it, unless it did already."""
        claim = self._claim(peer, message, now)
        if claim is None:
            return None
        request = self._walk.of(claim)
        if claim.receive(verb):
            self.claims.remove(claim)
        if request is None:
            return None
        request.drop(claim)
        return request, claim

    def _end(self, peer: int, message: End, now: float) -> None:
        if (ended := self._ended(peer, message, Verb.END, now)) is None:
            return
        request, claim = ended
        if message.position > request.position or (claim.awaits and not request.stopping):
            self._count("requests.gaps")
            self._losses.lost(request, Reason.GAP, peer, now)
        elif claim.feeder or request.ahead or request.claim is not None:
            self._walk.go_on(request, now)
        elif message.position < request.position and not request.stopping:
            text = f"it ended after {message.position} units, {request.position} were delivered before it moved"
            self._finish(request, Reason.FAILED, now, text=text)
        else:
            self._finish(request, Reason.of(message.reason), now)

    def _error(self, peer: int, message: Error, now: float) -> None:
        if (ended := self._ended(peer, message, Verb.ERROR, now)) is None:
            return
        request, claim = ended
        reason = Reason.of(message.reason)
        unfed = reason is Reason.UNAVAILABLE and bool(request.handles)  # what others made did not come: that is a loss
        if claim.spent:
            self._count("requests.feeders_failed")
            request.let_down = True
            self._walk.go_on(request, now)
        elif message.retryable and not request.stopping and (unfed or self._budget.spend(now)):
            if not (unfed and request.let_down):
                request.exclude(peer, now)
            request.turn_back(now)
            self._losses.again(request, reason, now)
        else:
            self._finish(request, reason, now, message.name, message.text)

    def _reject(self, peer: int, message: Reject, now: float) -> None:
        if (ended := self._ended(peer, message, Verb.REJECT, now)) is None:
            return
        request, claim = ended
        reason = Reason.of(message.reason)
        self._count(f"requests.rejected.{reason.label}")
        final = request.refused(peer, message, now)
        if request.stopping:
            self._walk.go_on(request, now)
        elif final:
            told = Reason.UNAVAILABLE if reason in (Reason.DRAINING, Reason.NO_ENDPOINT, Reason.STALE) else reason
            self._finish(request, told, now, text=message.text)
        elif not (request.handles and self._dispatch.instead(request, claim, now)):
            self._walk.anew(request, now)

    def _migrate(self, peer: int, message: Migrate, now: float) -> None:
        if (ended := self._ended(peer, message, Verb.MIGRATE, now)) is None:
            return
        request, claim = ended
        self._count("requests.migrated")
        start = request.position
        request.exclude(peer, now)
        try:
            tokens = request.take_over(message.resume)
        except RemoteError:
            self._losses.lost(request, Reason.ILLEGAL, peer, now)
            raise
        if tokens:
            self._unit_came(request, now)
            self._out.append(Deliver(request.number, start, (), tokens))
        if claim.spent or request.stopping:
            request.let_down = True
            self._walk.go_on(request, now)
            return
        request.migrations += 1
        request.homeless = now
        if not message.handle and request.legs() and self._dispatch.instead(request, claim, now):
            return
        self._walk.leave(request, now)
        if message.handle:
            request.handles, request.carries = [message.handle], True
        if request.migrations > MIGRATIONS_MAX:
            self._finish(request, Reason.MOVED_TOO_OFTEN, now, text=f"{request.migrations} migrations")
        else:
            self._dispatch.place(request, now)

    def _cancelled(self, peer: int, message: Cancelled, now: float) -> None:
        claim = self.claims.get(peer, message.request, message.attempt)
        if claim is not None and claim.receive(Verb.CANCELLED):  # None: the answer to what we told a stale leg
            self.claims.remove(claim)

    def _sync(self, peer: int, message: Sync, now: float) -> None:
        """All that the holder has of ours: cancel what we do not know, move what it does not."""
        self._count("sync.received")
        unknown, vanished = self.claims.compare(peer, message)
        for leg in unknown:
            self._count("sync.orphans")
            self._tell_stale(peer, leg.request, leg.attempt, now)
        for claim in vanished:
            self._count("sync.vanished")
            self.claims.remove(claim)
        self._losses.gone(peer, vanished, Reason.VANISHED, now)

    # --- The end ---------------------------------------------------------------------------------------

    def peer_down(self, peer: int, reason: Reason, now: float) -> None:
        """Every leg there is gone."""
        self._grants.forget(peer)
        self._losses.gone(peer, self.claims.drop_peer(peer), reason, now)
        self._dispatch.router_down(peer, now)

    def close(self, now: float) -> None:
        """We leave: nothing that is still open will get an answer."""
        for request in list(self.requests.values()):
            self._finish(request, Reason.DRAINING, now, text="this node has left the mesh")

    def _finish(self, request: Request, reason: Reason, now: float, name: str = "", text: str = "") -> None:
        """The one door: whatever the end is, it is told once, and nothing of the request stays but legs that owe us."""
        self._dispatch.unwait(request)
        del self.requests[request.number]
        if request.deadline < inf:
            self._timers.clear((DEADLINE, request.number))
        if request.ask.stall_s > 0:
            self._timers.clear((STALL, request.number))
        if reason in (Reason.COMPLETE, Reason.LENGTH):
            self._budget.earn()
        self._walk.over(request, reason, now)
        self._settling.over(request.number, now)
        self._count(f"requests.finished.{reason.label}")
        self._out.append(request.finish(reason, name, text))

    def check(self) -> None:
        """Assert every invariant of requests and of the legs that we claim."""
        self.claims.check()
        waiting = self._placing.waiting.all()
        assert all(number in self.requests for number in waiting)
        for number, request in self.requests.items():
            assert number == request.number
            assert request.waiting == (number in waiting)
            request.check()
            for claim in request.legs():
                assert self.claims.get(claim.peer, claim.request, claim.attempt) is claim
                assert claim.state in (Leg.SUBMITTED, Leg.RUNNING, Leg.STOPPING), claim.state
