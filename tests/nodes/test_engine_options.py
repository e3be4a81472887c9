"""What a worker's command line says of its engine: mistakes are sentences that name the flag."""

from typing import Any

import pytest

from mesh.options import OptionRefused
from nodes.engine_options import EngineOptions, points
from nodes.engines.timing import Timing
from nodes.loading import timing_of
from nodes.transfer.causes import Way

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"engine": "cuda"}, "--engine is 'cuda': it must be numpy, transformers, llama, sim, openai"),
    ({"slots": -1}, "--slots is -1"),
    ({"slots": 100_000}, "--slots is 100000: it must be between 0 and 4096"),
    ({"context": -5}, "--context is -5"),
    ({"block_tokens": 0}, "--block-tokens is 0: it must be between 1 and 1024"),
    ({"kv_bytes": 0}, "--kv-bytes is 0"),
    ({"engine": "sim", "speedup": -1.0}, "--speedup is -1.0"),
    ({"engine": "sim", "speedup": float("inf")}, "--speedup is inf"),
    ({"engine": "sim", "prefill_ms": ("10",)}, "--prefill-ms is '10': each must be TOKENS:MILLISECONDS"),
    ({"engine": "sim", "decode_ms": ("10:x",)}, "--decode-ms is '10:x': each must be"),
    ({"engine": "sim", "decode_ms": ("10:1", "10:2")}, "--decode-ms is '10:1 10:2': the tokens must ascend"),
    ({"engine": "sim", "decode_ms": ("1:-1",)}, "must be 0 or more"),
    ({"engine": "sim", "fault": "boom"}, "--fault is 'boom': it must be crash, hang or slow"),
    ({"role": "cook"}, "--role is 'cook': it must be worker, prefill, decode or encoder"),
    ({"role": "prefill", "enforce_disagg": True}, "--enforce-disagg is for --role decode, not prefill"),
    ({"kv_staging_bytes": -1}, "--kv-staging-bytes is -1: it must be bytes, 0 or more"),
    ({"transports": "shared,pigeon"}, "'pigeon' is no transport; there are shared, nixl, bulk"),
    ({"speedup": 0.0}, "--speedup is for --engine sim, not numpy"),
    ({"fault": "crash"}, "--fault is for --engine sim, not numpy"),
    ({"engine": "sim", "exact": True}, "--exact is for --engine numpy, not sim"),
    ({"engine": "sim", "kv_bytes": 5}, "--kv-bytes is for --engine numpy or transformers or llama, not sim"),
    ({"model": "/a/b.gguf"}, "--model /a/b.gguf is for --engine llama: the numpy engine wants a directory"),
]


@pytest.mark.parametrize(("values", "words"), MISTAKES)
def test_a_mistake_is_a_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionRefused) as caught:
        EngineOptions(**values)
    assert words in str(caught.value)


def test_tables_become_a_timing() -> None:
    options = EngineOptions(engine="sim", speedup=2.0, prefill_ms=("0:10", "1000:40.5"), decode_ms=("0:20",))
    assert timing_of(options) == Timing(2.0, ((0.0, 10.0), (1000.0, 40.5)), ((0.0, 20.0),))
    assert timing_of(EngineOptions()) == Timing()
    assert points(()) == ()


def test_transports_are_an_order() -> None:
    assert EngineOptions().ways == (Way.SHARED, Way.BULK)
    assert EngineOptions(transports="bulk, shared,bulk").ways == (Way.BULK, Way.SHARED)
    assert EngineOptions(transports="").ways == ()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"engine": "numpy"}, "--diffusion is for --engine transformers or trtllm, not numpy"),
        ({"diffusion": "music"}, "must be image or video"),
        ({"role": "decode"}, "--diffusion is for --role worker, not decode"),
        ({"slots": 4}, "one picture is made at a time"),
        ({"context": 4}, "for engines that make tokens"),
    ],
)
def test_what_is_of_no_use_to_a_worker_of_pictures_is_refused(more: dict[str, Any], why: str) -> None:
    given: dict[str, Any] = {"engine": "transformers", "diffusion": "image"}
    assert EngineOptions(**given).diffusion == "image"
    with pytest.raises(OptionRefused, match=why):
        EngineOptions(**{**given, **more})
