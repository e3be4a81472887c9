"""Real processes for tests: started with our packages in reach, read line by line, ended by their own handle."""

import codecs
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.real.nursery import COMMANDS, Born, Nursery

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # a busy machine must not fail a test
COMMAND = ("-m", "launch.cli")
ENGINES = ("", "numpy", "sim")  # others start processes of their own, from what they were started from
NURSERIES: list[Nursery] = []  # of the session, at most one


class Child:
    """One process; its two output streams are one text."""

    def __init__(self, *words: object, environment: Mapping[str, str] | None = None) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WIREMESH_")}
        clean |= {"PYTHONPATH": str(ROOT), **(environment or {})}
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end in the middle of a character
        self._process = begun([str(word) for word in words], clean)
        self.pid = self._process.pid

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def line(self, part: str, timeout_s: float = PATIENCE_S) -> str:
        """The first line that contains `part`, waited for."""
        end = time.monotonic() + timeout_s
        while True:
            for line in self.text.splitlines(keepends=True):
                if part in line and line.endswith("\n"):  # What is not complete may go on.
                    return line.rstrip("\n")
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"no line with {part!r} in:\n{self.text}")

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code, waited for; the text is then complete."""
        end = time.monotonic() + timeout_s
        while self._read(end - time.monotonic()):
            pass
        try:
            return self._process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs:\n{self.text}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it, if it still runs, and close its pipe."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self, timeout_s: float) -> bool:
        """Read what is there, or wait for it; False at the end or when time is up."""
        assert self._process.stdout is not None
        if self._process.stdout.closed or not select.select([self._process.stdout], [], [], max(0.0, timeout_s))[0]:
            return False
        data = os.read(self._process.stdout.fileno(), 65_536)
        self.text += self._decoder.decode(data)
        return bool(data)


def begun(words: list[str], environment: Mapping[str, str]) -> Born | subprocess.Popen[bytes]:
    """A process: born in the nursery, if it is one of our nodes and its engine is ours too."""
    engine = words[words.index("--engine") + 1] if "--engine" in words else ""
    ours = (*words[:2],) == COMMAND and words[2] in COMMANDS and engine in ENGINES
    if NURSERIES and ours and environment["PYTHONPATH"] == str(ROOT):
        return NURSERIES[0].born(words[2:], environment)
    return subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
