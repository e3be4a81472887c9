"""The values that travel: they come back as they went, and what is too large is refused before it is used."""

from typing import Any

import msgspec
import pytest

from proto import placing as wire
from proto.basics import LegName
from proto.limits import FRAME_BYTES_MAX
from proto.placing import (
    Blocks,
    Change,
    Copy,
    Cut,
    Parked,
    Piece,
    Placement,
    Report,
    Routed,
    Settled,
    Wish,
)

VALUES = [
    Blocks(3, 5, 9, [Change(1, b"12345678", 2), Change(3)], 4),
    wire.Replay(1, 2**64 - 1),
    Cut(0, 7, 3),
    Copy(0, 2, 3),
    Piece(0, 2, 3, 9, [b"12345678", b""]),
    Routed([Placement(1, 1, 2, 3, 40, 30, 3, 16, b"12345678", 5)]),
    Settled([LegName(1, 1)], [LegName(2, 1)]),
    Report(1, 2, 3, 4, 5),
    Wish(b"12345678", 17, 16, 9, -1, 2, "session", 0, {"temperature": 0.5}),
    Parked(1, 1, 5),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_there_and_back(value: Any) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        Blocks(wire.RANKS_MAX, 1, 1),
        Blocks(0, 1, 1, [Change(1, bytes(8 * wire.CHANGE_BLOCKS_MAX + 8))]),
        Piece(0, 0, 1, 0, [b""] * (wire.LEVELS_MAX + 1)),
        Cut(0, 1, 0),
        Wish(bytes(8 * wire.PROMPT_BLOCKS_MAX + 8)),
        Wish(block_tokens=0),
        Settled([LegName(1, 1)] * (wire.ENTRIES_MAX + 1)),
    ],
)
def test_bounds(value: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))


def test_the_largest_that_we_send_fit_in_a_frame() -> None:
    assert wire.BLOCKS_BYTES_TARGET + 8 * wire.CHANGE_BLOCKS_MAX + 16 * wire.CHANGES_MAX < FRAME_BYTES_MAX
    assert wire.LEVELS_MAX * 8 * wire.PIECE_BLOCKS_MAX < FRAME_BYTES_MAX
    assert wire.ROUTED_BYTES_TARGET + 64 * wire.ENTRIES_MAX < FRAME_BYTES_MAX
