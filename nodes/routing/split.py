"""Pure. Whether prefill is worth a trip to another worker: conditional disaggregation, decided per request.

A prompt that is short, or mostly cached where it will be decoded, is computed there: the trip, and the transfer of its
blocks, would take longer than the work. So is one that finds all prefill workers busy. But a decode worker that is
nearly full is spared.
"""

from enum import StrEnum

from msgspec import Struct

POLICIES = ("length", "load", "either")
ALIASES = {"isl_bounding": "length", "prefill_load": "load", "isl_or_load": "either"}  # Dynamo's


class SplitKnobs(Struct, frozen=True):
    """When the trip is skipped."""

    policy: str = "length"  # or by load, or when either says so
    uncached_tokens_max: int = 2_048  # fewer are computed in one step of a usual engine, beside its decoding
    uncached_ratio_max: float = 1.0  # of the prompt; less than 1 sends prompts away that nothing is cached of
    prefill_busy: float | None = None  # queued prefill tokens, as a fraction of what a step computes; over it: busy
    decode_busy: float | None = None  # a fraction of the decode worker's blocks; over it nothing is added to its work
    enforce: bool = False  # refuse rather than compute where it is decoded

    def __post_init__(self) -> None:
        if ALIASES.get(self.policy, self.policy) not in POLICIES:
            raise ValueError(f"policy is {self.policy!r}: it must be one of {', '.join(POLICIES)}")


DEFAULTS = SplitKnobs()


class Where(StrEnum):
    """Where a prompt is computed."""

    HERE = "here"  # by the worker that will decode it
    THERE = "there"  # by a prefill worker
    NOWHERE = "nowhere"  # refused


class Scene(Struct, frozen=True):
    """What the decision is made from."""

    tokens: int
    cached_tokens: int  # on the decode worker that was chosen
    prefill_workers: int  # that take work
    prefill_queued: float = 0.0  # tokens queued on the least busy of them, as a fraction of what a step computes
    decode_used: float = 0.0  # fraction of the decode worker's blocks in use, this request's included


def split(scene: Scene, knobs: SplitKnobs) -> tuple[Where, str]:
    """Where the prompt should be computed, and why."""
    if not scene.prefill_workers:
        if knobs.enforce:
            return Where.NOWHERE, "no prefill worker takes work"
        return Where.HERE, "no prefill worker takes work: computed where it is decoded"
    if knobs.enforce:
        return Where.THERE, "always"
    if knobs.decode_busy is not None and scene.decode_used > knobs.decode_busy:
        return Where.THERE, f"the decode worker uses {scene.decode_used:.0%} of its blocks"
    uncached = max(0, scene.tokens - scene.cached_tokens)
    policy = ALIASES.get(knobs.policy, knobs.policy)
    short = uncached <= min(knobs.uncached_tokens_max, knobs.uncached_ratio_max * scene.tokens)
    busy = knobs.prefill_busy is not None and scene.prefill_queued > knobs.prefill_busy
    if policy != "load" and short:
        return Where.HERE, f"only {uncached} of {scene.tokens} tokens are not cached"
    if policy != "length" and busy:
        return Where.HERE, f"the prefill workers have {scene.prefill_queued:.1f} steps of work queued"
    return Where.THERE, f"{uncached} of {scene.tokens} tokens are to be computed"
