"""Shell. The lines about requests: written a few times a second, all at once, because a line costs a system call."""

import asyncio
import time
from collections.abc import Callable

from mesh.logs import outlet
from nodes.frontend.record import Record, as_json, as_text

FLUSH_S = 0.1  # how late a line may be
LINES_MAX = 1_000  # a flood is not gathered first


def _text(record: Record, wall_s: float) -> str:
    second = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_s))
    return as_text(record, f"{second},{int(wall_s % 1 * 1000):03d}")


class Journal:
    """Where records go."""

    def __init__(self, log_format: str = "text", write: Callable[[str], None] = outlet.put) -> None:
        self._line = as_json if log_format == "json" else _text
        self._write = write
        self._records: list[tuple[Record, float]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, record: Record) -> None:
        """A request is over."""
        self._records.append((record, time.time()))
        if len(self._records) >= LINES_MAX:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records, self._records = self._records, []
        if records:
            self._write("".join([self._line(record, wall_s) for record, wall_s in records]))
