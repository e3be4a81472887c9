"""The conformance suite, how an engine behaves: what it refuses, cancels, caches, tells and prefers."""

import pytest
from msgspec import structs

from nodes.contract.blocks import chain, root
from nodes.contract.engine import Ending, Job, Sampling, unmet
from tests.engines.engines import Row
from tests.engines.harness import GREEDY, Harness, job
from tests.engines.reference import DIGEST
from tests.engines.test_streams import can, prompt

USES = {  # a value for each field that an engine may lack
    "generated": [30, 31],
    "min_tokens": 2,
    "stop_tokens": [30],
    "ignore_eos": True,
    "cache_salt": "a",
    "priority": 1,
    "lora": "a",
    "rank": 1,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "repetition_penalty": 1.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {30: 1.0},
    "seed": 1,
    "logprobs": 2,
}


# --- What it refuses -----------------------------------------------------------------------------------------


def test_what_it_lacks_it_refuses(harness: Harness) -> None:
    for name in harness.card.lacks:
        wanted = Job(name, prompt(1, 9), max_tokens=2)
        if name in Sampling.__struct_fields__:
            wanted.sampling = structs.replace(Sampling(), **{name: USES[name]})
        else:
            setattr(wanted, name, USES[name])
        refusal = harness.submit(wanted)
        assert refusal is not None and name in refusal, "one sentence that names it"


def test_adapters_are_known_by_name(harness: Harness) -> None:
    refusal = harness.submit(job("a", prompt(2, 9), lora="nobody's"))
    assert refusal is not None and "nobody's" in refusal
    for name in harness.card.loras[:2]:
        (found,) = harness.run(job(name, prompt(2, 9), 2, lora=name))
        assert found.ending is Ending.LENGTH


def test_who_makes_no_embeddings_refuses_them(harness: Harness) -> None:
    wanted = Job("a", prompt(2, 20), embeds=True)
    if not harness.card.embeds:
        refusal = harness.submit(wanted)
        assert refusal is not None and "embedding" in refusal
        return
    (found,) = harness.run(wanted)
    assert (found.ending, list(found.tokens)) == (Ending.STOP, [])
    assert len(found.vector) == 4 * harness.card.embeds


@pytest.mark.parametrize("token", [-1, "vocabulary", 2**31 - 1, 2**40])
def test_a_token_that_is_none_is_refused_and_harms_nobody(harness: Harness, row: Row, token: int | str) -> None:
    """There are engines that die of one."""
    bad = harness.card.vocabulary if token == "vocabulary" else int(token)
    start = prompt(3, 12)
    harness.take(job("beside", start, 6))
    for wanted in (job("a", [*start, bad]), job("b", start, generated=[bad])):
        refusal = harness.submit(wanted)
        assert refusal is not None and "token" in refusal
    (beside,) = harness.ended("beside")
    assert list(beside.tokens) == row.said(start, 6)


def test_prompts_that_do_not_fit_are_refused(harness: Harness) -> None:
    context = harness.card.context
    for key, tokens in (("empty", []), ("full", prompt(4, context)), ("long", prompt(4, context + 1))):
        refusal = harness.submit(job(key, tokens))
        assert refusal is not None and len(refusal) < 300 and "\n" not in refusal, key
    refusal = harness.submit(job("resumed", prompt(4, context - 4), generated=prompt(5, 6)))
    assert refusal is not None


def test_a_job_is_there_once(harness: Harness, row: Row) -> None:
    start = prompt(6, 12)
    harness.take(job("a", start, 6))
    assert harness.submit(job("a", prompt(7, 9))) is not None
    (found,) = harness.ended("a")
    assert list(found.tokens) == row.said(start, 6), "the first is not disturbed"


# --- Cancelling ----------------------------------------------------------------------------------------------


def test_a_queued_job_can_be_cancelled(harness: Harness, row: Row) -> None:
    slots = harness.card.slots
    if slots > 64:
        pytest.skip("so many slots are not filled by a test")
    harness.take(*[job(key, prompt(10 + key, 12), 60) for key in range(slots)])
    harness.until(lambda: harness.load().running == slots)
    harness.take(job("late", prompt(8, 12), 60))
    harness.turn()
    assert row.outside or harness.load().waiting == 1
    harness.cancel("late")
    (late,) = harness.ended("late")
    assert (list(late.tokens), late.ending) == ([], Ending.CANCELLED)
    for key, output in enumerate(harness.ended(*range(slots))):
        assert list(output.tokens) == row.said(prompt(10 + key, 12), 60)


def test_a_job_can_be_cancelled_while_its_prompt_is_read(harness: Harness, row: Row) -> None:
    if not harness.card.cancels_prefill:
        pytest.skip("its card says that it cannot")
    harness.take(job("long", prompt(9, 900), 60), job("beside", prompt(20, 12), 12))
    harness.turn()
    if not row.outside:
        assert not harness.found["long"].tokens and harness.load().blocks_used > 0, "it is being read"
    harness.cancel("long")
    if not row.outside:
        assert harness.load().running <= 1, "its room is free at once"
    (long,) = harness.ended("long")
    assert long.ending is Ending.CANCELLED
    (beside,) = harness.ended("beside")
    assert list(beside.tokens) == row.said(prompt(20, 12), 12)
    harness.rests()


