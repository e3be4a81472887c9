"""A batch of texts: how many run, what waits, and how it ends."""

import json

import numpy as np
import pytest

from mesh.core import Finish
from nodes.frontend.batch import AT_ONCE, Batch, Text
from nodes.openai.errors import Problem
from proto.errors import Reason

VECTOR = np.asarray([1.0, 2.0], "<f4").tobytes()


def begun(batch: Batch) -> list[Text]:
    """All that may begin; a text's request is 100 and its index."""
    found = []
    while (index := batch.next()) >= 0:
        found.append(batch.begin(index, 100 + index))
    return found


def end(text: Text, reason: Reason = Reason.COMPLETE, vector: bytes = VECTOR) -> None:
    if vector and reason is Reason.COMPLETE:
        text.deliver(0, [vector], ())
    text.end(Finish(text.request, reason, text.position, text="a word", retry_ms=500, attempts=1, nodes=(7,)))


def batch_of(texts: int, at_once: int = 3) -> tuple[Batch, list[int]]:
    changes: list[int] = []
    return Batch([5] * texts, 2, "float", lambda: changes.append(1), at_once), changes


def test_some_run_at_a_time_and_all_come_in_their_order() -> None:
    batch, changes = batch_of(5)
    texts = begun(batch)
    assert [text.index for text in texts] == [0, 1, 2] and batch.next() == -1
    for text in reversed(texts):
        end(text)
        texts += begun(batch)
    for text in texts[3:]:
        end(text)
    assert batch.done and not batch.problem and len(changes) == 5
    assert [json.loads(part)["index"] for part in batch.parts] == [0, 1, 2, 3, 4]
    assert (batch.counts(), batch.nodes(), batch.attempts()) == ((25, 0, 0), [7], 5)


def test_what_has_no_room_waits_for_another() -> None:
    batch, _ = batch_of(4)
    first, second, third = begun(batch)
    end(second, Reason.BUSY)
    assert not batch.done and batch.next() == -1, "fewer run from now on"
    end(first)
    [again] = begun(batch)
    assert again.index == 1
    end(third)
    end(again)
    [last] = begun(batch)
    end(last)
    assert all(batch.parts)
    assert batch.problem is None


def test_with_none_that_runs_there_is_nothing_to_wait_for() -> None:
    batch, _ = batch_of(2, at_once=1)
    [first] = begun(batch)
    end(first, Reason.BUSY)
    assert batch.done and batch.problem is not None
    assert (batch.problem.status, batch.problem.retry_after_s) == (503, 0.5)
    assert batch.next() == -1


@pytest.mark.parametrize(
    ("reason", "vector", "status"),
    [
        (Reason.INVALID, b"", 400),
        (Reason.FAILED, b"", 500),
        (Reason.COMPLETE, b"1234", 500),
        (Reason.COMPLETE, b"", 500),
    ],
)
def test_the_first_failure_ends_it(reason: Reason, vector: bytes, status: int) -> None:
    batch, _ = batch_of(5)
    first, second, _ = begun(batch)
    end(first, reason, vector)
    assert batch.done and batch.problem is not None and batch.problem.status == status
    assert sorted(batch.running) == [101, 102] and batch.next() == -1, "who runs it has to end these"
    end(second)
    assert batch.problem.status == status and not batch.parts[1]


def test_it_may_be_ended_from_outside_once() -> None:
    batch, changes = batch_of(5)
    begun(batch)
    batch.fail(Problem(499, "gone"))
    batch.fail(Problem(503, "other"))
    assert batch.done and batch.problem is not None and batch.problem.status == 499 and len(changes) == 1


def test_an_end_that_comes_twice_is_one() -> None:
    batch, changes = batch_of(2)
    first, _ = begun(batch)
    end(first)
    end(first)
    assert len(changes) == 1 and len(batch.choices) == 1


def test_a_refusal_is_not_for_ever() -> None:
    batch, _ = batch_of(40, at_once=8)
    running = begun(batch)
    end(running.pop(), Reason.BUSY)
    most = 0
    while running:
        end(running.pop(0))
        running += begun(batch)
        most = max(most, len(batch.running))
    assert batch.done and batch.problem is None and all(batch.parts) and 8 < most <= AT_ONCE
