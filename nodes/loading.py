"""Shell. From a model's directory and options to an engine that is ready. Only the engine that is wanted is loaded."""

import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from xxhash import xxh3_64_intdigest

from nodes.agreement import digest_of, marks_of
from nodes.card import ModelCard
from nodes.contract.engine import Card, Engine
from nodes.engine_options import EngineOptions, points
from nodes.engines.logits import processors_of
from nodes.engines.running import waiting_max
from nodes.engines.timing import Timing
from nodes.faults import parse
from nodes.folder import GGUF, ModelRefused, contents_of, folder_of, name_of
from nodes.text.detokenizer import REPLACEMENT
from nodes.text.tokenizer import ModelFiles, Tokenizer, digest
from nodes.tiers.options import TierRefused
from nodes.tiers.tiers import Tiers, open_tiers
from nodes.tiers.weights import mark_of

SIM_CONTEXT = 32_768  # positions, where a model's files do not say
SIM_SLOTS = 256  # what a large GPU batches
SIM_BLOCKS = 16_384
SIM_STEP_TOKENS = 8_192


class Loaded(Struct):
    """A model that can be served."""

    engine: Engine
    card: ModelCard
    contents: dict[str, bytes]
    tokens: tuple[int, int] | None = None  # what a simulated engine says: its streams can be verified with it
    tiers: Tiers | None = None  # below its cache


def load(options: EngineOptions) -> Loaded:
    """Load a model. May take long. Raises ModelRefused."""
    folder, model = folder_of(options.model), name_of(options.model, options.name_as)
    contents = contents_of(folder, options.model)
    files = ModelFiles(**contents)
    try:
        tokenizer = Tokenizer(files)
    except ValueError as error:
        raise ModelRefused(f"{folder}: {error}") from None
    engine, card, tokens = _LOADERS[options.engine](folder, options, tokenizer)
    if options.role != "worker" and not card.generates:
        raise ModelRefused(f"{folder} makes embeddings: start it with --role worker, not {options.role}")
    if options.enforce_disagg:
        card = replace(card, fed_only=True)
    sizes = {name: len(content) for name, content in contents.items() if content}
    created = int(time.time())
    marks = marks_of(files.tokenizer, tokenizer.template, tokenizer.specials, tokenizer.eos_tokens, card.media)
    known = digest(files)
    tiers = _tiers(folder, options, engine, card, known)
    told = ModelCard(
        model,
        digest_of(marks),
        sizes,
        card,
        created,
        files_digest=known,
        weights=mark_of(folder, _named(options)),
        marks=marks,
    )
    return Loaded(engine, told, contents, tokens, tiers)


def _named(options: EngineOptions) -> str:
    """The name of a model's one file, if it was that which was named."""
    return Path(options.model).name if options.model.endswith(GGUF) else ""


def _tiers(folder: Path, options: EngineOptions, engine: Engine, card: Card, known: str) -> Tiers | None:
    """What blocks go down to, and come back from."""
    asked = options.tiers
    if asked is None or card.layout is None:
        return None
    flavour = f"{card.engine} exact" if options.exact else card.engine
    if card.engine != "sim":  # whose numbers come from the tokens alone
        flavour += f" {mark_of(folder, _named(options))}"
    try:
        tiers = open_tiers(asked, card.layout, known, flavour)
    except TierRefused as error:
        raise ModelRefused(str(error)) from None
    engine.attach(tiers)
    return tiers


Made = tuple[Engine, Card, tuple[int, int] | None]


