"""TensorRT-LLM's adapter, against a fake of its package; and the fake against the package, where that is installed."""

import asyncio
import dataclasses
import inspect
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nodes.contract.engine import Ending, Job, Sampling
from nodes.engine_options import EngineOptions
from nodes.engines.outside import EngineDead, EngineRefused, JobLost, OutsideEngine, Piece
from nodes.engines.trtllm import library, loras, words
from nodes.loading import load
from nodes.metrics import Family
from tests.engines.harness import Harness, job
from tests.engines.of_trtllm import source_of, trtllm
from tests.engines.reference import DEMO, greedy
from tests.nodes.engines import trtllm_fake as fake
from tests.nodes.engines import trtllm_types as types
from tests.nodes.engines.trtllm_fake import installed

PROMPT = [7 + number % 90 for number in range(70)]
VERSION = "1.2.1"


# --- Starting ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("tensorrt_llm") is not None, reason="it is not missing")
def test_without_the_package_one_sentence_says_what_to_do() -> None:
    with pytest.raises(EngineRefused, match="pip install tensorrt-llm"):
        load(EngineOptions("demo", engine="trtllm"))


def test_what_it_does_not_know_it_refuses_in_a_sentence() -> None:
    with pytest.raises(EngineRefused, match=r"TensorRT-LLM cannot serve .*speed.*not permitted"):
        source_of(DEMO, ("--speed", "9")).start()


def test_it_is_loaded_like_any_engine() -> None:
    with installed():
        loaded = load(EngineOptions("demo", engine="trtllm", slots=3))
    card = loaded.card.engine
    assert (card.engine, card.slots, card.block_tokens, card.native) == ("trtllm", 3, 32, "")
    assert card.context == 1024 and card.blocks == 3 * 1024 // 32 and not card.resumes_sampling
    loaded.engine.stop()


# --- Handing over ------------------------------------------------------------------------------------------


def native_engine(role: str) -> Harness:
    engine = OutsideEngine(source_of(DEMO, ("--dtype", "float32"), slots=4, role=role))
    return Harness(engine, True)


def told(feeder: Harness, key: str) -> bytes:
    """What a prefill says in the end."""
    heard: list[bytes] = []
    collect = feeder.engine.step

    def step() -> Any:
        found = collect()
        heard.extend(output.native for output in found.outputs if output.native)
        return found

    feeder.engine.step = step
    (output,) = feeder.run(job(key, PROMPT, 1, feeds=True))
    feeder.engine.step = collect
    assert list(output.tokens) == greedy(PROMPT, 1) and output.ending is Ending.LENGTH
    return heard[-1]


def test_a_prompt_computed_by_one_is_gone_on_with_by_another() -> None:
    feeder, eater = native_engine("prefill"), native_engine("decode")
    assert feeder.card.native == eater.card.native == "after"
    try:
        said = greedy(PROMPT, 9)
        native = told(feeder, "p")
        (found,) = eater.run(job("d", PROMPT, 9, generated=said[:1], native=native))
        assert list(found.tokens) == said[1:], "the first token is not told twice"
        assert counts(eater)["trtllm_kv_transfer_success_total"] == 1.0
        other = [9, *PROMPT[1:]]
        (found,) = eater.run(job("e", other, 9, generated=said[:1], native=native))
        assert list(found.tokens) == greedy([*other, said[0]], 8), "it is not its prompt: it is computed again"
        assert counts(eater)["trtllm_kv_transfer_failed_total"] == 1.0
    finally:
        feeder.stop()
        eater.stop()


def counts(harness: Harness) -> dict[str, float]:
    families: list[Family] = harness.engine.families()
    return {family.name: family.samples[0].value for family in families}


