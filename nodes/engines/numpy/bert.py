"""Shell. BERT and RoBERTa in NumPy: a text's tokens become rows, each of which has seen all the others.

| tensors, perhaps behind `bert.` or `roberta.` | |
|---|---|
| `embeddings.{word, position, token_type}_embeddings`, `embeddings.LayerNorm` | a row is the sum of three, normed |
| `encoder.layer.N.attention.self.{query, key, value}`, `attention.output.dense` | what it sees |
| `encoder.layer.N.{attention.output, output}.LayerNorm` | after each half, with what was there before it |
| `encoder.layer.N.{intermediate, output}.dense` | the feed-forward part |

RoBERTa counts positions from behind its padding token's id, and leaves that token out. The texts of a step share the
large products, and each is looked at by itself; with `exact` its rows
are the same to the bit whatever stands beside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.engines.numpy.config import Unsupported, number
from nodes.engines.numpy.encoder import ACTIVATE, Dense, Layer, attended, dense_of, linear, norm_of, normed
from nodes.engines.numpy.safetensors import Damaged, Tensors, opened
from nodes.engines.numpy.senses import Stack

Floats = NDArray[np.float32]
ROBERTA = ("roberta", "xlm-roberta", "camembert")
FAMILIES = ("bert", *ROBERTA)
PREFIXES = ("", "bert.", "roberta.")


class Bert:
    """Keeps `nodes.engines.embedding.Body`."""

    def __init__(self, raw: Mapping[str, Any], tensors: Tensors, exact: bool) -> None:
        self._stack = stack = stack_of(raw)
        self._exact = exact
        self.width = stack.width
        self._padding = int(raw.get("pad_token_id") or 0) if raw["model_type"] in ROBERTA else -1
        at = next((at for at in PREFIXES if f"{at}embeddings.word_embeddings.weight" in tensors), "")
        self._words = tensors[f"{at}embeddings.word_embeddings.weight"]
        self._places = tensors[f"{at}embeddings.position_embeddings.weight"]
        types = tensors[f"{at}embeddings.token_type_embeddings.weight"]
        if any(table.ndim != 2 or table.shape[1] != stack.width for table in (self._words, self._places, types)):
            raise ValueError("a table of embeddings is of another width")
        self._type = types[0]
        self._norm = norm_of(tensors, f"{at}embeddings.LayerNorm", stack)
        layers = range(stack.layers)
        self._layers = [layer_of(tensors, stack, f"{at}encoder.layer.{index}.", exact) for index in layers]
        self.vocabulary = len(self._words)
        self.positions = len(self._places) - self._padding - 1

    def rows(self, prompts: Sequence[Sequence[int]]) -> list[Floats]:
        places = [self._positions(np.asarray(prompt)) for prompt in prompts]
        ends = np.cumsum([len(prompt) for prompt in prompts])
        rows = self._words[np.concatenate([np.asarray(prompt) for prompt in prompts])]
        rows = normed(self._norm, rows + self._type + self._places[np.concatenate(places)])
        activate, heads = ACTIVATE[self._stack.activation], self._stack.heads
        for layer in self._layers:
            texts = np.split(layer.attention.times(rows), ends[:-1])
            seen = np.concatenate([attended(text, heads, self._exact) for text in texts])
            rows = normed(layer.before, rows + layer.output.times(seen))
            rows = normed(layer.after, rows + layer.down.times(activate(layer.up.times(rows))))
        return np.split(rows, ends[:-1])

    def _positions(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._padding < 0:
            return np.arange(len(tokens))
        counts = tokens != self._padding
        found: NDArray[np.int64] = np.cumsum(counts) * counts + self._padding
        return found


def layer_of(tensors: Tensors, stack: Stack, at: str, exact: bool) -> Layer:
    """Queries are scaled here, once. `before` and `after` come after each half."""
    scale = np.float32((stack.width // stack.heads) ** -0.5)
    names = ("query", "key", "value")
    parts = [linear(tensors, f"{at}attention.self.{name}", stack.width, stack.width) for name in names]
    weight = np.concatenate([parts[0][0] * scale, parts[1][0], parts[2][0]])
    bias = np.concatenate([parts[0][1] * scale, parts[1][1], parts[2][1]])
    return Layer(
        norm_of(tensors, at + "attention.output.LayerNorm", stack),
        Dense(weight, bias, exact),
        dense_of(tensors, at + "attention.output.dense", stack.width, stack.width, exact),
        norm_of(tensors, at + "output.LayerNorm", stack),
        dense_of(tensors, at + "intermediate.dense", stack.width, stack.inner, exact),
        dense_of(tensors, at + "output.dense", stack.inner, stack.width, exact),
    )


def stack_of(raw: Mapping[str, Any]) -> Stack:
    """The shape that `config.json` says. Raises Unsupported."""
    if raw.get("model_type") not in FAMILIES:
        raise Unsupported(
            f"model_type {raw.get('model_type')!r} makes no embeddings here, only {', '.join(FAMILIES)}: "
            "try --engine transformers"
        )
    if raw.get("quantization_config") or raw.get("position_embedding_type", "absolute") != "absolute":
        raise Unsupported("quantized weights and relative positions are not supported")
    activation = raw.get("hidden_act", "gelu")
    if activation not in ACTIVATE:
        raise Unsupported(f"hidden_act {activation!r} is none of {', '.join(ACTIVATE)}")
    width, heads = number(raw, "hidden_size"), number(raw, "num_attention_heads")
    if width % heads:
        raise Unsupported(f"{heads} heads of a width of {width} cannot be")
    inner, layers = number(raw, "intermediate_size"), number(raw, "num_hidden_layers")
    return Stack(width, inner, heads, layers, activation, float(raw.get("layer_norm_eps", 1e-12)))


def load(folder: Path, raw: Mapping[str, Any], exact: bool) -> Bert:
    """Read the weights. Raises Unsupported or Damaged."""
    with opened(folder) as tensors:
        try:
            return Bert(raw, tensors, exact)
        except ValueError as error:
            raise Damaged(f"the weights in {folder} have other shapes than its config.json says: {error}") from error
