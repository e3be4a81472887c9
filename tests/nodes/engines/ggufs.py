"""A GGUF file of a Qwen3 model in a directory, as the demo model is, for the tests of the llama engine."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nodes.engines.numpy.safetensors import opened

ALIGNMENT = 32
STRING, ARRAY = 8, 9
SHARED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json")
OUTER = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def converted(folder: Path, made: Path, half: bool = False, shared: bool = True) -> Path:
    """The file, in a directory with what frontends need, if that is `shared`."""
    made.mkdir(parents=True, exist_ok=True)
    for name in SHARED if shared else ():
        (made / name).write_bytes((folder / name).read_bytes())
    file = made / "model.gguf"
    with opened(folder) as tensors:
        found = {renamed(name): tensors[name] for name in tensors.names()}
    content = {
        name: array.astype(np.float16 if half and array.ndim > 1 else np.float32) for name, array in found.items()
    }
    file.write_bytes(packed({**shape_of(folder, half), **words_of(folder)}, content))
    return file


def shape_of(folder: Path, half: bool) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    return {
        "general.architecture": "qwen3",
        "general.file_type": int(half),
        "qwen3.block_count": config["num_hidden_layers"],
        "qwen3.context_length": config["max_position_embeddings"],
        "qwen3.embedding_length": config["hidden_size"],
        "qwen3.feed_forward_length": config["intermediate_size"],
        "qwen3.attention.head_count": config["num_attention_heads"],
        "qwen3.attention.head_count_kv": config["num_key_value_heads"],
        "qwen3.attention.key_length": config["head_dim"],
        "qwen3.attention.value_length": config["head_dim"],
        "qwen3.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "qwen3.rope.freq_base": float(config["rope_theta"]),
    }


def words_of(folder: Path) -> dict[str, Any]:
    """The tokenizer, as GGUF files have it."""
    known = json.loads((folder / "tokenizer.json").read_text())
    special = {one["content"] for one in known["added_tokens"]}
    texts = sorted(known["model"]["vocab"], key=known["model"]["vocab"].get)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    merges = [one if isinstance(one, str) else " ".join(one) for one in known["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [3 if text in special else 1 for text in texts],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": texts.index(config["eos_token"]),
        "tokenizer.chat_template": config["chat_template"],
    }


def renamed(name: str) -> str:
    name = name.removeprefix("model.")
    if name in OUTER:
        return OUTER[name]
    _, layer, rest = name.split(".", 2)
    inner, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{INNER[inner]}.{kind}"


def packed(values: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bytes:
    """A whole file."""
    made = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)))
    for name, value in values.items():
        made += text(name) + struct.pack("<I", kind_of(value)) + written(value)
    at = 0
    for name, array in tensors.items():
        kind = 1 if array.dtype == np.float16 else 0
        sizes = array.shape[::-1]
        made += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, at)
        at += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    made += bytes(-len(made) % ALIGNMENT)
    for array in tensors.values():
        made += array.tobytes() + bytes(-array.nbytes % ALIGNMENT)
    return bytes(made)


def kind_of(value: object) -> int:
    return {int: 4, float: 6, str: STRING, list: ARRAY}[type(value)]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def written(value: Any) -> bytes:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        kind = 5 if kind_of(value[0]) == 4 else kind_of(value[0])  # llama.cpp wants signed numbers there
        return struct.pack("<IQ", kind, len(value)) + b"".join(map(written, value))
    return struct.pack("<f" if isinstance(value, float) else "<I", value)
