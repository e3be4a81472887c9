"""Pure. One line per request for the log: who, what, how long, how it ended. Never a word of its text, never a key."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

_encode = msgspec.json.Encoder().encode


class Record(Struct, omit_defaults=True):
    """What is told of one request. Times are seconds, nodes hexadecimal; what is empty is not told."""

    id: str
    endpoint: str = ""
    model: str = ""
    status: int = 0
    outcome: str = ""  # finish reasons, or the code of an error
    stream: bool = False
    first_token_s: float = 0.0
    duration_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    choices: int = 0
    attempts: int = 0
    nodes: list[str] = []
    why: str = ""
    client_id: str = ""
    trace: str = ""
    key: str = ""
    attached: str = ""  # the stream that it joined
    time: float = 0.0
    level: str = ""
    logger: str = ""


def as_json(record: Record, wall_s: float) -> str:
    """A line for programs."""
    record.time, record.level, record.logger = wall_s, "info", "wiremesh.request"
    return _encode(record).decode() + "\n"


def as_text(record: Record, moment: str) -> str:
    """A line for people, which looks like all others of a log."""
    told = " ".join([f"{name}={show(value)}" for name, show in _SHOWN if (value := getattr(record, name))])
    return f"{moment} INFO wiremesh.request: {told}\n"


def _seconds(value: float) -> str:
    return f"{value:.4f}"


def _word(value: str) -> str:
    """Text that may come from outside: nothing in it ends the line or looks like another field."""
    return value if value.isprintable() and " " not in value else _encode(value).decode()


_SHOWN: list[tuple[str, Callable[..., str]]] = [
    *((name, _word) for name in ("id", "endpoint", "model")),
    *((name, str) for name in ("status", "outcome", "stream")),
    *((name, _seconds) for name in ("first_token_s", "duration_s")),
    *((name, str) for name in ("prompt_tokens", "output_tokens", "cached_tokens", "choices", "attempts")),
    ("nodes", ",".join),
    *((name, _word) for name in ("why", "client_id", "trace", "key", "attached")),
]
