"""What TensorRT-LLM is asked and what it says, in its words: flags, requests, hand-overs, and events of its cache."""

import json
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import chain
from nodes.contract.engine import BlockEvent, Ending, EngineLoad, Job, Sampling
from nodes.engines.outside import EngineRefused
from nodes.engines.trtllm import flags, library, words
from nodes.engines.trtllm.cache import Cache
from tests.engines.of_trtllm import source_of
from tests.engines.reference import DEMO
from tests.nodes.engines import trtllm_types as types

PROMPT = [7 + number % 90 for number in range(70)]
SIZE = 4
VERSION = "1.2.1"


# --- Flags -------------------------------------------------------------------------------------------------


def test_flags_are_arguments_of_llm() -> None:
    said = "--tensor-parallel-size 2 --enable-attention-dp --kv-cache-config {} --kv_block_size=64 --ep_size 4"
    more = "--free-gpu-memory-fraction 0.8 --dtype bfloat16 --disable-overlap-scheduler false"
    found = flags.given(f"{said} {more}".format('{"dtype":"fp8"}').split())
    assert found == {
        "tensor_parallel_size": 2,
        "enable_attention_dp": True,
        "kv_cache_config": {"dtype": "fp8", "tokens_per_block": 64, "free_gpu_memory_fraction": 0.8},
        "moe_expert_parallel_size": 4,
        "dtype": "bfloat16",
        "disable_overlap_scheduler": False,
    }


@pytest.mark.parametrize("given", [["tp", "2"], ["--"], ["--model", "other"], ["--tokenizer=x"]])
def test_what_is_no_flag_is_refused_in_a_sentence(given: list[str]) -> None:
    with pytest.raises(ValueError, match="TensorRT-LLM"):
        flags.given(given)


def test_later_words_win_part_by_part() -> None:
    layers = {"a": 1, flags.KV: {"x": 1, "y": 1}}, {"a": 2, flags.KV: {"y": 2}}, {"b": 3}
    assert flags.merged(*layers) == {"a": 2, "b": 3, flags.KV: {"x": 1, "y": 2}}


def test_a_buffer_in_which_it_would_wait_for_ever_is_refused() -> None:
    tight = {flags.TRANSCEIVER: {"max_tokens_in_buffer": 512}}
    assert "1024" in flags.too_small_buffer(tight, 1024)
    assert not flags.too_small_buffer(tight, 512) and not flags.too_small_buffer({}, 512)
    native = ("--cache-transceiver-config", '{"max_tokens_in_buffer": 512}')
    with pytest.raises(EngineRefused, match="wait for ever"):
        source_of(DEMO, native).start()


def test_levels_of_the_log_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [library.level_of(level) for level in (5, logging.DEBUG, 15, logging.INFO, logging.ERROR, 99)]
    assert levels == ["debug", "debug", "info", "info", "error", "internal_error"]
    monkeypatch.setenv(library.LEVEL, "verbose")
    library.prepare()
    assert os.environ[library.LEVEL] == "verbose", "what somebody has set wins"


def test_roles_and_flags_make_the_arguments(tmp_path: Path) -> None:
    file = tmp_path / "more.json"
    file.write_text(json.dumps({"max_batch_size": 3, "kv_cache_config": {"free_gpu_memory_fraction": 0.5}}))
    plain = source_of(DEMO, slots=5)._arguments()
    assert plain["max_batch_size"] == 5 and plain["skip_tokenizer_init"] and flags.TRANSCEIVER not in plain
    assert plain[flags.KV] == {"enable_block_reuse": True, "event_buffer_max_size": 16_384}
    assert flags.KV in source_of(DEMO, caching=False)._arguments()
    feeds = source_of(DEMO, role="prefill")._arguments()
    assert feeds[flags.TRANSCEIVER] == {"backend": "DEFAULT"} and feeds["disable_overlap_scheduler"] is True
    if find_spec("yaml") is not None:
        said = source_of(DEMO, ("--extra-llm-api-options", str(file), "--max-batch-size", "4"))._arguments()
        assert said["max_batch_size"] == 4 and said[flags.KV]["free_gpu_memory_fraction"] == 0.5
    with pytest.raises(EngineRefused, match="cannot be read"):
        source_of(DEMO, ("--config", str(tmp_path / "none.yaml")))._arguments()


# --- Words -------------------------------------------------------------------------------------------------


def sampled(**sampling: Any) -> dict[str, Any]:
    wanted = Job("a", PROMPT, [5, 6], max_tokens=20, min_tokens=9, stop_tokens=(8,), sampling=Sampling(**sampling))
    return words.asked(wanted, (1, 2), 1024, VERSION, True, 0.0).sampling


