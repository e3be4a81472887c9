"""Shell. Between the cache of the numpy engine and blocks that other engines understand.

The cache keeps the keys of a head with the positions along the memory, because that is how attention reads them; a
block has them position by position, like the values, and all layers of its positions together.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nodes.engines.numpy.attention import runs_of
from nodes.engines.scheduler import Running
from nodes.transfer.layout import Layout

Floats = NDArray[np.float32]
PASS_BLOCKS = 64  # whose keys are turned at once: what that takes stays near the processor
ODD = 16  # numbers between two lines: without them equal positions of all lines share a place in its cache


class Exchange:
    """Keeps `nodes.engines.exporting.Exchange`. Keys and values are those of `Model`."""

    def __init__(self, keys: Floats, values: Floats, block_tokens: int) -> None:
        layers, heads, width, _ = keys.shape
        self.layout = Layout(block_tokens, layers, heads, width, "float32")
        self.use(keys, values)

    def use(self, keys: Floats, values: Floats) -> None:
        """From now on the cache is there."""
        self._keys, self._values = keys, values

    def gather(self, running: Running, start: int, stop: int, out: memoryview) -> None:
        blocks, size = self._blocks(out), self.layout.block_tokens
        for index, count, first, last in stretches(running.blocks, size, start, stop):
            keys, values = self._stretch(running.blocks[index], count, first, last)
            part = blocks[index : index + count, ..., first:last, :]
            part[:, :, 1] = values
            if last - first < size:
                part[:, :, 0] = keys
        first, last = -(-start // size), stop // size
        for index in range(first, last, PASS_BLOCKS):
            self._gather_keys(running.blocks, blocks, index, min(last, index + PASS_BLOCKS))

    def _gather_keys(self, used: Sequence[int], blocks: Floats, first: int, last: int) -> None:
        """Keys of full blocks, layer by layer over a memory of their own.

        Straight from the cache, whose lines often are a power of two apart, it takes up to four times as long.
        """
        layout, size = self.layout, self.layout.block_tokens
        length = (last - first) * size
        lines = np.empty((layout.heads, layout.width, length + ODD), np.float32)[..., :length]
        turned = lines.reshape(layout.heads, layout.width, last - first, size).transpose(2, 0, 3, 1)
        runs = runs_of(used[first:last], size, length)
        for layer in range(layout.layers):
            at = 0
            for start, stop in runs:
                lines[..., at : at + stop - start] = self._keys[layer, :, :, start:stop]
                at += stop - start
            blocks[first:last, layer, 0] = turned

    def scatter(self, running: Running, start: int, stop: int, source: memoryview) -> None:
        blocks = self._blocks(source)
        for index, count, first, last in stretches(running.blocks, self.layout.block_tokens, start, stop):
            keys, values = self._stretch(running.blocks[index], count, first, last)
            part = blocks[index : index + count, ..., first:last, :]
            keys[...] = part[:, :, 0]
            values[...] = part[:, :, 1]

    def save(self, block: int, out: memoryview) -> None:
        content = self._blocks(out)[:1]
        content[:, :, 1] = self._stretch(block, 1, 0, self.layout.block_tokens)[1]
        self._gather_keys([block], content, 0, 1)

    def restore(self, running: Running, index: int, sources: Sequence[memoryview]) -> None:
        for block, source in zip(running.blocks[index : index + len(sources)], sources, strict=True):
            keys, values = self._stretch(block, 1, 0, self.layout.block_tokens)
            content = self._blocks(source)[:1]
            keys[...] = content[:, :, 0]
            values[...] = content[:, :, 1]

    def note(self, running: Running, start: int, stop: int) -> None:
        """They are in the cache."""

    def resume(self, running: Running) -> None:
        """Nothing is kept of a sequence but its blocks."""

    def _blocks(self, buffer: memoryview) -> Floats:
        """(block, layer, part, head, token, width)"""
        layout = self.layout
        count = len(buffer) // layout.block_bytes
        shape = count, layout.layers, layout.parts, layout.heads, layout.block_tokens, layout.width
        return np.frombuffer(buffer[: count * layout.block_bytes], np.float32).reshape(shape)

    def _stretch(self, block: int, count: int, first: int, last: int) -> tuple[Floats, Floats]:
        """Keys and values of some positions of each of `count` neighbouring blocks: (block, layer, head, token, width).

        They are views: what is written there is written to the cache.
        """
        layout = self.layout
        size = layout.block_tokens
        here = slice(block * size, (block + count) * size)
        keys = self._keys[..., here].reshape(layout.layers, layout.heads, layout.width, count, size)
        values = self._values[:, :, here].reshape(layout.layers, layout.heads, count, size, layout.width)
        return keys[..., first:last].transpose(3, 0, 1, 4, 2), values[..., first:last, :].transpose(2, 0, 1, 3, 4)


def stretches(blocks: Sequence[int], size: int, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Positions as (index of a block in the sequence, how many that are neighbours, first and last token of each)."""
    while start < stop:
        index, first = divmod(start, size)
        count, last = 1, min(size, stop - index * size)
        if not first and last == size:
            while start + (count + 1) * size <= stop and blocks[index + count] == blocks[index] + count:
                count += 1
        yield index, count, first, last
        start = (index + count - 1) * size + last
