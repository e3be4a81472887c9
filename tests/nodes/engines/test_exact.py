"""Exact: no bit of a sequence depends on its neighbours, on how it was cut, or on what was computed again."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.contract.engine import Ending, Job, Output, Sampling
from nodes.engines.numpy.engine import NumpyEngine
from nodes.engines.numpy.matrix import PANEL, SMALL_PRODUCT, TILE, TILED_ROWS_MAX, Matrix
from tests.nodes.engines.models import NAMES, collect, engine_of, logits_of, model_of, run

TOLD = Sampling(temperature=1.2, seed=5, logprobs=4, top_p=0.95)


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    shared = draw(st.lists(st.integers(0, 69), min_size=20, max_size=20))
    found = []
    for key in range(draw(st.integers(2, 10))):
        prompt = [*shared[: draw(st.integers(0, 20))], *draw(st.lists(st.integers(0, 69), min_size=1, max_size=20))]
        sampling = Sampling(draw(st.sampled_from([0.0, 1.0])), seed=key, logprobs=2)
        found.append(Job(key, prompt, max_tokens=draw(st.integers(1, 12)), ignore_eos=True, sampling=sampling))
    return found


@cache
def lonely(name: str) -> NumpyEngine:
    return engine_of(name, exact=True, caching=False, slots=1)


def alone(name: str, job: Job) -> Output:
    """What a job gives when nobody else is there and nothing is cut."""
    engine = lonely(name)
    assert engine.submit(job) is None
    return run(engine)[job.key]


def same(left: Output, right: Output) -> bool:
    """To the bit: the log-probabilities too."""
    return (left.tokens, left.logprobs, left.ending) == (right.tokens, right.logprobs, right.ending)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2-window", "qwen3"])
@given(jobs(), st.integers(1, 8), st.integers(8, 40), st.integers(16, 30))
@settings(max_examples=8)
def test_in_any_company(name: str, jobs: list[Job], slots: int, step: int, blocks: int) -> None:
    """Batched, cut, with prefixes shared, preempted and computed again."""
    engine = engine_of(name, exact=True, slots=slots, step_tokens=step, cache_bytes=blocks * block_bytes(name))
    for job in jobs:
        assert engine.submit(job) is None
    found = run(engine)
    assert all(same(found[job.key], alone(name, job)) for job in jobs)


def block_bytes(name: str) -> int:
    config = model_of(name).config
    return 2 * 4 * config.layers * config.key_heads * config.head_width * 4


@pytest.mark.parametrize("name", NAMES)
def test_after_a_move(name: str) -> None:
    """At each position: another engine, with the tokens so far, goes on to the bit."""
    job = Job(0, list(range(3, 30)), max_tokens=9, ignore_eos=True, sampling=TOLD)
    whole = alone(name, job)
    other = engine_of(name, exact=True, slots=16)
    for position in range(1, 9):
        said = whole.tokens[:position]
        moved = Job(position, job.prompt, generated=said, max_tokens=9, ignore_eos=True, sampling=TOLD)
        assert other.submit(moved) is None
    found = run(other)
    for position in range(1, 9):
        assert found[position].tokens == whole.tokens[position:]
        assert found[position].logprobs == whole.logprobs[position:]


def test_fast_logits_differ_by_rounding_only() -> None:
    """The engine's default: the tokens of a stream may differ only where two candidates were as close as this."""
    model = model_of("llama")
    tokens = list(range(48))
    whole, cut = (logits_of(model, tokens, cuts, list(range(16))) for cuts in ([], [5, 6, 30]))
    assert np.abs(whole - cut).max() < 3e-5


def test_fast_tokens_do_not_differ_after_a_move() -> None:
    """Here 40 jobs of 12 tokens, each moved once."""
    engine = engine_of("qwen2", slots=8)
    jobs = [Job(key, [key, 2, 3], max_tokens=12, ignore_eos=True, sampling=Sampling(seed=key)) for key in range(40)]
    for job in jobs:
        engine.submit(job)
    whole = run(engine)
    for job in jobs:
        engine.submit(Job(job.key, job.prompt, whole[job.key].tokens[:6], 12, ignore_eos=True, sampling=job.sampling))
    moved = run(engine)
    assert all(moved[job.key].tokens == whole[job.key].tokens[6:] for job in jobs)


@pytest.mark.parametrize("rows", [1, 3, TILE, TILE + 1, TILED_ROWS_MAX, TILED_ROWS_MAX + 1])
@pytest.mark.parametrize("tile", [0, 1, TILE])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (32, PANEL), (SMALL_PRODUCT // PANEL // 9, 2 * PANEL + 7)])
def test_products(rows: int, tile: int, inputs: int, outputs: int) -> None:
    random = np.random.Generator(np.random.PCG64(rows))
    weight, some = (
        random.standard_normal((outputs, inputs), np.float32),
        random.standard_normal((rows, inputs), np.float32),
    )
    bias = random.standard_normal(outputs, np.float32)
    matrix = Matrix(weight, bias, tile)
    np.testing.assert_allclose(matrix.times(some), some @ weight.T + bias, atol=1e-4 * inputs**0.5)
    np.testing.assert_array_equal(matrix.columns(np.array([0, outputs - 1])), weight[[0, -1]])


def test_a_tile_that_does_not_agree_is_found() -> None:
    class Uneven(Matrix):
        def _tiled(self, rows: np.ndarray, tile: int) -> np.ndarray:
            product = super()._tiled(rows, tile)
            product[-1] = np.nextafter(product[-1], np.inf)
            return product

    weight = np.eye(8, dtype=np.float32)
    assert Matrix(weight).agrees(TILE)
    assert not Uneven(weight).agrees(TILE)
    assert Uneven(weight).agrees(1)


def test_a_cancel_changes_nobody() -> None:
    jobs = [Job(key, [key + 1] * 9, max_tokens=8, ignore_eos=True, sampling=TOLD) for key in range(6)]
    engine, found = engine_of("qwen3", exact=True, slots=4, step_tokens=10), dict[Any, Any]()
    for job in jobs:
        engine.submit(job)
    for step in range(100):
        if step == 3:
            engine.cancel(1)
        if engine.idle():
            break
        collect(engine.step(), found)
        engine.check()
    assert found[1].ending is Ending.CANCELLED
    assert all(same(found[job.key], alone("qwen3", job)) for job in jobs if job.key != 1)
