"""Shell. From what a worker's command line says to a llama engine that has started."""

from pathlib import Path

from nodes.contract.engine import Card
from nodes.engine_options import EngineOptions
from nodes.engines.batching import batching_of
from nodes.engines.llama.engine import LlamaEngine, Settings
from nodes.engines.llama.flags import settings_of
from nodes.engines.llama.library import MISSING
from nodes.engines.logits import processors_of
from nodes.engines.numpy.config import Unsupported
from nodes.folder import file_of
from nodes.text.tokenizer import Tokenizer

SLOTS = 16  # each makes llama.cpp's memory for logits larger by two rows


def open_llama(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> tuple[LlamaEngine, Card, None]:
    """Raises Unsupported."""
    batching = batching_of(folder, options, SLOTS)
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
