"""SGLang itself behind its adapter, where it is installed: caches, metrics, vectors, ranks, adapters, flags.

Without a GPU: PYTHONPATH=tests/nodes/engines/sglang_on_cpu SGLANG_USE_CPU_ENGINE=1, as in `launch/test.sh`.
"""

import asyncio
import gc
import json
import logging
import re
from collections.abc import Hashable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.contract import blocks
from nodes.contract.engine import Ending, Job, Sampling
from nodes.contract.guide import REGEX, Guide
from nodes.engines.outside import EngineRefused
from nodes.engines.sglang import source as source_module
from nodes.folder import contents_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.conftest import children, threads
from tests.engines import of_sglang
from tests.engines.harness import GREEDY, Harness, job
from tests.engines.of_sglang import sglang
from tests.engines.reference import DEMO, DIGEST, greedy

installed = pytest.mark.skipif(
    find_spec("sglang") is None or find_spec("sgl_kernel") is None, reason="SGLang is not installed here"
)


@pytest.fixture(scope="module")
def real() -> Iterator[Harness]:
    """One for all of these tests: it takes a while to start."""
    handlers, policy = logging.getLogger().handlers[:], asyncio.get_event_loop_policy()
    found = Harness(sglang(DEMO, 4, 4096, True), outside=True)
    assert logging.getLogger().handlers == handlers, "our logs are where they were"
    assert asyncio.get_event_loop_policy() is policy, "and so are our loops"
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """As for every test, but for descriptors that SGLang leaves open in our process."""
    before = threads() | children()
    yield
    gc.collect()
    left = (threads() | children()) - before
    assert not left, f"left open: {sorted(left)}"


@installed
def test_its_cache_is_told_in_our_names(real: Harness) -> None:
    prompt = [30 + at % 70 for at in range(50)]
    (first,) = real.run(job("cold", prompt, 4))
    real.until(lambda: sum(len(event.hashes) for event in real.events) >= 3)
    told = [name for event in real.events if event.kind == "stored" for name in event.hashes]
    assert told[:3] == blocks.chain(prompt, 16, 0, DIGEST)
    (warm,) = real.run(job("warm", prompt, 4))
    assert (first.cached_tokens, warm.cached_tokens) == (0, 48)
    (salted,) = real.run(job("salted", prompt, 4, cache_salt="other"))
    assert salted.cached_tokens == 0 and list(salted.tokens) == list(warm.tokens)
    real.until(lambda: blocks.chain(prompt, 16, blocks.root("other", DIGEST), DIGEST)[2] in names_in(real))


def names_in(real: Harness) -> list[int]:
    real.turn()
    return [name for event in real.events for name in event.hashes]


@installed
def test_its_own_metrics_are_there(real: Harness) -> None:
    real.run(job("counted", [40, 41, 42], 3))
    found = {family.name for family in real.engine.families()}
    assert found and all(name.startswith("sglang:") for name in found)
    assert any("generation_tokens" in name for name in found)


@installed
def test_it_is_asked_whether_it_is_well(real: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "PROBED_S", -1.0)
    assert real.loop is not None
    assert real.loop.run_until_complete(real.engine._source.well()), "its scheduler has answered"


@installed
def test_vectors_come_from_a_model_that_embeds() -> None:
    engine = Harness(sglang(DEMO, 4, 4096, True, "--is-embedding"), outside=True)
    try:
        width = engine.card.embeds
        assert width > 0 and not engine.card.generates
        one, other, again = engine.run(*[Job(key, prompt, embeds=True) for key, prompt in VECTORS.items()])
        assert [len(found.vector) for found in (one, other, again)] == [4 * width] * 3
        first, second, alike = (np.frombuffer(found.vector, np.float32) for found in (one, other, again))
        assert np.allclose(first, alike, atol=1e-4), "but for who was computed beside it"
        assert not np.allclose(first, second, atol=1e-2) and one.ending is Ending.STOP
        assert engine.submit(job("text", [5], 3)) is not None
    finally:
        engine.stop()


VECTORS = {"one": [30, 31, 32], "other": [33, 34], "again": [30, 31, 32]}


@installed
def test_ranks_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data-parallel ones: each has a cache and a load of its own, and who names one gets it."""
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    engine = Harness(sglang(DEMO, 4, 4096, True, "--dp-size", "2"), outside=True)
    try:
        assert (engine.card.ranks, engine.card.slots, engine.card.blocks) == (2, 8, 2 * 4096 // 16)
        for rank in (0, 1):
            start = [100 + rank + at for at in range(40)]
            for turn, asked, cached in (("cold", rank, 0), ("warm", rank, 32), ("elsewhere", 1 - rank, 0)):
                (found,) = engine.run(job((rank, turn), start, 4, rank=asked))
                assert (list(found.tokens), found.cached_tokens) == (greedy(start, 4), cached), (rank, turn)
            names = {*blocks.chain(start, 16, 0, DIGEST)}
            engine.until(lambda names=names: all(names <= told_of(engine, one) for one in (0, 1)))
        assert [one.blocks_total for one in engine.load().ranks] == [256, 256]
    finally:
        engine.stop()


def told_of(engine: Harness, rank: int) -> set[int]:
    """What a rank's cache holds."""
    engine.turn()
    return {name for event in engine.events if event.rank == rank for name in event.hashes}


