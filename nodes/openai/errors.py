"""Pure. What goes wrong, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, in HTTP and in a stream.

Types are of OpenAI's vocabulary; a code is never empty for what a program may want to tell apart. No message repeats
what a client sent, except a name that it gave to a thing.
"""

from math import ceil

import msgspec
from msgspec import Struct

from nodes.openai import limits
from proto.errors import Reason

INVALID = "invalid_request_error"
SERVER = "server_error"
LIMITED = "rate_limit_error"


class Detail(Struct):
    """The inside of an error."""

    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None


class Failure(Struct):
    """The body of an error, and the data of an error event."""

    error: Detail


class Problem(Struct, frozen=True):
    """Why a request is not answered, or not to its end."""

    status: int
    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    retry: bool | None = None  # whether sending the same again may help; None: by the status


def body(problem: Problem) -> bytes:
    """The JSON of a problem."""
    return msgspec.json.encode(Failure(Detail(problem.message, problem.type, problem.param, problem.code)))


def event(problem: Problem) -> bytes:
    """A problem inside a stream: what comes after 200 cannot have a status."""
    return b"data: " + body(problem) + b"\n\n"


def headers(problem: Problem) -> list[tuple[bytes, bytes]]:
    """What a client reads to know whether and when to try again. Seconds are whole and at least 1 where milliseconds
    are not understood."""
    found = [(b"content-type", b"application/json")]
    if problem.retry_after_s is not None:
        milliseconds = max(1, ceil(problem.retry_after_s * 1000))
        found.append((b"retry-after-ms", b"%d" % milliseconds))
        found.append((b"retry-after", b"%d" % max(1, ceil(milliseconds / 1000))))
    retry = problem.retry if problem.retry is not None else problem.status in (429, 503)
    if problem.status >= 429 or retry:
        found.append((b"x-should-retry", b"true" if retry else b"false"))
    return found


def invalid(message: str, param: str | None = None, code: str | None = None) -> Problem:
    """The client's mistake, with the parameter that it is about."""
    return Problem(400, message[: limits.REASON_CHARS_MAX], INVALID, param, code)


def unsupported(param: str, why: str = "is not supported") -> Problem:
    """A parameter that we know and cannot serve: never silently ignored."""
    return invalid(f"`{param}` {why}.", param, "unsupported_parameter")


def unseeded(how: str) -> Problem:
    """A seed that would change nothing. `how`: what a card says of it."""
    return unsupported("seed", f"changes nothing in what this model draws, unless its workers are started {how}")


def too_large(bytes_max: int = limits.BODY_BYTES_MAX) -> Problem:
    """A body beyond the limit."""
    return Problem(413, f"The body is larger than {bytes_max} bytes.", INVALID, None, "request_too_large")


def no_model(name: str) -> Problem:
    """A model that no worker has ever offered here."""
    shown = name[: limits.NAME_CHARS_MAX]
    message = f"The model `{shown}` does not exist. GET /v1/models lists those that do."
    return Problem(404, message, INVALID, "model", "model_not_found")


def no_worker(name: str, retry_after_s: float = 1.0) -> Problem:
    """A known model that nobody serves at the moment."""
    shown = name[: limits.NAME_CHARS_MAX]
    message = f"No worker serves the model `{shown}` at the moment."
    return Problem(503, message, SERVER, "model", "model_unavailable", retry_after_s)


def makes_embeddings(name: str) -> Problem:
    """A model that generates nothing."""
    shown = name[: limits.NAME_CHARS_MAX]
    message = f"The model `{shown}` makes embeddings and generates no text: use /v1/embeddings."
    return invalid(message, "model", "model_not_supported")


def makes_pictures(name: str) -> Problem:
    """A model that has nothing to do with text, but for reading what it is to paint."""
    shown = name[: limits.NAME_CHARS_MAX]
    message = f"The model `{shown}` makes pictures or clips, nothing else: use /v1/images/generations or /v1/videos."
    return invalid(message, "model", "model_not_supported")


def busy(retry_after_s: float) -> Problem:
    """The mesh is full."""
    return Problem(503, "All workers are busy.", SERVER, None, "overloaded", retry_after_s)


def rate_limited(retry_after_s: float) -> Problem:
    """This client has too much under way."""
    return Problem(429, "Too many requests under this API key.", LIMITED, None, "rate_limit_exceeded", retry_after_s)