def _numpy(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.batching import batching_of
    from nodes.engines.numpy.config import Unsupported
    from nodes.engines.numpy.engine import NumpyEngine
    from nodes.engines.numpy.safetensors import Damaged
    from nodes.engines.pooling import is_embedder

    if is_embedder(folder):
        return _embedder(folder, options)
    engine = NumpyEngine(batching_of(folder, options))
    engine.processors = processors_of(options.logits_processor)
    try:
        card = engine.start()
    except (Unsupported, Damaged, MemoryError) as error:
        raise ModelRefused(f"the numpy engine cannot serve {folder}: {error or 'not enough memory'}") from None
    return engine, card, None


def _embedder(folder: Path, options: EngineOptions) -> Made:
    from nodes.embedders import open_embedder
    from nodes.engines.numpy.config import Unsupported
    from nodes.engines.numpy.safetensors import Damaged

    try:
        return open_embedder(folder, options)
    except (Unsupported, Damaged, MemoryError) as error:
        text = error or "not enough memory"
        raise ModelRefused(f"the {options.engine} engine cannot make embeddings with {folder}: {text}") from None
    except ImportError as error:
        raise ModelRefused(f"--engine transformers needs pip install 'wiremesh[transformers]': {error}") from None


def _transformers(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.batching import batching_of
    from nodes.engines.numpy.config import Unsupported
    from nodes.engines.pooling import is_embedder

    if is_embedder(folder):
        return _embedder(folder, options)
    try:
        from nodes.engines.transformers.engine import Settings, TransformersEngine

        engine = TransformersEngine(Settings(batching_of(folder, options), options.device, options.dtype or "auto"))
        engine.processors = processors_of(options.logits_processor)
        return engine, engine.start(), None
    except (Unsupported, MemoryError) as error:
        raise ModelRefused(f"the transformers engine cannot serve {folder}: {error or 'not enough memory'}") from None
    except ImportError as error:
        raise ModelRefused(f"--engine transformers needs pip install 'wiremesh[transformers]': {error}") from None


def _sim(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.faulty import FaultyEngine
    from nodes.engines.scheduler import Limits
    from nodes.engines.sim import Settings

    slots = options.slots or SIM_SLOTS
    tokens = spoken(tokenizer)
    limits = Limits(
        vocabulary=tokenizer.vocabulary,
        context=options.context or tokenizer.context or SIM_CONTEXT,
        slots=slots,
        waiting_max=waiting_max(slots),
        step_tokens=max(options.step_tokens or SIM_STEP_TOKENS, slots),
        block_tokens=options.block_tokens,
        blocks=options.blocks or SIM_BLOCKS,
        eos_tokens=tokenizer.eos_tokens,
        caching=options.caching,
        hand_over=options.hand_over,
    )
    settings = Settings(limits, timing_of(options), tokens, folder.name, options.poison)
    engine = FaultyEngine(settings, xxh3_64_intdigest, parse(options.fault))
    return engine, engine.start(), tokens


def timing_of(options: EngineOptions) -> Timing:
    """How long a simulated step takes."""
    return Timing(options.speedup, points(options.prefill_ms), points(options.decode_ms))


def _vllm(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.vllm.source import open_vllm

    return open_vllm(folder, options, tokenizer)


def _sglang(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.sglang.source import open_sglang

    return open_sglang(folder, options, tokenizer)


def _openai(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.openai_url.client import key_of
    from nodes.engines.openai_url.finding import Settings
    from nodes.engines.openai_url.http import Place
    from nodes.engines.openai_url.source import UrlSource
    from nodes.engines.outside import OutsideEngine

    place = Place(options.url.rstrip("/"), key_of(options.url_key_file))
    name = name_of(options.model, options.name_as)
    settings = Settings(place, options.url_model, name, options.slots, options.context)
    engine = OutsideEngine(UrlSource(settings, tokenizer))
    return engine, engine.start(), None


def _trtllm(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.trtllm.source import open_trtllm

    return open_trtllm(folder, options, tokenizer)


def _llama(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> Made:
    from nodes.engines.llama.opening import open_llama
    from nodes.engines.numpy.config import Unsupported

    try:
        return open_llama(folder, options, tokenizer)
    except (Unsupported, MemoryError) as error:
        raise ModelRefused(f"the llama engine cannot serve {folder}: {error or 'not enough memory'}") from None


_LOADERS: dict[str, Callable[[Path, EngineOptions, Tokenizer], Made]] = {
    "numpy": _numpy,
    "transformers": _transformers,
    "llama": _llama,
    "sim": _sim,
    "openai": _openai,
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
}


def spoken(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens that a simulated engine says: the longest run of ordinary ones, each of them text by itself.

    A function of the tokenizer alone, so that all workers of a model say the same.
    """
    text = bytes(map(int, (_is_text(tokenizer, token) for token in range(tokenizer.vocabulary))))
    longest = max(text.split(b"\0"), key=len)
    if not longest:
        raise ModelRefused("the tokenizer has no ordinary token that is text by itself")
    first = text.index(longest)
    return first, first + len(longest) - 1


def _is_text(tokenizer: Tokenizer, token: int) -> bool:
    """Special tokens decode to nothing, pieces of characters to replacements."""
    text = tokenizer.decode([token]) if token not in tokenizer.eos_tokens else ""
    return bool(text) and REPLACEMENT not in text
