"""The conformance suite, guides: what an engine says is what its job prescribes, wherever it began and who began it."""

import json
import re
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from math import isfinite
from typing import Any

import pytest
from msgspec import structs

from nodes.contract.engine import UNGUIDED, Ending, Job, Output, Sampling
from nodes.contract.guide import CHOICE, GRAMMAR, JSON_OBJECT, JSON_SCHEMA, REGEX, Guide
from nodes.folder import contents_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.engines.engines import Row
from tests.engines.harness import GREEDY, Harness, job
from tests.engines.reference import DEMO
from tests.engines.test_streams import prompt

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a", '\u00e9"b']}},
    "required": ["n", "kind"],
    "additionalProperties": False,
}
TEXT = Guide(JSON_SCHEMA, json.dumps({"type": "string", "minLength": 20, "maxLength": 24}))
RECORD = Guide(JSON_SCHEMA, json.dumps(SCHEMA))
DATE = Guide(REGEX, r"20[0-9]{2}-(0[1-9]|1[0-2])")
ANSWER = Guide(CHOICE, json.dumps(["yes", "no way"]))
SUM = Guide(GRAMMAR, 'root ::= n ("+" n){2} "=" n\nn ::= [1-9] [0-9]?')
LIST = Guide(GRAMMAR, 'start: "[" word ("," word){2} "]"\nword: /[a-z]{2,5}/')
GUIDES = (TEXT, RECORD, DATE, ANSWER, SUM, LIST)
DRAWN = Sampling(temperature=1.0, top_p=0.95, seed=7)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(ModelFiles(**contents_of(DEMO)))


def text_of(tokens: Sequence[int]) -> str:
    return tokenizer().decode(tokens)


def follows(guide: Guide, text: str) -> bool:
    """Whether a text is what a guide wants, as somebody else would check it."""
    match guide.kind:
        case "choice":
            return text in json.loads(guide.text)
        case "regex":
            return re.fullmatch(guide.text, text) is not None
        case "grammar" if guide is SUM:
            return re.fullmatch(r"[1-9][0-9]?\+[1-9][0-9]?\+[1-9][0-9]?=[1-9][0-9]?", text) is not None
        case "grammar":
            return re.fullmatch(r"\[[a-z]{2,5},[a-z]{2,5},[a-z]{2,5}\]", text) is not None
    found: Any = json.loads(text)
    if guide is TEXT:
        return isinstance(found, str) and 20 <= len(found) <= 24
    right = found["n"] in range(100) and found["kind"] in ("a", '\u00e9"b')
    return list(found) == ["n", "kind"] and right


@pytest.fixture(autouse=True)
def no_thread() -> Iterator[None]:
    """One that has read a guide ends just after it has said so."""
    yield
    deadline = time.monotonic() + 10
    while any(thread.name == "guides" for thread in threading.enumerate()):
        assert time.monotonic() < deadline


@pytest.fixture
def guided(harness: Harness) -> Harness:
    if not harness.card.guides:
        pytest.skip("its card says that it follows none")
    return harness


def asked(key: Hashable, guide: Guide | None, sampling: Sampling = GREEDY, **more: Any) -> Job:
    told: dict[str, Any] = {"max_tokens": 120, "sampling": sampling, "guide": guide, **more}
    return Job(key, prompt(1, 24), **told)


def ends(harness: Harness, output: Output) -> bool:
    return output.ending is Ending.STOP and output.tokens[-1] in harness.card.eos_tokens


def test_who_follows_none_refuses_them(harness: Harness) -> None:
    """Nobody is told that an answer is JSON when nothing has seen to it."""
    if not harness.card.guides:
        assert harness.submit(asked("a", DATE)) == UNGUIDED


def test_what_is_said_is_what_was_prescribed(guided: Harness, row: Row) -> None:
    """Beside one that has no guide, and is not disturbed."""
    jobs = [asked((guide, warm), guide, DRAWN if warm else GREEDY) for guide in GUIDES for warm in (False, True)]
    free = job("free", prompt(2, 20), 30)
    *found, beside = guided.run(*jobs, free)
    for wanted, output in zip(jobs, found, strict=True):
        assert wanted.guide is not None
        assert ends(guided, output), (wanted.guide, text_of(output.tokens), output.ending, output.text)
        assert follows(wanted.guide, text_of(output.tokens)), (wanted.guide, text_of(output.tokens))
    assert list(beside.tokens) == row.said(prompt(2, 20), 30)


