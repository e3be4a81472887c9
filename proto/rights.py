"""Pure. Who may send what: a role is a capability. See README.md, "Security".

A role is claimed in Hello and proven by nothing but the mesh key, so this catches mistakes and confines a broken node;
it does not stop somebody who holds the key.
"""

from proto.basics import Message
from proto.messages import HOLDER_MESSAGES, OPTIONAL_MESSAGES, OWNER_MESSAGES, SESSION_MESSAGES, Ignored, Role
from proto.placing import Blocks, Copy, Cut, Parked, Piece, Place, Placed, Replay, Routed, Settled

_EVERYBODY: frozenset[type] = frozenset((*SESSION_MESSAGES, *OPTIONAL_MESSAGES, Ignored))
_ASKING = (Place, Settled)
_CACHING = (Blocks, Cut, Piece)
_ADVISING = (Placed, Parked, Replay, Copy, Settled, Routed)

RIGHTS: dict[int, frozenset[type]] = {
    Role.CLIENT: _EVERYBODY.union(OWNER_MESSAGES, _ASKING),
    Role.WORKER: _EVERYBODY.union(HOLDER_MESSAGES, _CACHING),
    Role.COMPONENT: _EVERYBODY.union(OWNER_MESSAGES, HOLDER_MESSAGES, _ASKING, _CACHING),
    Role.ROUTER: _EVERYBODY.union(OWNER_MESSAGES, HOLDER_MESSAGES, _ADVISING),
}
_NOTHING_MORE = _EVERYBODY  # a role of a newer version may greet, beat and leave until we know what it may do


def may_send(role: int, kind: type[Message] | type[Ignored]) -> bool:
    """Whether a peer of this role may send a message of this kind."""
    return kind in RIGHTS.get(role, _NOTHING_MORE)


def rights(role: int) -> frozenset[type]:
    """All that a peer of this role may send."""
    return RIGHTS.get(role, _NOTHING_MORE)
