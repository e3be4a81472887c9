"""The conformance suite, what an engine says: the right tokens, up to the right end, wherever it began."""

from itertools import pairwise

import msgspec
import pytest
from msgspec import structs

from nodes.card import ModelCard
from nodes.contract.engine import Card, Ending, Job, Sampling, unmet
from tests.engines.engines import Row
from tests.engines.harness import GREEDY, Harness, job
from tests.engines.reference import likelihoods

DRAWN = Sampling(temperature=0.8, top_p=0.95, seed=11)


def prompt(seed: int, length: int) -> list[int]:
    """One that no other test has, of tokens that every model has."""
    return [20 + (seed * 7919 + at * at * 31 + at * (seed + 3)) % 1400 for at in range(length)]


def can(card: Card, wanted: Job) -> bool:
    """Whether an engine can do it, by its card."""
    return unmet(wanted, card) is None


def test_a_card_says_what_can_be_computed_with(harness: Harness) -> None:
    card = harness.card
    assert card.engine and card.model
    assert min(card.vocabulary, card.context, card.slots, card.ranks) > 0
    assert card.block_tokens > 0 or not card.tells_blocks
    assert all(0 <= token < card.vocabulary for token in card.eos_tokens)
    known = {*Job.__struct_fields__, *Sampling.__struct_fields__}
    assert known.issuperset(card.lacks), "what it lacks are fields of a job"
    told = ModelCard("a", "b", {}, card, 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=ModelCard) == told, "it goes over the mesh"


def test_greedy_tokens_are_the_right_ones_alone_and_together(harness: Harness, row: Row) -> None:
    lengths = (1, 15, 16, 17, 100, 200)
    found = harness.run(*[job(length, prompt(1, length), 12) for length in lengths])
    for length, output in zip(lengths, found, strict=True):
        assert list(output.tokens) == row.said(prompt(1, length), 12), length
        assert output.ending is Ending.LENGTH and not output.text


def test_its_own_package_says_the_same(row: Row) -> None:
    if row.offline is None:
        pytest.skip("it has no other way to be asked here")
    prompts = [prompt(1, length) for length in (1, 15, 32, 33, 150, 700)]
    found = row.offline(row.folder, prompts, 12)
    for given, said in zip(prompts, found, strict=True):
        assert said == row.said(given, 12), len(given)


def test_more_jobs_than_slots_all_get_their_tokens(harness: Harness, row: Row) -> None:
    jobs = [job(key, prompt(2, 20 + key), 5 + key) for key in range(harness.card.slots + 5)]
    for wanted, output in zip(jobs, harness.run(*jobs), strict=True):
        assert list(output.tokens) == row.said(wanted.prompt, wanted.max_tokens), wanted.key


def test_tokens_come_while_others_are_made(harness: Harness, row: Row) -> None:
    harness.run(job("a", prompt(3, 9), 24), job("b", prompt(4, 9), 24))
    assert harness.pieces["a"] > 3 and harness.pieces["b"] > 3, "not all at once at the end"


def test_the_first_stop_token_ends_it(harness: Harness, row: Row) -> None:
    start = prompt(5, 12)
    said = row.said(start, 16)
    stop = next(token for token, before in zip(said[4:], pairwise(said[3:]), strict=False) if token not in said[:4])
    (found,) = harness.run(job("a", start, 16, stop_tokens=[stop, 19]))
    assert list(found.tokens) == said[: said.index(stop) + 1], "with the token that stopped it"
    assert found.ending is Ending.STOP


def test_an_end_of_sequence_ends_it_unless_it_is_ignored(harness: Harness, row: Row) -> None:
    if not harness.card.eos_tokens or not row.computes:
        pytest.skip("it never says its end of sequence by itself")
    start = ended = None
    for seed in range(60, 90):
        said = row.said(prompt(seed, 8), 40)
        if set(harness.card.eos_tokens) & {*said[1:-4]}:
            start, ended = prompt(seed, 8), said
            break
    assert start is not None and ended is not None, "no prompt of these ends early: look for another"
    first = min(ended.index(token) for token in harness.card.eos_tokens if token in ended)
    (found,) = harness.run(job("a", start, 40, ignore_eos=False))
    assert (list(found.tokens), found.ending) == (ended[: first + 1], Ending.STOP)
    if can(harness.card, job("b", start)):
        (found,) = harness.run(job("b", start, 40))
        assert (list(found.tokens), found.ending) == (ended, Ending.LENGTH)