def test_a_job_can_be_cancelled_while_it_speaks(harness: Harness, row: Row) -> None:
    start = prompt(21, 30)
    harness.take(job("a", start, 900), job("beside", prompt(29, 30), 900))
    harness.says("a", 5)
    harness.says("beside", 5)
    before = len(harness.found["a"].tokens)
    harness.pass_by()
    harness.cancel("a")
    harness.cancel("a")
    (found,) = harness.ended("a")
    assert found.ending is Ending.CANCELLED
    assert len(found.tokens) == before, "nothing is said after it"
    assert list(found.tokens) == row.said(start, len(found.tokens)), "what was said before is right"
    assert len(found.tokens) < 900
    harness.until(lambda: harness.load().running <= 1)
    assert harness.found["beside"].ending is None, "its room is free long before it would have ended"
    harness.cancel("beside")
    harness.rests()
    harness.cancel("a")
    harness.cancel("nobody")
    assert list(harness.run(job("next", start, 6))[0].tokens) == row.said(start, 6)


def test_a_crowd_that_is_cancelled_leaves_no_trace(harness: Harness) -> None:
    """Slots, queue and blocks are back: measured by the fixture too, after each test."""
    keys = range(3 * harness.card.slots if harness.card.slots <= 64 else 100)
    harness.take(*[job(key, prompt(30 + key, 30 + key % 40), 200) for key in keys])
    harness.until(lambda: harness.load().running > 0)
    for key in keys:
        harness.cancel(key)
    assert {output.ending for output in harness.ended(*keys)} == {Ending.CANCELLED}
    harness.rests()


# --- What it tells -------------------------------------------------------------------------------------------


def test_its_load_tells_what_runs(harness: Harness) -> None:
    harness.rests()
    harness.take(job("a", prompt(22, 100), 300), job("b", prompt(23, 100), 300))
    harness.until(lambda: harness.load().running == 2)
    harness.says("b", 3)
    load = harness.load()
    if load.blocks_total:
        assert 0 < load.blocks_used <= load.blocks_total
        size = harness.card.block_tokens
        assert not harness.card.tells_blocks or load.blocks_used >= 2 * (100 // size)
    steps = harness.steps
    harness.says("a", len(harness.found["a"].tokens) + 1)
    assert harness.steps > steps, "a host sees that it gets on"
    harness.cancel("a")
    harness.cancel("b")
    harness.ended("a", "b")
    harness.rests()


def test_blocks_are_told_of_under_our_names(harness: Harness) -> None:
    card, size = harness.card, harness.card.block_tokens
    if not card.tells_blocks:
        harness.run(job("a", prompt(24, 70), 4))
        assert not harness.events, "its card says that it tells nothing"
        return
    start = prompt(24, 4 * size + 6)
    names = chain(start, size, root("", DIGEST), DIGEST)
    harness.run(job("a", start, 2))
    harness.until(lambda: {*names} <= {name for event in harness.events for name in event.hashes})
    stored = [event for event in harness.events if event.kind == "stored" and {*event.hashes} & {*names}]
    told = [name for event in stored for name in event.hashes]  # of this test: what was before may be told of late
    assert told == names, "in order, each once"
    parents = {event.hashes[0]: event.parent for event in stored}
    assert parents[names[0]] == root("", DIGEST)
    (again,) = harness.run(job("b", start, 2))
    assert again.cached_tokens == 4 * size, "what was told of is what is found"
    (longer,) = harness.run(job("c", [*start[: 2 * size], *prompt(25, 9)], 2))
    assert longer.cached_tokens == 2 * size


def test_whoever_has_another_salt_finds_nothing(harness: Harness) -> None:
    start = prompt(26, 5 * max(16, harness.card.block_tokens))
    if not harness.card.tells_blocks or not can(harness.card, job("a", start, cache_salt="x")):
        pytest.skip("it keeps no cache that could be told apart")
    harness.run(job("a", start, 2, cache_salt="x"))
    other, same = harness.run(job("b", start, 2, cache_salt="y"))[0], harness.run(job("c", start, 2, cache_salt="x"))[0]
    assert other.cached_tokens == 0 and same.cached_tokens > 0


def test_who_is_more_important_goes_first(harness: Harness, row: Row) -> None:
    slots = harness.card.slots
    wanted = job("first", prompt(27, 12), 4, priority=-5)
    if slots > 64 or not can(harness.card, wanted):
        pytest.skip("its card says that it cannot, or so many slots are not filled by a test")
    harness.take(*[job(key, prompt(40 + key, 12), 40) for key in range(slots)])
    harness.until(lambda: harness.load().running == slots)
    harness.take(*[job(("last", key), prompt(60 + key, 12), 40, priority=5) for key in range(slots)], wanted)
    harness.ended("first")
    assert all(harness.found["last", key].ending is None for key in range(slots))
    harness.ended(*harness.found)


def test_a_job_may_name_no_such_rank(harness: Harness, row: Row) -> None:
    """A router may be older than the engine: the job runs all the same."""
    if unmet(job("a", prompt(28, 9), rank=7), harness.card) is not None:
        pytest.skip("its card says that it cannot")
    (found,) = harness.run(job("a", prompt(28, 9), 3, rank=7, sampling=GREEDY))
    assert list(found.tokens) == row.said(prompt(28, 9), 3)
