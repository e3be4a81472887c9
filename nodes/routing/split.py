"""Pure. Whether prefill is worth a trip to another worker: conditional disaggregation, decided per request.

A prompt that is short, or mostly cached where it will be decoded, is computed there: the trip, and the transfer of its
blocks, would take longer than the work. So is one that finds all prefill workers busy. But a decode worker that is
nearly full is spared. In tokens to be computed,

    here  = tokens of the prompt - those cached where it will be decoded
    there = tokens of the prompt - those cached at the prefill worker that it would go to + moved_cost * here

A short prompt makes the trip all the same if it is cached there: here - there > trip_tokens. A long one stays if its
beginning is cached here and not there: there > spare_ratio * here.
"""

from enum import StrEnum

from msgspec import Struct

POLICIES = ("length", "load", "either")
ALIASES = {"isl_bounding": "length", "prefill_load": "load", "isl_or_load": "either"}  # Dynamo's


class SplitKnobs(Struct, frozen=True):
    """When the trip is skipped."""

    policy: str = "length"  # or by load, or when either says so
    uncached_tokens_max: int = 2_048  # fewer take one step of a usual engine, beside its decoding; 0: no prompt stays
    uncached_ratio_max: float = 1.0  # of the prompt; less than 1 sends prompts away that nothing is cached of
    trip_tokens: int = 512  # what is computed in the time of the trip, 20 ms or so: less is not worth it
    moved_cost: float = 0.1  # to pull a token's blocks, of computing it: 70 kB at 10 GB/s, where 14,000/s are computed
    spare_ratio: float = 2.0  # work at a prefill worker holds up nobody who decodes: it may be so much more
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
    prefill_cached_tokens: int = 0  # on the prefill worker that it would go to
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
    there = _there(scene, uncached, knobs)
    if policy != "load" and short and uncached - there <= knobs.trip_tokens:
        return Where.HERE, f"only {uncached} of {scene.tokens} tokens are not cached"
    if policy != "load" and knobs.uncached_tokens_max and there > knobs.spare_ratio * uncached:
        return Where.HERE, f"{uncached} of {scene.tokens} tokens are to be computed, {there:.0f} at a prefill worker"
    if policy != "length" and busy:
        return Where.HERE, f"the prefill workers have {scene.prefill_queued:.1f} steps of work queued"
    left = max(0, scene.tokens - scene.prefill_cached_tokens)
    known = f", {left} at the prefill worker" if scene.prefill_cached_tokens else ""
    return Where.THERE, f"{uncached} of {scene.tokens} tokens are to be computed{known}"


def _there(scene: Scene, uncached: int, knobs: SplitKnobs) -> float:
    """The work of the trip, in tokens computed."""
    return max(0, scene.tokens - scene.prefill_cached_tokens) + knobs.moved_cost * uncached
