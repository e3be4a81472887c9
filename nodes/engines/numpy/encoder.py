"""Shell. A transformer encoder: every row sees every row. Eyes and ears are made of it.

One picture or one sound is computed at a time, so all shapes depend on it alone, and its embedding is the same to the
bit whatever was computed before or waits behind it. But BLAS rounds differently with another number of threads, unless
a product is so small that it takes one: `exact` products all are, and cost two to four times as much.
"""

from collections.abc import Callable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.numpy.attention import SCORES_MAX, mixed
from nodes.engines.numpy.matrix import PANEL, TILE, Matrix
from nodes.engines.numpy.safetensors import Tensors
from nodes.engines.numpy.senses import Stack

Floats = NDArray[np.float32]
ONE_THREAD_PRODUCT = 500_000  # OpenBLAS takes a second thread from 524,288 multiplications on
TILE_MIN = 2  # rows: one alone is another routine, which takes threads earlier
ROOT_HALF, ROOT_TWO_BY_PI = np.float32(0.5**0.5), np.float32((2 / np.pi) ** 0.5)
# erf(x) is x P(x^2) / Q(x^2) to the last bits of a float32, and one beyond the limit (as in Eigen and XLA).
ERF_LIMIT = np.float32(3.832506856900711)
ERF_P = (0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861, 0.18520832239976145, 1.128379143519084)
ERF_Q = (
    *(-1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885, 0.014070470171167667),
    *(0.11098505178285362, 0.49746925110067538, 1.0),
)


class Norm(Struct, eq=False):
    """To mean 0 and deviation 1, then by a weight and a bias."""

    weight: Floats
    bias: Floats
    epsilon: np.float32


class Names(Struct, frozen=True):
    """What a family calls the parts of a layer."""

    before: str
    after: str
    feed: str


class Dense:
    """A weight (outputs, inputs) and a bias, for the hundreds of rows of a picture: BLAS takes these best in one piece.

    Exact: as many at once as one thread multiplies.
    """

    def __init__(self, weight: Floats, bias: Floats, exact: bool) -> None:
        rows = ONE_THREAD_PRODUCT // (PANEL * weight.shape[1])
        self._tiles = Matrix(weight, bias, min(TILE, max(TILE_MIN, rows))) if exact else None
        self._weight = None if exact else np.ascontiguousarray(weight.T)
        self._bias = bias

    def times(self, rows: Floats) -> Floats:
        """(n, inputs) to (n, outputs)."""
        if self._tiles is not None:
            return self._tiles.times(rows)
        assert self._weight is not None
        product: Floats = np.matmul(rows, self._weight)
        product += self._bias
        return product


class Layer(Struct, eq=False):
    """One layer's weights."""

    before: Norm
    attention: Dense  # to queries, keys and values
    output: Dense
    after: Norm
    up: Dense
    down: Dense


class Encoder(Struct, eq=False):
    """All layers."""

    stack: Stack
    layers: list[Layer]
    exact: bool


VISION = Names("layer_norm1", "layer_norm2", "mlp.")
AUDIO = Names("self_attn_layer_norm", "final_layer_norm", "")


def encoder_of(tensors: Tensors, stack: Stack, at: str, names: Names, exact: bool) -> Encoder:
    """The layers below `at`. Raises ValueError if a shape is not that of the configuration."""
    layers = [layer_of(tensors, stack, f"{at}{index}.", names, exact) for index in range(stack.layers)]
    return Encoder(stack, layers, exact)


