"""Blocks of known bytes, and an engine's side that waits for what it asked for."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path

from nodes.tiers import options
from nodes.tiers.tiers import Tiers, open_tiers
from nodes.transfer.layout import Layout

LAYOUT = Layout(16, 2, 2, 8, "float32")  # 4 KiB
BYTES = LAYOUT.block_bytes
PATIENCE_S = 20.0


def names(prompt: int, count: int) -> list[int]:
    """Of the blocks of a prompt."""
    draw = random.Random(prompt)
    return [draw.getrandbits(64) for _ in range(count)]


def content(name: int) -> bytes:
    """Of a block."""
    return random.Random(name).randbytes(BYTES)


class Stage:
    """Tiers, and what an engine does with them."""

    def __init__(self, host_blocks: int, disk: str = "", store: str = "", uses: int = 1, model: str = "model") -> None:
        asked = options.read(host_blocks * BYTES, disk, store, uses)
        assert asked is not None
        self.tiers: Tiers = open_tiers(asked, LAYOUT, model, "plain")
        self._cache: dict[int, int] = {}  # pool block: name
        self._news = threading.Event()
        self.tiers.attach(self._copy_out)
        self.tiers.on_news(lambda has_arrived: self._news.set())

    def _copy_out(self, block: int, out: memoryview) -> None:
        out[:] = content(self._cache[block])

    def spill(self, blocks: Sequence[int], is_patient: bool = False) -> None:
        """The cache turns a prompt out, its end first as caches do."""
        parents = dict(zip(blocks, [0, *blocks], strict=False))
        for name in reversed(blocks):
            self._cache[7] = name
            self.tiers.spill(name, parents[name], 7)
            if is_patient:
                self.wait_written()

    def keep(self, blocks: Sequence[int]) -> None:
        """A prompt is asked for, computed, turned out, and written down."""
        self.tiers.seek("keep", 0, blocks, len(blocks))
        self.spill(blocks, is_patient=True)

    def wait_written(self) -> None:
        with self.tiers._lock:
            idle = self.tiers._drained.wait_for(self.tiers._has_written, PATIENCE_S)
        assert idle, "what was queued was never written"

    def restored(self, blocks: Sequence[int], key: str = "job") -> int:
        """Ask for a prompt and wait as an engine does: how many blocks came. Their bytes are looked at."""
        self.tiers.seek(key, 0, blocks, 0)
        while self.tiers.waits(key):
            assert self._news.wait(PATIENCE_S), "nobody said that the wait is over"
            self._news.clear()
        found = self.tiers.ready(key, blocks)
        for name, view in zip(blocks, found, strict=False):
            assert view == content(name), "these bytes are another block's"
        self.tiers.leave(key)
        self.tiers.check()
        return len(found)

    def count(self, tier: int) -> object:
        return self.tiers._core.counts[tier]

    def close(self) -> None:
        self.tiers.close()


def files(path: Path) -> list[Path]:
    """All blocks below a directory."""
    return sorted(path.glob("**/*.kv"))
