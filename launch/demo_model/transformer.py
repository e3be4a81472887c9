"""Shell. The demo model in PyTorch, as plain functions over its weights, and how they are moved.

It computes what `nodes.engines.numpy` computes for `model_type` qwen3; `train.py` compares the two at its end. PyTorch
is needed for training only and is no dependency of Wiremesh, so a missing one is no error until then.
"""

import importlib.util
from math import sqrt
from typing import Any

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
Weights = dict[str, Any]  # tensors by their Hugging Face names

EPSILON = 1e-6
THETA = 10_000.0
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Muon's polynomial: drives singular values towards one in five rounds
NEWTON_SCHULZ_ROUNDS = 5
ADAM_BETAS = (0.9, 0.95)
MATRIX_RATE = 0.02  # the largest learning rates: of matrices, by Muon
EMBEDDING_RATE = 0.004  # and of the embedding and the norms, by Adam


def fresh(config: dict[str, Any]) -> Weights:
    """Random weights; what a layer adds to the stream begins at zero."""
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    weights = {"model.embed_tokens.weight": torch.randn(config["vocab_size"], width) * 0.02}
    for index in range(config["num_hidden_layers"]):
        at = f"model.layers.{index}."
        for name, rows in (("q", heads * head), ("k", keys * head), ("v", keys * head)):
            weights[f"{at}self_attn.{name}_proj.weight"] = torch.randn(rows, width) / sqrt(width)
        for name in ("gate", "up"):
            weights[f"{at}mlp.{name}_proj.weight"] = torch.randn(inner, width) / sqrt(width)
        weights[at + "self_attn.o_proj.weight"] = torch.zeros(width, heads * head)
        weights[at + "mlp.down_proj.weight"] = torch.zeros(width, inner)
        weights |= {f"{at}self_attn.{name}_norm.weight": torch.ones(head) for name in "qk"}
        weights |= {f"{at}{name}_layernorm.weight": torch.ones(width) for name in ("input", "post_attention")}
    weights["model.norm.weight"] = torch.ones(width)
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def turns(length: int, head: int) -> tuple[Any, Any]:
    """Cosine and sine of each position's angles, for both halves of a head."""
    frequencies = 1.0 / THETA ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def hidden(weights: Weights, config: dict[str, Any], tokens: Any) -> Any:
    """(sequences, length) of tokens to (sequences, length, width), before the head."""
    embedding = weights["model.embed_tokens.weight"]
    stream = torch.nn.functional.embedding(tokens, embedding)
    table = turns(tokens.shape[1], config["head_dim"])
    for index in range(config["num_hidden_layers"]):
        layer = {name.split(".", 3)[3]: weight for name, weight in weights.items() if f"layers.{index}." in name}
        stream = stream + attention(layer, config, normed(stream, layer["input_layernorm.weight"]), table)
        rows = normed(stream, layer["post_attention_layernorm.weight"])
        gate, up = rows @ layer["mlp.gate_proj.weight"].T, rows @ layer["mlp.up_proj.weight"].T
        stream = stream + (torch.nn.functional.silu(gate) * up) @ layer["mlp.down_proj.weight"].T
    return normed(stream, weights["model.norm.weight"])


def attention(layer: Weights, config: dict[str, Any], rows: Any, table: tuple[Any, Any]) -> Any:
    """Grouped-query attention with normed queries and keys."""
    count, length, _ = rows.shape

    def heads(name: str) -> Any:
        return (rows @ layer[f"self_attn.{name}_proj.weight"].T).view(count, length, -1, config["head_dim"])

    queries = turned(normed(heads("q"), layer["self_attn.q_norm.weight"]).transpose(1, 2), table)
    keys = turned(normed(heads("k"), layer["self_attn.k_norm.weight"]).transpose(1, 2), table)
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    keys, values = keys.repeat_interleave(group, 1), heads("v").transpose(1, 2).repeat_interleave(group, 1)
    seen = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return seen.transpose(1, 2).reshape(count, length, -1) @ layer["self_attn.o_proj.weight"].T


def turned(heads: Any, table: tuple[Any, Any]) -> Any:
    """With rotary positions: the two halves of a head are the pairs."""
    first, second = heads.chunk(2, -1)
    return heads * table[0] + torch.cat([-second, first], -1) * table[1]


def normed(rows: Any, weight: Any) -> Any:
    return torch.nn.functional.rms_norm(rows, (rows.shape[-1],), weight, EPSILON)


def logits(weights: Weights, rows: Any) -> Any:
    """The head is the embedding."""
    return rows @ weights["model.embed_tokens.weight"].T


# --- How the weights are moved ---------------------------------------------------------------------------


class Mover:
    """Muon for the matrices of the layers, Adam for the rest. `rate` is a share of the largest learning rates."""

    def __init__(self, weights: Weights) -> None:
        self._matrices = [weight for name, weight in weights.items() if ".layers." in name and weight.ndim == 2]
        self._momenta = [torch.zeros_like(weight) for weight in self._matrices]
        others = [weight for name, weight in weights.items() if ".layers." not in name or weight.ndim < 2]
        self._adam = torch.optim.Adam(others, lr=EMBEDDING_RATE, betas=ADAM_BETAS)

    def step(self, rate: float) -> None:
        """Move along the gradients, and forget them."""
        for group in self._adam.param_groups:
            group["lr"] = EMBEDDING_RATE * rate
        self._adam.step()
        self._adam.zero_grad()
        with torch.no_grad():
            for weight, momentum in zip(self._matrices, self._momenta, strict=True):
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM)
                scale = sqrt(max(1.0, weight.shape[0] / weight.shape[1]))
                weight.sub_(orthogonal(ahead), alpha=MATRIX_RATE * rate * scale)
                weight.grad = None


def orthogonal(matrix: Any) -> Any:
    """The nearest matrix whose singular values are all about one, by Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    one, three, five = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        square = found @ found.T
        found = one * found + (three * square + five * square @ square) @ found
    return found.T if tall else found
