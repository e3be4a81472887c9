"""Shell. Where the words of a process go: one line per event, as text or as JSON, on the standard error stream."""

import logging
import sys
from math import inf

import msgspec

REMARK_S = 60.0  # the same thing is said at most that often
REMARKS_MAX = 1_000  # topics remembered; who floods us with new ones shall not fill our memory
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


def configure(log_format: str) -> None:
    """Give the process a log, unless its owner has configured one."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
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
