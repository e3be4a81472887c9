"""Pure. What the two ends of a bulk link say to each other.

Whoever pulls connects and asks; whoever owns the bytes answers on the same connection. `pull` names one conversation of
one connection and is never used again. Positions count in the stream of the offer, and credit is an absolute position,
as everywhere in the mesh. A Piece is followed by its bytes in further frames, if bytes were asked for.

    Pull -> (Ready), Piece ..., | Credit -> (Ready) ..., | Stop |, or Refused at any time

Ready is left out where a Piece says the same. Who could read everything directly says one word afterwards, Fetched,
and is not answered.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from nodes.transfer import limits
from nodes.transfer.handle import Size
from proto.basics import U32, U64
from proto.errors import Reason, RemoteError

Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]


class Message(Struct, array_like=True, gc=False):
    """The parent of all: an array whose first element is the number."""


# --- From whoever pulls ---------------------------------------------------------------------------


class Pull(Message, tag=1):
    """Begin at `start`. Without `payload` the bytes come another way, and the owner only speaks of them."""

    pull: U64
    plane: U64
    offer: U64
    generation: U64
    start: Size
    limit: Size
    payload: bool = True
    checksum: bool = False


class Credit(Message, tag=2):
    """The owner may send up to `limit`; everything up to `done` has arrived. `pulse` asks for an answer."""

    pull: U64
    limit: Size
    done: Size
    pulse: bool = False


class Stop(Message, tag=3):
    """No more. `complete`: because everything is there."""

    pull: U64
    complete: bool = False


class Fetched(Message, tag=7):
    """Everything of this offer was read, without a conversation."""

    plane: U64
    offer: U64
    generation: U64


# --- From whoever owns the bytes ------------------------------------------------------------------


class Ready(Message, tag=4):
    """Bytes up to `ready` are there to be pulled, and stay for `lease_ms` if nothing moves."""

    pull: U64
    ready: Size
    lease_ms: U64


class Piece(Message, tag=5):
    """`size` bytes from `position` on, and their xxh3 if that was asked for."""

    pull: U64
    position: Size
    size: U32
    checksum: U64 | None = None


class Refused(Message, tag=6):
    """The conversation is over; `cause` is one of nodes.transfer.causes."""

    pull: U64
    cause: U32
    text: Text = ""


Asked = Pull | Credit | Stop | Fetched
Answered = Ready | Piece | Refused

_encode = msgspec.msgpack.Encoder().encode
_asked: msgspec.msgpack.Decoder[Asked] = msgspec.msgpack.Decoder(Asked)
_answered: msgspec.msgpack.Decoder[Answered] = msgspec.msgpack.Decoder(Answered)


def encode(message: Message) -> bytes:
    """The frame of a message."""
    return _encode(message)


def decode_asked(frame: bytes) -> Asked:
    """What came from somebody who pulls. Raises RemoteError and nothing else."""
    try:
        return _asked.decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RemoteError(Reason.MALFORMED, str(error)) from error


def decode_answered(frame: bytes) -> Answered:
    """What came from an owner. Raises RemoteError and nothing else."""
    try:
        return _answered.decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RemoteError(Reason.MALFORMED, str(error)) from error