def test_who_began_with_another_token_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was told cannot be taken back: the job runs again, without what was said."""
    feeder, eater = native_engine("prefill"), native_engine("decode")
    try:
        native = told(feeder, "p")
        begin = fake.Computing.begin

        def wrong(self: Any, tokens: Any, given: Any, streaming: bool, params: Any, salt: str) -> Any:
            result = begin(self, tokens, given, streaming, params, salt)
            if params is not None:
                result.known = [77]
            return result

        monkeypatch.setattr(fake.Computing, "begin", wrong)
        said = greedy(PROMPT, 6)
        (found,) = eater.run(job("d", PROMPT, 6, generated=said[:1], native=native))
        assert list(found.tokens) == said[1:]
        assert counts(eater)["trtllm_kv_transfer_failed_total"] == 1.0
    finally:
        feeder.stop()
        eater.stop()


# --- Running -----------------------------------------------------------------------------------------------


def test_ranks_are_targets_of_their_own() -> None:
    native = ("--tensor-parallel-size", "2", "--enable-attention-dp")
    source = source_of(DEMO, native, slots=4)
    harness = Harness(OutsideEngine(source), True)
    seen: list[Any] = []
    try:
        assert (harness.card.ranks, harness.card.slots) == (2, 8)
        generate = source._engine.generate_async

        def spied(*arguments: Any, **more: Any) -> Any:
            seen.append(more.get("scheduling_params"))
            return generate(*arguments, **more)

        source._engine.generate_async = spied
        harness.run(job("a", PROMPT, 2, rank=1), job("b", PROMPT, 2))
        assert seen == [types.SchedulingParams(attention_dp_rank=1, attention_dp_relax=False), None]
        source._counted({"numQueuedRequests": 3, "attentionDpRank": 1})
        source._counted([{"numQueuedRequests": 2, "attentionDpRank": 0}])
        assert [load.waiting for load in source.load().ranks] == [2, 3] and source.load().waiting == 5
    finally:
        harness.stop()


def test_what_the_engine_ends_moves_and_what_it_refuses_fails() -> None:
    source = source_of(DEMO, slots=4)
    harness = Harness(OutsideEngine(source), True)

    async def read(key: str) -> Piece:
        found = [piece async for piece in source.stream(job(key, PROMPT, 400))]
        return found[-1]

    async def ended() -> None:
        reading = asyncio.ensure_future(read("a"))
        while source._engine._runs.requested is False or not source._engine._runs._results:
            await asyncio.sleep(0.005)
        for result in list(source._engine._runs._results.values()):
            result.abort()
        with pytest.raises(JobLost, match="cancelled"):
            await reading
        source._engine.args.max_num_tokens = 5
        with pytest.raises(ValueError, match="max_num_tokens"):
            await read("b")
        source._engine.die()
        with pytest.raises(EngineDead, match="its own log"):
            await read("c")
        with pytest.raises(EngineDead):
            await source.well()

    try:
        assert harness.loop is not None
        harness.loop.run_until_complete(ended())
    finally:
        harness.stop()


def test_adapters_are_named_as_they_were_given(tmp_path: Path) -> None:
    places = {}
    for name, rank in (("poet", 4), ("clerk", 16)):
        places[name] = tmp_path / name
        places[name].mkdir()
        (places[name] / "adapter_config.json").write_text(json.dumps({"r": rank}))
    words = (
        "--lora-modules",
        f"poet={places['poet']}",
        "--max-num-tokens",
        "64",
        f"--lora-modules=clerk={places['clerk']}",
    )
    source = source_of(DEMO, words, slots=4)
    harness = Harness(OutsideEngine(source), True)
    try:
        assert harness.card.loras == ("poet", "clerk")
        config = types.LoraConfig([str(place) for place in places.values()], 16, 2, 2)
        assert source._engine.lora_config == config and source._engine.args.max_num_tokens == 64
        assert "'nobody'" in (harness.submit(job("x", PROMPT[:9], 2, lora="nobody")) or "")
        for key, lora in (("a", "clerk"), ("b", ""), ("c", "poet"), ("d", "clerk")):
            harness.run(job(key, PROMPT[:9], 2, lora=lora))
        poet, clerk = (
            types.LoRARequest(name, number, str(places[name])) for number, name in enumerate(("poet", "clerk"), 1)
        )
        assert source._engine.adapters == [clerk, None, poet, clerk]
    finally:
        harness.stop()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--lora-modules",), "NAME=PATH"),
        (("--lora-modules", "poet"), "NAME=PATH"),
        (("--lora-modules", "poet=/nowhere"), "no adapter_config.json in /nowhere"),
    ],
)
def test_adapters_that_are_none_are_refused_in_a_sentence(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(EngineRefused, match=why):
        source_of(DEMO, words).start()


def test_a_prompt_that_needs_pieces_is_refused_unless_they_are_allowed() -> None:
    source = source_of(DEMO, ("--max-num-tokens", "32"), slots=4)
    harness = Harness(OutsideEngine(source), True)
    try:
        assert "--enable-chunked-prefill" in (harness.submit(job("a", PROMPT, 2)) or "")
    finally:
        harness.stop()


def test_its_metrics_are_told_with_ours() -> None:
    harness = Harness(trtllm(DEMO, 4, 4096, True), True)
    try:
        harness.take(job("a", PROMPT, 300))
        harness.says("a", 3)
        harness.cancel("a")
        harness.ended("a")
        harness.until(lambda: counts(harness)["trtllm_num_aborted_requests_total"] == 1.0)
        assert counts(harness)["trtllm_kv_event_id_gap_events_total"] == 0.0
        harness.until(lambda: harness.load().blocks_total == 4096 // 16)
    finally:
        harness.stop()


# --- The fake and the package ------------------------------------------------------------------------------


PARTS = {
    "": ("LLM", "SamplingParams", "DisaggregatedParams"),
    "llmapi": ("KvCacheConfig", "CacheTransceiverConfig"),
    "scheduling_params": ("SchedulingParams",),
}
NEWER = {  # what older versions of it do not have, and what the adapter can do without
    *(words.IGNORES, "kv_transfer_timeout_ms"),
    *("disagg_request_id", "ctx_dp_rank", "ctx_info_endpoint"),
}
METHODS = ("generate_async", "get_stats_async", "get_kv_cache_events_async", "shutdown")


@pytest.mark.skipif(find_spec("tensorrt_llm") is None, reason="tensorrt_llm is not installed")
def test_the_fake_is_like_the_package() -> None:
    """Each name that the adapter uses is there, with the parameters and fields that it uses."""
    for module, names in PARTS.items():
        for name in names:
            theirs, ours = getattr(library.part(module), name), getattr(fake, name)
            if dataclasses.is_dataclass(ours):
                fields = {one.name for one in dataclasses.fields(ours)} - NEWER
                assert all(library.has(theirs, one) for one in fields), f"{name} has all of {fields}"
    real = library.part().LLM
    for method in METHODS:
        wanted = inspect.signature(getattr(fake.LLM, method)).parameters
        found = inspect.signature(getattr(real, method)).parameters
        for name, parameter in wanted.items():
            assert name in found and found[name].default == parameter.default, f"{method}({name})"
    assert hasattr(real, "_check_health") or hasattr(real, "_executor")
    request = inspect.signature(loras._class("LoRARequest", loras.REQUESTS)).parameters
    assert list(request)[:3] == [one.name for one in dataclasses.fields(types.LoRARequest)]
    config = loras._class("LoraConfig", loras.CONFIGS)
    assert all(library.has(config, one.name) for one in dataclasses.fields(types.LoraConfig))
    result = library.part("llmapi").RequestOutput
    assert all(hasattr(result, name) for name in ("abort", "__aiter__", "__anext__"))
    arguments = library.part("llmapi").TorchLlmArgs
    assert all(library.has(arguments, name) for name in fake.ARGUMENTS)


def test_the_adapter_uses_nothing_that_the_fake_lacks() -> None:
    """All parameters of a request are fields of the fake, so that the comparison above covers them."""
    fields = {one.name for one in dataclasses.fields(types.SamplingParams)}
    everything = Sampling(0.5, 0.9, 5, 0.1, 1.1, 0.1, 0.1, {5: 1.0}, 3, 2)
    asked = words.asked(Job("a", PROMPT, sampling=everything), (1, 2), 1024, VERSION, True, 0.0)
    assert asked.sampling.keys() <= fields
    assert {*words.NATIVE_FIELDS} - {"schedule_style"} <= {
        one.name for one in dataclasses.fields(types.DisaggregatedParams)
    }
