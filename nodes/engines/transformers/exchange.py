"""Shell. Between the cache of the transformers engine and blocks that other engines understand."""

from collections.abc import Sequence
from typing import Any

from nodes.engines.numpy.exchange import stretches
from nodes.engines.running import Running
from nodes.engines.transformers.library import torch
from nodes.transfer.layout import Layout


class Exchange:
    """Keeps `nodes.engines.exporting.Exchange`. Keys and values are (layer, slot, head, width), on any device."""

    def __init__(self, keys: Any, values: Any, block_tokens: int) -> None:
        layers, _, heads, width = keys.shape
        self.layout = Layout(block_tokens, layers, heads, width, str(keys.dtype).removeprefix("torch."))
        self.use(keys, values)

    def use(self, keys: Any, values: Any) -> None:
        """From now on the cache is there."""
        self._both = keys, values

    def gather(self, running: Running, start: int, stop: int, out: memoryview) -> None:
        blocks = self._blocks(out)
        for index, count, first, last in stretches(running.blocks, self.layout.block_tokens, start, stop):
            for part in (0, 1):
                stretch = self._stretch(part, running.blocks[index], count, first, last)
                blocks[index : index + count, :, part, :, first:last] = stretch.to(blocks.device)

    def scatter(self, running: Running, start: int, stop: int, source: memoryview) -> None:
        blocks = self._blocks(source)
        for index, count, first, last in stretches(running.blocks, self.layout.block_tokens, start, stop):
            for part in (0, 1):
                content = blocks[index : index + count, :, part, :, first:last]
                self._stretch(part, running.blocks[index], count, first, last).copy_(content)

    def save(self, block: int, out: memoryview) -> None:
        content = self._blocks(out)
        for part in (0, 1):
            content[:1, :, part] = self._stretch(part, block, 1, 0, self.layout.block_tokens).to(content.device)

    def restore(self, running: Running, index: int, sources: Sequence[memoryview]) -> None:
        for block, source in zip(running.blocks[index : index + len(sources)], sources, strict=True):
            content = self._blocks(source)
            for part in (0, 1):
                self._stretch(part, block, 1, 0, self.layout.block_tokens).copy_(content[:1, :, part])

    def note(self, running: Running, start: int, stop: int) -> None:
        """They are in the cache."""

    def resume(self, running: Running) -> None:
        """Nothing is kept of a sequence but its blocks."""

    def _blocks(self, buffer: memoryview) -> Any:
        """(block, layer, part, head, token, width)"""
        layout = self.layout
        count = len(buffer) // layout.block_bytes
        shape = count, layout.layers, layout.parts, layout.heads, layout.block_tokens, layout.width
        numbers = count * layout.block_bytes // self._both[0].element_size()
        if buffer.readonly:  # the library reads nothing that it may not write
            buffer = memoryview(bytearray(buffer))
        return torch.frombuffer(buffer, dtype=self._both[0].dtype, count=numbers).reshape(shape)

    def _stretch(self, part: int, block: int, count: int, first: int, last: int) -> Any:
        """Some positions of each of `count` neighbouring blocks: (block, layer, head, token, width), a view."""
        layout = self.layout
        size = layout.block_tokens
        here = self._both[part][:, block * size : (block + count) * size]
        turned = here.reshape(layout.layers, count, size, layout.heads, layout.width).permute(1, 0, 3, 2, 4)
        return turned[..., first:last, :]
