"""The metrics that engines make themselves: read, sifted, and in one scrape beside ours and each other's."""

from collections.abc import Iterator
from math import inf, nan
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as Measured
from prometheus_client import Summary as Summed
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from nodes import forwarding
from nodes.exposition import families_of, read, render
from nodes.forwarding import BYTES_MAX, LEFT_OUT, forwarded
from nodes.metrics import SAMPLES_MAX, Family, Sample, counter, gauge, labelled
from nodes.worker import own_families

PREFIXES = ("vllm:", "trtllm_")
QUANTILES = """# HELP vllm:eval_seconds Evaluation.
# TYPE vllm:eval_seconds summary
vllm:eval_seconds{quantile="0.5"} 0.25
vllm:eval_seconds_sum 3.5
vllm:eval_seconds_count 4
# TYPE vllm:without_total counter
vllm:without_total 2
# TYPE vllm:bare counter
vllm:bare{engine="0"} 5 1700000000
vllm:untold_kind 8
"""


def registry(tokens: int = 7) -> CollectorRegistry:
    """What an engine's process has: its own metrics in all shapes, and others' that nobody asked for."""
    made = CollectorRegistry()
    names = ("model_name", "engine")
    Counter("vllm:prompt_tokens", "Prefilled.", names, registry=made).labels("m", "0").inc(tokens)
    Gauge("vllm:num_requests_running", "Running.", names, registry=made).labels("m", "0").set(3)
    Gauge("vllm:node_gauge", "A label like ours.", ("node", "role"), registry=made).labels("theirs", "engine").set(1)
    spent = Measured("vllm:ttft_seconds", "TTFT.", names, buckets=(0.1, 1.0), registry=made).labels("m", "0")
    spent.observe(0.05)
    spent.observe(7.0)
    Summed("trtllm_step_seconds", "Steps.", registry=made).observe(0.5)
    Gauge("python_gc_objects", "Not the engine's.", registry=made).set(9)
    return made


def scrape(**nodes: list[Family]) -> dict[str, Metric]:
    """One scrape of all these nodes, as Prometheus reads it; each line of it is there once."""
    text = render({node: labelled(families, {"role": "worker"}) for node, families in nodes.items()}).decode()
    lines = [line.rsplit(" ", 1)[0] for line in text.split("\n") if line and not line.startswith("#")]
    kinds = [line for line in text.split("\n") if line.startswith("# TYPE")]
    assert len(set(lines)) == len(lines) and len(set(kinds)) == len(kinds), "nothing twice"
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_two_workers_of_one_engine_are_one_family_each() -> None:
    both = (families_of(registry(tokens).collect(), PREFIXES) for tokens in (7, 9))
    one, other = (forwarded(families) for families in both)
    found = scrape(a=[gauge("wiremesh_own", "Ours.", 1), *one], b=other)
    assert set(found) == {
        "wiremesh_own",
        "vllm:prompt_tokens",
        "vllm:num_requests_running",
        "vllm:node_gauge",
        "vllm:ttft_seconds",
        "trtllm_step_seconds",
        LEFT_OUT,
    }
    tokens = found["vllm:prompt_tokens"]
    assert {(sample.labels["node"], sample.labels["engine"], sample.value) for sample in tokens.samples} == {
        ("a", "0", 7.0),
        ("b", "0", 9.0),
    }
    assert (tokens.type, tokens.documentation) == ("counter", "Prefilled.")
    buckets = [sample for sample in found["vllm:ttft_seconds"].samples if sample.labels["node"] == "b"]
    assert [(sample.labels.get("le"), sample.value) for sample in buckets] == [
        ("0.1", 1.0),
        ("1.0", 1.0),
        ("+Inf", 2.0),
        (None, 7.05),
        (None, 2.0),
    ]
    summary = found["trtllm_step_seconds"]
    assert summary.type == "summary" and {sample.value for sample in summary.samples} == {1.0, 0.5}
    [first, _] = found["vllm:node_gauge"].samples
    assert first.labels == {"node": "a", "role": "worker", "exported_node": "theirs", "exported_role": "engine"}


def test_a_text_is_read_like_a_registry() -> None:
    text = generate_latest(registry()).decode()
    assert read(text, PREFIXES) == families_of(registry().collect(), PREFIXES)


