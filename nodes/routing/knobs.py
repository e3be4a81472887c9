"""Pure. Every knob of KV-aware placing: its default, its reason, its range, and the names that others gave it.

Costs are counted in blocks to be computed; lower is better. A block that is decoded from is only read. In Dynamo both
weigh the same: with three or four long conversations at once on each worker that found 75 % of the tokens cached in the
tests' fleet; a twentieth finds 90 %, which is all there is (`tests/nodes/routing/test_fleet.py`). With sixteen at once
on each of four real processes it is 97 % of the best possible, a quarter 92 % (`bench/fleet.py`).
"""

from collections.abc import Mapping
from math import isfinite
from types import UnionType
from typing import get_args, get_type_hints

from msgspec import Struct
from msgspec.structs import asdict

from mesh.placement import POLICIES

KV = "kv"  # the policy that these knobs are of
CHOICES = (KV, *(name for name in POLICIES if name != "direct"))
SECOND_BEST = "least_loaded"  # where nothing is known of caches
APPROXIMATE = ("ttl", "lru")
QUEUES = ("fcfs", "lcfs", "wspt")


class Knobs(Struct, frozen=True):
    """How requests are placed. `cost.py` has the formula."""

    # --- What a cached prefix is worth ---
    overlap_credit: float = 1.0  # per block on the device: it need not be computed, no more and no less
    overlap_credit_decay: float = 0.0  # how fast that fades where prefill work is queued; 0: never, the queue costs too
    host_credit: float = 0.75  # per block in host memory: to fetch it takes a quarter of computing it
    disk_credit: float = 0.25  # per block on disk: it saves little time, but some energy
    # --- What load costs ---
    prefill_load_scale: float = 1.0  # of a block to be computed; more: care for the first token, less: for the later
    decode_weight: float = 0.05  # of a block in use: read at each step; at more conversations leave their caches
    active_request_weight: float = 0.0  # of each running request; for engines whose steps cost by request, not by block
    temperature: float = 0.0  # 0: the cheapest; more: draw by softmax over costs, so that routers do not march in step
    # --- What is counted as load ---
    track_active_blocks: bool = True
    track_prefill_tokens: bool = True  # off for pools that only decode
    assume_reuse: bool = True  # prompts that begin alike on one rank keep their common blocks once
    active_expiry_s: float = 300.0  # a request that nobody ended: forgotten after that, unless the worker knows better
    # --- What is known of caches ---
    events: bool = True  # believe the workers; off: only what was routed (for engines that tell nothing)
    predict: bool = True  # a prompt that was sent counts as cached while it runs: a burst that begins alike stays one
    approximate_policy: str = "ttl"  # what is forgotten of what was routed: the old (ttl) or the unused (lru)
    approximate_ttl_s: float = 120.0  # an engine that is busy turns a block out in about that
    approximate_blocks_max: int = 1 << 20  # 8 bytes each, counted per prompt
    index_blocks_max: int = 1 << 22  # distinct ones, 90 bytes each: 380 MB when full
    prune_ratio: float = 0.8  # what is over its bound is cut back to that, so that it is not cut every time
    # --- When nobody should get more ---
    busy_decode_blocks: float | None = None  # a fraction of the rank's blocks; over it the rank is busy
    busy_prefill_tokens: int | None = None  # queued on the rank
    busy_prefill_fraction: float | None = None  # the same, of the tokens that it computes in a step
    queue_threshold: float | None = None  # like busy_prefill_fraction, but requests wait here instead of being refused
    queue_policy: str = "fcfs"  # first come; last come; or the shortest uncached prompt first (wspt)
    queue_requests_max: int = 4_096  # that wait here; more are refused
    # --- Hints and company ---
    session_credit: float = 0.5  # of the prompt's blocks, where the session was last and nobody has more cached
    session_ttl_s: float = 600.0  # an agent that thinks longer has lost its cache anyway; 0: no session hints
    sessions_max: int = 65_536  # remembered at once
    replica_sync: bool = True  # routers tell each other what they placed: else two of them herd to the same rank