def layer_of(tensors: Tensors, stack: Stack, at: str, names: Names, exact: bool) -> Layer:
    """Queries are scaled here, once, by the root of the head width."""
    scale = np.float32((stack.width // stack.heads) ** -0.5)
    parts = [linear(tensors, f"{at}self_attn.{name}_proj", stack.width, stack.width) for name in "qkv"]
    weight = np.concatenate([parts[0][0] * scale, parts[1][0], parts[2][0]])
    bias = np.concatenate([parts[0][1] * scale, parts[1][1], parts[2][1]])
    return Layer(
        norm_of(tensors, at + names.before, stack),
        Dense(weight, bias, exact),
        dense_of(tensors, at + "self_attn.out_proj", stack.width, stack.width, exact),
        norm_of(tensors, at + names.after, stack),
        dense_of(tensors, f"{at}{names.feed}fc1", stack.width, stack.inner, exact),
        dense_of(tensors, f"{at}{names.feed}fc2", stack.inner, stack.width, exact),
    )


def dense_of(tensors: Tensors, name: str, inputs: int, outputs: int, exact: bool) -> Dense:
    return Dense(*linear(tensors, name, inputs, outputs), exact)


def linear(tensors: Tensors, name: str, inputs: int, outputs: int) -> tuple[Floats, Floats]:
    """A weight as (outputs, inputs), and its bias: zeros if it has none."""
    weight = tensors[name + ".weight"].reshape(outputs, -1)
    bias = tensors.get(name + ".bias")
    bias = np.zeros(outputs, np.float32) if bias is None else bias
    if weight.shape[1] != inputs or bias.shape != (outputs,):
        raise ValueError(f"{name} is {weight.shape[1]} to {outputs} instead of {inputs} to {outputs}")
    return weight, bias


def norm_of(tensors: Tensors, name: str, stack: Stack) -> Norm:
    weight, bias = tensors[name + ".weight"], tensors[name + ".bias"]
    if weight.shape != (stack.width,) or bias.shape != weight.shape:
        raise ValueError(f"{name} has {weight.shape} numbers instead of {stack.width}")
    return Norm(weight, bias, np.float32(stack.epsilon))


def encoded(encoder: Encoder, rows: Floats) -> Floats:
    """All layers over (n, width)."""
    stack = encoder.stack
    activate = ACTIVATE[stack.activation]
    for layer in encoder.layers:
        both = layer.attention.times(normed(layer.before, rows))
        rows = rows + layer.output.times(attended(both, stack.heads, encoder.exact))
        rows = rows + layer.down.times(activate(layer.up.times(normed(layer.after, rows))))
    return rows


def attended(both: Floats, heads: int, exact: bool) -> Floats:
    """(n, 3 * width) of queries, keys and values to (n, width)."""
    count, width = len(both), both.shape[1] // 3
    queries, keys, values = both.reshape(count, 3, heads, -1).transpose(1, 2, 0, 3)
    turned = np.ascontiguousarray(keys.transpose(0, 2, 1))
    values = np.ascontiguousarray(values)
    seen = np.empty((count, width), np.float32)
    if exact:
        rows_max = max(TILE_MIN, ONE_THREAD_PRODUCT // (width // heads * count))
    else:
        rows_max = max(1, SCORES_MAX // (heads * count))
    for row in range(0, count, rows_max):
        found = mixed(np.ascontiguousarray(queries[:, row : row + rows_max]), [turned], [values], None)
        seen[row : row + rows_max] = found.transpose(1, 0, 2).reshape(-1, width)
    return seen


def normed(norm: Norm, rows: Floats) -> Floats:
    centred: Floats = rows - rows.mean(axis=-1, keepdims=True)
    squares = np.einsum("...i,...i->...", centred, centred)[..., None]
    found: Floats = centred / np.sqrt(squares / np.float32(rows.shape[-1]) + norm.epsilon) * norm.weight + norm.bias
    return found


# --- Activations ----------------------------------------------------------------------------------------


def gelu(rows: Floats) -> Floats:
    found = erf(rows * ROOT_HALF)
    return halved(found, rows)


def erf(rows: Floats) -> Floats:
    limited = np.clip(rows, -ERF_LIMIT, ERF_LIMIT)
    squares = limited * limited
    limited *= polynomial(ERF_P, squares)
    limited /= polynomial(ERF_Q, squares)
    return limited


def polynomial(factors: tuple[float, ...], rows: Floats) -> Floats:
    """By Horner's rule, the highest power first."""
    found: Floats = np.full_like(rows, factors[0])
    for factor in factors[1:]:
        found *= rows
        found += np.float32(factor)
    return found


def gelu_tanh(rows: Floats) -> Floats:
    found: Floats = rows * rows
    found *= np.float32(0.044715)
    found += np.float32(1)
    found *= rows
    found *= ROOT_TWO_BY_PI
    np.tanh(found, out=found)
    return halved(found, rows)


def halved(share: Floats, rows: Floats) -> Floats:
    """In place: half of (1 + share) times the rows."""
    share += np.float32(1)
    share *= rows
    share *= np.float32(0.5)
    return share


def sigmoid_gelu(rows: Floats) -> Floats:
    return swish(rows, np.float32(1.702))


def silu(rows: Floats) -> Floats:
    return swish(rows, np.float32(1))


def relu(rows: Floats) -> Floats:
    return np.maximum(rows, np.float32(0))


def swish(rows: Floats, slope: np.float32) -> Floats:
    with np.errstate(over="ignore"):  # the exponential of a large number: the result is then 0, as it should be
        found: Floats = rows / (np.float32(1) + np.exp(-slope * rows))
    return found


ACTIVATE: dict[str, Callable[[Floats], Floats]] = {
    "gelu": gelu,
    "quick_gelu": sigmoid_gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "relu": relu,
    "silu": silu,
}