@installed
def test_in_its_deterministic_mode_it_heeds_seeds(real: Harness) -> None:
    """What it draws is a function of seed and position: twice the same, beside others, and from any position on."""
    assert "--enable-deterministic-inference" in real.card.unseeded and not real.card.resumes_sampling
    engine = Harness(sglang(DEMO, 4, 4096, True, "--enable-deterministic-inference"), outside=True)
    try:
        assert engine.card.resumes_sampling and not engine.card.unseeded
        said: dict[object, list[int]] = {}
        for number, kind in enumerate(KINDS):
            first, *others = engine.run(*[drawn((number, name), seed, kind) for name, seed in enumerate((5, 5, 6))])
            said[number] = list(first.tokens)
            assert [list(one.tokens) == said[number] for one in others] == [True, False], kind
            moved = [drawn((number, "cut", cut), 5, kind, said[number][:cut]) for cut in CUTS]
            assert [list(one.tokens) for one in engine.run(*moved)] == [said[number][cut:] for cut in CUTS], kind
        refusal = engine.submit(drawn("it would die of it", 5, {"min_p": 0.1}))
        assert refusal is not None and "min_p" in refusal
        assert list(engine.run(drawn("it lives", 5, KINDS[0]))[0].tokens) == said[0]
    finally:
        engine.stop()


@installed
def test_guides_are_kept_where_it_overlaps_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does without our flags for a CPU: a step begins before the last one's tokens are known."""
    monkeypatch.setattr(of_sglang, "WORDS", of_sglang.WORDS.replace("--disable-overlap-schedule", ""))
    engine = Harness(sglang(DEMO, 4, 4096, True), outside=True)
    try:
        assert not engine.engine._source._engine.server_args.disable_overlap_schedule
        start, stops = [*range(40, 60)], {*engine.card.eos_tokens}
        free, *guided = engine.run(job("free", start, 30), *[under(number, start) for number in range(3)])
        assert list(free.tokens) == greedy(start, 30)
        assert [list(one.tokens) for one in guided] == [list(guided[0].tokens)] * 3
        text = Tokenizer(ModelFiles(**contents_of(DEMO))).decode(guided[0].tokens)
        assert re.fullmatch(PATTERN, text) and guided[0].tokens[-1] in stops, text
        said = guided[0].tokens[:7]
        (moved,) = engine.run(under("moved", start, said))
        assert [*said, *moved.tokens] == list(guided[0].tokens)
    finally:
        engine.stop()


PATTERN = "([a-z]{2}[0-9]-){9}"


def under(key: Hashable, start: Sequence[int], said: Sequence[int] = ()) -> Job:
    return Job(key, start, said, max_tokens=90, sampling=GREEDY, guide=Guide(REGEX, PATTERN))


KINDS: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_k": 20}, {"top_k": 50, "top_p": 0.8}]
CUTS = (1, 7, 16, 25, 39)


def drawn(key: Hashable, seed: int, kind: dict[str, Any], said: Sequence[int] = ()) -> Job:
    sampling = Sampling(temperature=0.9, seed=seed, **kind)
    return job(key, [*range(40, 60)], 40, generated=said, sampling=sampling)


def adapter(folder: Path, seed: int) -> Path:
    """A LoRA of the demo model that changes what it says."""
    from safetensors.numpy import save_file

    config = json.loads((DEMO / "config.json").read_text())
    width, inner = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    draw, tensors = np.random.default_rng(seed), {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora"
        tensors[f"{name}_A.weight"] = draw.normal(0, 0.3, (4, inner)).astype("f4")
        tensors[f"{name}_B.weight"] = draw.normal(0, 0.3, (width, 4)).astype("f4")
    folder.mkdir()
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 64, "target_modules": ["o_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@installed
def test_adapters_do_not_mix(tmp_path: Path) -> None:
    names, start = ("", "poet", "clerk"), [*range(40, 60)]
    modules = [f"{name}={adapter(tmp_path / name, seed)}" for seed, name in enumerate(names) if name]
    words = ["--lora-backend", "torch_native", "--lora-paths", *modules]
    engine = Harness(sglang(DEMO, 4, 4096, True, *words), outside=True)
    try:
        assert {*engine.card.loras} == {"poet", "clerk"}
        alone = {name: list(engine.run(job(f"alone {name}", start, 12, lora=name))[0].tokens) for name in names}
        assert alone[""] == greedy(start, 12) and len({tuple(said) for said in alone.values()}) == 3
        jobs = [job((name, number), start, 12, lora=name) for number in range(2) for name in names]
        assert [list(found.tokens) for found in engine.run(*jobs)] == [alone[one.lora] for one in jobs]
        told = [name for event in engine.events if event.kind == "stored" for name in event.hashes]
        assert told == blocks.chain([*start, *alone[""]], 16, 0, DIGEST)[: len(told)], "an adapter's are not told of"
    finally:
        engine.stop()


@installed
@pytest.mark.parametrize("words", [["--no-such-flag"], ["--page-size", "many"]])
def test_flags_that_it_does_not_know_are_refused_in_a_sentence(words: list[str]) -> None:
    with pytest.raises(EngineRefused, match="SGLang does not take these flags") as raised:
        sglang(DEMO, 4, 4096, True, *words).start()
    assert words[0].lstrip("-") in str(raised.value) and len(str(raised.value)) < 300
