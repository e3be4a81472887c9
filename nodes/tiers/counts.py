"""Pure. What the tiers did, in plain numbers, and as metrics."""

from collections.abc import Iterable, Mapping

from nodes.metrics import Family, Sample, counter, gauge
from nodes.tiers.shelves import TITLES

FAILURES = ("missing", "corrupt", "failed", "slow", "full")


class Count:
    """Of one tier."""

    def __init__(self) -> None:
        self.asked = 0  # blocks that no nearer tier had
        self.hit = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self.written = 0  # blocks
        self.dropped = 0  # blocks that were to be written, and the queue was full or the tier marked
        self.declined = 0  # blocks that were used less than those whose room they wanted
        self.marked = 0  # times
        self.failures = dict.fromkeys(FAILURES, 0)

    @property
    def hit_rate(self) -> float:
        return self.hit / self.asked if self.asked else 0.0


_COUNTERS = {
    "asked": ("asked_blocks", "Blocks of prompts that no nearer tier had, by the tier that was asked for them."),
    "hit": ("hit_blocks", "Blocks of prompts that came from a tier instead of being computed."),
    "written": ("written_blocks", "Blocks that were written to a tier."),
    "read_bytes": ("read_bytes", "Bytes of blocks that were read from a tier."),
    "written_bytes": ("written_bytes", "Bytes of blocks that were written to a tier."),
    "dropped": ("dropped_blocks", "Blocks that were not written: the queue was full, or the tier was left alone."),
    "declined": ("declined_blocks", "Blocks that were not kept: they were used less than those in their place."),
    "marked": ("marked", "How often a tier was left alone for a while after failures."),
}
PREFIX = "wiremesh_tier_"


def families(
    counts: Mapping[int, Count],
    used: Mapping[int, int],
    evictions: Mapping[int, int],
    marked: Mapping[int, bool],
    waits_over: int,
) -> list[Family]:
    """All metrics of the tiers; keys are their numbers."""
    found = [
        counter(
            f"{PREFIX}{name}_total",
            text,
            _by_title({number: getattr(one, key) for number, one in counts.items()}),
            "tier",
        )
        for key, (name, text) in _COUNTERS.items()
    ]
    rates = {number: one.hit_rate for number, one in counts.items()}
    samples = [
        Sample({"tier": TITLES[number], "reason": reason}, float(value))
        for number, one in counts.items()
        for reason, value in one.failures.items()
    ]
    return [
        *found,
        gauge(f"{PREFIX}hit_rate", "Share of the blocks asked for that a tier had.", _by_title(rates), "tier"),
        gauge(f"{PREFIX}used_bytes", "Bytes of blocks in a tier.", _by_title(used), "tier"),
        counter(f"{PREFIX}evicted_blocks_total", "Blocks that made room for others.", _by_title(evictions), "tier"),
        gauge(f"{PREFIX}is_marked", "1 while a tier is left alone after failures.", _by_title(marked), "tier"),
        counter(f"{PREFIX}waits_over_total", "Requests that were computed because a tier was too slow.", waits_over),
        Family(f"{PREFIX}failures_total", "counter", "What went wrong with a tier, by reason.", samples),
    ]


def _by_title(values: Mapping[int, float]) -> dict[str, float]:
    return {TITLES[number]: float(value) for number, value in values.items()}


def hits(counts: Mapping[int, Count], asked: int, origins: Iterable[int]) -> None:
    """A prompt asked for so many blocks, and got the first of them from these tiers."""
    by_tier = dict.fromkeys(counts, 0)
    for origin in origins:
        by_tier[origin] += 1
    for number, count in counts.items():  # by distance
        count.asked += asked
        count.hit += by_tier[number]
        asked -= by_tier[number]
