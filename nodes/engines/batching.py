"""Shell. From a worker's options to the batch of an engine that is stepped by us."""

from pathlib import Path

from nodes.engine_options import EngineOptions
from nodes.engines.numpy.engine import Settings
from nodes.engines.running import waiting_max

SLOTS = 32
STEP_TOKENS = 512  # a prompt in larger pieces would hold up the streams beside it for too long


def batching_of(folder: Path, options: EngineOptions, slots: int = SLOTS, step_tokens: int = STEP_TOKENS) -> Settings:
    """`slots` and `step_tokens`: where the options say nothing."""
    slots = options.slots or slots
    return Settings(
        folder=str(folder),
        exact=options.exact,
        slots=slots,
        waiting_max=waiting_max(slots),
        step_tokens=max(options.step_tokens or step_tokens, slots),
        block_tokens=options.block_tokens,
        context=options.context,
        cache_bytes=options.kv_bytes,
        caching=options.caching,
        hand_over=options.hand_over,
    )
