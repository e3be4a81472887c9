"""Pure. A parcel: what one leg leaves for another, or a client for all of them, and how to come by it.

Blocks: positions `first` to `first + count` of the sequence. Embeddings: the rows of the parts that `content` names,
one after another. Media: those parts as they came, each after its length. A name is a hash of 16 bytes.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from nodes.media.limits import HASH_BYTES, PARTS_MAX
from nodes.transfer.handle import Handle, HandleRefused, examine
from proto.basics import U32, Name

BLOCKS, EMBEDDING, MEDIA = 1, 2, 3


class Parcel(Struct, array_like=True, frozen=True):
    """Where it is, and what."""

    kind: Annotated[int, Meta(ge=1, le=255)]
    handle: Handle
    digest: Name = ""  # of the model whose blocks or embeddings these are
    first: U32 = 0
    count: U32 = 0
    content: Annotated[bytes, Meta(max_length=HASH_BYTES * PARTS_MAX)] = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Parcel).decode


def encode(parcel: Parcel) -> bytes:
    """A parcel as a message carries it."""
    return _encode(parcel)


def decode(packed: bytes) -> Parcel:
    """A parcel from a message. Raises ValueError with a sentence."""
    try:
        parcel = _decode(packed)
        examine(parcel.handle)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"this is no parcel: {error}") from None
    except HandleRefused as refused:
        raise ValueError(f"this parcel cannot be fetched: {refused}") from None
    if len(parcel.content) % HASH_BYTES:
        raise ValueError("this parcel names its content by a broken hash")
    return parcel
