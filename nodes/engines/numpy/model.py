"""Shell. The transformer: weights from a directory, and one forward pass over rows of several sequences."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.numpy.attention import Span, attend
from nodes.engines.numpy.config import Config
from nodes.engines.numpy.matrix import TILE, Matrix
from nodes.engines.numpy.rope import paired, turns
from nodes.engines.numpy.safetensors import Damaged, Tensors, opened

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Layer(Struct, eq=False):
    """One layer's weights."""

    before: Floats  # norm before attention
    attention: Matrix  # to queries, keys and values
    head_norm: Floats | None  # per head of queries and keys
    output: Matrix
    after: Floats  # norm before the feed-forward part
    gate_up: Matrix
    down: Matrix
    window: int


class Model:
    """A model with its cache of keys and values. `tile` as in Matrix: 0 is fast, else products are exact."""

    def __init__(self, config: Config, tensors: Tensors, positions: int, slots: int, tile: int) -> None:
        self.config = config
        self.tile = tile
        self._layers = [layer_of(config, tensors, index, tile) for index in range(config.layers)]
        self._norm = tensors["model.norm.weight"]
        embedding = tensors["model.embed_tokens.weight"]
        tied = config.tied or "lm_head.weight" not in tensors
        self._head = Matrix(embedding if tied else tensors["lm_head.weight"], None, tile)
        self._embedding = None if tied else embedding
        fits(self._head, config.width, config.vocabulary)
        self._turns = turns(config.rope, config.head_width, positions)
        self.allocate(slots)

    def allocate(self, slots: int) -> None:
        """The cache: what it had is lost."""
        shape = self.config.layers, self.config.key_heads
        self.keys = np.zeros(
            (*shape, self.config.head_width, slots), np.float32
        )  # takes no memory before it is written
        self.values = np.zeros((*shape, slots, self.config.head_width), np.float32)

    def logits(
        self,
        tokens: Ints,
        positions: Ints,
        slots: Ints,
        spans: Sequence[Span],
        heads: Ints,
        placed: Sequence[tuple[int, Floats]] = (),
    ) -> Floats:
        """Compute rows of (token, position), keep their keys and values in `slots`, and give the logits of `heads`.

        `placed` are rows of pictures and sounds, and where they begin: there tokens are only placeholders.
        """
        rows = self._head.columns(tokens) if self._embedding is None else self._embedding[tokens]
        for first, embedding in placed:
            rows[first : first + len(embedding)] = embedding
        table = self._turns[positions][:, None]
        with np.errstate(over="ignore"):  # the exponential of a large number: silu is then 0, as it should be
            for index, layer in enumerate(self._layers):
                rows = rows + layer.output.times(self._attention(index, layer, rows, table, slots, spans))
                rows = rows + self._feed(layer, rows)
        if not len(heads):  # only parts of prompts
            return np.empty((0, self.config.vocabulary), np.float32)
        return self._head.times(normed(rows[heads], self._norm, self.config.epsilon))

    def matrices(self) -> list[Matrix]:
        layers = [[layer.attention, layer.output, layer.gate_up, layer.down] for layer in self._layers]
        return [self._head, *(matrix for layer in layers for matrix in layer)]

    def _attention(
        self, index: int, layer: Layer, rows: Floats, table: NDArray[np.complex64], slots: Ints, spans: Sequence[Span]
    ) -> Floats:
        config = self.config
        count, width = len(rows), config.head_width
        mixed = layer.attention.times(normed(rows, layer.before, config.epsilon))
        mixed = mixed.reshape(count, -1, width)
        turning = mixed[:, : config.heads + config.key_heads]
        if layer.head_norm is not None:
            turning = normed(turning, layer.head_norm, config.epsilon)
        turned = (turning.view(np.complex64) * table).view(np.float32)
        keys, values = self.keys[index], self.values[index]
        keys[:, :, slots] = turned[:, config.heads :].transpose(1, 2, 0)
        values[:, slots] = mixed[:, config.heads + config.key_heads :].transpose(1, 0, 2)
        seen = np.empty((count, config.heads * width), np.float32)
        for span in spans:
            queries = turned[span.first : span.last, : config.heads]
            seen[span.first : span.last] = attend(queries, keys, values, span, layer.window, self.tile > 0)
        return seen

    def _feed(self, layer: Layer, rows: Floats) -> Floats:
        both = layer.gate_up.times(normed(rows, layer.after, self.config.epsilon))
        gate, up = both[:, : self.config.inner], both[:, self.config.inner :]
        return layer.down.times(gate / (1 + np.exp(-gate)) * up)


