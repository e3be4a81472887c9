"""Pure. The table of nodes and the sessions that join us to them: open, bind, send, end. `mesh.peers` decides why.

A peer is found by its node id, by our session to it, and by the connection of its session to us; this module keeps the
three in step. A state changes only in `step`, which queues in `inner` what the request cores must know.
"""

from math import inf
from random import Random

from mesh import hellos
from mesh.backoff import backoff_s
from mesh.core import Close, Effect, Inner, Open, PeerChanged, PeerHung, PeerUp, Transmit
from mesh.peer import Peer
from mesh.settings import Settings
from mesh.strangers import Strangers
from mesh.timers import Timers
from proto import limits, rights
from proto.basics import Message
from proto.messages import Hello, Record, Welcome
from proto.session import Sign, State, step

ENDPOINTS_MAX = 1_024  # whose peers are kept at hand: more than a mesh has


class Sessions:
    """All known nodes, each with at most one session in each direction."""

    def __init__(self, settings: Settings, random: Random, out: list[Effect], strangers: Strangers) -> None:
        self._settings = settings
        self._random = random
        self._out = out
        self._strangers = strangers
        self.inner: list[Inner] = []
        self.by_node: dict[int, Peer] = {}
        self.by_zid: dict[bytes, Peer] = {}
        self.by_session: dict[int, Peer] = {}
        self.timers: Timers[int] = Timers()  # one per peer; what it means depends on the peer's state
        self.draining = False
        self._serving: dict[str, list[Peer]] = {}  # asked several times for each request; empty after each change
        self._opened = 0

    # --- Sending -----------------------------------------------------------------------------------

    def transmit(self, peer: Peer, message: Message) -> None:
        """Put a message on our session to a peer."""
        peer.sent += 1
        self._out.append(Transmit(peer.session, peer.sent, message))

    def open(self, address: str, node: int) -> int:
        """A new session. Its number grows with every one of this node, and nobody can guess it."""
        self._opened += 1
        session = self._opened << 32 | self._random.getrandbits(32)
        self._out.append(Open(session, address, node))
        return session

    def close(self, session: int, linger_ms: int = 0) -> None:
        """Close a session's socket."""
        self._out.append(Close(session, linger_ms))

    def once(self, address: str, node: int, message: Message, linger_ms: int) -> None:
        """A session that lives for one message."""
        session = self.open(address, node)
        self._out.append(Transmit(session, 1, message))
        self.close(session, linger_ms)

    def live(self, node: int) -> Peer | None:
        """The peer, if both sessions stand."""
        peer = self.by_node.get(node)
        return peer if peer is not None and peer.live else None

    def serving(self, endpoint: str) -> list[Peer]:
        """Live peers that offer an endpoint, in an order that depends on nothing but their ids."""
        found = self._serving.get(endpoint)
        if found is None:
            if len(self._serving) >= ENDPOINTS_MAX:
                self._serving.clear()
            found = self._serving[endpoint] = self._look_for(endpoint)
        return found

    def _look_for(self, endpoint: str) -> list[Peer]:
        return sorted((peer for peer in self.by_node.values() if peer.live and endpoint in peer.offers), key=_node_of)

    # --- A peer's life -------------------------------------------------------------------------------

    def know(self, record: Record, now: float) -> Peer:
        """The peer of a record, new or brought up to date."""
        peer = self.by_node.get(record.node)
        if peer is None:
            peer = self.by_node[record.node] = Peer(record.node, record, now)
            self.timers.set(record.node, now + limits.FORGET_S)
        elif record.beat >= peer.record.beat or record.addresses != peer.record.addresses:
            peer.record = record
        peer.known = now
        return peer

    def forget(self, peer: Peer) -> None:
        """Nothing of this node stays but a fence."""
        if peer.session:
            self.close(peer.session)
            del self.by_session[peer.session]
        self.unbind(peer)
        self.timers.clear(peer.node)
        del self.by_node[peer.node]
        self._serving.clear()

    def dial(self, peer: Peer, now: float) -> None:
        """Open our half, and finish the other one if it waits for that."""
        address = hellos.choose_address(peer.record, self._settings.host, peer.address_turn)
        if address is None:
            self.timers.set(peer.node, now + limits.BACKOFF_MAX_S)  # a newer record may say where; or it is forgotten
            return
        peer.address_turn += 1
        peer.session = self.open(address, peer.node)
        self.by_session[peer.session] = peer
        peer.sent, peer.welcomed = 0, False
        self.step(peer, Sign.DIAL)
        self.transmit(peer, hellos.hello(self._settings, peer.session, peer.node, self.draining))
        if peer.zid:
            self.welcome(peer)
        self.timers.set(peer.node, now + limits.HANDSHAKE_S)

    def welcome(self, peer: Peer) -> None:
        """Accept its Hello."""
        assert peer.hello is not None
        version = hellos.version(peer.hello, self._settings)
        assert version is not None, "refused before"
        self.transmit(peer, Welcome(version, peer.their_session, self._settings.node))

    def bind(self, peer: Peer, zid: bytes, hello: Hello, now: float) -> None:
        """Its session to us is this one; an older one is void."""
        self.unbind(peer)
        self.by_zid[zid] = peer
        peer.zid, peer.their_session, peer.their_session_newest = zid, hello.session, hello.session
        peer.heard_sequence, peer.heard, peer.hello = 1, now, hello
        peer.rights = rights.rights(hello.role)
        self._serving.clear()
        peer.offers = {offer.endpoint: offer for offer in hello.offers}
        peer.draining = hello.draining
        peer.beat_s = min(self._settings.beat_ms, hello.beat_ms) / 1000

    def unbind(self, peer: Peer) -> None:
        """Its session to us is void: whatever still comes on it is fenced."""
        if peer.zid:
            self._strangers.fence(peer.zid, peer.node, peer.their_session)
            del self.by_zid[peer.zid]
            peer.zid, peer.their_session = b"", 0

    def end(self, peer: Peer, now: float, linger_ms: int = 0) -> None:
        """Our session to it is void: the peer is lost, and dialled again after a while."""
        self.close(peer.session, linger_ms)
        del self.by_session[peer.session]
        peer.session, peer.welcomed = 0, False
        self.step(peer, Sign.LOST)
        self.timers.set(peer.node, now + backoff_s(peer.failures, self._random))

    def step(self, peer: Peer, sign: Sign) -> None:
        """Advance the table, and queue what concerns the request cores."""
        before = peer.state
        peer.state = step(before, sign)
        if peer.state is before:
            return
        self._serving.clear()
        if sign is Sign.GREETED:
            self.inner.append(PeerUp(peer.node))
        elif peer.state is State.HUNG:
            self.inner.append(PeerHung(peer.node))
        elif peer.live:
            self.inner.append(PeerChanged(peer.node))

    def clear(self) -> None:
        """We are gone."""
        self._serving.clear()
        self.by_node.clear()
        self.by_zid.clear()
        self.by_session.clear()
        self.timers = Timers()

    def check(self) -> None:
        """Assert that the three ways to find a peer agree."""
        for node, peer in self.by_node.items():
            assert node == peer.node != self._settings.node
            peer.check()
            assert not peer.zid or self.by_zid[peer.zid] is peer
            assert not peer.session or self.by_session[peer.session] is peer
        assert len(self.by_zid) == sum(1 for peer in self.by_node.values() if peer.zid)
        assert len(self.by_session) == sum(1 for peer in self.by_node.values() if peer.session)
        assert all(found == self._look_for(endpoint) for endpoint, found in self._serving.items())
        assert not self.by_node or self.timers.deadline() < inf, "every peer has its timer"


def _node_of(peer: Peer) -> int:
    return peer.node
