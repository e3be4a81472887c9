"""Pure. What must be true: with every event, with every message, and some time after a fault. Numbers are invariants.

An oracle believes nothing that a core says about itself: it compares what callers got with the reference, and messages
with what was said before. What may be broken for a while (a cancelled leg's room, a deadline) is an obligation: looked
at when it is due, and again later if somebody was in trouble meanwhile.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from mesh.core import Deliver, Finish, Leg, Open, Remark
from mesh.simulation import verdicts, walks
from mesh.simulation.network import Link
from mesh.simulation.obligations import Obligations
from mesh.simulation.pairs import Pairs
from mesh.simulation.streams import ClientStream, Stream
from mesh.simulation.suspects import Suspects
from mesh.simulation.violation import require
from proto import codec
from proto.basics import Message
from proto.errors import Reason
from proto.messages import (
    Accept,
    Cancel,
    Cancelled,
    Chunk,
    Credit,
    Drain,
    End,
    Error,
    Fate,
    Fed,
    Handed,
    Hello,
    Migrate,
    Part,
    Reject,
    Reset,
    Strength,
    Submit,
    Welcome,
)  # fmt: skip
from proto.session import State

if TYPE_CHECKING:
    from mesh.simulation.handlers import Handler
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

LONG_AGO_S = 12.0  # what went wrong before that is over
CHECK_EVERY = 16  # events of a process between two looks at all of its core's own invariants
SLACK_S = 0.005  # clocks drift


class Oracles:
    """The judges of one run."""

    interest: tuple[type[Message], ...] = (Drain, Reject, Accept, Chunk, End, Error, Migrate, Handed)  # when heard

    def __init__(self, world: "World") -> None:
        self._world = world
        self._clock = world.clock
        self.events = 0
        self.streams: list[Stream] = []
        self.open_streams = 0
        self.reasons: dict[str, int] = {}
        self.submits = 0
        self._pairs = Pairs()
        self.suspects = Suspects()
        self.obligations = Obligations(world)
        self._transmitted: dict[type[Message], Callable[[Process, Link, Any], None]] = {
            Submit: self._submit,
            Credit: self._credit,
            Chunk: self._chunk,
            End: self._end,
            Reject: self._reject,
            Error: self._error,
            Cancel: self._cancel,
            Accept: self._accept,
            Cancelled: self._cancelled,
            Welcome: self._welcome,
            Migrate: self._migrate,
            Fed: self._fed,
            Handed: self._handed,
        }

    # --- At every event ------------------------------------------------------------------------------

    def handled(self, process: "Process") -> None:
        """An event and its effects are done."""
        self.events += 1
        if self.events % CHECK_EVERY == 0 and not process.departed:
            process.node.check()
            for endpoint, nodes in process.instances.items():
                true = process.node.instances(endpoint)
                require(nodes == true, "14 instances", f"{process.label} was told {nodes} for {endpoint}, not {true}")

    def remarked(self, process: "Process", effect: Remark) -> None:
        """All peers are honest here: whoever drops one is wrong, or the other is."""
        known = self._world.forgetful and effect.text.endswith(
            "cancelled while stopping"
        )  # of a leg that was forgotten
        fine = known or not effect.topic.startswith("dropped")
        require(fine, "9 protocol", f"{process.label}: {effect.text}")

    def opened(self, process: "Process", effect: Open) -> None:
        """Nobody dials a mesh that is not its own, unless it was given the bare address."""
        foreign = self._world.directory.foreign.get(effect.node)
        require(foreign is None or foreign == process.spec.mesh, "9 foreign", f"{process.label} dials {effect.address}")

    # --- What callers get ------------------------------------------------------------------------------

    def asked(self, stream: Stream) -> None:
        """A request begins; it must end in time."""
        self.streams.append(stream)
        self.open_streams += 1
        if stream.deadline < inf:
            self.obligations.keeps_deadline(stream)

    def delivered(self, stream: Stream, effect: Deliver) -> None:
        """Units: in order, without gap, equal to the reference, and from the current leg."""
        name = f"{stream.process.label}/{stream.request}"
        require(stream.over is None, "10 silence", f"{name} got units after its end")
        at = stream.position
        require(effect.position == at, "3 positions", f"{name} got {effect.position} after {at}")
        units = stream.units(effect)
        require(bool(units), "3 positions", f"{name} got nothing, or both tokens and items")
        wanted = stream.expected[at : at + len(units)]
        require(units == wanted, "2 values", f"{name} at {at}: got {units}, should be {wanted}")
        hearing = stream.process.hearing
        require(hearing is not None, "4 current", f"{name} got units out of nowhere")
        assert hearing is not None
        link, message = hearing
        leg = walks.maker(stream, link, message)
        require(leg is not None, "4 current", f"{name} took units of {link.name}, and may not")
        assert leg is not None
        leg.fruitless = False

    def finished(self, stream: Stream, effect: Finish) -> None:
        """Once, with a reason that fits what happened."""
        name = f"{stream.process.label}/{stream.request} ({stream.endpoint})"
        require(stream.over is None, "1 once", f"{name} ended twice")
        require(effect.position == stream.position, "3 positions", f"{name} ended at another position")
        reason = effect.reason.label
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.open_streams -= 1
        complaint = self.verdict(stream, effect)
        require(complaint is None, "2 ending", f"{name} ended {reason} at {stream.position}: {complaint}")
        for seen in stream.legs:
            holder = self._world.process_called(seen.holder)
            if holder is not None:
                leg = Leg(stream.process.node.settings.node, stream.request, seen.attempt)
                self.obligations.must_go(leg, stream.process, holder)

    def verdict(self, stream: Stream, effect: Finish) -> str | None:
        """Why it may not end like this; None if it may."""
        return verdicts.why_not(self._world, stream, effect)

    # --- What is sent ------------------------------------------------------------------------------------

    def transmitted(self, process: "Process", link: Link, sequence: int, message: Message) -> None:
        """A message leaves: numbered without gap, Hello first, and what its kind demands."""
        link.sent += 1
        require(sequence == link.sent, "9 sequence", f"{link.name}: {sequence} after {link.sent - 1}")
        if sequence == 1:
            require(isinstance(message, Hello | Reset), "9 hello", f"{link.name} begins with {type(message).__name__}")
        self._pairs.transmitted(link, message)
        look = self._transmitted.get(type(message))
        if look is not None:
            look(process, link, message)

    def _submit(self, process: "Process", link: Link, message: Submit) -> None:
        stream = process.streams[message.request]
        name = f"{process.label}/{message.request}"
        self.submits += 1
        require(stream.over is None, "10 silence", f"{name} is placed after its end")
        require(message.attempt > stream.attempt, "8 attempts", f"{name}: {message.attempt} after {stream.attempt}")
        require(message.position == stream.position, "3 positions", f"{name} is placed at {message.position}")
        most = max(stream.said + stream.window, stream.position)  # a hand-over may bring more than was granted
        require(message.limit <= most, "5 credit", f"{name}: {message.limit}")
        self._remaining(process, stream, message)
        self._willing(process, link, name)
        self._resumes(stream, message, name)
        self._may_run_again(stream, name)
        self.suspects.submitted(process, stream, link, message)
        away = stream.away.get(link.target.label, 0.0) if link.target is not None else 0.0
        require(self._clock.now >= away - SLACK_S, "14 willing", f"{name} is placed where it was told to stay away")
        walks.submitted(self._world, stream, link, message)
        verdicts.moves(self._world, stream)
        if stream.stall_s:
            self.obligations.is_impatient(stream)
        self._world.nemesis.submitted(process, link)

    def _resumes(self, stream: Stream, message: Submit, name: str) -> None:
        """The partial state goes along: all tokens, or the newest checkpoint but one that may still be under way."""
        least, at = stream.resumes_from(), stream.position
        resumed = message.resume.position if message.resume is not None else 0
        require(least <= resumed <= at, "2 values", f"{name} has {at} units and resumes at {resumed}")

    def _may_run_again(self, stream: Stream, name: str) -> None:
        """What cannot resume has effects: once begun it is never begun again, unless its handler says that it may."""
        fine = stream.resumable or stream.work.retryable or not stream.begun
        require(fine, "21 again", f"{name} ({stream.endpoint}) is placed again although it had begun")

    def _remaining(self, process: "Process", stream: Stream, message: Submit) -> None:
        if stream.deadline == inf:
            require(message.deadline_ms == 0, "13 deadline", "a deadline out of nowhere")
        else:
            most = max(0.0, stream.deadline - process.local()) * 1000 + 2
            require(0 < message.deadline_ms <= most, "13 deadline", f"{message.deadline_ms} ms of {most:.0f}")

    def _willing(self, process: "Process", link: Link, name: str) -> None:
        assert link.target is not None
        peer = process.node.peers.by_node.get(link.target.node.settings.node)
        require(peer is not None, "14 willing", f"{name} is placed on a stranger")
        assert peer is not None
        fine = peer.state is State.UP and not peer.draining and link.target.label not in process.told
        require(fine, "14 willing", f"{name} is placed on {link.target.label}, {peer.state}, draining={peer.draining}")

    def _credit(self, process: "Process", link: Link, message: Credit) -> None:
        for grant in message.grants:
            stream = process.streams[grant.request]
            assert link.target is not None
            leg = stream.leg(grant.attempt, link.target.label)
            if leg is None or leg.over or stream.over is not None:
                continue
            begins = leg.alone and leg.fruitless  # a suspect begins with its first credit, even if that is none
            self.suspects.allowed(process, grant)
            rises = (begins or leg.limit < grant.limit) and grant.limit <= stream.said + stream.window
            require(rises, "5 credit", f"{process.label}/{grant.request}: {grant.limit} after {leg.limit}")
            leg.limit = max(leg.limit, grant.limit)

    def _chunk(self, process: "Process", link: Link, message: Chunk) -> None:
        assert link.target is not None
        for part in message.parts:
            stream = link.target.streams.get(part.request)
            leg = stream.leg(part.attempt, process.label) if stream is not None else None
            if leg is not None and not leg.over:
                end = part.position + (codec.count(part.tokens) or len(part.items or ()))
                fits = end <= max(leg.limit, part.position)
                require(fits, "5 credit", f"{process.label} sends up to {end} of {leg.limit}")

    def _end(self, process: "Process", link: Link, message: End) -> None:
        stream = self._current(process, link, message)
        if isinstance(stream, ClientStream):
            stream.holder_ended()

    def _reject(self, process: "Process", link: Link, message: Reject) -> None:
        stream = self._current(process, link, message)
        if stream is not None:
            stream.rejects += 1
            known = message.reason in (Reason.BUSY, Reason.DRAINING, Reason.STALE)
            require(known, "21 reject", f"{process.label} rejects: {Reason.of(message.reason).label} {message.text}")

    def _accept(self, process: "Process", link: Link, message: Accept) -> None:
        assert link.target is not None
        require(not process.asked_to_leave, "21 drain", f"{process.label} accepts work although it leaves")
        process.accepted[link.target.label, message.request, message.attempt] = None
        self._world.nemesis.accepted(process)

    def _cancelled(self, process: "Process", link: Link, message: Cancelled) -> None:
        assert link.target is not None
        name = (link.target.label, message.request, message.attempt)
        known = name in process.accepted
        process.cancels[name] -= 1
        require(process.cancels[name] >= 0, "15 answer", f"{process.label} answers one cancel of {name} twice")
        if message.fate == Fate.UNKNOWN and not self._world.forgetful:
            require(not known, "15 answer", f"{process.label} does not know a leg that it had accepted")

    def _welcome(self, process: "Process", link: Link, message: Welcome) -> None:
        if link.target is not None:
            most = 2 if process.spec.newer and link.target.spec.newer else 1
            require(message.version == most, "26 version", f"{link.name} gets version {message.version}")

    def _error(self, process: "Process", link: Link, message: Error) -> None:
        stream = self._current(process, link, message)
        if stream is not None:
            stream.retried += message.retryable

    def _migrate(self, process: "Process", link: Link, message: Migrate) -> None:
        self.suspects.migrates(process, message)
        stream = self._current(process, link, message)
        if stream is not None:
            stream.retried += 1

    def _fed(self, process: "Process", link: Link, message: Fed) -> None:
        walks.fed(self._world, process.streams[message.request], link, message)

    def _handed(self, process: "Process", link: Link, message: Handed) -> None:
        self._world.nemesis.handed(process)

    def heard(self, process: "Process", link: Link, message: Any) -> None:
        """What its receiver may not forget: who leaves, where it is not welcome for a while, and what runs."""
        peer = process.node.peers.by_node.get(link.source.node.settings.node)
        if peer is None or peer.zid != link.zid:
            return  # of a void session: it must not even be looked at
        if isinstance(message, Drain):
            process.told[link.source.label] = None
            return
        for part in message.parts if isinstance(message, Chunk) else (message,):
            stream = process.streams.get(part.request)
            leg = stream.leg(part.attempt, link.source.label) if stream is not None else None
            if stream is None or leg is None or leg.over:
                continue
            if isinstance(part, Reject):
                stream.away[link.source.label] = self._clock.now + part.retry_ms / 1000
            walks.heard(stream, leg, part)
            if isinstance(part, Accept | Part):
                leg.running = not isinstance(part, Accept) or part.waiting == 0
            if isinstance(part, Accept | Part | Migrate):
                request = process.node.owner.requests.get(part.request)
                last = leg.endpoint == stream.endpoint
                if last and request is not None and request.claim is not None:  # else it has moved on, and this is late
                    stream.settled_at = self._clock.now

    def _current(self, process: "Process", link: Link, message: End | Error | Migrate | Reject) -> Stream | None:
        assert link.target is not None
        stream = link.target.streams.get(message.request)
        return stream if stream is not None and stream.leg(message.attempt, process.label) is not None else None

    def _cancel(self, process: "Process", link: Link, message: Cancel) -> None:
        if link.target is not None:
            leg_name = (process.label, message.request, message.attempt)
            link.target.cancels[leg_name] = link.target.cancels.get(leg_name, 0) + 1
        if link.target is not None:
            walks.cancelled(process.streams.get(message.request), link, message)
        if message.strength == Strength.KILL and link.target is not None:
            leg = Leg(process.node.settings.node, message.request, message.attempt)
            self.obligations.must_go(leg, process, link.target)

    # --- Handlers ------------------------------------------------------------------------------------------

    def started(self, process: "Process", handler: "Handler") -> None:
        """A handler begins: it has a slot."""
        stream = self._stream_of(handler)
        if stream is not None:
            stream.begun = True
        require(len(process.handlers) <= process.spec.slots, "6 slots", f"{process.label} runs too many")
        require(not process.asked_to_leave, "21 drain", f"{process.label} starts {handler.leg} although it leaves")
        self.suspects.started(process, handler.leg)

    def stepped(self, handler: "Handler") -> None:
        """A handler is about to go on: not after its deadline, and not while its reader is behind."""
        process, stream = handler.process, self._stream_of(handler)
        leg = stream.leg(handler.leg.attempt, process.label) if stream is not None else None
        if leg is not None and not leg.over:
            behind = f"{process.label} works on at {handler.position} of {leg.limit}"
            require(handler.position <= max(leg.limit, handler.began_at), "5 pause", behind)
        late_s = process.local() - handler.deadline
        thawed = self._world.troubles[process.place].calm_since >= self._clock.now
        require(
            late_s <= SLACK_S or process.slow or thawed, "13 deadline", f"{process.label} works {late_s:.3f} s too long"
        )

    def _stream_of(self, handler: "Handler") -> Stream | None:
        owner = self._world.process_with(handler.leg.owner)
        return owner.streams.get(handler.leg.request) if owner is not None else None

    def paused(self, process: "Process", silent_before: int) -> None:
        """A turn that came late is over: our own pause proves nothing against others."""
        mine = self._world.troubles[process.place]
        others = [trouble for trouble in self._world.troubles if trouble is not mine]
        if all(trouble.began == mine.began or trouble.last < mine.began - LONG_AGO_S for trouble in others):
            silent = process.node.stats.get("peers.down.silent", 0)
            text = f"{process.label} was stopped, and accuses others of silence"
            require(silent == silent_before, "17 pause", text)
