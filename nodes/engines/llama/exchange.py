"""Shell. Between llama.cpp's memory and blocks that other workers with the same model understand.

llama.cpp tells some positions of one sequence as bytes ("state"): where each stands, then the keys of all layers, then
the values, a row for each position. It is the library's own form, and may change: one that is not just as expected is
refused when the engine starts, and its card says then that it hands nothing over.
"""

from collections.abc import Sequence
from struct import Struct as Form
from struct import error as TooShort
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.llama.lanes import SCRATCH, Lanes
from nodes.engines.llama.model import LlamaModel
from nodes.engines.numpy.exchange import stretches
from nodes.engines.running import Running
from nodes.transfer.layout import Layout

Bytes = NDArray[np.uint8]
ORDER = "layer part token head width"  # unlike other engines: their keys are not turned as llama.cpp's are
HEAD = Form("<IiII")  # a number that is always the same, the lane, streams, positions
MIDDLE = Form("<II")  # whether values are transposed, layers
PART = Form("<iQ")  # kind of numbers, bytes of a row
PLACES = np.dtype([("position", "<i4"), ("lanes", "<u4"), ("lane", "<i4")])
DTYPES = {0: "float32", 1: "float16"}  # of llama.cpp's kinds of numbers, those that blocks know
ITEM_BYTES = {"float32": 4, "float16": 2}


class Strange(ValueError):
    """A state that is not of the form that we know."""


class Rows(Struct):
    """What a state says: (layer, part, position, byte), the positions in order."""

    magic: int
    kind: int
    content: Bytes


