"""Pure. What TensorRT-LLM is started with: our own flags in its words, then a file of its own, then words behind `--`.

Its words are arguments of `tensorrt_llm.LLM`: `-- --tensor-parallel-size 2 --kv-cache-config '{"dtype": "fp8"}'`. The
names of `trtllm-serve` are understood too. What it does not know, it refuses itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

KV, TRANSCEIVER, FILE = "kv_cache_config", "cache_transceiver_config", "extra_llm_api_options"
SAME = {  # other names of the same
    "tp_size": "tensor_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "ep_size": "moe_expert_parallel_size",
    "config": FILE,
    "extra_engine_args": FILE,
}
WITHIN = {  # those that are part of another
    "kv_cache_free_gpu_memory_fraction": (KV, "free_gpu_memory_fraction"),
    "free_gpu_memory_fraction": (KV, "free_gpu_memory_fraction"),
    "kv_block_size": (KV, "tokens_per_block"),
}
OURS = ("model", "tokenizer", "skip_tokenizer_init")  # a worker's own flags say this


def given(words: Sequence[str]) -> dict[str, Any]:
    """The arguments that somebody wrote. Raises ValueError with a sentence."""
    found: dict[str, Any] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ValueError(
                f"{word!r} is no flag of TensorRT-LLM: they are --NAME VALUE, as in --tensor-parallel-size 2"
            )
        name, equals, text = word[2:].partition("=")
        if not equals:
            text = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        _put(found, name.replace("-", "_"), _value(text))
    return found


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    name = SAME.get(name, name)
    if name in OURS:
        raise ValueError(f"--{name.replace('_', '-')} is not for TensorRT-LLM here: the worker's own --model says it")
    if name in WITHIN:
        outer, inner = WITHIN[name]
        found[outer] = {**found.get(outer, {}), inner: value}
    elif isinstance(value, dict):
        found[name] = {**found.get(name, {}), **value}
    else:
        found[name] = value


def _value(text: str) -> Any:
    """A number, a truth, an object; anything else is text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later ones win; of what has parts, part by part."""
    found: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = found.get(name)
            both = isinstance(value, Mapping) and isinstance(before, Mapping)
            found[name] = {**before, **value} if both and before is not None else value
    return found


def too_small_buffer(found: Mapping[str, Any], context: int) -> str:
    """A transceiver that cannot hold the longest prompt makes TensorRT-LLM stand still for ever; empty if it can."""
    transceiver = found.get(TRANSCEIVER)
    tokens = transceiver.get("max_tokens_in_buffer") if isinstance(transceiver, Mapping) else None
    if not isinstance(tokens, int) or tokens >= context:
        return ""
    return (
        f"{TRANSCEIVER}.max_tokens_in_buffer is {tokens}, and prompts may have {context}: "
        "TensorRT-LLM would wait for ever, so make it as large, or give a smaller --context"
    )