def test_budgets_and_ends_count_what_others_made() -> None:
    found = sampled(temperature=0.0)
    assert (found["max_tokens"], found["min_tokens"]) == (18, 7)
    assert (found["end_id"], found["stop_token_ids"], found["include_stop_str_in_output"]) == (1, [2, 8], True)
    ignoring = words.asked(Job("a", PROMPT, ignore_eos=True, stop_tokens=(8,)), (1, 2), 1024, VERSION, True, 0.0)
    assert (ignoring.sampling["end_id"], ignoring.sampling["stop_token_ids"]) == (-1, [8])
    full = words.asked(Job("a", PROMPT, max_tokens=99), (), 72, VERSION, True, 0.0)
    assert full.sampling["max_tokens"] == 2, "more than fit, it refuses"


def test_it_is_greedy_only_where_that_is_wanted() -> None:
    assert sampled(temperature=0.0)["top_k"] == 1 and "temperature" not in sampled(temperature=0.0)
    drawn = sampled(temperature=0.7, seed=2**63 - 2)
    assert (drawn["temperature"], drawn["top_p"], drawn["top_k"]) == (0.7, 1.0, None)
    assert drawn["seed"] == 0, "by position, and within 63 bits"
    assert sampled(temperature=0.7, top_k=40)["top_k"] == 40
    assert sampled(temperature=0.7, top_p=0.0)["top_k"] == 1, "no top-p at all is the likeliest token"


def test_penalties_begin_where_the_output_begins() -> None:
    assert sampled(frequency_penalty=0.5)["prompt_ignore_length"] == len(PROMPT)
    assert "prompt_ignore_length" not in sampled(repetition_penalty=1.5), "that one counts the prompt too"
    both = Job("a", PROMPT, sampling=Sampling(repetition_penalty=1.5, presence_penalty=0.5))
    assert "repetition_penalty" in (words.refusal_of(both) or "")
    assert words.refusal_of(Job("a", PROMPT, sampling=Sampling(repetition_penalty=1.5))) is None


def test_log_probabilities_come_with_at_least_one_alternative() -> None:
    assert sampled(logprobs=0)["logprobs"] == 1 and "logprobs" not in sampled()
    rows = [{5: types.Logprob(-0.5), 6: types.Logprob(-0.1)}, {7: -0.2}, -3.0]
    found = words.rows_of([5, 7, 9], [{1: -9.0}, *rows], 1)
    assert [(row.chosen, list(row.top)) for row in found] == [(-0.5, [(6, -0.1)]), (-0.2, [(7, -0.2)]), (-3.0, [])]
    assert words.rows_of([1, 2], [{}], 1) == [] and words.rows_of([1], None, 1) == []


def test_ends_are_understood() -> None:
    ends = [words.ending_of(reason, False) for reason in (None, "stop", "length", "timeout", "cancelled", "odd")]
    assert ends == [None, Ending.STOP, Ending.LENGTH, Ending.LOST, Ending.LOST, Ending.LOST]
    assert words.ending_of("not_finished", True) is Ending.LENGTH


def test_statistics_are_a_load_whatever_is_missing() -> None:
    assert words.load_of({}) == EngineLoad()
    found = words.load_of(
        {
            "numQueuedRequests": 2,
            "kvCacheStats": {"maxNumBlocks": 100, "freeNumBlocks": 60},
            "inflightBatchingStats": {"numContextRequests": 1, "numGenRequests": 3, "numPausedRequests": 1},
        }
    )
    assert found == EngineLoad(running=4, waiting=3, blocks_used=40, blocks_total=100)


# --- Its cache ---------------------------------------------------------------------------------------------


def stored(number: int, parent: int | None, blocks: dict[int, Sequence[int]], **more: Any) -> dict[str, Any]:
    told = [
        {"block_hash": name, "tokens": [{"token_id": token, "token_extra_id": 0} for token in tokens]}
        for name, tokens in blocks.items()
    ]
    return {"event_id": number, "data": {"type": "stored", "parent_hash": parent, "blocks": told}, **more}


def removed(number: int, *names: int, **more: Any) -> dict[str, Any]:
    return {"event_id": number, "data": {"type": "removed", "block_hashes": list(names)}, **more}


TOKENS = list(range(12))
OURS = chain(TOKENS, SIZE, 0, xxh3_64_intdigest)


def cache() -> Cache:
    return Cache(xxh3_64_intdigest, SIZE)


def test_blocks_get_our_names_and_parts_of_blocks_none() -> None:
    found = cache()
    (event,) = found.heard(stored(0, None, {2**63 + 5: TOKENS[:4], 6: TOKENS[4:8], 7: TOKENS[8:10]}))
    assert event == BlockEvent("stored", OURS[:2], 0, TOKENS[:8])
    assert found.heard(removed(1, 7)) == [], "it was filled in part"
    (event,) = found.heard(stored(2, 6, {8: TOKENS[8:]}))
    assert event == BlockEvent("stored", OURS[2:], OURS[1], TOKENS[8:])
    assert found.heard(removed(3, 8, 6)) == [BlockEvent("removed", [OURS[2], OURS[1]])]
    assert found.heard(stored(4, 6, {9: TOKENS[8:]})) == [] and found.left_out == 1, "its parent is gone"