class Exchange:
    """Keeps `nodes.engines.exporting.Exchange`. `lanes` and `model` are given when both are there."""

    lanes: Lanes
    model: LlamaModel

    def __init__(self, layout: Layout | None, sample: Rows | None) -> None:
        self._sample = sample
        self._handed = layout

    @property
    def layout(self) -> Layout:
        assert self._handed is not None, "the card says that nothing is handed over"
        return self._handed

    def gather(self, running: Running, start: int, stop: int, out: memoryview) -> None:
        size, blocks = self.layout.block_tokens, self._blocks(out)
        lane = self.lanes.bind(running, stop // size)
        self.model.move(self.lanes.taken())
        rows = heard(self.model.state(lane, start, stop)).content
        for index, count, first, last in spread(size, start, stop):
            at = index * size + first - start
            some = rows[:, :, at : at + count * (last - first)].reshape(*rows.shape[:2], count, last - first, -1)
            blocks[index : index + count, :, :, first:last] = some.transpose(2, 0, 1, 3, 4)

    def scatter(self, running: Running, start: int, stop: int, source: memoryview) -> None:
        self._land(running, start, stop, self._blocks(source), 0)

    def save(self, block: int, out: memoryview) -> None:
        lane, start = self.lanes.where(block)
        self.model.move(self.lanes.taken())
        rows = heard(self.model.state(lane, start, start + self.layout.block_tokens))
        self._blocks(out)[0] = rows.content

    def restore(self, running: Running, index: int, sources: Sequence[memoryview]) -> None:
        size = self.layout.block_tokens
        blocks = self._blocks(memoryview(b"".join(sources)))
        self._land(running, index * size, (index + len(sources)) * size, blocks, index)

    def note(self, running: Running, start: int, stop: int) -> None:
        """They are in the cache."""

    def resume(self, running: Running) -> None:
        """Nothing is kept of a sequence but its lane."""

    def _land(self, running: Running, start: int, stop: int, blocks: Bytes, before: int) -> None:
        """What stands in `blocks`, the first of which is the block `before` of the sequence, becomes its own."""
        size = self.layout.block_tokens
        lane = self.lanes.bind(running, start // size)
        rows = np.empty((*blocks.shape[1:3], stop - start, blocks.shape[-1]), np.uint8)
        for index, count, first, last in spread(size, start, stop):
            at = index * size + first - start
            some = blocks[index - before : index - before + count, :, :, first:last].transpose(1, 2, 0, 3, 4)
            rows[:, :, at : at + count * (last - first)] = some.reshape(*rows.shape[:2], -1, rows.shape[-1])
        self.model.move(self.lanes.taken())
        self.model.restore(lane, start, stop, told(rows, start, self._sample))

    def _blocks(self, buffer: memoryview) -> Bytes:
        """(block, layer, part, token, byte)"""
        layout = self.layout
        count = len(buffer) // layout.block_bytes
        shape = count, layout.layers, layout.parts, layout.block_tokens, -1
        return np.frombuffer(buffer[: count * layout.block_bytes], np.uint8).reshape(shape)


def spread(size: int, start: int, stop: int) -> Any:
    """Positions as stretches of blocks, all of which are neighbours."""
    return stretches(range(-(-stop // size)), size, start, stop)


def layout_of(state: bytes, block_tokens: int, heads: int) -> tuple[Layout | None, Rows | None]:
    """How a model's cache is handed over, by what it said of one position; None: it cannot be."""
    try:
        rows = heard(state)
    except Strange:
        return None, None
    layers, parts, _, row_bytes = rows.content.shape
    dtype = DTYPES.get(rows.kind, "")
    if not dtype or row_bytes % (ITEM_BYTES[dtype] * heads):
        return None, None
    width = row_bytes // ITEM_BYTES[dtype] // heads
    return Layout(block_tokens, layers, heads, width, dtype, parts, ORDER), rows


def heard(state: bytes) -> Rows:
    """Raises Strange."""
    try:
        magic, _, streams, count = HEAD.unpack_from(state)
        places = np.frombuffer(state, PLACES, count, HEAD.size)
        at = HEAD.size + places.nbytes
        turned, layers = MIDDLE.unpack_from(state, at)
        kind, row_bytes = PART.unpack_from(state, at + MIDDLE.size)
    except (TooShort, ValueError) as error:
        raise Strange(f"a state of {len(state)} bytes ends too early: {error}") from None
    part_bytes = PART.size + count * row_bytes
    at += MIDDLE.size
    if (streams, turned) != (1, 0) or not layers or len(state) - at != 2 * layers * part_bytes:
        raise Strange(f"a state of {len(state)} bytes is of another form")
    parts = np.frombuffer(state, np.uint8, offset=at).reshape(2, layers, part_bytes)
    if (places["lanes"] != 1).any() or any(PART.unpack(one[: PART.size]) != (kind, row_bytes) for one in _each(parts)):
        raise Strange("a state's layers differ from each other")
    order = np.argsort(places["position"], kind="stable")
    rows = parts[..., PART.size :].reshape(2, layers, count, row_bytes)[:, :, order]
    return Rows(magic, kind, rows.transpose(1, 0, 2, 3))


def told(rows: Bytes, start: int, sample: Rows | None) -> bytes:
    """The state of these rows, the first of which stands at `start`; its form is that of a sample."""
    assert sample is not None, "the card says that nothing is handed over"
    layers, parts, count, row_bytes = rows.shape
    places = np.zeros(count, PLACES)
    places["position"], places["lanes"], places["lane"] = np.arange(start, start + count), 1, SCRATCH
    made = np.empty((parts, layers, PART.size + count * row_bytes), np.uint8)
    made[..., : PART.size] = np.frombuffer(PART.pack(sample.kind, row_bytes), np.uint8)
    made[..., PART.size :] = rows.transpose(1, 0, 2, 3).reshape(parts, layers, -1)
    return HEAD.pack(sample.magic, SCRATCH, 1, count) + places.tobytes() + MIDDLE.pack(0, layers) + made.tobytes()


def _each(parts: Bytes) -> list[bytes]:
    return [parts[part, layer].tobytes() for part in range(parts.shape[0]) for layer in range(parts.shape[1])]
