"""Pure. Whom we know of and whom we need: records from discovery, gossip and Hellos, and the wish to dial.

A record suggests an address and proves nothing. A node is dialled when it may serve an endpoint that somebody here
wants, when somebody asked for it by name or address, or when it talks to us already.
"""

from collections.abc import Callable

from mesh.doorman import Doorman
from mesh.peer import Peer
from mesh.sessions import Sessions
from mesh.settings import Settings
from proto import limits
from proto.messages import Gossip, Record
from proto.session import State

PEERS_MAX = 4_096  # nodes known at once; discovery may be flooded
DEPARTED_MAX = 4_096  # nodes that said Bye, remembered while old records of them still go around


def stands_for(wish: str, endpoint: str) -> bool:
    """Whether a wish means this endpoint: by its name, or by a beginning that ends with a slash."""
    return endpoint.startswith(wish) if wish.endswith("/") else wish == endpoint


class Acquaintances:
    """Who is known, and who of them is wanted."""

    def __init__(self, settings: Settings, sessions: Sessions, doorman: Doorman, count: Callable[[str], None]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._doorman = doorman
        self._count = count
        self._wanted: dict[str, None] = {}
        self._departed: dict[int, None] = {}

    def found(self, record: Record, now: float) -> Peer | None:
        """A record: perhaps a node to dial. None if it is our own, of another mesh, or of a node that left."""
        known = self._sessions.by_node
        if record.node == self._settings.node or record.node in self._departed or not self._doorman.ours(record):
            return None
        if record.node not in known and len(known) >= PEERS_MAX:
            self._count("peers.too_many")
            return None
        peer = self._sessions.know(record, now)
        self._dial_if_wanted(peer, now)
        return peer

    def unfound(self, node: int) -> None:
        """Discovery no longer sees a node. Only one that we have no session with is forgotten for it."""
        peer = self._sessions.by_node.get(node)
        if peer is not None and not peer.live and not peer.zid:
            self._sessions.forget(peer)

    def departed(self, peer: Peer) -> None:
        """It said Bye: a process that comes back is another node, so this one is never dialled again."""
        self._sessions.forget(peer)
        self._departed[peer.node] = None
        if len(self._departed) > DEPARTED_MAX:
            del self._departed[next(iter(self._departed))]

    def want(self, endpoint: str, now: float) -> None:
        """Dial who serves this endpoint, now and later."""
        self._wanted[endpoint] = None
        for peer in list(self._sessions.by_node.values()):
            self._dial_if_wanted(peer, now)

    def wanted(self) -> list[str]:
        """Endpoints that somebody here wants."""
        return list(self._wanted)

    def is_wanted(self, peer: Peer) -> bool:
        """Whether to dial this node."""
        if peer.zid:
            return True
        if self._sessions.draining:
            return False
        record = peer.record
        if peer.asked or (record.partial and self._wanted):
            return True
        return any(stands_for(wish, endpoint) for wish in self._wanted for endpoint in record.endpoints)

    def introduce(self, newcomer: Peer) -> None:
        """Tell a new peer whom we know at first hand, and them about it."""
        others = [peer for peer in self._sessions.by_node.values() if peer.live and peer is not newcomer]
        for start in range(0, len(others), limits.RECORDS_SENT_MAX):
            known = [peer.record for peer in others[start : start + limits.RECORDS_SENT_MAX]]
            self._sessions.transmit(newcomer, Gossip(known))
        for peer in others:
            self._sessions.transmit(peer, Gossip([newcomer.record]))

    def _dial_if_wanted(self, peer: Peer, now: float) -> None:
        if peer.state is State.IDLE and self.is_wanted(peer):
            self._sessions.dial(peer, now)

    def check(self) -> None:
        """Assert the bounds."""
        assert len(self._sessions.by_node) <= PEERS_MAX
        assert len(self._departed) <= DEPARTED_MAX
