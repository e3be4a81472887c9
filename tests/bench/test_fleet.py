"""The fleet's load: its script, its bound and its figures. The systems themselves are run by hand."""

from pathlib import Path

import pytest

from bench.answers import Recording
from bench.figures import Mark, Spread
from bench.fleet import BLOCK_TOKENS, Conversations, Outcome, Script, best_of, outcome, shape_of, table, talks_of
from bench.loadgen import Load
from bench.tinymodel import make
from bench.truth import Truth, vocabulary

SCRIPT = Script(prefixes=3, talks=2, turns=4, prefix_tokens=40, turn_tokens=5)
TEXT = ["the first second third word of a short text and some more words to make pieces of\n"] * 50


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    folder: Path = tmp_path_factory.mktemp("fleet") / "model"
    make(folder, TEXT)
    return Truth(folder)


def test_talks_share_their_group_s_prefix_and_nothing_else(truth: Truth) -> None:
    talks = talks_of(SCRIPT, sorted(vocabulary(truth)))
    assert len(talks) == 6 and [(talk.group, talk.number) for talk in talks[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert talks[0].messages[0] == talks[1].messages[0] != talks[2].messages[0]
    assert talks[0].messages[1] != talks[1].messages[1]
    assert [len(talk.prompt()) for talk in talks[:1]] == [2]
    talks[0].turn = 3
    assert len(talks[0].prompt()) == 8 and talks[0].prompt()[-1]["role"] == "user"
    assert talks_of(SCRIPT, sorted(vocabulary(truth)))[5].messages == talks[5].messages, "the same for every system"


def test_the_best_is_what_one_cache_of_everything_has() -> None:
    blocks = [list(range(start, start + BLOCK_TOKENS)) for start in (0, 100, 200)]
    one, two = blocks[0] + blocks[1], blocks[0] + blocks[1] + blocks[2]
    assert best_of([one]) == 0
    assert best_of([one, two]) == 2 * BLOCK_TOKENS
    assert best_of([one, one]) == BLOCK_TOKENS, "the last token is computed in any case"
    assert best_of([one, [*one, 1]]) == 2 * BLOCK_TOKENS
    assert best_of([one, blocks[1]]) == 0, "a block is known by all that is before it"
    assert best_of([two, blocks[0] + blocks[2] + [1]]) == BLOCK_TOKENS


def test_wrong_answers_are_counted(truth: Truth) -> None:
    talks = talks_of(SCRIPT, sorted(vocabulary(truth)))
    run = Conversations(Load(url="http://127.0.0.1:1", model="m"), SCRIPT, talks, truth)
    run.sent = [talks[0].prompt(), talks[1].prompt()]
    run.recordings = [Recording(1.0, [b"HTTP/1.1 503 Busy\r\n\r\n"], [1.1], 1.1) for _ in run.sent]
    run.marks = [Mark(0.0, {}, 0.0, 0.0, {}), Mark(2.0, {}, 0.0, 0.0, {})]
    found = outcome("kv", 0, run, SCRIPT, truth)
    assert (found.requests, found.wrong, found.cached_tokens) == (2, 2, 0)
    assert found.troubles == {"status 503: ''": 2}
    assert 0 < found.best_tokens < found.prompt_tokens


def test_the_table() -> None:
    times = Spread(4, 10.0, 20.0, 30.0)
    runs = [
        Outcome(
            system="kv",
            round=number,
            requests=4,
            wrong=number,
            troubles={},
            prompt_tokens=1000,
            cached_tokens=cached,
            best_tokens=800,
            first_ms=times,
            later_first_ms=times,
            whole_ms=times,
            seconds=1.5,
            cpu_s={"frontend": 1.5, "worker": 1.0},
        )
        for number, cached in enumerate((400, 800, 800))
    ]
    assert table(runs).splitlines()[-1] == "| kv | 80.0% | 100.0% | 10 / 20 | 10 / 20 | 10 | 1.5 | 2.5 | 3 |"


def test_how_systems_are_started() -> None:
    knobs = Script(knobs="decode_weight=0.5 temperature=0")
    assert shape_of("kv", knobs).router_flags == ("--knob", "decode_weight=0.5", "--knob", "temperature=0")
    assert shape_of("round-robin", knobs).routers == 0
    assert "--kv-cache-block-size" in shape_of("dynamo kv", knobs).frontend_flags
    assert shape_of("dynamo round-robin", knobs).frontend_flags == ("--router-mode", "round-robin")
