"""What `wiremesh router` and `wiremesh explain` can be told."""

from typing import Any

import pytest

from launch.flags_explain import ExplainFlags
from launch.flags_router import RouterFlags
from mesh.options import OptionRefused, collect
from nodes.routing.knobs import DEFAULTS, Knobs
from nodes.routing.split import SplitKnobs


def test_without_flags_caches_decide() -> None:
    flags = RouterFlags()
    assert flags.policy == "kv" and flags.knobs == DEFAULTS and flags.splitting == SplitKnobs()


def test_knobs_by_any_of_their_names() -> None:
    given = ("temperature=0.5", "events=off", "busy-decode-blocks=0.9", "router_ttl_secs=60", "queue_policy=wspt")
    knobs = RouterFlags(knob=given).knobs
    assert (knobs.temperature, knobs.events, knobs.busy_decode_blocks) == (0.5, False, 0.9)
    assert (knobs.approximate_ttl_s, knobs.queue_policy) == (60.0, "wspt")


def test_every_knob_can_be_set() -> None:
    """To what it is anyway: no value is of a kind that a command line could not say."""
    for name in Knobs.__struct_fields__:
        value = getattr(DEFAULTS, name)
        said = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
        assert RouterFlags(knob=(f"{name}={said}",)).knobs == DEFAULTS, name


def test_knobs_from_the_environment() -> None:
    flags = collect(RouterFlags, {}, {"WIREMESH_ROUTER_KNOB": "temperature=1, overlap_credit=0"}, "router")
    assert (flags.knobs.temperature, flags.knobs.overlap_credit) == (1.0, 0.0)


def test_when_prompts_go_to_prefill_workers() -> None:
    flags = RouterFlags(disagg_policy="isl_or_load", disagg_tokens=99, disagg_prefill_busy=0.5, enforce_disagg=True)
    found = flags.splitting
    assert (found.policy, found.uncached_tokens_max, found.prefill_busy, found.decode_busy, found.enforce) == (
        "isl_or_load", 99, 0.5, None, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"policy": "best"}, "--policy is 'best': it must be one of kv, round-robin"),
        ({"knob": ("temperature",)}, "--knob: 'temperature' must be NAME=VALUE"),
        ({"knob": ("heat=1",)}, "--knob: there is no knob 'heat'"),
        ({"knob": ("temperature=hot",)}, "--knob: temperature is 'hot': it must be a number"),
        ({"disagg_policy": "mood"}, "--disagg-policy is 'mood'"),
        ({"disagg_tokens": -1}, "--disagg-tokens is -1"),
        ({"disagg_ratio": 2.0}, "--disagg-ratio is 2.0"),
        ({"disagg_decode_busy": -0.5}, "--disagg-decode-busy is -0.5"),
    ],
)
def test_mistakes_are_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionRefused) as refused:
        RouterFlags(**given)
    assert words in str(refused.value)


def test_explain_waits_for_a_time_that_is_one() -> None:
    assert ExplainFlags().wait_s == 2.0
    with pytest.raises(OptionRefused):
        ExplainFlags(wait_s=-1.0)
