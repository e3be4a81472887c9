"""Shell. From the directory of a model that makes embeddings, and options, to its engine: NumPy's or transformers'."""

from collections.abc import Callable
from pathlib import Path

from nodes.contract.engine import Card
from nodes.engine_options import EngineOptions
from nodes.engines.embedding import Body, EmbeddingEngine
from nodes.engines.numpy.engine import Settings, read_json
from nodes.engines.pooling import pooling_of
from nodes.engines.running import waiting_max

SLOTS = 64  # texts at once: they are short, and a step takes what fits into it
STEP_TOKENS = {"numpy": 2_048, "transformers": 16_384}  # some long texts, or all slots with short ones


def open_embedder(folder: Path, options: EngineOptions) -> tuple[EmbeddingEngine, Card, None]:
    """Load it; may take long. Raises Unsupported, Damaged, MemoryError or ImportError."""
    slots = options.slots or SLOTS
    settings = Settings(
        folder=str(folder),
        exact=options.exact,
        slots=slots,
        waiting_max=waiting_max(slots),
        step_tokens=options.step_tokens or STEP_TOKENS[options.engine],
        block_tokens=options.block_tokens,
        context=options.context,
    )
    load = {"numpy": _numpy, "transformers": _transformers}[options.engine](folder, options)
    engine = EmbeddingEngine(options.engine, settings, load, pooling_of(folder))
    return engine, engine.start(), None


def _numpy(folder: Path, options: EngineOptions) -> Callable[[], Body]:
    from nodes.engines.numpy import bert

    return lambda: bert.load(folder, read_json(folder / "config.json"), options.exact)


def _transformers(folder: Path, options: EngineOptions) -> Callable[[], Body]:
    from nodes.engines.transformers.encoders import Encoder
    from nodes.engines.transformers.library import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return lambda: Encoder(folder, device, options.dtype or "auto")
