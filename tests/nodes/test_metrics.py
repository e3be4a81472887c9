"""Metrics: numbers become families, families become what Prometheus reads."""

from math import inf, nan

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nodes.exposition import render
from nodes.metrics import Family, Histogram, Sample, counter, gauge, histogram, is_sound, labelled, merged

BOUNDS = (0.1, 1.0, 10.0)
UNSOUND = [
    Family("bad name", "gauge", "", [Sample()]),
    Family("x", "summary", "", [Sample()]),
    Family("x", "gauge", "", [Sample({"bad label": "y"})]),
    Family("x", "histogram", "", [Sample({"le": "y"}, buckets=[(inf, 1)])]),
    Family("x", "gauge", "", [Sample(value=nan)]),
    Family("x", "histogram", "", [Sample(buckets=[(1.0, 1)])]),
    Family("x", "histogram", "", [Sample(buckets=[(2.0, 1), (1.0, 1), (inf, 1)])]),
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


@pytest.mark.parametrize("family", UNSOUND)
def test_a_family_that_is_not_sound_costs_nobody_the_scrape(family: Family) -> None:
    assert not is_sound(family)
    good = gauge("wiremesh_running", "Running.", 7)
    assert render({"bad": [family], "good": [good]}) == render({"good": [good]})


def test_a_name_means_what_it_meant_first() -> None:
    families = merged({"a": [gauge("x", "X.", 1)], "b": [counter("x", "X.", 2)], "c": [gauge("x", "X.", 3)]})
    assert [(family.kind, [sample.labels["node"] for sample in family.samples]) for family in families] == [
        ("gauge", ["a", "c"])
    ]


def test_a_samples_own_label_wins() -> None:
    (family,) = labelled([gauge("x", "X.", {"own": 1}, "role")], {"role": "other", "more": "y"})
    assert family.samples[0].labels == {"role": "own", "more": "y"}
