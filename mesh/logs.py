"""Shell. Where the words of a process go: one line per event, as text or as JSON, on the standard error stream.

A thread writes them. Whoever reads that stream may stop reading, and then a write blocks: the node goes on, and what
does not fit is lost and counted.
"""

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf

import msgspec

REMARK_S = 60.0  # the same thing is said at most that often
REMARKS_MAX = 1_000  # topics remembered; who floods us with new ones shall not fill our memory
WAITING_BYTES_MAX = 1 << 20  # of lines that nobody reads: 5,000 or so
REST_S = 0.05  # between two writes: a thread that wakes up for each line takes the interpreter from who serves
LAST_WORDS_S = 1.0  # at the end: how long a reader may take for what still waits
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """Each record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class Outlet:
    """Writes text without ever blocking who has it."""

    def __init__(self, write: Callable[[str], None] = _to_stderr) -> None:
        self._write = write
        self._waiting: list[str] = []
        self._bytes = 0
        self._lost = 0  # lines
        self._thread: threading.Thread | None = None
        self._turn = threading.Condition()
        self._writing = self._idle = self._hurried = self._closed = False

    def put(self, text: str) -> None:
        """Some lines."""
        with self._turn:
            if self._bytes + len(text) > WAITING_BYTES_MAX:
                self._lost += text.count("\n")
                return
            self._waiting.append(text)
            self._bytes += len(text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            if self._idle:
                self._idle = False
                self._turn.notify_all()

    def flush(self, timeout_s: float = LAST_WORDS_S) -> None:
        """Return when all is written, or the time is up."""
        with self._turn:
            self._hurried = True
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._waiting and not self._writing, timeout_s)
            self._hurried = False

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self.flush()
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join(LAST_WORDS_S)

    def _run(self) -> None:
        while text := self._next():
            with suppress(OSError, ValueError):  # Nobody reads it any more.
                self._write(text)

    def _next(self) -> str:
        with self._turn:
            if self._writing:
                self._writing = False
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._hurried or self._closed, REST_S)
            self._idle = True
            self._turn.wait_for(lambda: bool(self._waiting) or self._closed)
            self._idle = False
            text, lost = "".join(self._waiting), self._lost
            self._waiting.clear()
            self._bytes = self._lost = 0
            self._writing = True
        return text + (f"({lost} lines of this log are lost: nobody read it)\n" if lost else "")


outlet = Outlet()


class OutletHandler(logging.Handler):
    """Where the log of a node goes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line on."""
        outlet.put(self.format(record) + "\n")

    def flush(self) -> None:
        """At the end: let it be written."""
        outlet.flush()


def configure(log_format: str) -> None:
    """Give the process a log, unless its owner has configured one."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = OutletHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(TEXT))
    root.addHandler(handler)
    root.setLevel(logging.INFO)


class Remarks:
    """What a node has to say, each thing at most once a minute."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, float] = {}

    def say(self, topic: str, text: str, now: float) -> None:
        """Say it, unless its topic was said a short while ago."""
        if now - self._said.get(topic, -inf) < REMARK_S:
            return
        if len(self._said) >= REMARKS_MAX:
            del self._said[next(iter(self._said))]
        self._said[topic] = now
        self._log.warning("%s", text)
