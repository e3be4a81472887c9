"""A terminal of its own for a command, as a user has it."""

import codecs
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 30.0  # a busy machine must not fail a test


class Terminal:
    """A Python process whose three streams are one terminal."""

    def __init__(self, *words: object, kind: str = "dumb") -> None:
        self._ours, theirs = os.openpty()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": kind, "COLUMNS": "100", "LINES": "40"}
        command = [sys.executable, *map(str, words)]
        self.process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end in the middle of a character
        self._seen = 0

    def until(self, part: str) -> None:
        """Read until `part` comes, after what was waited for before."""
        end = time.monotonic() + PATIENCE_S
        while part not in self.text[self._seen :]:
            left_s = max(0.0, end - time.monotonic())
            assert select.select([self._ours], [], [], left_s)[0], f"no {part!r} in {self.text[-10_000:]}"
            self.text += self._decoder.decode(os.read(self._ours, 65_536))
        self._seen = self.text.index(part, self._seen) + len(part)

    def type(self, text: str) -> None:
        """Press keys. Only after a prompt: before it the terminal is not yet readline's."""
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """The exit code, waited for; the text is then complete."""
        with suppress(OSError):  # EIO: nobody has the other end.
            while select.select([self._ours], [], [], PATIENCE_S)[0]:
                self.text += self._decoder.decode(os.read(self._ours, 65_536))
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End it, if it still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