def test_what_other_languages_write_is_read_too() -> None:
    found = {family.name: family for family in read(QUANTILES, PREFIXES)}
    assert found["vllm:eval_seconds"].samples == [Sample(sum=3.5, count=4)]
    assert found["vllm:without_total"].samples == [Sample(value=2.0)]
    assert found["vllm:bare_total"].samples == [Sample({"engine": "0"}, 5.0)]
    assert found["vllm:untold_kind"].kind == "gauge"


def test_a_text_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        read("vllm:x{unclosed 1", PREFIXES)


def left_out(families: list[Family]) -> dict[str, float]:
    return {sample.labels["reason"]: sample.value for sample in families[-1].samples}


def test_what_is_like_ours_or_no_number_is_left_out_and_counted() -> None:
    families = forwarded(
        [
            gauge("wiremesh_node_legs", "Ours.", 1),
            gauge("vllm:usage", "Usage.", {"good": 0.5, "not a number": nan, "endless": inf}, "which"),
            gauge("vllm:bad name", "A name that is none.", 1),
            gauge("vllm:twice", "First.", 1),
            gauge("vllm:twice", "Second.", 2),
        ]
    )
    assert [family.name for family in families] == ["vllm:usage", "vllm:twice", LEFT_OUT]
    assert families[0].samples == [Sample({"which": "good"}, 0.5)] and families[1].samples[0].value == 1.0
    assert left_out(families) == {"clash": 2.0, "unsound": 3.0, "too many": 0.0}


def test_a_flood_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = gauge("vllm:wide", "", {str(number): 1.0 for number in range(SAMPLES_MAX + 5)}, "which")
    found = forwarded([wide])
    assert len(found[0].samples) == SAMPLES_MAX and left_out(found)["too many"] == 5.0
    monkeypatch.setattr(forwarding, "BYTES_MAX", 20_000)
    many = (counter(f"vllm:{number}_total", "x" * 10_000, 1) for number in range(1_000))
    found = forwarded(many)
    assert 10 < len(found) < 40 and left_out(found)["too many"] == 1_001 - len(found)
    assert BYTES_MAX < 2**20, "one item of the mesh"


def test_buckets_without_an_end_get_one() -> None:
    made = Family("vllm:open_seconds", "histogram", "", [Sample(buckets=[(1.0, 2), (0.1, 1)], sum=2.0, count=3)])
    [family, _] = forwarded([made])
    assert family.samples[0].buckets == [(0.1, 1), (1.0, 2), (inf, 3)]


NAMES = st.sampled_from(["vllm:x", "vllm:x_sum", "vllm:x_count", "vllm:x_total", "wiremesh_x", "bad name", "y"])
LABELS = st.dictionaries(
    st.sampled_from(["node", "role", "le", "quantile", "engine", "bad label"]), st.text(max_size=3)
)
NUMBERS = st.one_of(st.floats(), st.integers(0, 9).map(float))
BUCKETS = st.lists(st.tuples(st.floats(allow_nan=False), st.integers(0, 9)), max_size=3)
SAMPLES = st.builds(Sample, LABELS, NUMBERS, BUCKETS, NUMBERS, st.integers(0, 9))
KINDS = st.sampled_from(["counter", "gauge", "histogram", "summary", "odd"])
FAMILIES = st.lists(st.builds(Family, NAMES, KINDS, st.text(max_size=5), st.lists(SAMPLES, max_size=3)), max_size=5)


@settings(max_examples=150)
@example([], [Family("vllm:x", "summary", "", [Sample({"node": "\x85"})])])
@given(FAMILIES, FAMILIES)
def test_whatever_engines_say_the_scrape_is_sound(one: list[Family], other: list[Family]) -> None:
    found = scrape(a=forwarded(one), b=forwarded(other), c=one)
    assert LEFT_OUT in found


def test_what_never_ends_is_cut_too() -> None:
    def endless() -> Iterator[Family]:
        yield from (gauge(f"vllm:g{number}", "", 1) for number in range(20_000))

    assert len(forwarded(endless())) < 20_000


def test_an_engine_whose_metrics_cannot_be_read_costs_the_node_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def families(self) -> list[Family]:
            raise KeyError("le")

    broken: Any = Broken()
    assert own_families(broken) == [] and "KeyError" in caplog.text
