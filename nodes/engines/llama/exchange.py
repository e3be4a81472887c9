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
TURNED = Form("<iII")  # instead of it before values that are: kind of numbers, bytes of one, how many in a row
PLACES = np.dtype([("position", "<i4"), ("lanes", "<u4"), ("lane", "<i4")])
DTYPES = {0: "float32", 1: "float16"}  # of llama.cpp's kinds of numbers, those that blocks know
ITEM_BYTES = {"float32": 4, "float16": 2}


class Strange(ValueError):
    """A state that is not of the form that we know."""


class Rows(Struct):
    """What a state says: (layer, part, position, byte), the positions in order."""

    magic: int
    turned: int  # whether values came with the positions along the memory
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
    dtype = DTYPES[rows.kind]
    if row_bytes % (ITEM_BYTES[dtype] * heads):
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
        at += MIDDLE.size
        kind, row_bytes = PART.unpack_from(state, at)
    except (TooShort, ValueError) as error:
        raise Strange(f"a state of {len(state)} bytes ends too early: {error}") from None
    part_bytes = PART.size + count * row_bytes
    if streams != 1 or turned > 1 or kind not in DTYPES or not layers or len(state) - at != 2 * layers * part_bytes:
        raise Strange(f"a state of {len(state)} bytes is of another form")
    parts = np.frombuffer(state, np.uint8, offset=at).reshape(2, layers, part_bytes)
    if (places["lanes"] != 1).any() or (parts[..., : PART.size] != headers(turned, kind, row_bytes)).any():
        raise Strange("a state's layers differ from each other")
    rows = np.empty((layers, 2, count, row_bytes), np.uint8)
    rows[:, 0] = parts[0, :, PART.size :].reshape(layers, count, row_bytes)
    values = parts[1, :, PART.size :]
    rows[:, 1] = turn(values, count, kind) if turned else values.reshape(layers, count, row_bytes)
    return Rows(magic, turned, kind, rows[:, :, np.argsort(places["position"], kind="stable")])


def told(rows: Bytes, start: int, sample: Rows | None) -> bytes:
    """The state of these rows, the first of which stands at `start`; its form is that of a sample."""
    assert sample is not None, "the card says that nothing is handed over"
    layers, parts, count, row_bytes = rows.shape
    places = np.zeros(count, PLACES)
    places["position"], places["lanes"], places["lane"] = np.arange(start, start + count), 1, SCRATCH
    made = np.empty((parts, layers, PART.size + count * row_bytes), np.uint8)
    made[..., : PART.size] = headers(sample.turned, sample.kind, row_bytes)
    made[0, :, PART.size :] = rows[:, 0].reshape(layers, -1)
    values = rows[:, 1].reshape(layers, -1)
    if sample.turned:
        values = turn(values, row_bytes // ITEM_BYTES[DTYPES[sample.kind]], sample.kind).reshape(layers, -1)
    made[1, :, PART.size :] = values
    head = HEAD.pack(sample.magic, SCRATCH, 1, count) + places.tobytes()
    return head + MIDDLE.pack(sample.turned, layers) + made.tobytes()


def headers(turned: int, kind: int, row_bytes: int) -> Bytes:
    """What stands before the keys of each layer, and before the values of each: (part, 1, byte)."""
    item = ITEM_BYTES[DTYPES[kind]]
    values = TURNED.pack(kind, item, row_bytes // item) if turned else PART.pack(kind, row_bytes)
    return np.frombuffer(PART.pack(kind, row_bytes) + values, np.uint8).reshape(2, 1, PART.size)


def turn(values: Bytes, columns: int, kind: int) -> Bytes:
    """Numbers as bytes, (layer, row, column), with rows for columns: (layer, column, byte)."""
    layers, item = len(values), ITEM_BYTES[DTYPES[kind]]
    turned = values.reshape(layers, -1, columns, item).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(turned).reshape(layers, columns, -1)
