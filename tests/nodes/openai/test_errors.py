"""Problems have one shape, and every reason of the mesh has a status."""

import json

import pytest

from nodes.openai import errors
from nodes.openai.errors import Problem, body, event, headers, of_reason
from proto.errors import Reason


def test_the_shape_is_the_same_in_http_and_in_a_stream() -> None:
    problem = errors.invalid("no", "n", "invalid_value")
    shape = {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}}
    assert json.loads(body(problem)) == shape
    assert event(problem) == b"data: " + body(problem) + b"\n\n"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_a_problem(reason: Reason) -> None:
    problem = of_reason(reason, "/a/path and a prompt")
    assert 400 <= problem.status < 600 and problem.message and problem.code
    assert problem.type in ("invalid_request_error", "server_error", "rate_limit_error")
    assert ("prompt" in problem.message) == (reason in (Reason.INVALID, Reason.TOO_LARGE))


def test_a_routers_words_are_shown() -> None:
    assert of_reason(Reason.BUSY, "in node 7", said="all 3 are busy").message == "All workers are busy: all 3 are busy"


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.BUSY, 503),
        (Reason.UNAVAILABLE, 503),
        (Reason.KILLED, 499),
        (Reason.DEADLINE, 504),
        (Reason.FAILED, 500),
        (Reason.INVALID, 400),
        (Reason.UNKNOWN, 500),
    ],
)
def test_statuses(reason: Reason, status: int) -> None:
    assert of_reason(reason).status == status


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (errors.busy(0.25), {"retry-after-ms": "250", "retry-after": "1", "x-should-retry": "true"}),
        (errors.rate_limited(2.5), {"retry-after-ms": "2500", "retry-after": "3", "x-should-retry": "true"}),
        (of_reason(Reason.FAILED), {"x-should-retry": "false"}),
        (errors.invalid("x"), {}),
        (errors.no_model("x"), {}),
        (of_reason(Reason.BUSY, "", 0.0), {"retry-after-ms": "1", "retry-after": "1", "x-should-retry": "true"}),
    ],
)
def test_when_to_try_again(problem: Problem, expected: dict[str, str]) -> None:
    found = {name.decode(): value.decode() for name, value in headers(problem)}
    assert found == {"content-type": "application/json", **expected}


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        (errors.no_model("a/b"), 404, "model_not_found"),
        (errors.no_worker("a/b"), 503, "model_unavailable"),
        (errors.bad_key(), 401, "invalid_api_key"),
        (errors.rate_limited(1.0), 429, "rate_limit_exceeded"),
        (errors.too_large(), 413, "request_too_large"),
        (errors.too_long(200, 150, 100, "messages"), 400, "context_length_exceeded"),
    ],
)
def test_what_clients_look_for(problem: Problem, status: int, code: str) -> None:
    assert (problem.status, problem.code) == (status, code)
