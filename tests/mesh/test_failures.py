"""Every end of a request that is not a good one has an exception that says where, what, and what to do."""

import pytest

from mesh import failures
from mesh.core import Finish
from proto.errors import Reason


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.UNAVAILABLE, failures.Unavailable),
        (Reason.NO_ENDPOINT, failures.Unavailable),
        (Reason.BUSY, failures.Busy),
        (Reason.INVALID, failures.InvalidRequest),
        (Reason.TOO_LARGE, failures.InvalidRequest),
        (Reason.DEADLINE, failures.DeadlineExceeded),
        (Reason.FAILED, failures.HandlerFailed),
        (Reason.LOST, failures.InstanceLost),
        (Reason.DRAINING, failures.InstanceLost),
        (Reason.KILLED, failures.StreamKilled),
        (Reason.MOVED_TOO_OFTEN, failures.MovedTooOften),
        (Reason.STALLED, failures.Stalled),
        (Reason.UNKNOWN, failures.MeshError),
    ],
)
def test_each_reason_has_its_exception(reason: Reason, kind: type[failures.MeshError]) -> None:
    error = failures.failure("a.b.c", Finish(1, reason, 5, text="why", attempts=2, nodes=(1, 2)))
    assert type(error) is kind and isinstance(error, failures.MeshError)
    assert (error.reason, error.items, error.attempts, error.instances) == (reason, 5, 2, (1, 2))
    assert str(error).startswith("a.b.c: why (instance 0000000000000002, after 5 items)")


def test_the_words_of_a_handler_are_kept() -> None:
    error = failures.failure("a.b.c", Finish(1, Reason.FAILED, 1, "ValueError", "boom", nodes=(1,)))
    assert isinstance(error, failures.HandlerFailed)
    assert (error.name, error.text) == ("ValueError", "boom")
    assert "a.b.c: ValueError: boom (instance" in str(error)


def test_busy_says_when_to_come_back() -> None:
    error = failures.failure("a.b.c", Finish(1, Reason.BUSY, 0, retry_ms=250))
    assert isinstance(error, failures.Busy) and error.retry_s == 0.25
    assert str(error) == "a.b.c: busy; come back later, or start more instances"
