"""Pictures among the tokens of the numpy engine: each row where it belongs, whatever the step, cache and way."""

from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import chain
from nodes.contract.engine import Ending, Job, Output
from nodes.contract.media import Media, hashed_tokens
from nodes.engines.numpy.engine import NumpyEngine, Settings
from tests.nodes.engines.handing import room
from tests.nodes.engines.models import greedy, run

FOLDER = Path(__file__).parent / "golden_media" / "llava-clip"
PLACEHOLDER = 69
ROWS = 16
PROMPT = [5, 6, 7, *[PLACEHOLDER] * ROWS, 8, 9, *[PLACEHOLDER] * ROWS, 10]


def engine_of(**settings: Any) -> NumpyEngine:
    engine = NumpyEngine(Settings(str(FOLDER), **{"block_tokens": 4, "exact": True, **settings}))
    engine.start()
    return engine


def width_of(engine: NumpyEngine) -> int:
    assert engine._model is not None
    return engine._model.config.width


def picture(engine: NumpyEngine, seed: int, first: int) -> Media:
    random = np.random.Generator(np.random.PCG64(seed))
    rows = random.standard_normal((ROWS, width_of(engine)), np.float32)
    return Media(first, ROWS, bytes([seed] * 16), rows)


def job_of(engine: NumpyEngine, key: object, one: int, other: int) -> Job:
    media = [picture(engine, one, 3), picture(engine, other, 5 + ROWS)]
    return structs.replace(greedy(key, PROMPT, 8), media=media)


def alone(one: int, other: int) -> Output:
    engine = engine_of(caching=False)
    engine.submit(job_of(engine, 0, one, other))
    return run(engine)[0]


def test_rows_do_not_depend_on_the_cut() -> None:
    whole = alone(1, 2)
    assert whole.tokens not in (alone(2, 1).tokens, alone(1, 3).tokens)
    for step in (4, 5, 7, 11):
        engine = engine_of(step_tokens=step, slots=3)
        engine.submit(greedy(7, [1, 2, 3], 20))
        engine.submit(job_of(engine, 0, 1, 2))
        assert run(engine)[0].tokens == whole.tokens


def test_only_equal_pictures_are_found_in_the_cache() -> None:
    engine = engine_of()
    for key, (one, other, cached) in enumerate([(1, 2, 0), (1, 2, 36), (1, 3, 20), (2, 2, 0)]):
        engine.submit(job_of(engine, key, one, other))
        found = run(engine)[key]
        assert (found.cached_tokens, found.tokens) == (cached, alone(one, other).tokens)


def test_routers_are_told_of_the_pictures() -> None:
    """Not of placeholders: who knows the prompt and what is in it makes the same hashes."""
    engine = engine_of()
    job = job_of(engine, 0, 1, 2)
    engine.submit(job)
    step = engine.step()
    tokens = hashed_tokens(PROMPT, job.media)[:36]
    assert step.events[0].tokens == tokens
    assert step.events[0].hashes == chain(tokens, 4, 0, xxh3_64_intdigest)


def test_what_landed_needs_no_picture() -> None:
    first, second = engine_of(), engine_of(step_tokens=7, slots=3)
    layout = first._running._exchange.layout
    job = job_of(first, 0, 1, 2)
    out = room(layout, len(PROMPT))
    first.submit(structs.replace(job, max_tokens=1, out=out))
    begun = run(first)[0]
    bare = [Media(one.first, one.count, one.content) for one in job.media]
    second.submit(structs.replace(job, media=bare, lands=True))
    second.step()
    second.land(0, out, len(PROMPT), begun.tokens)
    assert [*begun.tokens, *run(second)[0].tokens] == alone(1, 2).tokens


def test_a_picture_that_is_needed_and_has_not_come_fails_one_job() -> None:
    engine = engine_of(step_tokens=8, slots=3)
    job = job_of(engine, 0, 1, 2)
    job.media[1].embedding = None
    engine.submit(structs.replace(job, lands=True))
    engine.submit(greedy(7, [1, 2, 3], 20))
    engine.step()
    engine.land(0, None, 0, ())
    found = run(engine)
    assert found[0].ending is Ending.FAILED
    assert found[0].text == f"an embedding has not come for positions {5 + ROWS} to {5 + 2 * ROWS}"
    assert len(found[7].tokens) >= 19 and found[7].ending is Ending.LENGTH
    assert engine.load().blocks_used == 0


def test_a_picture_may_come_before_it_lands_and_is_looked_at() -> None:
    engine = engine_of()
    found = {}
    for key, width in ((1, width_of(engine)), (3, 3)):
        job = job_of(engine, key, key, 2)
        rows, job.media[0].embedding = job.media[0].embedding, None
        engine.submit(structs.replace(job, lands=True))
        engine.step()
        job.media[0].embedding = rows[:, :width]
        engine.land(key, None, 0, ())
        found |= run(engine)
    assert found[1].tokens == alone(1, 2).tokens
    assert found[3].ending is Ending.FAILED and "shape" in found[3].text


def test_what_does_not_fit_is_refused() -> None:
    engine = engine_of()
    job = job_of(engine, 0, 1, 2)
    job.media[1].first = 4
    assert "overlap" in (engine.submit(job) or "")
