"""What an engine of its own says of its jobs, made into steps: budgets, ends, and what was not told."""

from typing import Any

import pytest

from nodes.contract.engine import FULL, Ending, Job, Logprobs, Output
from nodes.engines.gathering import Gathering, Going, Piece
from tests.nodes.engines.sources import VOCABULARY, Counter


def gathering(**card: Any) -> Gathering:
    return Gathering(Counter(**card).card)


def taken(jobs: Gathering, job: Job) -> Going:
    going = jobs.submit(job)
    assert isinstance(going, Going)
    return going


def test_the_queue_is_bounded() -> None:
    jobs = gathering()
    for number in range(1024):
        taken(jobs, Job(number, [5]))
    assert jobs.submit(Job("one more", [5])) == FULL


@pytest.mark.parametrize(
    ("pieces", "tokens", "ending"),
    [
        ([Piece([7, 8, 9, 10])], [7, 8, 9], Ending.LENGTH),
        ([Piece([7, 8]), Piece([9, 10])], [7, 8, 9], Ending.LENGTH),
        ([Piece([7, 1], ending=Ending.STOP)], [7, 1], Ending.STOP),
        ([Piece([7, 8, 1], ending=Ending.STOP)], [7, 8, 1], Ending.STOP),
        ([Piece([7]), Piece([VOCABULARY])], [7], Ending.FAILED),
        ([Piece([7], [Logprobs(-1.0), Logprobs(-2.0)])], [], Ending.FAILED),
    ],
)
def test_no_job_gets_more_than_it_may(pieces: list[Piece], tokens: list[int], ending: Ending) -> None:
    jobs = gathering()
    going = taken(jobs, Job("a", [5], max_tokens=3))
    over = [jobs.add(going, piece) for piece in pieces]
    assert over[-1] and not any(over[:-1])
    (output,) = jobs.step().outputs
    assert (list(output.tokens), output.ending) == (tokens, ending)
    assert jobs.add(going, Piece([7])) and jobs.idle()


def test_pieces_of_one_turn_are_one_output() -> None:
    jobs = gathering()
    going = taken(jobs, Job("a", [5, 6], max_tokens=9))
    jobs.add(going, Piece([7], [Logprobs(-1.0)], cached_tokens=1))
    jobs.add(going, Piece([8], [Logprobs(-2.0)], native=b"x"))
    step = jobs.step()
    wanted = Output("a", [7, 8], [Logprobs(-1.0), Logprobs(-2.0)], cached_tokens=1, native=b"x")
    assert step.outputs == [wanted] and (step.computed_tokens, step.prefilled_tokens) == (3, 1)
    assert jobs.idle() and jobs.step().outputs == []
    jobs.add(going, Piece([9], ending=Ending.STOP))
    assert jobs.step().outputs == [Output("a", [9], ending=Ending.STOP)]


def test_a_cancel_discards_what_was_not_told() -> None:
    jobs = gathering()
    going = taken(jobs, Job("a", [5], max_tokens=9))
    jobs.add(going, Piece([7]))
    jobs.cancel("a")
    again = taken(jobs, Job("a", [6], max_tokens=9))
    assert jobs.add(going, Piece([8])) and not jobs.add(again, Piece([9]))
    assert jobs.step().outputs == [Output("a", ending=Ending.CANCELLED), Output("a", [9])]
    assert jobs.add(again, Piece([2] * 8)) and again.output is not None
