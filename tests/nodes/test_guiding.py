"""Guides: what may come next is a function of the guide and of the tokens so far, whoever made them."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from nodes.contract.engine import Card, Ending, Job, Output, Sampling
from nodes.contract.guide import (
    CHOICE,
    GRAMMAR,
    JSON_OBJECT,
    JSON_SCHEMA,
    REGEX,
    TEXT_BYTES_MAX,
    Guide,
    guide_complaint,
)
from nodes.engines.numpy.engine import NumpyEngine, Settings
from nodes.engines.scheduler import Scheduler
from nodes.folder import contents_of, folder_of
from nodes.generation import Generation, decode, encode
from nodes.guiding import checking, deep, following
from nodes.guiding.following import Guides, Lost, guides_of
from nodes.guiding.library import GuideRefused
from nodes.text.tokenizer import ModelFiles, Tokenizer

pytest.importorskip("llguidance")

DEMO = folder_of("demo")
FILE = DEMO / "tokenizer.json"
WORDS = Tokenizer(ModelFiles(**contents_of(DEMO)))
VOCABULARY, ENDS = WORDS.vocabulary, WORDS.eos_tokens
DIGITS = Guide(REGEX, "[0-9]{4}")


def complaint(guide: Guide) -> str:
    return asyncio.run(checking.complaint(guide))


@pytest.fixture(autouse=True)
def threads_gone() -> Iterator[None]:
    """A thread that has read a guide ends just after it has said so."""
    yield
    deadline = time.monotonic() + 10
    while any(thread.name == "guides" for thread in threading.enumerate()):
        assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def guides() -> Guides:
    return Guides(FILE.read_text(), VOCABULARY, ENDS)


@pytest.fixture(scope="module")
def engine() -> Iterator[NumpyEngine]:
    engine = NumpyEngine(Settings(str(DEMO), slots=8, cache_bytes=32 << 20))
    engine.start()
    yield engine
    engine.stop()


def run(engine: NumpyEngine, *jobs: Job) -> list[Output]:
    """What came of each, as one output."""
    found = {job.key: Output(job.key, []) for job in jobs}
    for job in jobs:
        assert engine.submit(job) is None
    while any(output.ending is None for output in found.values()):
        for output in engine.step().outputs:
            whole = found[output.key]
            whole.tokens = [*whole.tokens, *output.tokens]
            whole.ending, whole.text = output.ending, output.text
            whole.cached_tokens = whole.cached_tokens or output.cached_tokens
        engine.check()
    return [found[job.key] for job in jobs]


# --- Any schema, any cut -------------------------------------------------------------------------------------

LEAVES = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -9, "maximum": 120},
        {"type": "string", "maxLength": 6},
        {"type": "string", "pattern": "^[a-c]{1,4}$"},
        {"enum": ["x", 3, None, 'a "b"']},
        {"const": "\u00fc"},
    ]
)


def inner(schemas: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, schemas)
    objects = st.dictionaries(st.sampled_from(["a", "b c", "\u00e9"]), schemas, min_size=1, max_size=3).map(
        lambda found: {
            "type": "object",
            "properties": found,
            "required": [*found][:2],
            "additionalProperties": False,
        }
    )
    return arrays | objects | st.builds(lambda one, two: {"anyOf": [one, two]}, schemas, schemas)


SCHEMAS = st.recursive(LEAVES, inner, max_leaves=5)


def keeps(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is valid, for the schemas above."""
    if "anyOf" in schema:
        return any(keeps(value, one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    match schema["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "string":
            if not isinstance(value, str) or len(value) > schema.get("maxLength", 4):
                return False
            return "pattern" not in schema or bool(value and set(value) <= set("abc"))
        case "array":
            return isinstance(value, list) and len(value) <= 2 and all(keeps(one, schema["items"]) for one in value)
    known = schema["properties"]
    if not isinstance(value, dict):
        return False
    there = set(schema["required"]) <= set(value) <= set(known)
    return there and all(keeps(one, known[name]) for name, one in value.items())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, seed=st.integers(0, 2**63 - 1), warmth=st.sampled_from([0.0, 1.0]), data=st.data())
def test_what_is_said_is_valid_and_goes_on_from_any_cut(
    engine: NumpyEngine, schema: dict[str, Any], seed: int, warmth: float, data: st.DataObject
) -> None:
    sampling = Sampling(temperature=warmth, seed=seed)
    guide = Guide(JSON_SCHEMA, json.dumps(schema))
    wanted = Job("whole", [30, 31, 32, 33], max_tokens=300, sampling=sampling, guide=guide)
    (whole,) = run(engine, wanted)
    text = WORDS.decode(whole.tokens)
    assert (whole.ending, whole.text) == (Ending.STOP, ""), text
    assert keeps(json.loads(text), schema), text
    cut = data.draw(st.integers(1, len(whole.tokens)))
    (rest,) = run(engine, structs.replace(wanted, key="rest", generated=whole.tokens[:cut]))
    assert [*whole.tokens[:cut], *rest.tokens] == list(whole.tokens)


# --- In an engine --------------------------------------------------------------------------------------------


def test_others_go_on_while_a_guide_is_read(engine: NumpyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes; and who waited loses nothing by it."""
    guide = Guide(REGEX, "[a-f]{6}x")
    prompt = [*range(40, 80)]
    (alone,) = run(engine, Job("alone", prompt, max_tokens=20, guide=guide, sampling=Sampling(temperature=0.0)))
    read: Future[Any] = Future()
    assert engine._guides is not None
    matcher = engine._guides.read(guide).result()
    monkeypatch.setitem(engine._guides._read, guide, read)
    for job in (
        Job("waits", prompt, max_tokens=20, guide=guide, sampling=Sampling(temperature=0.0)),
        Job("free", prompt, max_tokens=12, ignore_eos=True, sampling=Sampling(temperature=0.0)),
        Job("gone", prompt, max_tokens=20, guide=guide),
    ):
        assert engine.submit(job) is None
    outputs: dict[object, list[Output]] = {"waits": [], "free": [], "gone": []}

    def until(key: str) -> None:
        while not (outputs[key] and outputs[key][-1].ending):
            for output in engine.step().outputs:
                outputs[output.key].append(output)
            engine.check()

    until("free")
    assert sum(len(output.tokens) for output in outputs["free"]) == 12
    assert not any(output.tokens for output in outputs["waits"])
    engine.cancel("gone")
    until("gone")
    engine.step()
    assert not engine.idle(), "it waits for the guide, and says so"
    read.set_result(matcher)
    until("waits")
    assert [token for output in outputs["waits"] for token in output.tokens] == list(alone.tokens)
    assert sum(output.cached_tokens for output in outputs["waits"]) == 32, "found in the cache, and told once"
    assert engine.load().running == 0


def test_a_preempted_job_goes_on_under_its_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Guide(JSON_SCHEMA, json.dumps({"type": "string", "minLength": 110, "maxLength": 120}))
    jobs = [Job(key, [50 + key, 31, 32], max_tokens=60, sampling=Sampling(seed=key), guide=guide) for key in range(3)]
    roomy = NumpyEngine(Settings(str(DEMO), slots=4))
    tight = NumpyEngine(Settings(str(DEMO), slots=4, block_tokens=4, cache_bytes=16 * 4 * 2048, context=64))
    roomy.start()
    tight.start()
    preempted: list[Any] = []
    preempt = Scheduler._preempt

    def seen(scheduler: Scheduler, running: Any) -> None:
        preempted.append(running)
        preempt(scheduler, running)

    monkeypatch.setattr(Scheduler, "_preempt", seen)
    alone = [run(roomy, job)[0] for job in jobs]
    for one, together in zip(alone, run(tight, *jobs), strict=True):
        assert list(together.tokens) == list(one.tokens) and together.ending is Ending.STOP
    assert preempted
    roomy.stop()
    tight.stop()


def test_a_guide_that_gets_lost_fails_its_job_alone(engine: NumpyEngine) -> None:
    """As from a worker whose library reads it otherwise."""
    bad = Job("bad", [30, 31], generated=WORDS.encode("zz"), max_tokens=20, guide=DIGITS)
    good = Job("good", [30, 31], max_tokens=20, guide=DIGITS)
    lost, found = run(engine, bad, good)
    assert lost.ending is Ending.FAILED and "cannot be followed" in lost.text
    assert found.ending is Ending.STOP and WORDS.decode(found.tokens).isdigit()


def test_without_the_library_or_an_end_there_are_no_guides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert guides_of(FILE, VOCABULARY, ()) is None
    assert guides_of(DEMO / "nothing.json", VOCABULARY, ENDS) is None
    monkeypatch.setattr(following, "installed", lambda: False)
    monkeypatch.setattr(checking, "installed", lambda: False)
    assert complaint(Guide(REGEX, "([")) == "", "nobody knows here"
    engine = NumpyEngine(Settings(str(DEMO), slots=2, cache_bytes=1 << 20))
    card: Card = engine.start()
    assert not card.guides
    assert "no guide" in str(engine.submit(Job("a", [30], guide=DIGITS)))
    engine.stop()


# --- Reading one ---------------------------------------------------------------------------------------------


def test_it_says_what_may_come(guides: Guides) -> None:
    under = guides.follow(DIGITS, 2)
    tokens = [1000, 1001]
    for place in range(5):
        allowed = np.flatnonzero(under.allowed(tokens))
        texts = {WORDS.decode([int(token)]) for token in allowed}
        assert all(text.isdigit() and len(text) <= 4 - place for text in texts) if place < 4 else texts == {""}
        tokens.append(WORDS.encode(str(place))[0])
        if place == 4:
            assert set(allowed.tolist()) == set(ENDS)


def test_one_that_was_read_is_kept_and_the_oldest_goes(guides: Guides, monkeypatch: pytest.MonkeyPatch) -> None:
    first = guides.read(DIGITS)
    assert guides.read(DIGITS) is first
    monkeypatch.setattr(following, "KEPT_MAX", 2)
    for digit in "12":
        guides.read(Guide(REGEX, digit)).result()
    assert guides.read(DIGITS) is not first


def test_what_cannot_be_read_is_refused(guides: Guides) -> None:
    with pytest.raises(GuideRefused, match="regular expression cannot be followed"):
        guides.follow(Guide(REGEX, "(["), 0).allowed([])
    with pytest.raises(Lost):
        guides.follow(DIGITS, 0).allowed(WORDS.encode("x"))


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        (Guide(REGEX, "(["), "unclosed character class"),
        (Guide(REGEX, "(?=a)b"), "look-around"),
        (Guide(JSON_SCHEMA, '{"type": "frob"}'), "frob"),
        (Guide(JSON_SCHEMA, "{"), "EOF"),
        (Guide(JSON_SCHEMA, '{"$ref": "http://somewhere/else"}'), "somewhere"),
        (Guide(CHOICE, '["a", 1'), "cannot be followed"),
        (Guide(GRAMMAR, "start: x"), "unknown name"),
        (Guide(GRAMMAR, "no grammar"), "cannot be followed"),
        (Guide(GRAMMAR, "root ::= " + "(" * 20_000), "recursion"),
    ],
)
def test_why_is_one_sentence(guide: Guide, words: str) -> None:
    said = complaint(guide)
    assert words in said and "\n" not in said and len(said) < 300 and said.startswith("The ")


@pytest.mark.parametrize(
    "guide",
    [
        DIGITS,
        Guide(JSON_OBJECT),
        Guide(CHOICE, json.dumps(["a", 'quo"te', "\u00e9\n", ""])),
        Guide(GRAMMAR, "start: /a+/"),
        Guide(GRAMMAR, 'root ::= "a" b*\nb ::= [0-9]'),
    ],
)
def test_one_that_can_be_followed_has_no_complaint(guide: Guide) -> None:
    assert complaint(guide) == ""


def rules() -> Guide:
    """One that overflows a stack of 8 MB: references that go as deep as a text can say."""
    made = {f"{at}": {"items": {"$ref": f"#/$defs/{at + 1}"}} for at in range(1400)}
    schema = {"$defs": made | {"1400": {"type": "string"}}, "$ref": "#/$defs/0"}
    return Guide(JSON_SCHEMA, json.dumps(schema, separators=(",", ":")))


def test_deep_ones_end_no_process(guides: Guides) -> None:
    brackets = "\n".join(f"a{at}: {'(' * 25}a{at + 1}{')' * 25}" for at in range(950))
    for guide in (rules(), Guide(GRAMMAR, f'start: a0\n{brackets}\na950: "a"')):
        assert guide_complaint(guide) == "" and len(guide.text) > 0.8 * TEXT_BYTES_MAX, "as long as one may be"
        assert complaint(guide) == ""
        assert guides.read(guide).result() is not None


def test_reading_is_done_elsewhere_and_the_threads_go() -> None:
    names: list[str] = []
    made = [deep.deeply(lambda: names.append(threading.current_thread().name)) for _ in range(20)]
    for future in made:
        future.result(timeout=10)
    assert set(names) == {"guides"}
    with pytest.raises(ZeroDivisionError):
        deep.deeply(lambda: 1 // 0).result(timeout=10)


# --- On its way ----------------------------------------------------------------------------------------------


def test_it_travels_with_its_request() -> None:
    wanted = Generation(guide=Guide(REGEX, "\u00e9+"))
    assert decode(encode(wanted)) == wanted
    assert decode(encode(Generation())).guide is None


@pytest.mark.parametrize("guide", [Guide("frob"), Guide(REGEX, "\u00e9" * (TEXT_BYTES_MAX // 2 + 1))])
def test_a_worker_does_not_trust_what_it_reads(guide: Guide) -> None:
    with pytest.raises(ValueError, match="guide"):
        decode(encode(Generation(guide=guide)))