def normed(rows: Floats, weight: Floats, epsilon: float) -> Floats:
    """Root mean square norm over the last axis."""
    squares = np.einsum("...i,...i->...", rows, rows)[..., None]
    found: Floats = rows / np.sqrt(squares / np.float32(rows.shape[-1]) + np.float32(epsilon)) * weight
    return found


def load(config: Config, folder: Path, positions: int, slots: int, exact: bool) -> Model:
    """Read the weights. Exact: with tiles if this processor rounds alike all over a tile, else row by row."""
    with opened(folder) as tensors:
        try:
            model = Model(config, tensors, positions, slots, TILE if exact else 0)
        except ValueError as error:
            raise Damaged(f"the weights in {folder} have other shapes than its config.json says: {error}") from error
    if exact and not all(matrix.agrees(TILE) for matrix in model.matrices()):
        model.tile = 1
        for matrix in model.matrices():
            matrix.tile = 1
    return model


def layer_of(config: Config, tensors: Tensors, index: int, tile: int) -> Layer:
    """Queries are scaled here, once, by the root of the head width."""
    at = f"model.layers.{index}."
    scale = np.float32(config.head_width**-0.5)
    normed_heads = at + "self_attn.q_norm.weight" in tensors
    norm = None
    if normed_heads:
        query, key = (paired(tensors[f"{at}self_attn.{name}_norm.weight"], config.head_width) for name in "qk")
        norm = np.concatenate([np.tile(query * scale, (config.heads, 1)), np.tile(key, (config.key_heads, 1))])
        scale = np.float32(1)
    heads, keys = config.heads * config.head_width, config.key_heads * config.head_width
    layer = Layer(
        before=tensors[at + "input_layernorm.weight"],
        attention=Matrix(*(attention_of(config, tensors, at + "self_attn.", scale)), tile),
        head_norm=norm,
        output=Matrix(tensors[at + "self_attn.o_proj.weight"], tensors.get(at + "self_attn.o_proj.bias"), tile),
        after=tensors[at + "post_attention_layernorm.weight"],
        gate_up=joined(tensors, [at + "mlp.gate_proj", at + "mlp.up_proj"], tile),
        down=Matrix(tensors[at + "mlp.down_proj.weight"], tensors.get(at + "mlp.down_proj.bias"), tile),
        window=config.windows[index],
    )
    fits(layer.attention, config.width, heads + 2 * keys)
    fits(layer.output, heads, config.width)
    fits(layer.gate_up, config.width, 2 * config.inner)
    fits(layer.down, config.inner, config.width)
    return layer


def fits(matrix: Matrix, inputs: int, outputs: int) -> None:
    if (matrix.inputs, matrix.outputs) != (inputs, outputs):
        raise ValueError(f"{matrix.inputs} to {matrix.outputs} instead of {inputs} to {outputs}")


def attention_of(config: Config, tensors: Tensors, at: str, scale: np.float32) -> tuple[Floats, Floats | None]:
    """Weight and bias of queries, keys and values together."""
    both: list[Floats | None] = []
    for kind in ("weight", "bias"):
        if f"{at}q_proj.{kind}" not in tensors:
            both.append(None)
            continue
        query, key = (paired(tensors[f"{at}{name}_proj.{kind}"], config.head_width) for name in "qk")
        both.append(np.concatenate([query * scale, key, tensors[f"{at}v_proj.{kind}"]]))
    weight, bias = both
    assert weight is not None
    return weight, bias


def joined(tensors: Tensors, names: Sequence[str], tile: int) -> Matrix:
    weight = np.concatenate([tensors[name + ".weight"] for name in names])
    if names[0] + ".bias" not in tensors:
        return Matrix(weight, None, tile)
    return Matrix(weight, np.concatenate([tensors[name + ".bias"] for name in names]), tile)
