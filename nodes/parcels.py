"""Pure. A parcel: what one leg leaves for another, or a client for all of them, and how to come by it.

Blocks: positions `first` to `first + count` of the sequence. Embeddings: the rows of the parts that `content` names,
one after another. Media: those parts as they came, each after its length. A name is a hash of 16 bytes. Native: what
one engine says to another of its kind, which fetches the cache by itself; there is nothing to be fetched by us, but for
the embeddings of the parts that `content` names.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from nodes.contract.media import HASH_BYTES, PARTS_MAX
from nodes.transfer.handle import Handle, HandleRefused, examine
from proto.basics import U32, Name

BLOCKS, EMBEDDING, MEDIA, NATIVE = 1, 2, 3, 4
NATIVE_BYTES_MAX = 60_000  # a handle of the mesh has 64 KiB; the numbers of 12,000 blocks fit
NOWHERE = Handle(0, 0, 0, 0, 0, 0, 0, 0, "", [], b"")  # of a parcel that says all itself: it names no content


class Parcel(Struct, array_like=True, frozen=True):
    """Where it is, and what."""

    kind: Annotated[int, Meta(ge=1, le=255)]
    handle: Handle
    digest: Name = ""  # of the model whose blocks or embeddings these are
    first: U32 = 0
    count: U32 = 0
    content: Annotated[bytes, Meta(max_length=HASH_BYTES * PARTS_MAX)] = b""
    native: Annotated[bytes, Meta(max_length=NATIVE_BYTES_MAX)] = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Parcel).decode


def encode(parcel: Parcel) -> bytes:
    """A parcel as a message carries it."""
    return _encode(parcel)


def decode(packed: bytes) -> Parcel:
    """A parcel from a message. Raises ValueError with a sentence."""
    try:
        parcel = _decode(packed)
        if parcel.kind != NATIVE or parcel.content:
            examine(parcel.handle)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"this is no parcel: {error}") from None
    except HandleRefused as refused:
        raise ValueError(f"this parcel cannot be fetched: {refused}") from None
    if len(parcel.content) % HASH_BYTES:
        raise ValueError("this parcel names its content by a broken hash")
    return parcel


def spared(parcel: Parcel | None, here: int) -> int:
    """How many positions of a parcel need not be pulled: whole blocks of its owner, and never all of them."""
    if parcel is None or parcel.handle.layout is None:
        return 0
    layout = parcel.handle.layout
    blocks = parcel.handle.size // layout.block_bytes
    return max(0, min(here // layout.block_tokens, blocks - 1)) * layout.block_tokens


def positions(parcel: Parcel | None, position: int, complete: bool) -> int:
    """How many positions came with the first so many bytes of a parcel."""
    assert parcel is not None and parcel.handle.layout is not None
    layout = parcel.handle.layout
    return parcel.count if complete else min(parcel.count, position // layout.block_bytes * layout.block_tokens)
