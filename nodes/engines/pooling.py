"""Shell. From the rows of a text to its one vector, as the files of a sentence-transformers directory say it.

| file | what is read |
|---|---|
| `modules.json` | the modules, in their order: Transformer, Pooling, any number of Dense, Normalize |
| `1_Pooling/config.json` | which rows count (see `POOLS`); several are joined |
| `2_Dense/` | a matrix after that: weights in safetensors, with no activation or tanh |
| `sentence_bert_config.json` | `max_seq_length` |
| `config.json` | `matryoshka_dimensions` or `is_matryoshka`: whether vectors may be shortened |

A directory without `modules.json` is an encoder alone: then the mean of its rows is taken, and made a unit vector.
Prompts for queries and documents (`config_sentence_transformers.json`) are the caller's to write before the text.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.safetensors import Damaged, opened

Floats = NDArray[np.float32]
SMALLEST = np.float32(1e-12)  # a shorter vector has no direction
LINEAR = ("", "Identity")
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra", "albert", "modernbert")
HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining")  # ends of the names of architectures without a text to say
TALKING = ("LMHeadModel", "DoubleHeadsModel")


class Dense(Struct, eq=False):
    """A matrix (outputs, inputs) and a bias, after the pooling."""

    weight: Floats
    bias: Floats
    is_tanh: bool


class Pooling(Struct, eq=False):
    """How a text's rows become its vector."""

    modes: tuple[str, ...] = ("mean",)
    layers: tuple[Dense, ...] = ()
    normalizes: bool = True
    positions: int = 0  # of a text at most; 0: what the model has
    shortens: bool = False
    dimensions: tuple[int, ...] = ()

    def width(self, rows: int) -> int:
        """Numbers of a vector made of rows of so many."""
        return len(self.layers[-1].weight) if self.layers else rows * len(self.modes)


POOLS: dict[str, Callable[[Floats], Floats]] = {  # in the order in which several are joined
    "cls_token": lambda rows: rows[0],
    "max_tokens": lambda rows: rows.max(axis=0),
    "mean_tokens": lambda rows: rows.mean(axis=0, dtype=np.float32),
    "mean_sqrt_len_tokens": lambda rows: rows.sum(axis=0, dtype=np.float32) / np.float32(len(rows) ** 0.5),
    "weightedmean_tokens": lambda rows: _weighted(rows),
    "lasttoken": lambda rows: rows[-1],
}
SHORT = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens"}
SHORT |= {"weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken"}


def vector(pooling: Pooling, rows: Floats, dimensions: int = 0) -> Floats:
    """The vector of a text from its rows (tokens, width). `dimensions`: the first so many, as a unit vector."""
    found = np.concatenate([POOLS[SHORT.get(mode, mode)](rows) for mode in pooling.modes])
    for layer in pooling.layers:
        found = layer.weight @ found + layer.bias
        if layer.is_tanh:
            found = np.tanh(found)
    if dimensions:
        found = found[:dimensions]
    if pooling.normalizes or dimensions:
        found = found / np.maximum(np.sqrt(found @ found), SMALLEST)
    return np.ascontiguousarray(found, "<f4")


def _weighted(rows: Floats) -> Floats:
    """Later rows count more."""
    weights = np.arange(1, len(rows) + 1, dtype=np.float32)
    found: Floats = weights @ rows / weights.sum()
    return found


def is_embedder(folder: Path) -> bool:
    """Whether a model's directory is one that makes vectors, not text."""
    if (folder / "modules.json").exists():
        return True
    raw = _read(folder / "config.json", dict)
    names = [name for name in raw.get("architectures") or () if isinstance(name, str)]
    if not names:
        return raw.get("model_type") in ENCODERS
    return any(name.endswith(HEADLESS) and not name.endswith(TALKING) for name in names)


def pooling_of(folder: Path) -> Pooling:
    """What the files of a directory say. Raises Unsupported or Damaged."""
    raw = _read(folder / "config.json", dict)
    sizes = raw.get("matryoshka_dimensions") or []
    found = Pooling(
        shortens=bool(sizes or raw.get("is_matryoshka")),
        dimensions=tuple(size for size in sizes if isinstance(size, int) and size > 0),
        positions=_read(folder / "sentence_bert_config.json", dict).get("max_seq_length") or 0,
    )
    if not (folder / "modules.json").exists():
        return found
    found.normalizes, seen = False, []
    for module in _read(folder / "modules.json", list):
        kind = str(module.get("type")).rpartition(".")[2]
        path = folder / Path(str(module.get("path", ""))).name
        seen.append(kind)
        if kind == "Transformer" and path.resolve() != folder.resolve():
            raise Unsupported(f"modules.json says that its transformer lies in {path.name}: give that as --model")
        if kind == "Pooling":
            found.modes = _modes(_read(path / "config.json", dict))
        elif kind == "Dense":
            found.layers = (*found.layers, _dense(path))
        elif kind == "Normalize":
            found.normalizes = True
        elif kind != "Transformer":
            raise Unsupported(f"modules.json names a {kind}: known are Transformer, Pooling, Dense and Normalize")
    if seen[:2] != ["Transformer", "Pooling"]:
        raise Unsupported("modules.json must begin with a Transformer and a Pooling")
    return found


def _modes(raw: dict[str, Any]) -> tuple[str, ...]:
    given = raw.get("pooling_mode")
    if given is not None:
        modes = tuple(given) if isinstance(given, list) else (given,)
    else:
        modes = tuple(mode for mode in POOLS if raw.get(f"pooling_mode_{mode}"))
    unknown = [mode for mode in modes if SHORT.get(mode, mode) not in POOLS]
    if unknown or not modes:
        raise Unsupported(f"the pooling {unknown or 'of none'} is not known: there are {', '.join(POOLS)}")
    return modes


def _dense(path: Path) -> Dense:
    raw = _read(path / "config.json", dict)
    activation = str(raw.get("activation_function") or "").rpartition(".")[2]
    if activation not in (*LINEAR, "Tanh"):
        raise Unsupported(f"{path.name} has the activation {activation}: known are none and Tanh")
    if not (path / "model.safetensors").exists():
        raise Unsupported(f"{path.name} has no model.safetensors: pytorch_model.bin is not read")
    with opened(path) as tensors:
        weight, bias = tensors["linear.weight"], tensors.get("linear.bias")
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise Damaged(f"the matrix of {path.name} is {weight.shape}")
    return Dense(weight, np.zeros(len(weight), np.float32) if bias is None else bias, activation == "Tanh")


def _read(path: Path, kind: type[Any]) -> Any:
    """What a JSON file holds; something empty if there is no such file."""
    if not path.exists():
        return kind()
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Unsupported(f"{path} cannot be read: {error}") from error
    if not isinstance(found, kind) or (kind is list and not all(isinstance(one, dict) for one in found)):
        raise Unsupported(f"{path} is not what it should be")
    return found
