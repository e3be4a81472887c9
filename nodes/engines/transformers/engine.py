"""Shell. The transformers engine: our scheduler, cache and sampling around any causal model of that library.

What the numpy engine does with a model of its own, this does with one of the library's: continuous batching, chunked
prompts, shared prefixes, blocks that move to other workers, sampling keyed by position. In float32 a sequence's tokens
are those of `generate`; as everywhere, products of another shape may differ in their last bits.

Copies between host and device are plain and wait for each other, so that they are right on any device; the tests run on
a CPU, and no figure of a GPU is claimed. A model that sees (`vision.py`) lends its eyes to the worker's desk.
"""

import gc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.contract.engine import Card
from nodes.engines.numpy.config import Unsupported, tokens_of
from nodes.engines.numpy.engine import NumpyEngine, limits_of, read_json
from nodes.engines.numpy.engine import Settings as Batching
from nodes.engines.running import Running
from nodes.engines.transformers.exchange import Exchange
from nodes.engines.transformers.grids import places
from nodes.engines.transformers.library import torch
from nodes.engines.transformers.model import DTYPES, TransformersModel


class Settings(Struct, frozen=True):
    """What to serve, on which device, and in which numbers."""

    batching: Batching
    device: str = ""  # empty: the first GPU, or the CPU
    dtype: str = "auto"  # as the model's files say; one of DTYPES


class TransformersEngine(NumpyEngine):
    """Keeps the contract of `nodes.contract.engine.Engine`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.batching)
        self._wanted = settings
        self._grids = False  # whether rows of pictures have places in two dimensions

    def start(self) -> Card:
        wanted, folder = self._wanted, Path(self._settings.folder)
        if wanted.dtype not in DTYPES:
            raise Unsupported(f"dtype {wanted.dtype!r} is none of {', '.join(DTYPES)}")
        device = wanted.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = TransformersModel(folder, device, wanted.dtype)
        shape = model.shape
        limits = limits_of(self._settings, shape.vocabulary, shape.context, shape.token_bytes, ends_of(folder))
        limits = self._guide(limits)
        model.allocate(limits.blocks * limits.block_tokens)
        self._grids = model.sight is not None and model.sight.patch > 0
        exchange = Exchange(model.keys, model.values, limits.block_tokens)
        self._keep(limits, model, exchange)
        self._again = partial(self._loaded, folder, device, limits.blocks * limits.block_tokens)
        return Card(
            engine="transformers",
            model=folder.resolve().name,
            vocabulary=limits.vocabulary,
            context=limits.context,
            slots=limits.slots,
            block_tokens=limits.block_tokens,
            blocks=limits.blocks,
            eos_tokens=limits.eos_tokens,
            step_tokens=limits.step_tokens,
            layout=exchange.layout,
            resumes_exactly=model.dtype == "float32",
            sleeps=True,
            guides=limits.guides,
            media={"image": model.sight.card} if model.sight is not None else {},
        )

    @property
    def towers(self) -> "TransformersEngine | None":
        """Who sees for this engine: it has its model's own eyes."""
        model: Any = self._model
        return None if model is None or model.sight is None else self

    def encode(self, kind: str, array: NDArray[Any]) -> NDArray[np.float32]:
        """As of `nodes.media.embedder.Encodes`, in a thread of its own. Raises ValueError."""
        model: Any = self._model
        if model is None:
            raise RuntimeError("the engine has stopped, or is asleep")
        rows: NDArray[np.float32] = model.towers.encode(kind, array)
        return rows

    def _row_width(self) -> int:
        model: Any = self._model
        width: int = model.row_width
        return width

    def _places(self, running: Running, start: int, stop: int) -> NDArray[np.int64]:
        return places(running.job.media, start, stop) if self._grids else np.arange(start, stop)

    def _loaded(self, folder: Path, device: str, slots: int) -> Any:
        model = TransformersModel(folder, device, self._wanted.dtype)
        model.allocate(slots)
        return model

    def _empty(self, model: Any) -> None:
        super()._empty(model)
        gc.collect()  # the library's modules name each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def ends_of(folder: Path) -> tuple[int, ...]:
    """The end-of-sequence tokens, as both of the model's files name them."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            found += tokens_of(read_json(folder / name).get("eos_token_id"))
    return tuple(dict.fromkeys(found))
