"""Pure. What the headers of a request say: who it is from, what it belongs to, how long it may take."""

import re
from collections.abc import Mapping
from math import inf, isfinite

from nodes.frontend import limits

Headers = Mapping[bytes, bytes]  # by lower-case name; of several equal ones the last

_UNFIT = re.compile(r"[^A-Za-z0-9._:@/+=-]")
_TRACE = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
# Keys that clients send to say which conversation a request is of, the surest first.
SESSIONS = (
    *(b"x-claude-code-session-id", b"session-id", b"session_id", b"x-session-id", b"x-session-affinity"),
    *(b"x-dynamo-session-id", b"x-opencode-session", b"x-openwebui-chat-id"),
)
_SESSIONS = frozenset(SESSIONS)
_NAMES = (b"x-request-id", b"x-correlation-id")
_NAMING = frozenset((*_NAMES, b"traceparent"))


def client_id(headers: Headers) -> str:
    """The client's own name for its request, made harmless; empty without one."""
    if _NAMING.isdisjoint(headers):
        return ""
    for name in _NAMES:
        value = headers.get(name)
        if value:
            return _UNFIT.sub("", value.decode("latin-1"))[: limits.CLIENT_ID_CHARS_MAX]
    found = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    return found.group(1).decode() if found else ""


def credential(headers: Headers) -> str:
    """The API key that came along; empty without one."""
    bearer = headers.get(b"authorization", b"")
    if bearer[:7].lower() == b"bearer ":
        return bearer[7:].strip().decode("latin-1")
    return (headers.get(b"x-api-key") or headers.get(b"api-key") or b"").strip().decode("latin-1")


def session(headers: Headers) -> bytes:
    """The conversation that a request says it is of; empty if it does not."""
    if _SESSIONS.isdisjoint(headers):
        return b""
    for name in SESSIONS:
        value = headers.get(name)
        if value:
            return name + b":" + value[: limits.SESSION_BYTES_MAX]
    return b""


def resendable(headers: Headers) -> bool:
    """Whether a request says what it would share with itself, sent again."""
    return bool(idempotency_key(headers) or session(headers))


def idempotency_key(headers: Headers) -> bytes:
    """What a client calls all tries of one request; empty without one."""
    return headers.get(b"idempotency-key", b"")[: limits.SESSION_BYTES_MAX]


def trace(headers: Headers, span: str) -> str:
    """The W3C trace context to pass on, with our own span in it; empty without a valid one."""
    found = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    if found is None or found.group(1) == _NO_TRACE or found.group(2) == _NO_SPAN:
        return ""
    return f"00-{found.group(1).decode()}-{span}-{found.group(3).decode()}"


def numbered(headers: Headers) -> bool:
    """Whether events carry ids. Never unasked: benchmarks take an event that begins with an id for broken."""
    accepts = b"text/event-stream" in headers.get(b"accept", b"").lower()
    return accepts or b"last-event-id" in headers or b"idempotency-key" in headers


def last_event(headers: Headers) -> int:
    """The last event that a client has seen; -1 if it has seen none."""
    text = headers.get(b"last-event-id", b"")
    return int(text) if text.isdigit() and len(text) < 16 else -1


def timeout_s(headers: Headers, streams: bool, timeout_s_max: float) -> float | None:
    """How long a request may take, or None for a header that is no time.

    The openai clients tell how long they wait for a read; only an answer in one piece has to be there within it.
    """
    asked = headers.get(b"x-request-timeout-ms")
    if asked is not None:
        milliseconds = _number(asked)
        return None if milliseconds is None else min(milliseconds / 1000, timeout_s_max)
    hint = None if streams else _number(headers.get(b"x-stainless-read-timeout", b""))
    return min(hint or inf, timeout_s_max)


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) and value > 0 else None


def explains(headers: Headers) -> bool:
    """Whether the answer is to say where it comes from."""
    return headers.get(b"x-wiremesh-explain", b"").lower() in (b"1", b"true", b"yes")


def worker(headers: Headers) -> int | None:
    """The node that is to serve this request; 0 for any, None for what names none."""
    text = headers.get(b"x-wiremesh-worker")
    if text is None:
        return 0
    return int(text, 16) if re.fullmatch(rb"[0-9a-f]{16}", text) else None
