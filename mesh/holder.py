"""Pure. The holder's side of requests: accept or reject, run, send within credit, answer every Cancel, hand over.

A leg's slot is given back when what `Start` started says that it has ended, and not before: a cancel that has been
answered is a slot that is free. Parts are gathered and leave at the end of the turn. proto/README.md, "Requests".
"""

from collections.abc import Callable, Sequence
from math import inf

from mesh.audit import Audit
from mesh.core import (
    Checkpointed,
    Failed,
    Finished,
    Go,
    Halt,
    Hint,
    Pause,
    Prepared,
    Produced,
    Stepped,
    Unpause,
    Yielded,
)  # fmt: skip
from mesh.core import Leg as LegName
from mesh.held import Held
from mesh.leaving import Leaving
from mesh.outgoing import Outbound
from mesh.ports import Ports, Table
from mesh.pulse import Progress
from mesh.refusals import refusal_of
from mesh.settings import Settings
from mesh.slots import Slots
from mesh.timers import Timers
from mesh.tombstones import Tombstones
from proto import codec, limits, request
from proto.errors import Reason, RemoteError
from proto.messages import Accept, Cancel, Cancelled, Credit, Fate, Fed, Handed, Load, Ping, Reject, Strength, Submit
from proto.request import HOLDER, Leg, Verb, digest, send, verb


