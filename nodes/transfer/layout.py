"""Pure. What the bytes of a block mean, and whether two engines mean the same.

A block holds some tokens of a sequence for all layers. `order` names its axes from the slowest to the fastest. Two
layouts that differ in nothing but the tokens per block are converted while the bytes move, if one is a multiple of
the other: the puller writes the same bytes in another order, and the owner need not know.
"""

from math import prod
from typing import Annotated

from msgspec import Meta, Struct

from nodes.transfer import limits
from nodes.transfer.pieces import Piece

AXES = ("layer", "part", "head", "token", "width")
ORDER = "layer part head token width"
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3": 1,
    "float8_e5m2": 1,
    "int8": 1,
    "uint8": 1,
}
Count = Annotated[int, Meta(ge=1, le=2**20)]
Word = Annotated[str, Meta(max_length=64)]


class LayoutRefused(ValueError):
    """Two layouts do not fit. The text says in what, and what to do."""


class Layout(Struct, frozen=True, array_like=True, gc=False):
    """The shape of one block."""

    block_tokens: Count
    layers: Count
    heads: Count
    width: Count  # numbers per head
    dtype: Word
    parts: Count = 2  # keys and values; 1 where they are one
    order: Word = ORDER

    @property
    def block_bytes(self) -> int:
        """One block."""
        return self.block_tokens * self.layers * self.heads * self.width * self.parts * ITEM_BYTES[self.dtype]


def refuse(layout: Layout) -> None:
    """Refuse a layout that is none. Raises LayoutRefused."""
    if layout.dtype not in ITEM_BYTES:
        raise LayoutRefused(f"the number format {layout.dtype!r} is none of {', '.join(ITEM_BYTES)}")
    if sorted(layout.order.split()) != sorted(AXES):
        raise LayoutRefused(f"the order {layout.order!r} must name each of {', '.join(AXES)} once")


def agree(theirs: Layout, ours: Layout) -> None:
    """See that blocks of theirs can be pulled into blocks of ours. Raises LayoutRefused."""
    refuse(theirs)
    refuse(ours)
    for name in ("dtype", "layers", "parts", "heads", "width", "order"):
        one, other = getattr(theirs, name), getattr(ours, name)
        if one != other:
            raise LayoutRefused(
                f"their cache has {_said(name, one)}, ours {_said(name, other)}: "
                "prefill and decode workers must serve the same model in the same number format"
            )
    small, large = sorted((theirs.block_tokens, ours.block_tokens))
    if large % small:
        raise LayoutRefused(
            f"their blocks hold {theirs.block_tokens} tokens, ours {ours.block_tokens}: "
            "start both with block sizes of which one is a multiple of the other"
        )


def _said(name: str, value: object) -> str:
    return f"{name} {value}" if name in ("dtype", "order") else f"{value} {name}"


def blocks_needed(theirs: Layout, ours: Layout, blocks: int) -> int:
    """How many blocks of ours hold `blocks` of theirs."""
    return -(-blocks * theirs.block_tokens // ours.block_tokens)


def reorder(theirs: Layout, ours: Layout, blocks: int) -> list[Piece]:
    """Where each stretch of `blocks` blocks of theirs belongs: (position, length) in the stream of our blocks.

    The stretches follow the order of their stream. Raises LayoutRefused.
    """
    agree(theirs, ours)
    if theirs.block_tokens == ours.block_tokens:
        return [(0, blocks * ours.block_bytes)]
    sizes = {"layer": ours.layers, "part": ours.parts, "head": ours.heads, "width": ours.width}
    axes = ours.order.split()
    at = axes.index("token")
    outer = prod(sizes[axis] for axis in axes[:at])
    row = prod(sizes[axis] for axis in axes[at + 1 :]) * ITEM_BYTES[ours.dtype]
    run = min(theirs.block_tokens, ours.block_tokens)
    count = blocks * outer * (theirs.block_tokens // run)
    if count > limits.PIECES_MAX:
        raise LayoutRefused(
            f"blocks of {theirs.block_tokens} and {ours.block_tokens} tokens would cut these {blocks} blocks into "
            f"{count} pieces, more than {limits.PIECES_MAX}: start both workers with the same block size"
        )
    return [
        _place(token, plane, ours.block_tokens, outer, row, run)
        for block in range(blocks)
        for plane in range(outer)
        for token in range(block * theirs.block_tokens, (block + 1) * theirs.block_tokens, run)
    ]


def _place(token: int, plane: int, block_tokens: int, outer: int, row: int, run: int) -> Piece:
    """Where a run of tokens of one plane of the outer axes lies in the stream of our blocks."""
    block, index = divmod(token, block_tokens)
    return ((block * outer + plane) * block_tokens + index) * row, run * row
