"""Shell. Metrics as Prometheus reads and writes them: text exposition 0.0.4, by `prometheus_client`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf, isfinite
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from nodes.metrics import Family, Sample, merged

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(families_by_node: Mapping[str, Sequence[Family]]) -> bytes:
    """The families of all nodes as one text; each sample says of which node it is."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([_metric(family) for family in merged(families_by_node)]))
    text: bytes = generate_latest(registry)
    return text


class _Collected(Collector):
    """What `prometheus_client` asks for metrics: here they are there already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def _metric(family: Family) -> Metric:
    base = family.name.removesuffix("_total") if family.kind == "counter" else family.name
    metric = Metric(base, family.help, family.kind)
    for sample in family.samples:
        labels = sample.labels
        if family.kind in ("histogram", "summary"):
            for bound, count in sample.buckets if family.kind == "histogram" else ():
                metric.add_sample(f"{base}_bucket", {**labels, "le": _bound(bound)}, float(count))
            metric.add_sample(f"{base}_sum", labels, sample.sum)
            metric.add_sample(f"{base}_count", labels, float(sample.count))
        else:
            metric.add_sample(f"{base}_total" if family.kind == "counter" else base, labels, sample.value)
    return metric


def _bound(bound: float) -> str:
    return "+Inf" if bound == inf else repr(float(bound))


# --- What engines write ------------------------------------------------------------------------------------


def read(text: str, prefixes: Sequence[str]) -> list[Family]:
    """The families of a text whose names begin so. Raises ValueError if it is none that Prometheus reads."""
    return families_of(text_string_to_metric_families(text), prefixes)


def families_of(metrics: Iterable[Metric], prefixes: Sequence[str]) -> list[Family]:
    """The families whose names begin so, of what a registry collects."""
    begins = tuple(prefixes)
    return [family for metric in metrics if metric.name.startswith(begins) for family in _families(metric)]


def _families(metric: Metric) -> list[Family]:
    """One, mostly. Kinds that we do not know are numbers that go up and down; when a counter began is not told."""
    if metric.type in ("histogram", "gaugehistogram", "summary"):
        return [_grouped(metric, "summary" if metric.type == "summary" else "histogram")]
    if metric.type == "counter":
        name = f"{metric.name}_total"
        return [Family(name, "counter", metric.documentation, _plain(metric, name))]
    names = dict.fromkeys(sample.name for sample in metric.samples if not sample.name.endswith("_created"))
    return [Family(name, "gauge", metric.documentation, _plain(metric, name)) for name in names]


def _plain(metric: Metric, name: str) -> list[Sample]:
    return [Sample(dict(line.labels), line.value) for line in metric.samples if line.name == name]


def _grouped(metric: Metric, kind: str) -> Family:
    """A histogram's or a summary's lines, by their labels. A summary's quantiles cannot be added up: they stay."""
    found: dict[tuple[tuple[str, str], ...], Sample] = {}
    for line in metric.samples:
        labels = {name: value for name, value in line.labels.items() if name not in ("le", "quantile")}
        _add(found.setdefault(tuple(sorted(labels.items())), Sample(labels)), line)
    return Family(metric.name, kind, metric.documentation, list(found.values()))


def _add(sample: Sample, line: Any) -> None:
    count = int(line.value) if isfinite(line.value) else 0
    if line.name.endswith("_bucket"):
        sample.buckets = [*sample.buckets, (float(line.labels["le"]), count)]
    elif line.name.endswith("sum"):
        sample.sum = line.value
    elif line.name.endswith("count"):
        sample.count = count