class Holder:
    """All legs held here. `elsewhere` says whether another node is known to serve an endpoint."""

    def __init__(self, settings: Settings, ports: Ports, elsewhere: Callable[[str], bool]) -> None:
        self._offers = {offer.endpoint: offer for offer in settings.offers}
        self._out = ports.out
        self._count = ports.count
        self._send = ports.send
        self.legs: dict[LegName, Held] = {}
        self.slots = Slots(settings.offers, settings.slots, settings.queue, settings.engine)
        self._leaving = Leaving(self.legs, elsewhere, self._hand_over, self._halt)
        self.leave, self.move_on = self._leaving.begin, self._leaving.move_on
        self._tombstones = Tombstones()
        self._audit = Audit()
        self._outbound = Outbound()
        self._timers: Timers[LegName] = Timers()
        self._engine = settings.engine
        self.progress = Progress()
        legs: Table = {Submit: self._submit, Credit: self._credit, Cancel: self._cancel, Fed: self._fed}
        self.table: Table = {**legs, Ping: self._ping}

    def deadline(self) -> float:
        """When `tick` is wanted; the past while there are parts to flush."""
        return -inf if self._outbound else min(self._timers.deadline(), self._leaving.grace_ends)

    def tick(self, now: float) -> None:
        """Flush what was gathered, then let due timers act."""
        self._leaving.tick(now)
        for name in self._timers.due(now):
            self._count("legs.deadline")
            self._halt(self.legs[name], Reason.DEADLINE, now)
        for owner in self._outbound.owners():
            self._flush(owner, now)
        self._tombstones.expire(now)

    def load(self) -> tuple[int, Load]:
        """Progress and load for a Pong."""
        idle = bool(self._engine) and not self.slots.busy(self._engine)
        return self.progress.look(idle), self.slots.load()

    # --- Messages from owners --------------------------------------------------------------------------

    def _submit(self, owner: int, message: Submit, now: float) -> None:
        name = LegName(owner, message.request, message.attempt)
        if name in self.legs:
            raise RemoteError(Reason.ILLEGAL, "an attempt submitted twice")
        self._audit.submitted(owner)
        refusal = refusal_of(message, name, self._offers, self._tombstones, self._leaving.begun, self.slots)
        if refusal is not None:
            reason, retry_ms, text = refusal
            self._count(f"legs.rejected.{reason.label}")
            self._send(owner, Reject(name.request, name.attempt, message.position, int(reason), retry_ms, text), now)
            return
        self._accept(name, message, now)

    def _accept(self, name: LegName, message: Submit, now: float) -> None:
        deadline = now + message.deadline_ms / 1000 if message.deadline_ms else inf
        tokens = list(codec.unpack(message.resume.tokens)) if message.resume else []
        message.prompt = codec.unpack(message.prompt)  # bytes that are no tokens are its sender's fault: find out now
        held = self.legs[name] = Held(name, message, self._offers[message.endpoint], tokens, deadline)
        held.state = send(HOLDER, held.state, Verb.ACCEPT)
        self._audit.held(*_fields(name))
        if deadline < inf:
            self._timers.set(name, deadline)
        if message.suspect:
            self._isolate(name, message.endpoint, now)
        place = 0 if self.slots.free(message.endpoint) else self.slots.waiting + 1
        self._send(name.owner, Accept(name.request, name.attempt, message.position, place), now)
        self._count("legs.accepted")
        self.legs[name].queued = place > 0
        self.slots.enqueue(message.endpoint, name)
        self._fill()

    def _isolate(self, name: LegName, endpoint: str, now: float) -> None:
        """A suspect runs alone: the others go on elsewhere, or it waits for them."""
        self._count("legs.suspects")
        self.slots.isolate(name)
        self._leaving.clear(Reason.PREEMPT, now, endpoint if self._engine else "")

    def _fill(self) -> None:
        """Start what waits, while there is room. A suspect that could start is told so, and waits for its owner."""
        ready = self.slots.to_be_asked()
        if ready is not None:
            self._outbound.to(ready.owner).started(self.legs[ready])
        for name in self.slots.take():
            held = self.legs[name]
            held.started = True
            self._out.append(held.start())
            if held.queued and not held.submit.suspect:
                self._outbound.to(name.owner).started(held)

    def _credit(self, owner: int, message: Credit, now: float) -> None:
        for grant in message.grants:
            held = self.legs.get(LegName(owner, grant.request, grant.attempt))
            if held is None:
                continue  # it crossed our end: (closed, credit) is legal
            held.state = request.receive(HOLDER, held.state, Verb.CREDIT)
            held.grant(grant.limit)
            self._pump(held, now)
            if self.slots.allow(held.name):
                self._fill()

    def _fed(self, owner: int, message: Fed, now: float) -> None:
        """What it awaited is over. If it has not started, it starts behind what was made."""
        held = self.legs.get(LegName(owner, message.request, message.attempt))
        if held is None:
            return  # it crossed our end: (closed, fed) is legal
        held.state = request.receive(HOLDER, held.state, Verb.FED)
        tokens = [*codec.unpack(message.tokens)]
        held.fed(message.position, tokens)
        if held.started:
            self._out.append(Go(held.name, message.position, tokens))
        self._pump(held, now)

    def _cancel(self, owner: int, message: Cancel, now: float) -> None:
        name = LegName(owner, message.request, message.attempt)
        strength = Strength.STOP if message.strength == Strength.STOP else Strength.KILL
        held = self.legs.get(name)
        if held is None:
            self._answer_late(name, strength, now)
            return
        self._count(f"legs.cancelled.{strength.name.lower()}")
        held.state = request.receive(HOLDER, held.state, verb(message))
        held.due.append(strength)
        if held.state is Leg.KILLING:
            self._kill(held, now)
        else:
            self._stop(held, now)

    def _answer_late(self, name: LegName, strength: Strength, now: float) -> None:
        """A cancel for a leg that has ended, or that never came: answered all the same, and remembered."""
        known = self._tombstones.known(name)
        position = self._tombstones.position(name)
        self._tombstones.add(name, position, now)
        fate = Fate.ENDED if known else Fate.UNKNOWN
        self._outbound.to(name.owner).end(Cancelled(name.request, name.attempt, position, int(fate), int(strength)))

    def _kill(self, held: Held, now: float) -> None:
        held.pending.clear()
        if held.started:
            if held.halting is None:
                held.halting = Reason.KILLED
                self._out.append(Halt(held.name))
        else:
            self._settle(held, now)

    def _stop(self, held: Held, now: float) -> None:
        if held.started:
            self._out.append(Hint(held.name))
        else:
            held.end = held.end or (Reason.STOPPED, "", "", False)
            self._pump(held, now)

    def _ping(self, owner: int, message: Ping, now: float) -> None:
        """Compare what the owner believes with what we hold; list it when they keep differing."""
        if self._audit.differs(owner, message):
            self._count("sync.sent")
            self._flush(owner, now)
            self._send(owner, self._audit.sync(owner, [held.name for held in self._of(owner)]), now)

    def _of(self, owner: int) -> list[Held]:
        return [held for held in self.legs.values() if held.name.owner == owner and not held.orphan]

    def peer_down(self, owner: int, now: float) -> None:
        """The owner's sessions are void: nobody wants what we do for it."""
        self._outbound.take(owner)
        self._audit.forget(owner)
        for held in self._of(owner):
            self._count("legs.orphaned")
            held.orphan = True
            held.part = None
            held.state = Leg.KILLING
            self._kill(held, now)

    # --- Events from what runs a leg -------------------------------------------------------------------

    def produced(self, event: Produced, now: float) -> None:
        """A handler or an engine made something."""
        held = self.legs.get(event.leg)
        if held is None or not held.started or held.state is Leg.KILLING:
            return
        held.produce(list(event.tokens), list(event.items))
        self._pump(held, now)

    def stepped(self, event: Stepped, now: float) -> None:
        """An engine made a step. This runs for each token that the mesh serves, so what is common is inline."""
        self.progress.made(event.steps)
        legs, outbound = self.legs, self._outbound
        for name, cached in event.cached:
            if name in legs:
                legs[name].cached = cached
        for name, tokens, items in event.made:
            held = legs.get(name)
            if held is None or not held.started or held.state is Leg.KILLING:
                continue
            end = held.position + len(tokens)
            if items or held.pending or end > held.limit:
                held.produce(list(tokens), list(items))
                self._pump(held, now)
            else:
                outbound.to(name.owner).one(held, held.position, tokens)
                held.tokens += tokens
                held.position = held.sent = end
        if self.slots.suspect is not None:
            self._absolve(event.made)

    def _absolve(self, made: Sequence[tuple[LegName, Sequence[int], Sequence[bytes]]]) -> None:
        """A suspect that has made a unit has not killed us."""
        for name, _, _ in made:
            if self.slots.absolve(name):
                self._fill()

    def checkpointed(self, event: Checkpointed, now: float) -> None:
        """From here on it can be resumed with this state."""
        held = self.legs.get(event.leg)
        if held is None or not held.started or held.state is Leg.KILLING:
            return
        held.pending.append((held.position, [], [], event.state))
        self._pump(held, now)

    def prepared(self, event: Prepared, now: float) -> None:
        """What a later leg of its request needs lies there, or will."""
        held = self.legs.get(event.leg)
        if held is None or not held.started or held.state is Leg.KILLING:
            return
        assert len(event.handle) <= limits.HANDLE_BYTES_MAX
        held.state = send(HOLDER, held.state, Verb.HANDED)
        name = held.name
        self._outbound.to(name.owner).end(Handed(name.request, name.attempt, held.sent, event.handle))

    def finished(self, event: Finished, now: float) -> None:
        """The handler returned."""
        held = self._room_back(event.leg)
        if held is not None:
            stopped = held.state is Leg.STOPPING
            self._over(held, (Reason.STOPPED if stopped else event.reason, "", "", False), now)

    def failed(self, event: Failed, now: float) -> None:
        """The handler raised."""
        held = self._room_back(event.leg)
        if held is not None:
            text = event.text[: limits.TEXT_CHARS_MAX]
            self._over(held, (event.reason, event.name[: limits.NAME_CHARS_MAX], text, event.retryable), now)

    def yielded(self, event: Yielded, now: float) -> None:
        """The handler is gone because we told it to go."""
        held = self._room_back(event.leg)
        if held is None:
            return
        reason = held.halting or event.reason or Reason.KILLED
        if held.state is not Leg.KILLING and reason in (Reason.DRAIN, Reason.PREEMPT):
            self._hand_over(held, reason, now, event.handle)
        else:
            self._over(held, (reason, "", "", False), now)

    def _room_back(self, name: LegName) -> Held | None:
        """The leg whose handler has just ended; its slot goes to the next."""
        held = self.legs.get(name)
        if held is None or not held.started:
            return None
        held.started = False
        self.slots.absolve(name)
        self.slots.give_back(held.submit.endpoint)
        self._fill()
        return held

    def _over(self, held: Held, end: tuple[Reason, str, str, bool], now: float) -> None:
        held.end = end
        if held.state is Leg.KILLING:
            self._settle(held, now)
        else:
            self._pump(held, now)

    # --- Sending -----------------------------------------------------------------------------------------

    def _pump(self, held: Held, now: float) -> None:
        """Send what credit allows; pause or unpause the handler; end the leg once all is sent."""
        while (stretch := held.take_stretch()) is not None:
            self._outbound.to(held.name.owner).add(held, stretch)
            position, tokens, items, checkpoint = stretch
            held.sent = position + (len(tokens) or len(items))
            if checkpoint is not None:
                held.checkpoint, held.checkpoint_position = checkpoint, held.sent
        behind = bool(held.pending)
        if held.started and behind != held.paused:
            held.paused = behind
            self._out.append(Pause(held.name) if behind else Unpause(held.name))
        if held.end is not None and not behind and not held.too_early():
            self._say_end(held, now)

    def _say_end(self, held: Held, now: float) -> None:
        """Its last word, once all that it made is sent."""
        message = held.last_word()
        held.state = send(HOLDER, held.state, verb(message))
        self._outbound.to(held.name.owner).end(message)
        self._settle(held, now)

    def _hand_over(self, held: Held, reason: Reason, now: float, handle: bytes = b"") -> None:
        """Migrate: the owner places the leg elsewhere, from this state."""
        held.pending.clear()
        held.state = send(HOLDER, held.state, Verb.MIGRATE)
        self._count("legs.migrated")
        self._outbound.to(held.name.owner).end(held.migrate(reason, handle))
        self._settle(held, now)

    def _settle(self, held: Held, now: float) -> None:
        """The leg is over: answer the Cancels that it owes, and leave a tombstone."""
        name = held.name
        if not held.orphan:
            for answer in held.answers():
                self._outbound.to(name.owner).end(answer)
            self._audit.ended(*_fields(name))
        if not held.started:
            self.slots.dequeue(held.submit.endpoint, name)
        if self.slots.absolve(name):
            self._fill()
        self._tombstones.add(name, held.sent, now)
        self._timers.clear(name)
        del self.legs[name]

    def _flush(self, owner: int, now: float) -> None:
        for message in self._outbound.take(owner):
            self._send(owner, message, now)

    def _halt(self, held: Held, reason: Reason, now: float) -> None:
        """End a leg for a reason of ours."""
        if held.halting is not None or held.state is Leg.KILLING:
            return
        if held.started:
            held.halting = reason
            self._out.append(Halt(held.name, keep=reason in (Reason.DRAIN, Reason.PREEMPT)))
        elif reason is Reason.DRAIN:
            self._hand_over(held, reason, now)  # its handler has ended, but its reader is behind
        elif held.end is None or held.pending:
            held.pending.clear()
            held.end = (reason, "", "", False)
            self._pump(held, now)

    def check(self) -> None:
        """Assert every invariant of the legs that we hold."""
        started: dict[str, int] = {}
        owned: dict[int, list[tuple[int, int]]] = {}
        for name, held in self.legs.items():
            assert name == held.name
            held.check()
            started[held.submit.endpoint] = started.get(held.submit.endpoint, 0) + held.started
            if not held.orphan:
                owned.setdefault(name.owner, []).append((name.request, name.attempt))
        self.slots.check(started)
        self._audit.check({owner: (len(legs), digest(legs)) for owner, legs in owned.items()})
        self._tombstones.check()


def _fields(name: LegName) -> tuple[int, int, int]:
    return name.owner, name.request, name.attempt
