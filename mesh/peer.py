"""Pure. What is known of one other node. `mesh.peers` alone changes it; the request cores read it."""

from proto.messages import Hello, Load, Offer, Record
from proto.session import LIVE, State

NO_LOAD = Load()


class Peer:
    """One remote node: where it is, how it is, and the two sessions that join us."""

    __slots__ = (
        "address_turn", "asked", "beat_s", "draining", "failures", "heard", "heard_sequence", "hello", "known",
        "load", "node", "offers", "progress", "progress_at", "ranks", "record", "rights", "sent", "session", "state",
        "their_session", "their_session_newest", "told_off", "up_at", "welcomed", "zid",
    )  # fmt: skip

    def __init__(self, node: int, record: Record, now: float) -> None:
        self.node = node
        self.record = record
        self.known = now  # when discovery, gossip or the node itself last vouched for it
        self.state = State.IDLE
        self.asked = False  # somebody here needs it
        self.failures = 0  # dials in a row that came to nothing
        self.address_turn = 0  # which address the next dial takes
        self.up_at = 0.0
        self.told_off = -1e9  # when we last answered a fenced frame of it
        # Our session to it.
        self.session = 0  # 0: none is open
        self.sent = 0  # messages on it
        self.welcomed = False
        # Its session to us.
        self.zid = b""  # empty: none is bound
        self.their_session = 0
        self.their_session_newest = 0  # a Hello of an older one was overtaken and is void
        self.heard_sequence = 0
        self.heard = now
        self.hello: Hello | None = None
        self.rights: frozenset[type] = frozenset()
        # What it says of itself.
        self.offers: dict[str, Offer] = {}
        self.load = NO_LOAD
        self.ranks = 1  # of its engine: each takes requests by itself
        self.progress = 0
        self.progress_at = now
        self.draining = False
        self.beat_s = 0.0

    @property
    def live(self) -> bool:
        """Both sessions stand."""
        return self.state in LIVE

    @property
    def ready(self) -> bool:
        """New work may go there."""
        return self.state is State.UP and not self.draining

    @property
    def name(self) -> str:
        """For people."""
        return self.record.name or f"{self.node:016x}"

    def check(self) -> None:
        """Assert what must hold between the fields."""
        assert not self.live or (self.session and self.welcomed and self.zid and self.hello), self.state
        assert self.state is not State.DIALLING or self.session, "dialling without a session"
        assert self.state not in (State.IDLE, State.BACKOFF) or not self.session, f"session while {self.state}"
        assert bool(self.zid) == bool(self.their_session), "a connection and its session go together"
