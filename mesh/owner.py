"""Pure. The owner's side of requests: place, submit, deliver, cancel, move, and end each exactly once.

A request is in one of three conditions: it waits for an instance, it has a current leg (`claim`), or it is over and
gone. Legs outlive their request until the holder has answered what it owes. Units are taken if and only if they come
from the current leg and continue what was delivered. `_finish` is the only door out. proto/README.md, "Requests".
"""

from collections.abc import Callable
from functools import partial
from math import inf
from random import Random

from mesh.budget import Budget
from mesh.claims import Claim, Claims
from mesh.core import Abandon, Ask, Consumed, Deliver
from mesh.dispatch import ROUTE, STALL, WAIT, Dispatch
from mesh.grants import Grants
from mesh.peer import Peer
from mesh.placing import Placing
from mesh.ports import Ports, Table, receive
from mesh.request import Request
from mesh.timers import Timers
from proto import codec
from proto.errors import Reason, RemoteError
from proto.messages import Accept, Cancel, Cancelled, Chunk, End, Error, Migrate, Part, Reject, Strength, Sync
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
        self._dispatch = Dispatch(self._placing, self.requests, self.claims, self._timers, ports, self._finish)
        self.peer_ready = self._dispatch.peer_ready
        table: Table = {
            Chunk: self._chunk,
            Accept: self._accept,
            Reject: self._reject,
            End: self._end,
            Error: self._error,
            Migrate: self._migrate,
            Cancelled: self._cancelled,
            Sync: self._sync,
            **self._dispatch.table,
        }
        self.received = partial(receive, table, ports)

    def deadline(self) -> float:
        """When `tick` is wanted; the past while there is credit to flush."""
        return min(self._grants.deadline(), self._timers.deadline())

    def tick(self, now: float) -> None:
        """Flush credit, then let due timers act."""
        for peer, credit in self._grants.take():
            self._send(peer, credit, now)
        for kind, number in self._timers.due(now):
            request = self.requests[number]
            if kind == DEADLINE:
                self._finish(request, Reason.DEADLINE, now)
            elif kind == STALL:
                self._look_at_stall(request, now)
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
        request = self.requests[ask.request] = Request(ask, now)
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
        claim = request.claim
        if claim is None or claim.state not in (Leg.SUBMITTED, Leg.RUNNING, Leg.STOPPING):
            return
        limit = request.limit()
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
            self._cancel(request.claim, Strength.STOP, Reason.STOPPED, request.position, now)

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

    def _current(self, claim: Claim) -> Request | None:
        request = self.requests.get(claim.request)
        return request if request is not None and request.claim is claim else None

    def _accept(self, peer: int, message: Accept, now: float) -> None:
        claim = self._claim(peer, message, now)
        if claim is not None:
            claim.receive(Verb.ACCEPT)
            request = self._current(claim)
            if message.waiting == 0:
                self._run(request, claim)
            if request is not None:
                request.heard, request.rejects, request.pinned = now, 0, 0

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
            if request.moves or request.suspect or request.unheard:
                request.absolve()
            out.append(Deliver(part.request, part.position, (), tokens))

    def _part(self, peer: int, part: Part, now: float) -> None:
        claim = self._claim(peer, part, now)
        if claim is None:
            return
        claim.receive(Verb.CHUNK)
        request = self._current(claim)
        self._run(request, claim)
        if request is not None:
            request.cached = part.cached or request.cached
            self._take(request, claim, part, now)

    def _take(self, request: Request, claim: Claim, part: Part, now: float) -> None:
        """Deliver what continues the request; drop what was delivered before; move on a gap."""
        end = part.position + (codec.count(part.tokens) or len(part.items or ()))
        if end > claim.limit and end > part.position:
            raise RemoteError(Reason.ILLEGAL, f"position {end} beyond the credit of {claim.limit}")
        start = request.position
        if part.position > start:
            self._count("requests.gaps")
            self._move(request, Reason.GAP, now)
            return
        request.heard = now
        tokens, items = request.take(part)
        if tokens or items:
            self._out.append(Deliver(request.number, start, items, tokens))
        elif end > part.position:
            self._count("requests.duplicates")

    def _ended(self, peer: int, message: Reject | End | Error | Migrate, verb: Verb, now: float) -> Request | None:
        """A leg is over by one of four messages: the request that goes on without it, if it was current."""
        claim = self._claim(peer, message, now)
        if claim is None:
            return None
        request = self._current(claim)
        if claim.receive(verb):
            self.claims.remove(claim)
        if request is not None:
            request.claim = None
        return request

    def _end(self, peer: int, message: End, now: float) -> None:
        request = self._ended(peer, message, Verb.END, now)
        if request is None:
            return
        if message.position > request.position:
            self._count("requests.gaps")
            self._move(request, Reason.GAP, now)
        elif message.position < request.position and not request.stopping:
            text = f"it ended after {message.position} units, {request.position} were delivered before it moved"
            self._finish(request, Reason.FAILED, now, text=text)
        else:
            self._finish(request, Reason.of(message.reason), now)

    def _error(self, peer: int, message: Error, now: float) -> None:
        request = self._ended(peer, message, Verb.ERROR, now)
        if request is None:
            return
        if message.retryable and not request.stopping and self._budget.spend(now):
            request.exclude(peer, now)
            self._again(request, Reason.of(message.reason), now)
        else:
            self._finish(request, Reason.of(message.reason), now, message.name, message.text)

    def _reject(self, peer: int, message: Reject, now: float) -> None:
        request = self._ended(peer, message, Verb.REJECT, now)
        if request is None:
            return
        reason = Reason.of(message.reason)
        self._count(f"requests.rejected.{reason.label}")
        final = request.refused(peer, message, now)
        if request.stopping:
            self._finish(request, Reason.STOPPED, now)
        elif final:
            told = Reason.UNAVAILABLE if reason in (Reason.DRAINING, Reason.NO_ENDPOINT, Reason.STALE) else reason
            self._finish(request, told, now, text=message.text)
        else:
            self._dispatch.place(request, now)

    def _migrate(self, peer: int, message: Migrate, now: float) -> None:
        request = self._ended(peer, message, Verb.MIGRATE, now)
        if request is None:
            return
        self._count("requests.migrated")
        start = request.position
        request.exclude(peer, now)
        try:
            tokens = request.take_over(message.resume)
        except RemoteError:
            self._lost(request, Reason.ILLEGAL, peer, now)
            raise
        if tokens:
            self._out.append(Deliver(request.number, start, (), tokens))
        request.migrations += 1
        request.homeless = now
        if request.stopping:
            self._finish(request, Reason.STOPPED, now)
        elif request.migrations > MIGRATIONS_MAX:
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
            request = self._current(claim)
            self.claims.remove(claim)
            if request is not None:
                request.claim = None
                self._lost(request, Reason.VANISHED, claim.peer, now)

    # --- Losing and moving -----------------------------------------------------------------------------

    def peer_down(self, peer: int, reason: Reason, now: float) -> None:
        """Every leg there is gone."""
        self._grants.forget(peer)
        for claim in self.claims.drop_peer(peer):
            request = self._current(claim)
            if request is not None:
                request.claim = None
                if reason is Reason.LEFT and claim.state is Leg.SUBMITTED:
                    self._dispatch.place(request, now)  # an Accept would have come before the Bye: nothing was started
                    continue
                if reason is Reason.LINK_LOST and request.blame(claim):
                    self._count("requests.suspects")
                self._lost(request, reason, peer, now)
        self._dispatch.router_down(peer, now)

    def peer_hung(self, peer: int, now: float) -> None:
        """What can go on elsewhere does; the rest waits for the engine or for its deadline."""
        for claim in self.claims.of(peer):
            request = self._current(claim)
            if request is not None and request.resumable:
                self._move(request, Reason.HUNG, now)

    def _lost(self, request: Request, reason: Reason, peer: int, now: float) -> None:
        self._count("requests.lost_legs")
        request.homeless = now
        if request.stopping:
            self._finish(request, Reason.STOPPED, now)
        elif request.resumable:
            self._again(request, reason, now)
        else:
            text = f"the instance {peer:016x} was lost ({reason.label}) and {request.ask.endpoint} cannot resume"
            self._finish(request, Reason.LOST, now, text=text)

    def _move(self, request: Request, reason: Reason, now: float) -> None:
        """Take the request away from a live holder."""
        claim = request.claim
        if claim is not None:
            request.claim = None
            request.exclude(claim.peer, now)
            self._cancel(claim, Strength.KILL, Reason.MOVED, request.position, now)
        self._lost(request, reason, request.nodes[-1], now)

    def _again(self, request: Request, reason: Reason, now: float) -> None:
        request.moves += 1
        if request.moves > request.ask.moves_max:
            text = f"lost {request.moves} instances, the last one because: {reason.label}"
            self._finish(request, Reason.MOVED_TOO_OFTEN, now, text=text)
        else:
            self._count("requests.moved")
            self._dispatch.place(request, now)

    def _look_at_stall(self, request: Request, now: float) -> None:
        due = request.heard + request.ask.stall_s
        if now < due or request.claim is None:
            self._timers.set((STALL, request.number), due if due > now else now + request.ask.stall_s)
        elif request.resumable:
            self._move(request, Reason.STALLED, now)
        else:
            self._finish(request, Reason.STALLED, now, text=f"nothing for {request.ask.stall_s:g} s")

    def close(self, now: float) -> None:
        """We leave: nothing that is still open will get an answer."""
        for request in list(self.requests.values()):
            self._finish(request, Reason.DRAINING, now, text="this node has left the mesh")

    def _cancel(self, claim: Claim, strength: Strength, reason: Reason, position: int, now: float) -> None:
        if (message := claim.cancel(strength, reason, position)) is not None:
            self._send(claim.peer, message, now)

    def _finish(self, request: Request, reason: Reason, now: float, name: str = "", text: str = "") -> None:
        """The one door: whatever the end is, it is told once, and nothing of the request stays but legs that owe us."""
        self._dispatch.unwait(request)
        del self.requests[request.number]
        for kind in (DEADLINE, STALL, WAIT, ROUTE):
            self._timers.clear((kind, request.number))
        if reason in (Reason.COMPLETE, Reason.LENGTH):
            self._budget.earn()
        if request.claim is not None:
            self._cancel(request.claim, Strength.KILL, reason, request.position, now)
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
            claim = request.claim
            if claim is not None:
                assert self.claims.get(claim.peer, claim.request, claim.attempt) is claim
                assert claim.state in (Leg.SUBMITTED, Leg.RUNNING, Leg.STOPPING), claim.state
