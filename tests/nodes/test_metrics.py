"""Metrics: numbers become families, families become what Prometheus reads."""

from math import inf, nan

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nodes.exposition import render
from nodes.metrics import LEFT_OUT, Family, Histogram, Sample, counter, gauge, histogram, is_sound, labelled, merged

BOUNDS = (0.1, 1.0, 10.0)
UNSOUND = [
    Family("bad name", "gauge", "", [Sample()]),
    Family("x", "untyped", "", [Sample()]),
    Family("x", "summary", "", [Sample({"quantile": "0.5"})]),
    Family("x", "summary", "", [Sample(sum=nan)]),
    Family("x", "gauge", "", [Sample({"bad label": "y"})]),
    Family("x", "histogram", "", [Sample({"le": "y"}, buckets=[(inf, 1)])]),
    Family("x", "gauge", "", [Sample(value=nan)]),
    Family("x", "histogram", "", [Sample(buckets=[(1.0, 1)])]),
    Family("x", "histogram", "", [Sample(buckets=[(2.0, 1), (1.0, 1), (inf, 1)])]),
    Family("x", "histogram", "", [Sample(buckets=[(1.0, 1), (1.0, 1), (inf, 1)])]),
    Family("x", "histogram", "", [Sample()]),
    Family("x", "gauge", "", [Sample()] * 1001),
]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_each_value_once(values: list[float]) -> None:
    filled = Histogram(BOUNDS)
    for value in values:
        filled.add(value)
    sample = filled.sample()
    assert sample.buckets == [(bound, sum(value <= bound for value in values)) for bound in (*BOUNDS, inf)]
    assert sample.count == filled.count == len(values)
    assert sample.sum == pytest.approx(sum(values))


def test_families_survive_the_mesh() -> None:
    filled = Histogram(BOUNDS)
    filled.add(5.0)
    families = [histogram("wiremesh_x_seconds", "X.", filled), gauge("wiremesh_y", "Y.", {"a": 1}, "kind")]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(families), type=list[Family]) == families


def test_prometheus_reads_what_we_write() -> None:
    filled = Histogram(BOUNDS)
    filled.add(5.0)
    families = labelled(
        [
            counter("wiremesh_requests_total", "Requests.", {"good": 3, 'odd "\n\\': 1}, "outcome"),
            gauge("wiremesh_running", "Running.", 7),
            histogram("wiremesh_step_seconds", "Steps.", {"one": filled}, "which"),
        ],
        {"role": "worker"},
    )
    text = render({"a": families, "b": families}).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE") == 3, "one family of each name, however many nodes"
    requests = {
        (sample.labels["node"], sample.labels["outcome"]): sample for sample in found["wiremesh_requests"].samples
    }
    assert len(requests) == 4
    assert requests["a", "good"].name == "wiremesh_requests_total"
    assert (requests["b", 'odd "\n\\'].value, requests["a", "good"].labels["role"]) == (1.0, "worker")
    steps = [sample for sample in found["wiremesh_step_seconds"].samples if sample.labels["node"] == "a"]
    assert [sample.labels.get("le") for sample in steps] == ["0.1", "1.0", "10.0", "+Inf", None, None]
    assert [sample.value for sample in steps] == [0.0, 0.0, 1.0, 1.0, 5.0, 1.0]


def values(families: list[Family], name: str) -> dict[tuple[str, ...], float]:
    """A family's values by the values of its labels."""
    [family] = [family for family in families if family.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


@pytest.mark.parametrize("family", UNSOUND)
def test_a_family_that_is_not_sound_costs_nobody_the_scrape(family: Family) -> None:
    assert not is_sound(family)
    good = gauge("wiremesh_running", "Running.", 7)
    found = merged({"bad": [family], "good": [good]})
    assert found[:-1] == merged({"good": [good]})
    assert values(found, LEFT_OUT) == {("bad", "unsound"): 1.0}


def test_a_name_means_what_it_meant_first() -> None:
    families = merged({"a": [gauge("x", "X.", 1)], "b": [counter("x", "X.", 2)], "c": [gauge("x", "X.", 3)]})
    assert [(family.kind, [sample.labels["node"] for sample in family.samples]) for family in families[:-1]] == [
        ("gauge", ["a", "c"])
    ]
    assert values(families, LEFT_OUT) == {("b", "clash"): 1.0}


@pytest.mark.parametrize(
    "other",
    [
        gauge("wiremesh_x_seconds_count", "", 1),
        gauge("wiremesh_x_seconds_bucket", "", 1),
        Family("wiremesh_x_seconds", "summary", "", [Sample()]),
        gauge(LEFT_OUT, "", 1),
    ],
)
def test_no_family_writes_lines_of_another(other: Family) -> None:
    filled = Histogram(BOUNDS)
    families = merged({"a": [histogram("wiremesh_x_seconds", "", filled)], "b": [other]})
    assert [family.name for family in families] == ["wiremesh_x_seconds", LEFT_OUT]
    assert values(families, LEFT_OUT) == {("b", "clash"): 1.0}


def test_a_sample_is_told_once_and_of_whom_it_is() -> None:
    twice = gauge("x", "X.", 1)
    twice.samples.append(Sample({"node": "somebody else"}, 2.0))
    families = merged({"a": [twice, gauge("x", "X.", 3)]})
    assert values(families, "x") == {("a",): 1.0}
    assert values(families, LEFT_OUT) == {("a", "repeated"): 2.0}


def test_a_family_without_samples_is_there() -> None:
    assert [family.name for family in merged({"a": [Family("x", "gauge", "X.")]})] == ["x"]


def test_a_samples_own_label_wins() -> None:
    (family,) = labelled([gauge("x", "X.", {"own": 1}, "role")], {"role": "other", "more": "y"})
    assert family.samples[0].labels == {"role": "own", "more": "y"}
