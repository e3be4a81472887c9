"""Pure. Who is there: handshakes, heartbeats, losses. proto/README.md, "Sessions" and "Liveness".

The one rule that keeps two views of a pair from drifting apart: while a peer is live, both sessions stand or fall
together (`_lost`); while it is not, each half is replaced by itself. What the request cores must know waits in
`inner`; they are called after an event, never from within.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from mesh import hellos, pulse
from mesh.acquaintances import Acquaintances
from mesh.core import Effect, Heard, Inner, PeerChanged, PeerDown, Received, Remark, Transmit
from mesh.doorman import Doorman
from mesh.peer import Peer
from mesh.seeds import Seeds
from mesh.sessions import Sessions
from mesh.settings import Settings
from mesh.strangers import Strangers
from proto import limits
from proto.basics import Message
from proto.errors import Reason
from proto.messages import Bye, Drain, Gossip, Hello, Ignored, Load, Ping, Pong, Reset, Welcome
from proto.placing import Report
from proto.session import Sign, State

STEADY_S = 10.0  # a peer that was up for that long starts with a short backoff again
DROP_LINGER_MS = 1_000  # time for the Reset that says why


class Peers:
    """All other nodes. `summary` and `load` are asked for what heartbeats carry."""

    def __init__(
        self,
        settings: Settings,
        random: Random,
        out: list[Effect],
        count: Callable[[str], None],
        summary: Callable[[int], tuple[int, int]],
        load: Callable[[], tuple[int, Load, bool, list[Report]]],
    ) -> None:
        self._settings = settings
        self._out = out
        self._count = count
        self._summary = summary
        self._load = load
        self._strangers = Strangers()
        self._sessions = Sessions(settings, random, out, self._strangers)
        self._doorman = Doorman(settings, self._sessions, self._strangers, out, count)
        self._seeds = Seeds(random, self._probe, self._sessions.close)
        self._acquaintances = Acquaintances(settings, self._sessions, self._doorman, count)
        self.live = self._sessions.live
        self.serving = self._sessions.serving
        self.found = self._acquaintances.found
        self.unfound = self._acquaintances.unfound
        self.want = self._acquaintances.want
        self.wanted = self._acquaintances.wanted
        self._late_ms = 0
        self.inner: list[Inner] = self._sessions.inner
        self.by_node: dict[int, Peer] = self._sessions.by_node
        self._handlers: dict[type[Any], Callable[[Peer, Any, float], None]] = {
            Welcome: self._welcome,
            Ping: self._ping,
            Pong: self._pong,
            Drain: self._drain,
            Bye: self._bye,
            Gossip: self._gossip,
            Reset: lambda peer, message, now: self._reset(message, now),
            Hello: lambda peer, message, now: self.drop(peer.node, Reason.ILLEGAL, "a second Hello", now),
            Ignored: lambda peer, message, now: None,
        }

    # --- What the node asks ------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is wanted."""
        return min(self._sessions.timers.deadline(), self._seeds.deadline())

    def tick(self, now: float) -> None:
        """Let every due timer do what the state of its peer asks for."""
        for node in self._sessions.timers.due(now):
            peer = self.by_node[node]
            self._turn[peer.state](self, peer, now)
        self._seeds.tick(now)

    def seeds(self) -> dict[str, int]:
        """Each seed address and the node behind it."""
        return self._seeds.addresses()

    # --- Sending -----------------------------------------------------------------------------------

    def send(self, node: int, message: Message, now: float) -> bool:
        """Put a message on the session to a live peer; False if there is none."""
        peer = self.by_node.get(node)
        if peer is None or not peer.live:
            return False
        self._sessions.transmit(peer, message)
        if peer.sent >= limits.SEQUENCE_MAX:
            self._lost(peer, Reason.SEQUENCE, now)
        return True

    def drop(self, node: int, reason: Reason, text: str, now: float) -> None:
        """This peer broke the protocol: say so, and void its sessions."""
        self._count(f"peers.dropped.{reason.label}")
        peer = self.by_node.get(node)
        if peer is None:
            return
        if peer.session and peer.zid:
            self._sessions.transmit(peer, Reset(peer.their_session, int(reason), text[: limits.TEXT_CHARS_MAX]))
        self._out.append(Remark(f"dropped {peer.name}", f"dropped {peer.name}: {reason.label}: {text}"))
        self._lost(peer, reason, now, DROP_LINGER_MS)
        self._sessions.unbind(peer)

    def leave(self, deadline_ms: int) -> None:
        """Tell everybody that no new work is welcome."""
        self._sessions.draining = True
        for peer in self.by_node.values():
            if peer.live:
                self._sessions.transmit(peer, Drain(deadline_ms))

    def depart(self, reason: Reason, linger_ms: int) -> None:
        """Say Bye to everybody and close."""
        for peer in self.by_node.values():
            if peer.live:
                self._sessions.transmit(peer, Bye(int(reason)))
            if peer.session:
                self._sessions.close(peer.session, linger_ms if peer.live else 0)  # nobody reads what waits there
        self._sessions.clear()

    # --- Events from discovery -----------------------------------------------------------------------

    def seed(self, address: str, now: float) -> None:
        """An address to ask who is there."""
        if address not in self._settings.addresses:
            self._seeds.add(address, now)
            self._seeds.tick(now)

    # --- Events from the links -----------------------------------------------------------------------

    def heard(self, event: Heard, now: float) -> Peer | None:
        """A frame. Whose message it is, if it is for the request cores. The common case first: a known connection, in
        sequence, with the right to say it."""
        peer = self._sessions.by_zid.get(event.zid)
        message = event.message
        kind = type(message)
        if peer is None or event.sequence != peer.heard_sequence + 1 or kind not in peer.rights:
            self._unheard(event, peer, now)
            return None
        peer.heard_sequence = event.sequence
        peer.heard = now
        if peer.state is State.SUSPECT:
            self._sessions.step(peer, Sign.HEARD)
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(peer, message, now)
        elif peer.state is State.UP or peer.live:
            return peer
        else:
            self._count("peers.early")  # it is up, we lost our half meanwhile: our next Hello tells it
        return None

    def _unheard(self, event: Heard, peer: Peer | None, now: float) -> None:
        """A frame that is not to be heard."""
        if peer is None:
            self._stranger(event, now)
        elif event.sequence != peer.heard_sequence + 1:
            self.drop(peer.node, Reason.SEQUENCE, f"{event.sequence} after {peer.heard_sequence}", now)
        else:
            self.drop(peer.node, Reason.FORBIDDEN, type(event.message).__name__, now)

    def garbled(self, zid: bytes, reason: Reason, now: float) -> None:
        """A frame that is no message."""
        self._count("frames.garbled")
        peer = self._sessions.by_zid.get(zid)
        if peer is not None:
            self.drop(peer.node, reason, "a frame that is no message", now)
        elif self._strangers.fenced(zid) is None:
            self._strangers.strike(zid)

    def link_down(self, session: int, reason: Reason, now: float) -> None:
        """One of our own sessions is dead."""
        peer = self._sessions.by_session.get(session)
        if peer is not None:
            self._count(f"sessions.lost.{reason.label}")
            self._lost(peer, reason, now)
        else:
            self._seeds.link_down(session, now)

    def overdue(self, late_s: float, now: float) -> None:
        """We were stopped: nobody's silence in that time counts."""
        self._count("node.paused")
        self._late_ms = max(self._late_ms, int(late_s * 1000))
        for peer in self.by_node.values():
            pulse.forgive(peer, late_s, now)
        self._sessions.timers.forgive(late_s, now)
        self._seeds.forgive(late_s, now)

    # --- Strangers -----------------------------------------------------------------------------------

    def _stranger(self, event: Heard, now: float) -> None:
        fenced = self._strangers.fenced(event.zid)
        if fenced is not None:
            self._count("frames.fenced")
            self._doorman.tell_off(*fenced, now)
            return
        message = self._doorman.look(event)
        if isinstance(message, Hello):
            self._hello(event.zid, message, now)
        elif message is not None:
            self._reset(message, now)

    def _hello(self, zid: bytes, hello: Hello, now: float) -> None:
        if hello.record.node == self._settings.node:
            self._seeds.forget(self._seeds.address_of(hello.session))
            return
        peer = self.found(hellos.record_of(hello), now)
        if peer is None:
            self._count("peers.refused")
        elif hello.destination == 0:
            self._probed(peer, zid, hello, now)
        elif hello.session <= peer.their_session_newest:
            self._count("sessions.outdated")  # overtaken by a younger session of the same node
        else:
            self._met(peer, zid, hello, now)

    def _probed(self, peer: Peer, zid: bytes, hello: Hello, now: float) -> None:
        """Somebody who only knows our address asks who we are: dial it, so that it learns."""
        self._strangers.fence(zid, peer.node, hello.session)
        peer.asked = True
        if not peer.session:
            self._sessions.dial(peer, now)
        if peer.session:
            version = hellos.version(hello, self._settings) or 0
            self._sessions.transmit(peer, Welcome(version, hello.session, self._settings.node))

    def _met(self, peer: Peer, zid: bytes, hello: Hello, now: float) -> None:
        """A new session of a node: what was before it is void, and with it ours if the peer was live."""
        if peer.live:
            self._lost(peer, Reason.FENCED, now)
        self._sessions.bind(peer, zid, hello, now)
        if peer.session:
            self._sessions.welcome(peer)
            self._greeted(peer, now)
        else:
            self._sessions.dial(peer, now)

    # --- Session messages ----------------------------------------------------------------------------

    def _welcome(self, peer: Peer, message: Welcome, now: float) -> None:
        if message.session == peer.session:
            peer.welcomed = True
            self._greeted(peer, now)
        elif self._seeds.welcomed(message.session, peer.node):
            peer.asked = True

    def _greeted(self, peer: Peer, now: float) -> None:
        """Up, if both halves of the handshake are done."""
        if not (peer.welcomed and peer.zid and peer.state is State.DIALLING):
            return
        pulse.start(peer, now)
        peer.address_turn -= 1  # this address works: the next dial takes it again
        self._sessions.step(peer, Sign.GREETED)
        self._count("peers.up")
        self._beat(peer, now)
        self._acquaintances.introduce(peer)

    def _ping(self, peer: Peer, message: Ping, now: float) -> None:
        if not peer.live:
            return
        progress, load, draining, reports = self._load()
        self._sessions.transmit(peer, Pong(message.time_us, progress, load, self._late_ms, draining, reports))
        self._late_ms = 0
        self.inner.append(Received(peer.node, message))

    def _pong(self, peer: Peer, message: Pong, now: float) -> None:
        changed = message.load != peer.load or message.draining != peer.draining
        if pulse.take_pong(peer, message, now):
            self._sessions.step(peer, Sign.PROGRESS)
        if changed:
            self.inner.append(PeerChanged(peer.node))
        if message.reports:
            self.inner.append(Received(peer.node, message))

    def _drain(self, peer: Peer, message: Message, now: float) -> None:
        peer.draining = True
        self.inner.append(PeerChanged(peer.node))

    def _bye(self, peer: Peer, message: Message, now: float) -> None:
        """It is gone for good: a process that comes back is another node."""
        self._count("peers.left")
        self._lost(peer, Reason.LEFT, now)
        self._acquaintances.departed(peer)

    def _gossip(self, peer: Peer, message: Gossip, now: float) -> None:
        for record in message.records:
            self.found(record, now)
        self.inner.append(PeerChanged(peer.node))  # while we leave, somebody new may take over

    def _reset(self, message: Reset, now: float) -> None:
        """A peer says that our session is void. Who does not know its number cannot end it."""
        reason = Reason.of(message.reason)
        peer = self._sessions.by_session.get(message.session)
        if peer is None:
            address = self._seeds.address_of(message.session)
            if address:
                self._refused_by(address, message, reason)
                self._seeds.link_down(message.session, now)
            return
        self._count(f"sessions.reset.{reason.label}")
        self._lost(peer, reason, now)
        if reason in (Reason.WRONG_NODE, Reason.OTHER_MESH, Reason.VERSION) and not peer.zid:
            self._refused_by(peer.name, message, reason)
            self._sessions.forget(peer)

    def _refused_by(self, who: str, message: Reset, reason: Reason) -> None:
        self._out.append(Remark(f"refused by {who}", f"{who} refused us: {message.text or reason.label}"))

    # --- Dialling ------------------------------------------------------------------------------------

    def _probe(self, address: str) -> int:
        """Ask an address who is there."""
        session = self._sessions.open(address, 0)
        question = hellos.hello(self._settings, session, 0, self._sessions.draining)
        self._out.append(Transmit(session, 1, question))
        return session

    # --- Losing --------------------------------------------------------------------------------------

    def _lost(self, peer: Peer, reason: Reason, now: float, linger_ms: int = 0) -> None:
        """Our half is gone. If the peer was live, the other half goes with it, and everything between us."""
        if not peer.session:
            return
        live = peer.live
        steady = live and now - peer.up_at >= STEADY_S
        peer.failures = 0 if steady else peer.failures + 1
        self._sessions.end(peer, now, linger_ms)
        if live:
            self._sessions.unbind(peer)
            self._count(f"peers.down.{reason.label}")
            self.inner.append(PeerDown(peer.node, reason))
        self._seeds.peer_lost(peer.node, now)  # also one that answered a probe and died before it was up

    # --- Timers: what a peer's one timer means in each state --------------------------------------------

    def _idle_turn(self, peer: Peer, now: float) -> None:
        if now - peer.known >= limits.FORGET_S:
            self._sessions.forget(peer)
        else:
            self._sessions.timers.set(peer.node, peer.known + limits.FORGET_S)

    def _dialling_turn(self, peer: Peer, now: float) -> None:
        """Nobody answered in time."""
        self._count("sessions.unanswered")
        if now - peer.heard >= limits.DEAD_S:
            self._sessions.unbind(peer)
        self._lost(peer, Reason.UNREACHABLE, now)

    def _backoff_turn(self, peer: Peer, now: float) -> None:
        if now - max(peer.known, peer.heard) >= limits.FORGET_S:
            self._sessions.forget(peer)
        elif self._acquaintances.is_wanted(peer):
            self._sessions.dial(peer, now)
        else:
            self._sessions.step(peer, Sign.REST)
            self._sessions.timers.set(peer.node, now + limits.FORGET_S)

    def _beat(self, peer: Peer, now: float) -> None:
        """Judge a live peer, and ask it for the next sign of life."""
        for sign in pulse.judge(peer, now):
            if sign is Sign.LOST:
                self._lost(peer, Reason.SILENT, now)
                return
            self._sessions.step(peer, sign)
        legs, digest = self._summary(peer.node)
        self._sessions.transmit(peer, Ping(int(now * 1e6), legs, digest))
        self._sessions.timers.set(peer.node, now + peer.beat_s)

    _turn: dict[State, Callable[["Peers", Peer, float], None]] = {
        State.IDLE: _idle_turn,
        State.DIALLING: _dialling_turn,
        State.BACKOFF: _backoff_turn,
        State.UP: _beat,
        State.SUSPECT: _beat,
        State.HUNG: _beat,
    }

    def check(self) -> None:
        """Assert every invariant of sessions."""
        self._acquaintances.check()
        self._strangers.check()
        self._seeds.check()
        self._sessions.check()
