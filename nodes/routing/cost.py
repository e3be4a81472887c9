"""Pure. What it would cost to send a prompt to each rank, in blocks; lower is better. A function of a snapshot.

    credit  = overlap_credit * fade * device + host_credit * (host - device) + disk_credit * (disk - host)
    fade    = 1 / (1 + overlap_credit_decay * excess),  excess = prefill tokens queued here beyond the least queued
              anywhere, as a multiple of this prompt
    prefill = max(0, (tokens queued here + tokens of the prompt) / block size - credit)
    decode  = blocks in use here + blocks of the prompt - those of them that running requests here share
    cost    = prefill_load_scale * prefill + decode_weight * decode + active_request_weight * running requests

`device`, `host` and `disk` are leading blocks of the prompt that are cached there or nearer. What a store has that all
ranks can read counts for nobody: to credit it sends prompts away from where they are (4 simulated workers with small
caches: first tokens come up to 14 % later, and never sooner).
"""

from collections.abc import Sequence

from msgspec import Struct

from nodes.routing.knobs import Knobs
from proto.placing import Rank


class Prompt(Struct, gc=False):
    """What is to be placed."""

    tokens: int
    block_tokens: int
    blocks: int = 0  # whole ones and the last, which may be partly filled

    def __post_init__(self) -> None:
        self.blocks = self.blocks or -(-self.tokens // self.block_tokens)


class Snapshot(Struct, gc=False):
    """All that a choice looks at: one column for each fact, one row for each rank that may be chosen."""

    ranks: Sequence[Rank]
    device: Sequence[int]  # leading blocks cached on the device
    host: Sequence[int]  # there or in host memory
    disk: Sequence[int]  # there or on disk
    prefill_tokens: Sequence[float]  # queued
    blocks: Sequence[float]  # in use by running requests
    common: Sequence[int]  # leading blocks of the prompt among those
    requests: Sequence[int]  # running and waiting
    exact: Sequence[bool] = ()  # whether what is known of the cache is what it holds; empty: all are
    blocks_total: Sequence[int] = ()  # of the rank's cache; 0: unknown; empty: all unknown
    step_tokens: Sequence[int] = ()  # that it can compute in a step; likewise
    since: Sequence[float] = ()  # when the prompt that is computed there now was begun; -inf: none; empty: unknown
    session: int = -1  # the row where the session was last


def costs(snapshot: Snapshot, prompt: Prompt, knobs: Knobs) -> list[float]:
    """Of every row."""
    zeros = [0] * len(snapshot.ranks)
    queued = snapshot.prefill_tokens if knobs.track_prefill_tokens else zeros
    used = snapshot.blocks if knobs.track_active_blocks else zeros
    common = snapshot.common if knobs.track_active_blocks and knobs.assume_reuse else zeros
    scale, decode, weight = knobs.prefill_load_scale, knobs.decode_weight, knobs.active_request_weight
    share, need, new = 1.0 / prompt.block_tokens, prompt.tokens / prompt.block_tokens, prompt.blocks
    rows = zip(queued, credits(snapshot, prompt, knobs), used, common, snapshot.requests, strict=True)
    return [
        (scale * prefill if (prefill := waiting * share + need - credit) > 0.0 else 0.0)
        + decode * (here + new - shared)
        + weight * requests
        for waiting, credit, here, shared, requests in rows
    ]


def credits(snapshot: Snapshot, prompt: Prompt, knobs: Knobs) -> list[float]:
    """The blocks that need not be computed on each row, each by what it saves."""
    if knobs.overlap_credit_decay:
        given = _fading(snapshot, prompt, knobs)
    else:
        full = knobs.overlap_credit
        given = [full * device for device in snapshot.device]
    if snapshot.host is not snapshot.device or snapshot.disk is not snapshot.host:
        tiers = zip(given, snapshot.device, snapshot.host, snapshot.disk, strict=True)
        by_host, by_disk = knobs.host_credit, knobs.disk_credit
        given = [own + by_host * (host - device) + by_disk * (disk - host) for own, device, host, disk in tiers]
    return given


def _fading(snapshot: Snapshot, prompt: Prompt, knobs: Knobs) -> list[float]:
    least = min(snapshot.prefill_tokens, default=0.0)
    decay = knobs.overlap_credit_decay / max(1, prompt.tokens)
    return [
        knobs.overlap_credit * device / (1.0 + decay * (waiting - least))
        for device, waiting in zip(snapshot.device, snapshot.prefill_tokens, strict=True)
    ]