def test_nothing_ends_it_before_min_tokens(harness: Harness, row: Row) -> None:
    start = prompt(6, 12)
    said = row.said(start, 6)
    wanted = job("a", start, 12, stop_tokens=[said[1]], min_tokens=4)
    if not can(harness.card, wanted):
        pytest.skip("its card says that it cannot")
    (found,) = harness.run(wanted)
    if row.computes:
        assert said[1] not in found.tokens[:4], "what would stop it too early is not said"
    assert len(found.tokens) >= 5 and list(found.tokens[:1]) == said[:1]


@pytest.mark.parametrize("count", [1, 6, 11])
def test_it_goes_on_from_what_another_said(harness: Harness, row: Row, count: int) -> None:
    start = prompt(7, 40 + count)
    said = row.said(start, 12)
    (found,) = harness.run(job("a", start, 12, generated=said[:count]))
    assert (list(found.tokens), found.ending) == (said[count:], Ending.LENGTH), "max_tokens counts those of others"


def test_what_is_over_already_ends_without_a_token(harness: Harness, row: Row) -> None:
    start = prompt(8, 20)
    said = row.said(start, 5)
    length, stop = harness.run(
        job("length", start, 5, generated=said), job("stop", start, 9, generated=said, stop_tokens=[said[-1]])
    )
    assert (list(length.tokens), length.ending) == ([], Ending.LENGTH)
    assert (list(stop.tokens), stop.ending) == ([], Ending.STOP)


def test_a_sequence_ends_with_the_context(harness: Harness, row: Row) -> None:
    context = harness.card.context
    start = prompt(9, context - 3)
    (found,) = harness.run(job("a", start, 50))
    assert (len(found.tokens), found.ending) == (3, Ending.LENGTH)


def test_what_is_drawn_depends_on_seed_and_position_alone(harness: Harness, row: Row) -> None:
    start = prompt(10, 30)
    wanted = job("a", start, 16, sampling=DRAWN)
    other = job("b", start, 16, sampling=structs.replace(DRAWN, seed=12))
    if not can(harness.card, wanted):
        pytest.skip("its card says that it cannot")
    first, second = harness.run(wanted, other)
    assert len(first.tokens) == len(second.tokens) == 16
    if not (harness.card.resumes_sampling and row.computes):
        return
    assert list(first.tokens) != list(second.tokens)
    for count in (1, 7, 15):
        (rest,) = harness.run(job(count, start, 16, generated=first.tokens[:count], sampling=DRAWN))
        assert [*first.tokens[:count], *rest.tokens] == list(first.tokens), count


def test_log_probabilities_are_those_of_the_model(harness: Harness, row: Row) -> None:
    start = prompt(11, 25)
    wanted = job("a", start, 6, sampling=structs.replace(GREEDY, logprobs=3))
    if not can(harness.card, wanted):
        pytest.skip("its card says that it cannot")
    told, alone, silent = harness.run(
        wanted, job("b", start, 6, sampling=structs.replace(GREEDY, logprobs=0)), job("c", start, 6)
    )
    assert (len(told.logprobs), len(alone.logprobs), len(silent.logprobs)) == (6, 6, 0)
    for token, one, short in zip(told.tokens, told.logprobs, alone.logprobs, strict=True):
        assert [len(one.top), len(short.top)] == [3, 0]
        assert one.top[0] == (token, pytest.approx(one.chosen, abs=1e-4)), "the likeliest first"
        assert 0 >= one.top[0][1] >= one.top[1][1] >= one.top[2][1]
        assert short.chosen == pytest.approx(one.chosen, abs=1e-3)
    if row.computes:
        right = likelihoods(start, told.tokens)
        for place, one in enumerate(told.logprobs):
            for token, likely in one.top:
                assert likely == pytest.approx(right[place][token], abs=2e-3)


def test_biases_and_penalties_change_what_is_said(harness: Harness, row: Row) -> None:
    if not row.computes:
        pytest.skip("a simulated engine says what it says")
    start = prompt(12, 20)
    said = row.said(start, 6)
    biases = ({said[0]: -100.0}, {33: 100.0})
    penalties = (row.penalty,) if row.penalty else ()
    for name, value in [
        *[("logit_bias", bias) for bias in biases],
        *[("repetition_penalty", one) for one in penalties],
    ]:
        key = f"{name} {value}"
        wanted = job(key, start, 6, sampling=structs.replace(GREEDY, **{name: value}))
        if not can(harness.card, wanted):
            continue
        (found,) = harness.run(wanted)
        if value == {33: 100.0}:
            assert list(found.tokens) == [33] * 6
        elif name == "logit_bias":
            assert said[0] not in found.tokens
        else:
            assert len({*found.tokens}) == 6 and not {*found.tokens} & {*start}, "nothing is said twice"