def test_a_gap_makes_all_void_and_each_rank_counts_for_itself() -> None:
    found = cache()
    assert found.heard(stored(3, None, {5: TOKENS[:4]})) != [] and found.gaps == 1, "the first one is not number 0"
    assert found.heard(stored(0, None, {5: TOKENS[:4]}, attention_dp_rank=1))[0].rank == 1
    events = found.heard(stored(5, None, {6: TOKENS[4:8]}))
    assert [event.kind for event in events] == ["cleared", "stored"] and found.gaps == 2
    assert found.heard(removed(6, 5)) == [], "nothing is known of it any more"
    assert found.heard(removed(1, 5, attention_dp_rank=1)) == [BlockEvent("removed", OURS[:1], rank=1)]


def test_layers_with_a_smaller_window_are_left_out() -> None:
    found = cache()
    for number, window in enumerate((512, 4096)):
        created = {"type": "created", "num_blocks_per_cache_level": [9]}
        assert found.heard({"event_id": number, "data": created, "window_size": window}) == []
    assert found.heard(stored(2, None, {5: TOKENS[:4]}, window_size=512)) == []
    assert found.heard(stored(3, None, {5: TOKENS[:4]}, window_size=4096))[0].hashes == OURS[:1]
    assert found.heard(removed(4, 5, window_size=512)) == [] and found.gaps == 0


def test_a_salted_block_does_not_take_its_namesake_along() -> None:
    found = cache()
    found.heard(stored(0, None, {5: TOKENS[:4]}))
    found.heard(stored(1, None, {55: TOKENS[:4]}))
    assert found.heard(removed(2, 5)) == []
    assert found.heard(removed(3, 55)) == [BlockEvent("removed", OURS[:1])]


@pytest.mark.parametrize(
    "event",
    [
        "no JSON",
        {},
        {"data": {}},
        {"event_id": 0, "data": {"type": "stored"}},
        {"event_id": 0, "data": {"type": "stored", "parent_hash": None, "blocks": [{"tokens": [{}]}]}},
        {"event_id": 0, "data": {"type": "removed", "block_hashes": 5}},
        None,
        stored(0, None, {5: [-1, 2, 3, 4]}),
        stored(0, None, {5: [2**70, 2, 3, 4]}),
    ],
)
def test_nonsense_is_left_out_and_counted(event: Any) -> None:
    found = cache()
    assert found.heard(event) == [] and found.left_out == 1
    assert found.heard([json.dumps(stored(1, None, {5: TOKENS[:4]}))])[-1].hashes == OURS[:1]


# --- Handing over ------------------------------------------------------------------------------------------


def word(at: float = 100.0, **more: Any) -> bytes:
    params = types.DisaggregatedParams(
        request_type="context_only", first_gen_tokens=[3], ctx_request_id=9, opaque_state=b"\x00\xff", **more
    )
    return words.word(params, VERSION, len(PROMPT), at, 60.0)


def fed(native: bytes, now: float, version: str = VERSION, generated: tuple[int, ...] = (3,)) -> words.Asked:
    wanted = Job("a", PROMPT, generated, max_tokens=10, native=native)
    return words.asked(wanted, (1,), 1024, version, True, now)


def test_who_goes_on_says_what_it_was_told_with_the_prompt_alone() -> None:
    found = fed(word(), 110.0)
    assert (found.tokens, found.known, found.sampling["max_tokens"]) == (PROMPT, [3], 10)
    assert found.native == {
        "request_type": "generation_only",
        "first_gen_tokens": [3],
        "ctx_request_id": 9,
        "opaque_state": b"\x00\xff",
    }
    assert len(word()) < 200


@pytest.mark.parametrize(
    "asked",
    [
        fed(word(), 131.0),  # older than half of its lease
        fed(word(), 98.0),  # from the future
        fed(word(), 101.0, version="1.3.0"),
        fed(word(), 101.0, generated=(4,)),  # another token was told
        fed(word(), 101.0, generated=(3, 4)),
        fed(word(), 101.0, generated=()),
        fed(b"nonsense", 101.0),
        fed(msgspec.msgpack.encode([VERSION, 100.0, 60.0, -1, {"first_gen_tokens": 5}]), 101.0),
    ],
)
def test_what_cannot_be_relied_on_is_not_used(asked: words.Asked) -> None:
    assert asked.native is None and asked.known == [] and asked.tokens[: len(PROMPT)] == PROMPT


def test_nothing_is_told_where_nothing_was_made() -> None:
    assert words.word(None, VERSION, 5, 0.0, 60.0) == b""
    assert words.word(types.DisaggregatedParams(ctx_request_id=3), VERSION, 5, 0.0, 60.0) == b""
