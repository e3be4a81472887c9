"""Choosing a token: the sets of candidates against the obvious way, the draws against their probabilities."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.contract.engine import Job, Sampling
from nodes.engines.numpy.sampling import candidates_of, choose, gumbel, is_plain, logprobs_of, nucleus

LOGITS = np.array([2.0, -1.0, 0.5, 3.0, 0.0], np.float32)
rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40).map(lambda row: np.array(row, np.float64))


def chosen(prompt: list[int], generated: list[int], banned: list[int] | None = None, **given: object) -> int:
    job = Job(1, prompt, generated=generated, sampling=Sampling(**given))  # type: ignore[arg-type]
    return choose(LOGITS, job, prompt + generated, banned or [])[0]


def greedily(prompt: list[int], generated: list[int], banned: list[int] | None = None, **given: object) -> int:
    return chosen(prompt, generated, banned, temperature=0.0, **given)


def test_greedy() -> None:
    assert greedily([0], []) == 3
    assert greedily([0], [], banned=[3]) == 0
    assert greedily([0], [], logit_bias={1: 4.5}) == 1


def test_penalties() -> None:
    assert greedily([3], [], repetition_penalty=1.4) == 3  # 3.0 / 1.4 > 2.0
    assert greedily([3], [], repetition_penalty=1.6) == 0
    assert greedily([0], [3], repetition_penalty=1.6) == 3  # both alike
    assert greedily([3], [], presence_penalty=2.0) == 3  # the prompt does not count
    assert greedily([0], [3], presence_penalty=0.9) == 3
    assert greedily([0], [3], presence_penalty=1.1) == 0
    assert greedily([0], [3], frequency_penalty=0.6) == 3
    assert greedily([0], [3, 3], frequency_penalty=0.6) == 0
    assert greedily([0], [0, 2, 3, 4], repetition_penalty=9.0, logit_bias={1: 1.2}) == 3


def test_a_negative_logit_is_penalized_downwards() -> None:
    row = np.array([-1.0, -1.5], np.float32)
    job = Job(1, [0], sampling=Sampling(temperature=0.0, repetition_penalty=2.0))
    assert choose(row, job, [0], [])[0] == 1


@given(rows, st.integers(1, 50))
def test_top_k(row: np.ndarray, count: int) -> None:
    kept = candidates_of(row, Sampling(top_k=count))
    assert sorted(row[kept]) == sorted(row)[-count:]


@given(rows, st.floats(0, 0.999))
def test_top_p(row: np.ndarray, top_p: float) -> None:
    kept = {*candidates_of(row, Sampling(top_p=top_p)).tolist()}
    shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    order = sorted(range(len(row)), key=lambda token: (-shares[token], token))
    total, wanted = 0.0, set[int]()
    for token in order:
        wanted.add(token)
        total += shares[token]
        if total >= top_p:
            break
    assert kept == wanted or abs(total - top_p) < 1e-9 or abs(total - shares[order[len(wanted) - 1]] - top_p) < 1e-9


@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("spread", [0.01, 5.0])
def test_top_p_of_many(top_p: float, spread: float) -> None:
    """The shortcut for large vocabularies finds the same."""
    row = np.random.Generator(np.random.PCG64(1)).normal(0, spread, 5000)
    shares = np.sort(np.exp(row) / np.exp(row).sum())[::-1]
    wanted = max(1, int((np.cumsum(shares) - shares < top_p).sum()))
    kept = nucleus(row, np.arange(5000), top_p)
    assert abs(len(kept) - wanted) <= 1
    assert row[kept].min() == np.sort(row)[-len(kept)]


@given(rows, st.floats(0.001, 1))
def test_min_p(row: np.ndarray, min_p: float) -> None:
    kept = candidates_of(row, Sampling(min_p=min_p))
    ratios = np.exp(row - row.max())
    assert {*np.flatnonzero(ratios >= min_p + 1e-9)} <= {*kept} <= {*np.flatnonzero(ratios >= min_p - 1e-9)}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature: float) -> None:
    draws = 4000
    counts = Counter(chosen([0], [0] * (n % 7), temperature=temperature, seed=n // 7) for n in range(draws))
    shares = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
    surprise = sum((counts[token] - draws * share) ** 2 / (draws * share) for token, share in enumerate(shares))
    assert surprise < 18.5  # chi squared, 4 degrees of freedom: one in a thousand; the seeds are fixed


def test_draws_at_neighbouring_positions_and_seeds_are_independent() -> None:
    tokens = np.arange(500)
    noise = np.stack([gumbel(seed, position, tokens) for seed in (0, 1, 2**40) for position in (0, 1, 2)])
    among = np.corrcoef(noise)
    assert np.abs(among[~np.eye(9, dtype=bool)]).max() < 0.15
    assert noise.mean() == pytest.approx(0.5772, abs=0.06)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.2)


def test_noise_never_changes() -> None:
    """A stream that moves to another version of us goes on with the same draws."""
    found = gumbel(42, 7, np.array([0, 1, 99999]))
    assert found.tolist() == pytest.approx([0.8063697091421259, -1.5753393218783864, 0.7457779192263456], abs=1e-12)
    assert gumbel(-1, 0, np.array([5])) == gumbel(2**64 - 1, 0, np.array([5]))


def test_a_candidate_more_changes_nobody_elses_noise() -> None:
    assert gumbel(3, 4, np.array([9]))[0] == gumbel(3, 4, np.array([1, 9, 5]))[1]


def test_logprobs_are_those_of_the_model() -> None:
    row = LOGITS - np.log(np.exp(LOGITS).sum())
    told = logprobs_of(LOGITS, 1, 3)
    assert told.chosen == pytest.approx(row[1], abs=1e-6)
    assert [token for token, _ in told.top] == [3, 0, 2]
    assert [value for _, value in told.top] == pytest.approx(row[[3, 0, 2]], abs=1e-6)
    assert logprobs_of(LOGITS, 1, 0).top == []
    assert len(logprobs_of(LOGITS, 1, 99).top) == 5


def test_plain_means_plain() -> None:
    assert is_plain(Job(1, [1], sampling=Sampling(temperature=0.0)))
    for more in ({"logprobs": 0}, {"logit_bias": {1: 1.0}}, {"presence_penalty": 0.1}, {"repetition_penalty": 1.1}):
        assert not is_plain(Job(1, [1], sampling=Sampling(temperature=0.0, **more)))  # type: ignore[arg-type]
    assert not is_plain(Job(1, [1], min_tokens=1, sampling=Sampling(temperature=0.0)))
    assert not is_plain(Job(1, [1]))
