"""Pure. Metrics as plain numbers: added up where things happen, made into families when somebody asks.

A counter is an int in somebody's hands. What travels is a list of `Family`; `nodes.exposition` writes it as Prometheus
reads it. Names are `wiremesh_<thing>_<unit>`, counters end with `_total`. Engines' own come as they are called there.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf, isfinite

from msgspec import Struct
from msgspec.structs import replace

KINDS = ("counter", "gauge", "histogram", "summary")
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SAMPLES_MAX = 1_000  # of one family: a node that tells more is not believed
LEFT_OUT = "wiremesh_scrape_left_out"
NODE = "node"  # the label that says whose a sample is
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")


class Sample(Struct):
    """One line of a family. A histogram has buckets instead of a value, a summary nothing but sum and count."""

    labels: dict[str, str] = {}
    value: float = 0.0
    buckets: list[tuple[float, int]] = []  # (upper bound, how many up to it), bounds ascending, the last one infinite
    sum: float = 0.0
    count: int = 0


class Family(Struct):
    """One metric with all its samples."""

    name: str
    kind: str  # one of KINDS
    help: str
    samples: list[Sample] = []


class Histogram:
    """How often values were how large. To add one costs a search in a short tuple."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def sample(self, labels: Mapping[str, str] | None = None) -> Sample:
        """What it holds now."""
        total, buckets = 0, []
        for bound, count in zip((*self.bounds, inf), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return Sample(dict(labels or {}), buckets=buckets, sum=self.sum, count=total)


def counter(name: str, help: str, values: float | Mapping[str, float], label: str = "") -> Family:
    """A counter: one number, or one for each value of `label`."""
    return Family(name, "counter", help, _samples(values, label))


def gauge(name: str, help: str, values: float | Mapping[str, float], label: str = "") -> Family:
    """A gauge: one number, or one for each value of `label`."""
    return Family(name, "gauge", help, _samples(values, label))


def histogram(name: str, help: str, values: Histogram | Mapping[str, Histogram], label: str = "") -> Family:
    """A histogram: one, or one for each value of `label`."""
    if isinstance(values, Histogram):
        return Family(name, "histogram", help, [values.sample()])
    return Family(name, "histogram", help, [one.sample({label: key}) for key, one in values.items()])


def labelled(families: Iterable[Family], labels: Mapping[str, str]) -> list[Family]:
    """The same with more labels on each sample; the samples' own win."""
    return [
        replace(family, samples=[replace(sample, labels={**labels, **sample.labels}) for sample in family.samples])
        for family in families
    ]


def merged(families_by_node: Mapping[str, Sequence[Family]]) -> list[Family]:
    """One family of each name, with all samples of all nodes, each labelled with its node.

    What Prometheus would not take beside the rest is left out and counted: another node's mistake must not cost the
    scrape. That is a family that is not sound, one that means something else than the first of its name or writes
    lines of another's, and a sample that is there already.
    """
    found: dict[str, Family] = {}
    writers = {LEFT_OUT: LEFT_OUT}  # which family writes the lines of a name
    seen: dict[tuple[str, tuple[tuple[str, str], ...]], None] = {}
    left: dict[tuple[str, str], int] = {}
    for node, families in families_by_node.items():
        for family in families:
            why = _unfit(family, found, writers)
            fresh = [] if why else _fresh(family, node, seen)
            if not why:
                found.setdefault(family.name, replace(family, samples=[])).samples.extend(fresh)
            if lost := 1 if why else len(family.samples) - len(fresh):
                key = node, why or "repeated"
                left[key] = left.get(key, 0) + lost
    return [*found.values(), *_left_out(left)]


def _unfit(family: Family, found: Mapping[str, Family], writers: dict[str, str]) -> str:
    """Why a family cannot stand beside those that were found; empty if it can, and then its lines are its own."""
    if not is_sound(family):
        return "unsound"
    first, lines = found.get(family.name), _lines(family)
    if any(writers.get(line, family.name) != family.name for line in lines) or family.name == LEFT_OUT:
        return "clash"
    if first is not None and first.kind != family.kind:
        return "clash"
    writers.update(dict.fromkeys(lines, family.name))
    return ""


def _lines(family: Family) -> tuple[str, ...]:
    """The names that its lines have when they are written."""
    if family.kind == "counter":
        return (family.name.removesuffix("_total") + "_total",)
    more = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}.get(family.kind, ())
    return (family.name, *(family.name + suffix for suffix in more))


def _fresh(family: Family, node: str, seen: dict[tuple[str, tuple[tuple[str, str], ...]], None]) -> list[Sample]:
    """Its samples that were not there before, labelled with their node: no sample may say that it is another's."""
    fresh = []
    for sample in family.samples:
        labels = {**sample.labels, NODE: node}
        key = family.name, tuple(sorted(labels.items()))
        if key not in seen:
            seen[key] = None
            fresh.append(replace(sample, labels=labels))
    return fresh


def _left_out(left: Mapping[tuple[str, str], int]) -> list[Family]:
    if not left:
        return []
    samples = [Sample({NODE: node, "reason": reason}, float(count)) for (node, reason), count in left.items()]
    return [Family(LEFT_OUT, "gauge", "Families and samples of a node that this scrape left out, by why.", samples)]


def is_sound(family: Family) -> bool:
    """Whether Prometheus could read this family."""
    return (
        _NAME.fullmatch(family.name) is not None
        and family.kind in KINDS
        and len(family.samples) <= SAMPLES_MAX
        and all(_is_sound(sample, family.kind) for sample in family.samples)
    )


def _is_sound(sample: Sample, kind: str) -> bool:
    if not all(_LABEL.fullmatch(name) for name in sample.labels) or "le" in sample.labels:
        return False
    if kind == "summary":
        return isfinite(sample.sum) and "quantile" not in sample.labels
    if kind != "histogram":
        return isfinite(sample.value)
    bounds = [bound for bound, _ in sample.buckets]
    return bool(bounds) and bounds[-1] == inf and all(one < other for one, other in pairwise(bounds))


def _samples(values: float | Mapping[str, float], label: str) -> list[Sample]:
    if isinstance(values, Mapping):
        return [Sample({label: key}, float(value)) for key, value in values.items()]
    return [Sample(value=float(values))]
