"""Makes `golden/`: tiny random models of each family, and the logits that `transformers` computes with them.

Only for whoever changes the set; the tests need the files alone. In an environment of its own, because torch is large:

    python3 -m venv golden-env && golden-env/bin/pip install torch==2.13.0 transformers==5.23.0
    golden-env/bin/python tests/nodes/engines/make_golden.py

Weights are stored in the type that is named, and computed with in float32. Norms and biases, which start as ones and
zeros, are random too, so that a forgotten one shows.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FOLDER = Path(__file__).parent / "golden"
TOKENS = 48
KEPT = 8  # the logits of every so manieth position are kept
SHAPE = {
    "vocab_size": 70,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
THETA = {"rope_type": "default", "rope_theta": 500000.0}
Case = tuple[Any, Any, torch.dtype, int, dict[str, Any]]  # config, model, stored type, shards, what differs
CASES: dict[str, Case] = {
    "llama": (LlamaConfig, LlamaForCausalLM, torch.float16, 1, {"rope_parameters": LLAMA3, "head_dim": 8}),
    "llama-biased": (
        *(LlamaConfig, LlamaForCausalLM, torch.float32, 2),
        {"rope_parameters": LINEAR, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    ),
    "mistral": (MistralConfig, MistralForCausalLM, torch.bfloat16, 1, {"sliding_window": 12, "rope_parameters": THETA}),
    "qwen2": (
        Qwen2Config,
        Qwen2ForCausalLM,
        torch.bfloat16,
        1,
        {"tie_word_embeddings": True, "rope_parameters": THETA},
    ),
    "qwen2-window": (
        *(Qwen2Config, Qwen2ForCausalLM, torch.float16, 1),
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "rope_parameters": YARN},
    ),
    "qwen3": (
        *(Qwen3Config, Qwen3ForCausalLM, torch.bfloat16, 3),
        {"head_dim": 16, "rope_parameters": YARN, "tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for seed, (name, case) in enumerate(CASES.items()):
        make(FOLDER / name, seed, *case)
    print(sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()), "bytes")


def make(folder: Path, seed: int, config_type: Any, model_type: Any, kind: torch.dtype, shards: int, more: Any) -> None:
    torch.manual_seed(seed)
    model = model_type(config_type(**{**SHAPE, **more})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_norm = name.endswith("norm.weight")
            weight.copy_((torch.randn(weight.shape) * 0.3 + is_norm).to(kind).float())
        tokens = torch.randint(0, SHAPE["vocab_size"], (1, TOKENS))
        expected = model(tokens).logits[0]
    model = model.to(kind)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    model.save_pretrained(folder, max_shard_size=size if shards == 1 else -(-size // shards))
    save_file(
        {"tokens": tokens[0].float(), "logits": expected[::KEPT].contiguous()},
        folder / "expected.safetensors",
    )


if __name__ == "__main__":
    main()
