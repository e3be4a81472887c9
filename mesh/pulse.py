"""Pure. What a silence, a Pong or a lack of progress means: the judgement behind the heartbeats."""

from mesh.peer import Peer
from proto import limits
from proto.messages import Load, Pong
from proto.session import Sign


def start(peer: Peer, now: float) -> None:
    """A peer has just come up: it owes us nothing yet."""
    peer.up_at = peer.progress_at = now
    peer.load, peer.ranks, peer.progress = Load(), 1, 0


def judge(peer: Peer, now: float) -> list[Sign]:
    """What a beat's look at a live peer shows."""
    silent_s = now - peer.heard
    if silent_s >= limits.DEAD_S:
        return [Sign.LOST]
    signs = [Sign.QUIET] if silent_s >= limits.SUSPECT_S else []
    busy = peer.load.running + peer.load.waiting > 0
    if busy and now - peer.progress_at >= limits.HUNG_S:
        signs.append(Sign.FROZEN)
    return signs


def take_pong(peer: Peer, pong: Pong, now: float) -> bool:
    """Note load and progress; whether the peer has moved or has nothing to move. A Pong alone proves no progress."""
    idle = pong.load.running + pong.load.waiting == 0
    moved = pong.progress != peer.progress or idle
    if moved:
        peer.progress_at = now
    peer.progress, peer.load, peer.draining = pong.progress, pong.load, pong.draining
    peer.ranks = len(pong.reports) or 1
    return moved


def forgive(peer: Peer, late_s: float, now: float) -> None:
    """We were stopped for that long: the peer's silence meanwhile proves nothing."""
    peer.heard = min(peer.heard + late_s, now)
    peer.progress_at = min(peer.progress_at + late_s, now)
    peer.known = min(peer.known + late_s, now)


class Progress:
    """Our own counter. Without an engine, to answer at all is progress."""

    def __init__(self) -> None:
        self._steps = 0
        self._has_engine = False

    def made(self, steps: int) -> None:
        """The engine moved."""
        self._has_engine = True
        self._steps += steps

    def look(self, idle: bool = False) -> int:
        """What a Pong says now. An engine with nothing to do makes no steps, and is not hung for that."""
        if idle or not self._has_engine:
            self._steps += 1
        return self._steps
