"""Pure. What a newer version would write: a field more in every message, and now and then an unknown message."""

import msgspec

from proto import codec
from proto.basics import Message

STRANGE_TAG = 120  # in the range that may be ignored
STRANGE_EVERY = 13  # messages

_decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


def newer(sequence: int, message: Message) -> bytes:
    """The frame of a message with an unknown field at its end."""
    envelope = _decode(codec.encode(sequence, message))
    envelope[1].append({"newer": [1, 2.5, None]})
    return _encode(envelope)


def strange(sequence: int) -> bytes:
    """An optional message that only the newer version knows."""
    return _encode([sequence, [STRANGE_TAG, "what is this?", [1, [2, [3]]]]])
