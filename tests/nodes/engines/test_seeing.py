"""The engine with pictures and sounds in prompts: as in `transformers`, however it is cut, and never mixed up."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.contract.engine import Ending, Job, Output, Sampling
from nodes.contract.media import Media, pieces
from nodes.engines.numpy.attention import Span, runs_of
from nodes.engines.numpy.engine import NumpyEngine, Settings, configuration
from nodes.engines.numpy.model import load
from tests.nodes.engines.models import run
from tests.nodes.engines.senses import GOLDEN_MEDIA, expected, random_picture, towers_of

PLACEHOLDER, ROWS = 69, 16  # of a picture
NAMES = ["llava-clip", "llava-siglip", "qwen2-audio"]


def golden(name: str) -> tuple[list[int], Media]:
    """The prompt, and what stands in it."""
    given = expected(name)
    tokens = [int(token) for token in given["tokens"]]
    if name == "qwen2-audio":
        rows = towers_of(name).encode("audio", given["input_short"])
    else:
        rows = towers_of(name).encode("image", given["input"].astype(np.uint8))
    return tokens, Media(tokens.index(PLACEHOLDER), len(rows), bytes(16), rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("cuts", [[], [2, 3, 9, 18], [10]])
def test_logits_are_those_of_transformers(name: str, exact: bool, cuts: list[int]) -> None:
    tokens, media = golden(name)
    config, _ = configuration(GOLDEN_MEDIA / name)
    model, blocks = load(config, GOLDEN_MEDIA / name, config.context, 256, exact), [*range(64)]
    found, start = [], 0
    for stop in [*cuts, len(tokens)]:
        placed = [
            (piece.position - start, piece.media.embedding[piece.first : piece.last])
            for piece in pieces([media], start, stop)
        ]
        span = Span(0, stop - start, start, runs_of(blocks, 4, stop))
        positions, heads = np.arange(start, stop), np.arange(stop - start)
        found.append(model.logits(np.asarray(tokens[start:stop]), positions, positions, [span], heads, placed))
        start = stop
    np.testing.assert_allclose(np.concatenate(found)[::4], expected(name)["logits"], atol=1e-4, rtol=0)


def engine_of(**given: Any) -> NumpyEngine:
    engine = NumpyEngine(Settings(str(GOLDEN_MEDIA / "llava-clip"), **{"block_tokens": 4, **given}))
    engine.start()
    return engine


@cache
def rows_of(seed: int) -> np.ndarray:
    return towers_of("llava-clip").encode("image", random_picture(seed, 28, 28))


def picture(seed: int, first: int) -> Media:
    return Media(first, ROWS, bytes([seed]) * 16, rows_of(seed))


def job_of(key: int, before: list[int], seeds: list[int], **given: Any) -> Job:
    """A text, some pictures one after another, and a question."""
    prompt, media = [*before], []
    for seed in seeds:
        media.append(picture(seed, len(prompt)))
        prompt += [PLACEHOLDER] * ROWS
    sampling = Sampling(given.pop("temperature", 0.0), seed=key, logprobs=1)
    return Job(key, [*prompt, 7, 8], max_tokens=6, ignore_eos=True, sampling=sampling, media=media, **given)


@cache
def lonely() -> NumpyEngine:
    return engine_of(exact=True, caching=False, slots=1)


def alone(job: Job) -> Output:
    assert lonely().submit(job) is None
    return run(lonely())[job.key]


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    """Texts and pictures out of few, so that they share prefixes, and placeholders that are all alike."""
    found = []
    for key in range(draw(st.integers(2, 6))):
        before = [5] * draw(st.integers(0, 6))
        seeds = draw(st.lists(st.integers(0, 2), min_size=0, max_size=3))
        found.append(job_of(key, before, seeds, temperature=draw(st.sampled_from([0.0, 1.0]))))
    return found


@given(jobs(), st.integers(1, 4), st.integers(8, 40), st.integers(20, 40))
@settings(max_examples=12)
def test_in_any_company(jobs: list[Job], slots: int, step: int, blocks: int) -> None:
    """Batched, cut inside a picture, with pictures shared by their content, preempted: the same to the bit."""
    engine = engine_of(exact=True, slots=slots, step_tokens=step, cache_bytes=blocks * 2 * 4 * 2 * 2 * 8 * 4)
    for job in jobs:
        assert engine.submit(job) is None
    found = run(engine)
    for job in jobs:
        lone = alone(job)
        assert (found[job.key].tokens, found[job.key].logprobs) == (lone.tokens, lone.logprobs)


def test_a_known_picture_is_not_computed_again() -> None:
    engine = engine_of(exact=True)
    first = [job_of(0, [5, 5], [1]), job_of(1, [5, 5], [1]), job_of(2, [5, 5], [2])]
    found: dict[object, Output] = {}
    for job in first:
        assert engine.submit(job) is None
        found |= run(engine)
    assert [found[key].cached_tokens for key in range(3)] == [0, 16, 0]
    assert found[0].logprobs == found[1].logprobs != found[2].logprobs


def test_a_picture_that_has_not_come_ends_its_job_alone() -> None:
    engine = engine_of()
    blind = job_of(0, [5], [1])
    blind.media[0].embedding = None
    for job in (blind, job_of(1, [5], [1]), job_of(2, [5], [])):
        assert engine.submit(job) is None
    found = run(engine)
    assert [found[key].ending for key in range(3)] == [Ending.FAILED, Ending.LENGTH, Ending.LENGTH]
    assert found[1].tokens == alone(job_of(1, [5], [1])).tokens


def test_rows_of_another_shape_are_refused() -> None:
    job = job_of(0, [5], [1])
    job.media[0].embedding = rows_of(1)[:, :-1]
    assert "shape" in str(engine_of().submit(job))


def test_numbers_that_are_none_fail_their_job_alone() -> None:
    engine = engine_of(caching=False)
    broken = job_of(0, [5], [1])
    broken.media[0].embedding = np.full_like(rows_of(1), np.nan)
    for job in (broken, job_of(1, [5], [1])):
        assert engine.submit(job) is None
    found = run(engine)
    assert found[0].ending is Ending.FAILED
    assert found[1].ending is Ending.LENGTH


def test_the_card_says_what_is_seen() -> None:
    engine = NumpyEngine(Settings(str(GOLDEN_MEDIA / "qwen2-audio")))
    assert engine.start().media == towers_of("qwen2-audio").cards


def test_a_tiny_model_tells_pictures_and_sounds_apart(tmp_path: Path) -> None:
    """What it says depends on every picture, clip and sound."""
    from launch.demo_model import senses
    from nodes.engines.numpy import towers

    senses.make(tmp_path)
    found = towers.load(tmp_path)
    assert found is not None
    engine = NumpyEngine(Settings(str(tmp_path)))
    engine.start()
    arrays = [("image", random_picture(seed, 32, 32)) for seed in range(4)]
    times = np.arange(8_000, dtype=np.float32) / 16_000
    arrays += [("audio", np.sin(2 * np.pi * pitch * times, dtype=np.float32)) for pitch in (200, 300, 1_000, 4_000)]
    arrays += [("video", np.stack([random_picture(seed, 32, 32)] * 4)) for seed in range(2)]
    for key, (kind, array) in enumerate(arrays):
        rows, token = found.encode(kind, array), found.cards[kind].token
        prompt = [2, *[token] * len(rows), 3]
        media = [Media(1, len(rows), bytes([key]) * 16, rows)]
        job = Job(key, prompt, max_tokens=12, sampling=Sampling(0.0), media=media)
        assert engine.submit(job) is None
    said = [tuple(output.tokens) for output in run(engine).values()]
    assert len(set(said)) == len(said)