OVERRIDABLE = (  # by one request; the rest is the router's memory, not the request's business
    *("overlap_credit", "overlap_credit_decay", "host_credit", "disk_credit", "prefill_load_scale"),
    *("decode_weight", "active_request_weight", "temperature", "assume_reuse", "track_prefill_tokens"),
    *("session_credit",),
)
ALIASES = {  # Dynamo's names, of today and of old, without `router_` before them
    "kv_overlap_score_credit": "overlap_credit",
    "overlap_score_credit": "overlap_credit",
    "kv_overlap_score_credit_decay": "overlap_credit_decay",
    "overlap_score_credit_decay": "overlap_credit_decay",
    "kv_overlap_score_weight": "overlap_weight",
    "overlap_score_weight": "overlap_weight",
    "decode_active_request_weight": "active_request_weight",
    "host_cache_hit_weight": "host_credit",
    "disk_cache_hit_weight": "disk_credit",
    "kv_events": "events",
    "use_kv_events": "events",
    "ttl_secs": "approximate_ttl_s",
    "ttl": "approximate_ttl_s",
    "approximate_cache_policy": "approximate_policy",
    "predicted_ttl_secs": "predict",  # any time; none is off
    "max_tree_size": "index_blocks_max",
    "prune_target_ratio": "prune_ratio",
    "assume_kv_reuse": "assume_reuse",
    "active_request_expiry_secs": "active_expiry_s",
    "active_decode_blocks_threshold": "busy_decode_blocks",
    "active_prefill_tokens_threshold": "busy_prefill_tokens",
    "active_prefill_tokens_threshold_frac": "busy_prefill_fraction",
    "session_affinity_ttl_secs": "session_ttl_s",
}
DEFAULTS = Knobs()
_KINDS = get_type_hints(Knobs)


def read(given: Mapping[str, object], base: Knobs = DEFAULTS) -> Knobs:
    """Knobs by any of their names, over `base`. Raises ValueError with a sentence."""
    values = asdict(base)
    for name, said in given.items():
        known = _known(name)
        value = said is not None if known == "predict" and not isinstance(said, bool) else said
        if value is None and not isinstance(_KINDS.get(known), UnionType):
            continue  # as elsewhere: not said
        if known == "overlap_weight":
            values |= _old_weight(_checked("prefill_load_scale", value))
        else:
            values[known] = _checked(known, value)
    return Knobs(**values)


def overridden(base: Knobs, given: Mapping[str, object]) -> Knobs:
    """The knobs for one request. Raises ValueError with a sentence."""
    if not given:
        return base
    for name in given:
        if (known := _known(name)) not in (*OVERRIDABLE, "overlap_weight"):
            raise ValueError(f"{known} cannot be set for one request; those that can: {', '.join(OVERRIDABLE)}")
    return read(given, base)


def _known(name: str) -> str:
    """Our name for a knob."""
    plain = name.lower().replace("-", "_").removeprefix("router_")
    plain = ALIASES.get(plain, plain)
    if plain not in _KINDS and plain != "overlap_weight":
        raise ValueError(f"there is no knob {name!r}; there are {', '.join(_KINDS)}")
    return plain


def _old_weight(weight: object) -> dict[str, object]:
    """What the one weight of old releases means: how much prefill counts; 0 also means that caches do not."""
    return {"prefill_load_scale": weight} | ({} if weight else {"overlap_credit": 0.0})


def _checked(name: str, value: object) -> object:
    """The value as the knob has it. Raises ValueError if it cannot be."""
    kind = _KINDS[name]
    optional = isinstance(kind, UnionType)
    if optional and value is None:
        return None
    kind = get_args(kind)[0] if optional else kind
    if kind is str:
        choices = APPROXIMATE if name == "approximate_policy" else QUEUES
        if value not in choices:
            raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")
        return value
    if kind is bool:
        if value not in (True, False):
            raise ValueError(f"{name} is {value!r}: it must be true or false")
        return bool(value)
    return _number(name, value, kind is int)


def _number(name: str, value: object, whole: bool) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise ValueError(f"{name} is {value!r}: it must be a number")
    most = 1.0 if name == "prune_ratio" else 1e12
    if not 0 <= value <= most or (whole and value != int(value)):
        sort = "a whole number" if whole else "a number"
        raise ValueError(f"{name} is {value!r}: it must be {sort} between 0 and {most:g}")
    return int(value) if whole else float(value)
