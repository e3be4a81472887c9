"""Pure. The life of a peer, as the node that talks to it sees it: one table.

A peer pair has two sessions, one in each direction; the peer is up when its Hello was accepted here and ours was
welcomed there, and when either session is lost both are void. What starts a sign (a timer, a message, a dead
descriptor) is for `mesh.peers` to say; what follows from it is said here.
"""

from enum import StrEnum


class State(StrEnum):
    """What we may do with a peer."""

    IDLE = "idle"  # known; nobody needs it
    DIALLING = "dialling"  # our Hello is under way
    UP = "up"  # new work may go there
    SUSPECT = "suspect"  # silent for SUSPECT_S: no new work
    HUNG = "hung"  # it answers, its engine does not move: no new work, and ours moves away
    BACKOFF = "backoff"  # lost; dialled again after a while


class Sign(StrEnum):
    """What happens to a peer."""

    DIAL = "dial"  # somebody here needs it, or it needs us
    GREETED = "greeted"  # both halves of the handshake are done
    QUIET = "quiet"  # nothing heard for SUSPECT_S
    HEARD = "heard"  # any message
    FROZEN = "frozen"  # work, but no progress for HUNG_S
    PROGRESS = "progress"  # its progress counter grew
    LOST = "lost"  # a session of the pair is gone
    REST = "rest"  # nobody needs it any more


PEER: dict[tuple[State, Sign], State] = {
    (State.IDLE, Sign.DIAL): State.DIALLING,
    (State.DIALLING, Sign.GREETED): State.UP,
    (State.DIALLING, Sign.LOST): State.BACKOFF,
    (State.UP, Sign.QUIET): State.SUSPECT,
    (State.UP, Sign.FROZEN): State.HUNG,
    (State.UP, Sign.LOST): State.BACKOFF,
    (State.SUSPECT, Sign.HEARD): State.UP,
    (State.SUSPECT, Sign.FROZEN): State.HUNG,
    (State.SUSPECT, Sign.LOST): State.BACKOFF,
    (State.HUNG, Sign.PROGRESS): State.UP,  # progress alone rehabilitates: a Pong proves only that the loop turns
    (State.HUNG, Sign.LOST): State.BACKOFF,
    (State.BACKOFF, Sign.DIAL): State.DIALLING,
    (State.BACKOFF, Sign.REST): State.IDLE,
}

LIVE = (State.UP, State.SUSPECT, State.HUNG)  # both sessions stand


def step(state: State, sign: Sign) -> State:
    """The state after a sign; a sign that the table does not hold changes nothing."""
    return PEER.get((state, sign), state)
