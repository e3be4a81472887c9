"""The llama engine with llama.cpp itself: ./launch/test.sh --engine llama. What all engines do is in tests/engines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from nodes.contract.engine import Job, Sampling
from nodes.engines.llama import lanes
from nodes.engines.llama.engine import LlamaEngine, Settings
from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.engine import Settings as Batching
from tests.engines.reference import DEMO, greedy
from tests.nodes.engines.ggufs import converted
from tests.nodes.engines.handing import prefilled, room
from tests.nodes.engines.models import run

THREADS = {"n_threads": 1, "n_threads_batch": 1}
GREEDY = Sampling(temperature=0.0)
PROMPT = [5 + 7 * index % 1500 for index in range(70)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {dtype: converted(DEMO, folder / dtype, half=dtype == "float16") for dtype in ("float32", "float16")}


@pytest.fixture
def engines() -> Iterator[list[LlamaEngine]]:
    made: list[LlamaEngine] = []
    yield made
    for engine in made:
        engine.stop()


def started(engines: list[LlamaEngine], file: Path, native: dict[str, float] | None = None, **more: Any) -> Any:
    batching = {"step_tokens": 48, "slots": 3, "cache_bytes": 4 << 20, **more}
    dtype = str(batching.pop("dtype", "auto"))
    settings = Settings(Batching(str(file.parent), **batching), file, dtype, (0,), {**THREADS, **(native or {})})
    engines.append(LlamaEngine(settings))
    return engines[-1].start()


def job(key: object, prompt: list[int], count: int = 12, **more: Any) -> Job:
    return Job(key, prompt, max_tokens=count, ignore_eos=True, sampling=GREEDY, **more)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_its_card_says_how_fine_its_numbers_are(engines: list[Any], files: dict[str, Path], dtype: str) -> None:
    card = started(engines, files[dtype])
    assert card.layout is not None and card.layout.dtype == dtype
    assert card.resumes_exactly == (dtype == "float32")
    other = "float16" if dtype == "float32" else "float32"
    card = started(engines, files[dtype], dtype=other)
    assert card.layout is not None and card.layout.dtype == other and not card.resumes_exactly


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_handed_over_arrives_as_it_was(engines: list[Any], files: dict[str, Path], dtype: str) -> None:
    card = started(engines, files[dtype])
    started(engines, files[dtype])
    one, two = engines
    first, out = prefilled(one, card, job("a", PROMPT))
    assert first.exported == len(PROMPT)
    assert two.submit(job("b", PROMPT, 2, lands=True)) is None
    two.step()
    two.land("b", out, len(PROMPT), first.tokens)
    kept = room(card.layout, len(PROMPT))
    assert two.cancel("b", kept) == len(PROMPT)
    last = -(-len(PROMPT) // card.block_tokens) - 1
    assert kept[: last * card.layout.block_bytes] == out[: last * card.layout.block_bytes]
    rows = [np.frombuffer(one, np.uint8).reshape(-1, *shape_of(card)) for one in (kept, out)]
    assert (rows[0][last, :, :, : len(PROMPT) % 16] == rows[1][last, :, :, : len(PROMPT) % 16]).all()


def shape_of(card: Any) -> tuple[int, ...]:
    return card.layout.layers, 2, card.layout.block_tokens, card.layout.block_bytes // card.layout.layers // 32


def test_a_quantized_cache_is_fast_and_about_right(engines: list[Any], files: dict[str, Path]) -> None:
    """In float16 the model says mostly what it says in float32: the cache is not another sequence's."""
    started(engines, files["float16"])
    prompts = [[token + 13 * key for token in PROMPT] for key in range(7)]
    for key, prompt in enumerate(prompts):
        assert engines[0].submit(job(key, prompt, 10)) is None
    found = run(engines[0])
    same = [list(found[key].tokens) == greedy(prompt, 10) for key, prompt in enumerate(prompts)]
    assert sum(same) >= 4


def test_when_lanes_run_out_prefixes_are_forgotten(
    engines: list[Any], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "BEHIND", 2)
    card = started(engines, files["float32"], slots=2)
    removed = 0
    for key in range(12):
        prompt = [token + 17 * key for token in PROMPT[:40]]
        assert engines[0].submit(job(key, prompt, 4)) is None
        tokens: list[int] = []
        while not engines[0].idle():
            step = engines[0].step()
            engines[0].check()
            tokens += [token for output in step.outputs for token in output.tokens]
            removed += sum(len(event.hashes) for event in step.events if event.kind == "removed")
        assert tokens == greedy(prompt, 4)
    assert removed > 0 and card.blocks > 12 * 3, "there was room, but no lane"


def test_what_it_cannot_do_is_a_sentence(engines: list[Any], files: dict[str, Path], tmp_path: Path) -> None:
    file = files["float32"]
    with pytest.raises(Unsupported, match="dtype 'int8' is none of auto, float32, float16"):
        started(engines, file, dtype="int8")
    with pytest.raises(Unsupported, match="at most 95 slots, not 96"):
        started(engines, file, slots=96)
    with pytest.raises(Unsupported, match=r"llama.cpp cannot load .*: "):
        started(engines, tmp_path / "none.gguf")
    (tmp_path / "short.gguf").write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(Unsupported, match=r"llama.cpp cannot load .*: "):
        started(engines, tmp_path / "short.gguf")
