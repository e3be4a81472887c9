"""Pure. Bytes to messages and back: the only user of msgpack.

Strategy: one typed decoder for the whole union. Any bytes give an `Envelope`, an `Envelope` of `Ignored` or a
`RemoteError`; any other exception is a bug of ours. The slow path (a hand-read tag) runs only after a failure.
"""

import struct
from array import array
from collections.abc import Sequence

import msgspec

from proto import limits
from proto.basics import Message, Tokens
from proto.errors import Reason, RemoteError
from proto.messages import MESSAGES, OPTIONAL_TAG_MAX, OPTIONAL_TAG_MIN, Envelope, Ignored

_encoder = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(Envelope).decode
_encode = _encoder.encode

TAGS: dict[int, type[Message]] = {cls.__struct_config__.tag: cls for cls in MESSAGES}  # type: ignore[misc]
_LITTLE = struct.pack("=i", 1) == b"\x01\0\0\0"


def encode(sequence: int, message: Message) -> bytes:
    """The frame of `message` as the `sequence`th of its session."""
    return _encode((sequence, message))


def decode(frame: bytes) -> tuple[int, Message | Ignored]:
    """The sequence number and the message of a frame; raises RemoteError and nothing else."""
    try:
        envelope = _decode(frame)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError, MemoryError) as error:
        return _unknown(frame, error)
    return envelope.sequence, envelope.message


def _unknown(frame: bytes, error: Exception) -> tuple[int, Ignored]:
    """An optional message that we do not know is ignored, with its place in the session; all else is an error."""
    head = _head(frame)
    if head is None:
        raise RemoteError(Reason.MALFORMED, str(error)) from error
    sequence, tag = head
    if tag in TAGS:
        raise RemoteError(Reason.MALFORMED, f"{TAGS[tag].__name__}: {error}") from error
    if not OPTIONAL_TAG_MIN <= tag <= OPTIONAL_TAG_MAX or len(frame) > limits.UNKNOWN_TAG_BYTES_MAX:
        raise RemoteError(Reason.UNSUPPORTED, f"unknown message {tag}") from error
    return sequence, Ignored(tag)


_Head = tuple[int, list[msgspec.Raw]]
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_tag = msgspec.msgpack.Decoder(int).decode


def _head(frame: bytes) -> tuple[int, int] | None:
    """Sequence and tag of a well-formed envelope whose message did not decode."""
    if len(frame) > limits.UNKNOWN_TAG_BYTES_MAX:
        return None
    try:
        sequence, fields = _decode_head(frame)
        tag = _decode_tag(fields[0])
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError, IndexError):
        return None
    return (sequence, tag) if 1 <= sequence <= limits.SEQUENCE_MAX else None


def pack(tokens: Sequence[int]) -> Tokens:
    """Tokens as they travel: a list when short, little-endian int32 when long."""
    if len(tokens) < limits.TOKENS_PACKED_MIN:
        return [*tokens]
    packed = array("i", tokens)
    if not _LITTLE:
        packed.byteswap()
    return packed.tobytes()


def unpack(tokens: Tokens) -> list[int]:
    """Tokens as a list; raises RemoteError for bytes that are no token ids."""
    if isinstance(tokens, list):
        return tokens
    if len(tokens) % 4:
        raise RemoteError(Reason.MALFORMED, "packed tokens are not a multiple of 4 bytes")
    unpacked = array("i")
    unpacked.frombytes(tokens)
    if not _LITTLE:
        unpacked.byteswap()
    values = unpacked.tolist()
    if values and min(values) < 0:
        raise RemoteError(Reason.MALFORMED, "negative token id")
    return values


def count(tokens: Tokens) -> int:
    """How many tokens, without unpacking them."""
    return len(tokens) if isinstance(tokens, list) else len(tokens) // 4
