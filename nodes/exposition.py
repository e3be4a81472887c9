"""Shell. Metrics as Prometheus reads them: text exposition 0.0.4, written by `prometheus_client`."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from nodes.metrics import Family, merged

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
        if family.kind == "histogram":
            for bound, count in sample.buckets:
                metric.add_sample(f"{base}_bucket", {**labels, "le": _bound(bound)}, float(count))
            metric.add_sample(f"{base}_sum", labels, sample.sum)
            metric.add_sample(f"{base}_count", labels, float(sample.count))
        else:
            metric.add_sample(f"{base}_total" if family.kind == "counter" else base, labels, sample.value)
    return metric


def _bound(bound: float) -> str:
    return "+Inf" if bound == inf else repr(float(bound))
