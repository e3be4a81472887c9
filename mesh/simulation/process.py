"""Pure. One process of a simulated mesh: a real node in the shell that `mesh.actor` would be, but in virtual time.

It does what the real one does: handle an event, execute its effects, and at the end of every turn ask for the deadline.
What comes while it is frozen waits in `backlog` in the order of arrival; a late turn drains that, then posts Overdue.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from struct import pack
from typing import TYPE_CHECKING, Any
from zlib import crc32

from mesh.aide import Aide
from mesh.core import (
    TICK,
    Announce,
    Close,
    Deliver,
    Departed,
    Effect,
    Event,
    Finish,
    Garbled,
    Go,
    Halt,
    Heard,
    Hint,
    Instances,
    Leave,
    Leg,
    LinkDown,
    Open,
    Overdue,
    Pause,
    Progressed,
    Remark,
    Seed,
    Start,
    Transmit,
    Unpause,
    Want,
)
from mesh.node import Node
from mesh.settings import Settings
from mesh.simulation import feeders, skew
from mesh.simulation.handlers import Handler
from mesh.simulation.network import Link
from mesh.simulation.plan import RESUMABLE
from mesh.simulation.streams import Stream
from proto import codec, limits
from proto.basics import Message
from proto.errors import RemoteError
from proto.messages import Offer

if TYPE_CHECKING:
    from mesh.simulation.world import World

TICKS_PER_TURN = 4
ENGINE_BEAT_S = 0.5  # an engine that has nothing to do goes round as often


class Process:
    """A process, from its start to its end."""

    def __init__(self, world: "World", place: int, incarnation: int, node: int, addresses: tuple[str, ...]) -> None:
        spec = world.plan.places[place]
        self.world = world
        self.clock = world.clock
        self.oracles = world.oracles
        self.place = place
        self.spec = spec
        self.label = f"{spec.name}.{incarnation}"
        self.addresses = addresses
        self.alive = True
        self.born = self.clock.now
        self.held_up_until = -inf  # something that it waits for will not come before that
        self.frozen = False
        self.hung = False
        self.leaving = False
        self.asked_to_leave = False  # and has heard it
        self.departed = False
        self.slow = 0.0  # seconds that a turn may take to begin
        self.links: dict[int, Link] = {}
        self.handlers: dict[Any, Handler] = {}
        self.streams: dict[int, Stream] = {}
        self.hearing: tuple[Link, Message] | None = None
        self.told: dict[str, None] = {}  # who has said that it leaves
        self.accepted: dict[tuple[str, int, int], None] = {}
        self.cancels: dict[tuple[str, int, int], int] = {}  # that it owes an answer
        self.instances: dict[str, tuple[int, ...]] = {}
        self.jumped_s = 0.0  # what its clock has left out
        self.last_full = -inf  # when all slots were last taken
        self.backlog: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._rate, self._offset = 1.0 + spec.drift, spec.clock_s
        self._armed = inf
        self._late_s = 0.0
        self._turn_due = False
        self._engine_due = False
        self._pending: deque[Event] = deque()
        self._running = False
        self._do: dict[type[Effect], Callable[[Any], None]] = {
            Open: self._open,
            Close: self._close,
            Transmit: self._transmit,
            Announce: self._announce,
            Departed: self._departed,
            Remark: self._remark,
            Instances: self._instances,
            Deliver: self._deliver,
            Finish: self._finish,
            Start: self._start,
            Go: self._go,
            Hint: self._hint,
            Halt: self._halt,
            Pause: self._pause,
            Unpause: self._unpause,
        }
        self.node = Node(self._settings(node, incarnation), self.local(), self._aide())

    def _aide(self) -> Aide | None:
        """What its role adds to its core."""
        return None

    def _settings(self, node: int, incarnation: int) -> Settings:
        spec = self.spec
        return Settings(
            node=node,
            name=spec.name,
            mesh=spec.mesh,
            tag=b"",
            boot=int((self.clock.now + incarnation) * 1e9) + 1,
            host="host",
            role=spec.role,
            addresses=self.addresses,
            offers=self._offers(),
            seed=self.world.plan.seed,
            slots=spec.slots,
            queue=spec.queue,
            version_max=2 if spec.newer else 1,
        )

    def _offers(self) -> tuple[Offer, ...]:
        return tuple(Offer(endpoint, endpoint in RESUMABLE, 0) for endpoint in self.spec.offers)

    def ended(self) -> None:
        """It is no more; whatever it holds outside of this world must be let go."""

    def local(self) -> float:
        """Its own monotonic clock."""
        return self.clock.now * self._rate + self._offset

    def start(self) -> None:
        """The first turn: say what is wanted and whom we were told of."""
        if self.spec.engine:
            self.run(Progressed(0))  # so that its silence means something
        for endpoint in self.spec.wants:
            self.run(Want(endpoint))
        for place in self.spec.seeds:
            self.run(Seed(self.world.address(place)))
        self.end_turn()

    def leave(self, grace_s: float) -> None:
        """SIGTERM has arrived."""
        self.asked_to_leave = True
        self.run(Leave(grace_s))

    # --- Turns ---------------------------------------------------------------------------------------

    def after(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call later, as this process sees it; never if it is dead by then."""
        self.clock.at(self.clock.now + delay_s, self.wake, call, *arguments)

    def wake(self, call: Callable[..., object], *arguments: Any) -> None:
        """Something from outside: a frame, a timer, a step of a handler."""
        if not self.alive:
            return
        if self.frozen or self.slow:
            self.backlog.append((call, arguments))
            if not self.frozen and not self._turn_due:
                self._turn_due = True
                self.clock.at(self.clock.now + self.slow, self.turn)
            return
        call(*arguments)
        self.end_turn()

    def turn(self) -> None:
        """All that has come meanwhile, then the timers."""
        self._turn_due = False
        if self.frozen or not self.alive:
            return
        backlog, self.backlog = self.backlog, []
        for call, arguments in backlog:
            if self.alive:
                call(*arguments)
        self.end_turn()

    def end_turn(self) -> None:
        """What the shell does on every turn: flush and fire what is due, and set the timer."""
        node, now = self.node, self.local()
        late = self._late_s > limits.PAUSE_S
        silent = node.stats.get("peers.down.silent", 0)
        if late:
            self.run(Overdue(self._late_s))
        self._late_s = 0.0
        due = node.deadline()
        for _ in range(TICKS_PER_TURN):
            if due > now:
                break
            self.run(TICK)
            due = node.deadline()
        if late:
            self.oracles.paused(self, silent)
        if due < self._armed:
            self._armed = due
            when = (due - self._offset) / self._rate
            self.clock.at(max(when, self.clock.now + 1e-6), self._fire, due)

    def _fire(self, due: float) -> None:
        if due == self._armed and self.alive:
            self.wake(self._fired, due)

    def _fired(self, due: float) -> None:
        if due == self._armed:
            self._late_s, self._armed = self.local() - due, inf

    def run(self, event: Event) -> None:
        """Handle an event and what follows from its effects, one after the other."""
        self._pending.append(event)
        if self._running:
            return
        self._running = True
        pending, node, now, do = self._pending, self.node, self.local(), self._do
        try:
            while pending:
                event = pending.popleft()
                effects = node.handle(event, now)
                if self.world.trace is not None:
                    self.world.trace(self, event, effects)
                for effect in effects:
                    do[type(effect)](effect)
                self.oracles.handled(self)
        finally:
            self._running = False

    # --- From the network ----------------------------------------------------------------------------

    def receive(self, link: Link) -> None:
        """The next frame of a link."""
        if not link.queue:
            return
        frame = link.queue.popleft()
        try:
            sequence, message = codec.decode(frame)
        except RemoteError as error:
            self.run(Garbled(link.zid, error.reason))
            return
        if isinstance(message, self.oracles.interest):
            self.oracles.heard(self, link, message)
        self.hearing = (link, message)  # type: ignore[assignment]
        self.run(Heard(link.zid, sequence, message, len(frame)))
        self.hearing = None

    def link_down(self, link: Link) -> None:
        """Our socket says that its connection is gone."""
        for session, other in self.links.items():
            if other is link:
                self.oracles.suspects.link_lost(self, link)
                self.run(LinkDown(session))
                return

    # --- Effects: on the network -----------------------------------------------------------------------

    def _open(self, effect: Open) -> None:
        self.oracles.opened(self, effect)
        self.links[effect.session] = self.world.network.open(self, effect.address)

    def _close(self, effect: Close) -> None:
        self.world.network.close(self.links.pop(effect.session), effect.linger_ms)

    def _transmit(self, effect: Transmit) -> None:
        link, world = self.links[effect.session], self.world
        sequence, message = effect.sequence, effect.message
        self.oracles.transmitted(self, link, sequence, message)
        if self.spec.newer:
            if sequence % skew.STRANGE_EVERY == 0:
                world.network.send(link, skew.strange(sequence + link.shift))
                link.shift += 1
            frame = skew.newer(sequence + link.shift, message)
        else:
            frame = codec.encode(sequence, message)
        world.digest = crc32(frame, crc32(pack("<dI", world.clock.now, link.turn), world.digest))
        world.network.send(link, frame)

    def _announce(self, effect: Announce) -> None:
        self.world.directory.publish(self, effect.record)

    def _departed(self, effect: Departed) -> None:
        self.world.departed(self)

    def _remark(self, effect: Remark) -> None:
        self.oracles.remarked(self, effect)

    def _instances(self, effect: Instances) -> None:
        self.instances[effect.endpoint] = effect.nodes

    # --- Effects: towards callers and handlers -----------------------------------------------------------

    def _deliver(self, effect: Deliver) -> None:
        self.streams[effect.request].delivered(effect)

    def _finish(self, effect: Finish) -> None:
        self.streams[effect.request].finished(effect)

    def _start(self, effect: Start) -> None:
        handler = self.handlers[effect.leg] = feeders.handler(self, effect)
        self.oracles.started(self, handler)
        handler.begin()
        if self.spec.engine and not self._engine_due:
            self._engine_due = True
            self.after(ENGINE_BEAT_S, self._engine_beat)

    def forget(self, leg: Leg) -> None:
        """A handler runs for nobody any more."""
        self.handlers.pop(leg).over = True

    def _engine_beat(self) -> None:
        self._engine_due = bool(self.handlers)
        if self._engine_due:
            self.after(ENGINE_BEAT_S, self._engine_beat)
            self.progressed()

    hands_over = False  # what runs, when its room is needed

    def could_start(self, since: float) -> bool:
        """Whether there was room for one more leg all the time."""
        return len(self.handlers) < self.spec.slots and self.last_full < since

    def hang(self) -> None:
        """The engine stands still; the event loop does not."""
        self.hung = True

    def unhang(self) -> None:
        """It moves again."""
        self.hung = False
        if self.alive:
            self.wake(self._unhung)

    def _unhung(self) -> None:
        for handler in list(self.handlers.values()):
            handler.unhang()

    def jump(self, ahead_s: float) -> None:
        """Its monotonic clock goes ahead all at once, and every timer with it."""
        self._offset += ahead_s
        self.jumped_s += ahead_s
        if self._armed < inf:
            self.wake(self._fired, self._armed)

    def progressed(self) -> None:
        """The engine went round."""
        if self.spec.engine and not self.hung:
            self.run(Progressed())

    # What has just ended may still be asked for something: its end waits behind the event that asks.

    def _go(self, effect: Go) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].go(effect)

    def _hint(self, effect: Hint) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].hint()

    def _halt(self, effect: Halt) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].halt(effect.keep)

    def _pause(self, effect: Pause) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].pause()

    def _unpause(self, effect: Unpause) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].unpause()
