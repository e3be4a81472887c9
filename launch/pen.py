"""Shell. Writes lines, and a block that stays below them, in a thread of its own.

A terminal that was stopped with Ctrl-S, or a pipe whose reader sleeps, blocks who writes to it. `wiremesh up` must not
be blocked: its nodes' words would fill their pipes, and then a slow terminal would stop the service.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

from launch.screen import joined, left_out

LINES_MAX = 2_000  # kept for a slow reader; of what nodes say beyond that only the number is kept
CLOSE_S = 1.0  # for the last lines


class Pen:
    """One stream. All methods return at once, but `close`."""

    def __init__(self, stream: TextIO, broken: Callable[[], None]) -> None:
        """`broken` is called, in another thread, when nobody reads any more."""
        self._stream = stream
        self._broken = broken
        self._lines: list[str] = []
        self._lost = 0
        self._block: Sequence[str] = ()
        self._drawn: Sequence[str] = ()
        self._closed = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="pen", daemon=True)
        self._thread.start()

    def say(self, line: str, may_be_lost: bool = False) -> None:
        """Write a line, above the block if there is one."""
        with self._news:
            if may_be_lost and len(self._lines) >= LINES_MAX:
                self._lost += 1
                return
            if self._lost:
                self._lines.append(left_out(self._lost))
                self._lost = 0
            self._lines.append(line)
            self._news.notify()

    def draw(self, block: Sequence[str]) -> None:
        """Replace the block."""
        with self._news:
            self._block = block
            self._news.notify()

    def close(self) -> None:
        """Write what is left, if somebody reads it soon; the block stays as it is."""
        with self._news:
            if self._lost:
                self._lines.append(left_out(self._lost))
            self._closed = True
            self._news.notify()
        self._thread.join(CLOSE_S)

    def _write_all(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._lines or self._closed or self._block is not self._drawn)
                lines, self._lines = self._lines, []
                block, closed = self._block, self._closed
            if lines or block is not self._drawn:
                erase = f"\x1b[{len(self._drawn)}F\x1b[0J" if self._drawn else ""
                if not self._write(erase + joined(lines) + joined(block)):
                    return
                self._drawn = block
            if closed:
                return

    def _write(self, text: str) -> bool:
        """Whether somebody still reads."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._silence()
            self._broken()
            return False
        return True

    def _silence(self) -> None:
        """Point the stream at nothing, so that the interpreter's last flush cannot fail again."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)
