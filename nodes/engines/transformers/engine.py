"""Shell. The transformers engine: our scheduler, cache and sampling around any causal model of that library.

What the numpy engine does with a model of its own, this does with one of the library's: continuous batching, chunked
prompts, shared prefixes, blocks that move to other workers, sampling keyed by position. In float32 a sequence's tokens
are those of `generate`; as everywhere, products of another shape may differ in their last bits.
"""

from pathlib import Path
from typing import Any

from msgspec import Struct
from xxhash import xxh3_64_intdigest

from nodes.engines.contract import Card
from nodes.engines.numpy.config import Unsupported, tokens_of
from nodes.engines.numpy.engine import NumpyEngine, limits_of, read_json
from nodes.engines.numpy.engine import Settings as Batching
from nodes.engines.scheduler import Scheduler
from nodes.engines.transformers.exchange import Exchange
from nodes.engines.transformers.library import torch
from nodes.engines.transformers.model import DTYPES, TransformersModel


class Settings(Struct, frozen=True):
    """What to serve, on which device, and in which numbers."""

    batching: Batching
    device: str = ""  # empty: the first GPU, or the CPU
    dtype: str = "auto"  # as the model's files say; one of DTYPES


class TransformersEngine(NumpyEngine):
    """Keeps the contract of `nodes.engines.contract.Engine`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.batching)
        self._wanted = settings

    def start(self) -> Card:
        wanted, folder = self._wanted, Path(self._settings.folder)
        if wanted.dtype not in DTYPES:
            raise Unsupported(f"dtype {wanted.dtype!r} is none of {', '.join(DTYPES)}")
        device = wanted.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = TransformersModel(folder, device, wanted.dtype)
        shape = model.shape
        limits = limits_of(self._settings, shape.vocabulary, shape.context, shape.token_bytes, ends_of(folder))
        model.allocate(limits.blocks * limits.block_tokens)
        self._model = model
        exchange = Exchange(model.keys, model.values, limits.block_tokens)
        self._scheduler = Scheduler(limits, xxh3_64_intdigest, exchange)
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
        )


def ends_of(folder: Path) -> tuple[int, ...]:
    """The end-of-sequence tokens, as both of the model's files name them."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            found += tokens_of(read_json(folder / name).get("eos_token_id"))
    return tuple(dict.fromkeys(found))