def test_any_object_is_json(guided: Harness) -> None:
    (found,) = guided.run(asked("a", Guide(JSON_OBJECT), structs.replace(DRAWN, seed=3), max_tokens=400))
    text = text_of(found.tokens)
    assert text.startswith("{")
    if found.ending is Ending.STOP:
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("sampling", [GREEDY, structs.replace(DRAWN, frequency_penalty=0.4)], ids=["greedy", "drawn"])
def test_it_goes_on_from_any_position_as_it_would_have(guided: Harness, sampling: Sampling) -> None:
    if sampling.temperature and not guided.card.resumes_sampling:
        pytest.skip("its card says that it draws otherwise after a move")
    for guide in (TEXT, RECORD, SUM):
        (whole,) = guided.run(asked((guide, "whole"), guide, sampling))
        cuts = range(1, len(whole.tokens), 1 if not guided.loop else 4)
        rest = [asked((guide, cut), guide, sampling, generated=whole.tokens[:cut]) for cut in cuts]
        for cut, output in zip(cuts, guided.run(*rest), strict=True):
            assert [*whole.tokens[:cut], *output.tokens] == list(whole.tokens), (guide, cut)


def test_a_job_that_lands_goes_on_under_its_guide(guided: Harness) -> None:
    """The first token comes from who has computed the prompt, and keeps to the guide there."""
    (whole,) = guided.run(asked("whole", RECORD, DRAWN))
    (first,) = guided.run(asked("first", RECORD, DRAWN, max_tokens=1))
    assert list(first.tokens) == list(whole.tokens[:1])
    guided.take(asked("lands", RECORD, DRAWN, lands=True))
    guided._call(guided.engine.land, "lands", None, 0, first.tokens)
    (rest,) = guided.ended("lands")
    assert [*first.tokens, *rest.tokens] == list(whole.tokens)


def test_a_guide_has_the_last_word(guided: Harness) -> None:
    """Over what would keep a sequence from its end, when there is nothing else to say."""
    wishes: list[dict[str, Any]] = [{"min_tokens": 60}, {"ignore_eos": True}, {"min_tokens": 60, "ignore_eos": True}]
    for key, more in enumerate(wishes):
        (found,) = guided.run(asked(key, ANSWER, **more))
        assert ends(guided, found) and follows(ANSWER, text_of(found.tokens)), more
    (long,) = guided.run(asked("long", Guide(REGEX, "[a-z]*"), max_tokens=30, min_tokens=20))
    assert len(long.tokens) >= 20, "while it allows more, they are heard"
    (endless,) = guided.run(asked("endless", Guide(REGEX, "[a-z]*"), max_tokens=30, ignore_eos=True))
    assert (len(endless.tokens), endless.ending) == (30, Ending.LENGTH)


def test_log_probabilities_are_of_the_model_itself(guided: Harness, row: Row) -> None:
    (found,) = guided.run(asked("a", DATE, structs.replace(GREEDY, logprobs=3)))
    assert len(found.logprobs) == len(found.tokens)
    for one in found.logprobs:
        assert isfinite(one.chosen) and len(one.top) == 3 and all(isfinite(value) for _, value in one.top)
    if row.computes:
        assert any(one.chosen < one.top[-1][1] for one in found.logprobs), "what the model would rather have said"


def test_biases_and_stop_tokens_do_not_break_it(guided: Harness) -> None:
    dash = tokenizer().encode("-")[0]
    biased = structs.replace(GREEDY, logit_bias={dash: 100.0})
    (found,) = guided.run(asked("biased", DATE, biased))
    assert follows(DATE, text_of(found.tokens))
    (stopped,) = guided.run(asked("stopped", DATE, stop_tokens=[dash]))
    assert stopped.ending is Ending.STOP and stopped.tokens[-1] == dash


@pytest.mark.parametrize(
    "guide",
    [Guide(REGEX, "(["), Guide(JSON_SCHEMA, '{"type": "frob"}'), Guide(JSON_SCHEMA, "{"), Guide(GRAMMAR, "start: x")],
    ids=["regex", "schema", "json", "grammar"],
)
def test_one_that_makes_no_sense_is_refused_and_harms_nobody(guided: Harness, row: Row, guide: Guide) -> None:
    guided.take(job("beside", prompt(3, 12), 20), asked("bad", guide))
    bad, beside = guided.ended("bad", "beside")
    assert bad.ending is Ending.REFUSED and "cannot be followed" in bad.text and not bad.tokens
    assert list(beside.tokens) == row.said(prompt(3, 12), 20)
