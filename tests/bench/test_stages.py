"""The line of stages carries every token from the engine to the last byte."""

import pytest

from bench import tinymodel
from bench.stages import ANSWER_TOKENS, STAGES, Line, measure
from bench.truth import Prompts, Truth

TEXT = ["a load that is made of words goes to and from the server with words and more words\n"] * 3


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    folder = tmp_path_factory.mktemp("model")
    tinymodel.make(folder, TEXT)
    return Truth(folder)


def test_every_token_arrives_and_every_stage_takes_time(truth: Truth) -> None:
    found = measure(truth, streams=4, tokens=2 * ANSWER_TOKENS)
    assert list(found) == list(STAGES)
    assert all(spent > 0 for spent in found.values()), found


def test_streams_follow_each_other(truth: Truth) -> None:
    line = Line(truth, 3, Prompts(truth, 40, seed=1))
    for _ in range(2 * ANSWER_TOKENS):
        line.turn()
    assert line.tokens >= 3 * ANSWER_TOKENS
    assert line.bytes > 100 * line.tokens
