"""Pure. What the request cores may do to the world: add effects, count, send to a peer, drop a peer."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from mesh.core import Effect
from proto.basics import Message
from proto.errors import Reason


class Ports(Struct, frozen=True):
    """Handed to the owner and the holder by their node."""

    out: list[Effect]
    count: Callable[[str], None]
    send: Callable[[int, Message, float], bool]  # peer, message, now: False if the peer is not live
    drop: Callable[[int, Reason, str, float], None]  # peer, reason, text, now: it broke the protocol


Table = dict[type[Message], Callable[[int, Any, float], None]]  # each row takes just the message that is its key
