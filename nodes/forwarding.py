"""Pure. The metrics that an engine makes itself, on their way to the mesh's one scrape: as they are called there.

What would break the scrape, or make it too large, is left out and counted; what an engine calls as we call ours of
every sample is renamed as Prometheus does it.
"""

from collections.abc import Iterable
from math import inf, isfinite

import msgspec
from msgspec.structs import replace

from nodes.metrics import NODE, SAMPLES_MAX, Family, Sample, gauge, is_sound
from proto import limits

OURS = "wiremesh_"  # no engine's name begins so
RESERVED = (NODE, "role")  # labels that each of our samples gets
EXPORTED = "exported_"  # before the name of a label that we would overwrite
BYTES_MAX = limits.ITEM_BYTES_MAX // 2  # a node's metrics are one item, and its own need some of it
HELP_CHARS_MAX = 500  # an engine's longest has 200
LEFT_OUT = "wiremesh_engine_metrics_left_out"

_encode = msgspec.msgpack.Encoder().encode


def forwarded(families: Iterable[Family]) -> list[Family]:
    """What of an engine's families goes on, and how much does not."""
    left = dict.fromkeys(("clash", "unsound", "too many"), 0)
    room = BYTES_MAX
    found: dict[str, Family] = {}
    for family in families:
        kept = _kept(family, left)
        if kept is None:
            continue
        room -= len(_encode(kept))
        if room < 0:
            left["too many"] += 1
        elif kept.name in found:
            left["clash"] += 1
        else:
            found[kept.name] = kept
    counts: dict[str, float] = {reason: float(count) for reason, count in left.items()}
    text = "Families and samples of the engine that are not forwarded, by why."
    return [*found.values(), gauge(LEFT_OUT, text, counts, "reason")]


def _kept(family: Family, left: dict[str, int]) -> Family | None:
    """A family as it goes on; None if nothing of it does."""
    if family.name.startswith(OURS):
        left["clash"] += 1
        return None
    samples = [_renamed(sample) for sample in family.samples[:SAMPLES_MAX] if _is_finite(sample)]
    left["too many"] += max(0, len(family.samples) - SAMPLES_MAX)
    left["unsound"] += min(len(family.samples), SAMPLES_MAX) - len(samples)
    made = replace(family, help=family.help[:HELP_CHARS_MAX], samples=samples)
    if not is_sound(made):
        left["unsound"] += 1
        return None
    return made


def _is_finite(sample: Sample) -> bool:
    return isfinite(sample.value) and isfinite(sample.sum)


def _renamed(sample: Sample) -> Sample:
    """The same, with room for our own labels, and with buckets that Prometheus can read."""
    buckets = sorted(sample.buckets)
    if buckets and buckets[-1][0] != inf:
        buckets.append((inf, sample.count))
    labels = {(EXPORTED + name if name in RESERVED else name): text for name, text in sample.labels.items()}
    return replace(sample, labels=labels, buckets=buckets)
