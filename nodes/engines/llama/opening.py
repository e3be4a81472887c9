"""Shell. From what a worker's command line says to a llama engine that has started."""

from pathlib import Path

from nodes.contract.engine import Card
from nodes.engine_options import EngineOptions
from nodes.engines.llama.engine import LlamaEngine, Settings
from nodes.engines.llama.flags import settings_of
from nodes.engines.llama.library import MISSING
from nodes.engines.logits import processors_of
from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.engine import Settings as Batching
from nodes.folder import file_of
from nodes.text.tokenizer import Tokenizer

SLOTS = 16  # each makes llama.cpp's memory for logits larger by two rows
STEP_TOKENS = 512


def open_llama(
    folder: Path, options: EngineOptions, tokenizer: Tokenizer, waiting_max: int
) -> tuple[LlamaEngine, Card, None]:
    """Raises Unsupported."""
    slots = options.slots or SLOTS
    batching = Batching(
        folder=str(folder),
        slots=slots,
        waiting_max=waiting_max,
        step_tokens=max(options.step_tokens or STEP_TOKENS, slots),
        block_tokens=options.block_tokens,
        context=options.context,
        cache_bytes=options.kv_bytes,
        caching=options.caching,
        hand_over=options.hand_over,
    )
    try:
        native = settings_of(options.native)
    except ValueError as error:
        raise Unsupported(str(error)) from None
    settings = Settings(batching, file_of(options.model, folder), options.dtype or "auto", tokenizer.eos_tokens, native)
    try:
        engine = LlamaEngine(settings)
        engine.processors = processors_of(options.logits_processor)
        return engine, engine.start(), None
    except (ImportError, OSError) as error:
        raise Unsupported(f"{MISSING} ({error})") from None
