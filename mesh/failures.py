"""Pure. How a request can fail, as exceptions. Their words name the endpoint, the instance, and what to do.

`failure` is the one place where a reason from the wire becomes an exception; `Reason.COMPLETE` and `Reason.STOPPED`
are no failures.
"""

from mesh.core import Finish
from proto.errors import Reason


class MeshError(Exception):
    """The common parent. `reason` says what happened, in the words of the protocol."""

    def __init__(self, text: str, reason: Reason = Reason.FAILED, finish: Finish | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.items = finish.position if finish else 0  # how many the caller got before
        self.attempts = finish.attempts if finish else 0
        self.instances = finish.nodes if finish else ()  # that had a part in it, in order


class Unavailable(MeshError):
    """No instance took the request; nothing of it was started."""


class Busy(MeshError):
    """Every instance is full. `retry_s` is when to come back."""

    retry_s: float = 0.0


class InvalidRequest(MeshError):
    """The request does not fit the endpoint; its handler never saw it."""


class DeadlineExceeded(MeshError):
    """It was not done in time."""


class HandlerFailed(MeshError):
    """The handler raised. `name` and `text` are those of its exception."""

    name: str = ""
    text: str = ""


class InstanceLost(MeshError):
    """The instance died or left, and the endpoint cannot resume. `items` had been delivered."""


class StreamKilled(MeshError):
    """The request was killed, by its caller or by the handler itself."""


class MovedTooOften(MeshError):
    """Too many instances were lost under it: perhaps it kills them."""


class Stalled(MeshError):
    """The instance was silent for longer than `stall_s`."""


KINDS: dict[Reason, tuple[type[MeshError], str]] = {
    Reason.UNAVAILABLE: (Unavailable, "start an instance, or wait for one with 'await client.ready()'"),
    Reason.NO_ENDPOINT: (Unavailable, "check the endpoint's name"),
    Reason.BUSY: (Busy, "come back later, or start more instances"),
    Reason.INVALID: (InvalidRequest, "mend the request"),
    Reason.TOO_LARGE: (InvalidRequest, "send less at once"),
    Reason.DEADLINE: (DeadlineExceeded, "give it a longer timeout_s"),
    Reason.FAILED: (HandlerFailed, "see the log of the instance"),
    Reason.LOST: (InstanceLost, "ask again if that is safe, or make the endpoint resumable"),
    Reason.DRAINING: (InstanceLost, "ask again if that is safe, or make the endpoint resumable"),
    Reason.KILLED: (StreamKilled, ""),
    Reason.MOVED_TOO_OFTEN: (MovedTooOften, "look into the logs of these instances"),
    Reason.STALLED: (Stalled, "give it a longer stall_s, or look at the instance"),
}


def failure(endpoint: str, finish: Finish) -> MeshError:
    """The exception for a request that did not end well."""
    kind, cure = KINDS.get(finish.reason, (MeshError, ""))
    error = kind(_sentence(endpoint, finish, cure), finish.reason, finish)
    if isinstance(error, Busy):
        error.retry_s = finish.retry_ms / 1000
    if isinstance(error, HandlerFailed):
        error.name, error.text = finish.name, finish.text
    return error


def _sentence(endpoint: str, finish: Finish, cure: str) -> str:
    what = ": ".join(part for part in (finish.name, finish.text) if part) or finish.reason.label.replace("_", " ")
    where = f" (instance {finish.nodes[-1]:016x}, after {finish.position} items)" if finish.nodes else ""
    return f"{endpoint}: {what}{where}" + (f"; {cure}" if cure else "")
