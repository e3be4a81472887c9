"""Pure. A handle: what a message carries instead of the bytes. Where they are, how many, until when, over which ways.

It is as good as its generation: the owner gives each offer a new one and changes it before the memory is reused, and
whoever pulls looks at it again *after* the bytes have arrived. The lease says how long the owner promises to wait.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from nodes.transfer import limits
from nodes.transfer.layout import Layout, LayoutRefused, refuse
from nodes.transfer.pieces import PiecesRefused, Stream, stream, unpack
from proto.basics import U32, U64, Addresses, Name

Size = Annotated[int, Meta(ge=0, le=limits.MEMORY_BYTES_MAX)]
Packed = Annotated[bytes, Meta(max_length=limits.PIECES_MAX * 16)]


class HandleRefused(ValueError):
    """A handle that cannot be used. The text says why."""


class Shared(Struct, array_like=True, frozen=True, gc=False):
    """Where another process of this host finds the memory, and the ledger of generations."""

    host: Name  # processes of equal hosts can open each other's descriptors
    process: U32
    ledger: U32  # a descriptor of that process
    memory: U32  # another one
    number: U64  # which memory of its plane it must turn out to be


class Remote(Struct, array_like=True, frozen=True, gc=False):
    """Where NIXL finds the memory, and the offer's word of the ledger."""

    agent: Name
    metadata: Annotated[bytes, Meta(max_length=limits.NAME_BYTES_MAX)]
    memory: U64  # its address there
    word: U64
    device: U32 = 0
    kind: Annotated[str, Meta(max_length=8)] = "DRAM"


class Handle(Struct, array_like=True, frozen=True):
    """Some bytes of another process, for a while."""

    node: U64  # of the mesh
    plane: U64  # of the process: a new one has another
    offer: U64
    slot: U32  # its word in the ledger
    generation: U64  # what that word says as long as the bytes are these
    size: Size  # bytes in all
    ready: Size  # bytes that were there when this was written; the owner says when there are more
    lease_ms: U64  # how long the owner will keep them, from when this was written
    host: Name  # who has an equal one can use ipc addresses
    addresses: Addresses  # bulk; empty: none
    pieces: Packed  # where in the memory; see nodes.transfer.pieces
    shared: Shared | None = None
    remote: Remote | None = None
    layout: Layout | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.size} bytes of node {self.node:016x} (offer {self.offer})"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Handle).decode


def encode(handle: Handle) -> bytes:
    """A handle as the payload of a message."""
    return _encode(handle)


def decode(packed: bytes) -> Handle:
    """A handle from a message. Raises HandleRefused."""
    try:
        handle = _decode(packed)
    except (msgspec.DecodeError, RecursionError) as error:
        raise HandleRefused(f"this is no handle: {error}") from None
    examine(handle)
    return handle


def examine(handle: Handle) -> Stream:
    """The stream that a handle describes, if it can be one. Raises HandleRefused."""
    try:
        whole = stream(unpack(handle.pieces))
        if handle.layout is not None:
            refuse(handle.layout)
    except (PiecesRefused, LayoutRefused) as error:
        raise HandleRefused(str(error)) from None
    if whole.size != handle.size:
        raise HandleRefused(f"the pieces of this handle have {whole.size} bytes, but it speaks of {handle.size}")
    if handle.ready > handle.size:
        raise HandleRefused(f"this handle says that {handle.ready} of {handle.size} bytes are ready")
    if whole.end > limits.MEMORY_BYTES_MAX:
        raise HandleRefused("a piece of this handle ends beyond any memory")
    if handle.layout is not None and handle.size % handle.layout.block_bytes:
        raise HandleRefused(f"{handle.size} bytes are no whole number of blocks of {handle.layout.block_bytes}")
    return whole