def bad_key() -> Problem:
    """No API key, or a wrong one: the same words for both."""
    return Problem(401, "A valid API key is required.", INVALID, None, "invalid_api_key")


def no_route(path: str, meant: str = "") -> Problem:
    """An address that does not exist. `meant`: one that does, and is much like it."""
    guess = f" There is something at `{meant}`." if meant else ""
    return Problem(404, f"There is nothing at `{path[:100]}`.{guess}", INVALID, None, "unknown_url")


def wrong_method(method: str) -> Problem:
    """An address that does not answer to this method."""
    return Problem(405, f"`{method[:16]}` is not allowed here.", INVALID, None, "method_not_allowed")


def too_long(asked: int, prompt: int, context: int, param: str) -> Problem:
    """Prompt and completion beyond the context; the first sentence is what client libraries look for."""
    message = (
        f"This model's maximum context length is {context} tokens. However, you requested {asked} tokens "
        f"({prompt} in the {param}, {asked - prompt} in the completion). Please reduce the length of the {param} or "
        "of the completion."
    )
    return Problem(400, message, INVALID, param, "context_length_exceeded")


def far_too_long(least: int, context: int, param: str) -> Problem:
    """A prompt of which nobody needs to know how long it is exactly."""
    message = (
        f"This model's maximum context length is {context} tokens. However, the {param} alone has at least {least} "
        "tokens. Please reduce its length."
    )
    return Problem(400, message, INVALID, param, "context_length_exceeded")


class Row(Struct, frozen=True):
    """A line of the table below."""

    status: int
    type: str
    code: str
    message: str
    retry: bool = False


_CANCELLED = Row(499, INVALID, "request_cancelled", "The request was cancelled.")
_AGAIN = Row(503, SERVER, "unavailable", "The service is temporarily unavailable.", retry=True)
_FULL = Row(503, SERVER, "overloaded", "All workers are busy.", retry=True)
_INTERNAL = Row(500, SERVER, "internal_error", "An internal error occurred.")
_BAD = Row(400, INVALID, "invalid_request", "The worker refused the request.")

# What the mesh says, as a client hears it. The mesh moves requests by itself: what is left here it could not repair.
TABLE: dict[Reason, Row] = {
    **dict.fromkeys((Reason.BUSY, Reason.OVERFLOW, Reason.PREEMPT), _FULL),
    **dict.fromkeys((Reason.INVALID, Reason.TOO_LARGE), _BAD),
    **dict.fromkeys((Reason.STOPPED, Reason.KILLED), _CANCELLED),
    **dict.fromkeys((Reason.DRAINING, Reason.DRAIN, Reason.LEFT, Reason.NO_ENDPOINT, Reason.UNAVAILABLE), _AGAIN),
    **dict.fromkeys((Reason.LOST, Reason.LINK_LOST, Reason.SILENT, Reason.UNREACHABLE, Reason.VANISHED), _AGAIN),
    **dict.fromkeys((Reason.MOVED, Reason.ORPHAN, Reason.HUNG, Reason.STALE, Reason.SUPERSEDED), _AGAIN),
    Reason.STALLED: Row(504, SERVER, "stalled", "The worker made no progress in time."),
    Reason.DEADLINE: Row(504, SERVER, "deadline_exceeded", "The request's deadline has passed."),
    Reason.MOVED_TOO_OFTEN: Row(500, SERVER, "moved_too_often", "The request was moved too often and was given up."),
    Reason.POISON: Row(500, SERVER, "poison", "The request was running when workers died, and is not tried again."),
    Reason.FAILED: Row(500, SERVER, "engine_error", "The worker failed on this request."),
}


def of_reason(reason: Reason, text: str = "", retry_after_s: float | None = None, said: str = "") -> Problem:
    """The problem for a reason of the mesh. Only a refusal's own words are shown: they are meant for the client.

    `said`: a router's words, which name no node.
    """
    row = TABLE.get(reason, _INTERNAL)
    shown = text[: limits.REASON_CHARS_MAX] if text and reason in (Reason.INVALID, Reason.TOO_LARGE) else row.message
    if said:
        shown = f"{shown.removesuffix('.')}: {said[: limits.REASON_CHARS_MAX]}"
    after = (1.0 if retry_after_s is None else retry_after_s) if row.retry else None
    return Problem(row.status, shown, row.type, None, row.code, after, row.retry)
