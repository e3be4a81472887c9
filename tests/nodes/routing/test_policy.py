"""Knobs, costs, the choice and its explanation."""

from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from nodes.routing.cost import Prompt, Snapshot, costs
from nodes.routing.explain import ROWS_MAX, Decision, explain, table, why
from nodes.routing.itinerary import Told, ToldStop, lines
from nodes.routing.knobs import ALIASES, Knobs, overridden, read
from nodes.routing.policy import Choice, all_queued, choose

PROMPT = Prompt(tokens=160, block_tokens=16)
PLAIN = Knobs(decode_weight=1.0)  # sums are easier


def scene(rows: int = 3, **columns: object) -> Snapshot:
    """A snapshot of idle ranks with empty caches, but for these columns."""
    zeros = (0,) * rows
    facts: dict[str, object] = {
        "ranks": tuple((10 + row, 0) for row in range(rows)),
        **dict.fromkeys(("device", "prefill_tokens", "blocks", "common", "requests"), zeros),
        **columns,
    }
    facts.setdefault("host", facts["device"])
    facts.setdefault("disk", facts["host"])
    return Snapshot(**facts)  # type: ignore[arg-type]


def pick(snapshot: Snapshot, seed: int = 1, **knobs: object) -> Choice:
    return choose(snapshot, PROMPT, read(knobs, PLAIN), Random(seed))


# --- Costs -------------------------------------------------------------------------------------------------


def test_the_formula() -> None:
    snapshot = scene(
        2,
        device=(4, 0),
        host=(6, 0),
        disk=(9, 0),
        prefill_tokens=(32, 0),
        blocks=(5, 7),
        common=(2, 0),
        requests=(3, 4),
    )
    saved = 4 + 0.75 * 2 + 0.25 * 3
    assert costs(snapshot, PROMPT, PLAIN) == [(2 + 10 - saved) + (5 + 10 - 2), 10 + 17]
    knobs = Knobs(prefill_load_scale=3, decode_weight=2, active_request_weight=0.5)
    assert costs(snapshot, PROMPT, knobs) == [3 * (12 - saved) + 2 * 13 + 1.5, 30 + 34 + 2]


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, 12 - 4 + 13),
        ({"overlap_credit": 0.5}, 12 - 2 + 13),
        ({"overlap_credit": 99}, 13),  # never less than nothing to prefill
        ({"track_prefill_tokens": False}, 10 - 4 + 13),
        ({"track_active_blocks": False}, 12 - 4 + 10),
        ({"assume_reuse": False}, 12 - 4 + 15),
        ({"overlap_credit_decay": 1.0}, 12 - 4 / (1 + 32 / 160) + 13),
    ],
)
def test_each_knob_of_the_formula(knobs: "dict[str, object]", expected: float) -> None:
    snapshot = scene(2, device=(4, 0), prefill_tokens=(32, 0), blocks=(5, 7), common=(2, 0), requests=(3, 4))
    assert costs(snapshot, PROMPT, read(knobs, PLAIN))[0] == pytest.approx(expected)


def test_the_last_block_counts_whole() -> None:
    assert [Prompt(tokens, 16).blocks for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]


# --- The choice --------------------------------------------------------------------------------------------


def test_the_cheapest_and_among_equals_the_fewest_requests_and_then_any() -> None:
    assert pick(scene(device=(0, 5, 4))).row == 1
    assert pick(scene(requests=(2, 1, 2))).row == 1, "requests cost nothing, but they break a tie"
    rows = Counter(pick(scene(requests=(1, 2, 1)), seed).row for seed in range(200))
    assert set(rows) == {0, 2} and min(rows.values()) > 60


def test_among_equals_with_as_many_requests_who_has_been_at_a_prompt_for_longest() -> None:
    busy: dict[str, Any] = {"requests": (1, 1, 1), "prefill_tokens": (4_071, 4_073, 4_072)}
    assert [pick(scene(**busy, since=(5.0, 4.0, 6.0)), seed).row for seed in range(5)] == [1] * 5, (
        "half a token is even"
    )
    assert pick(scene(**{**busy, "requests": (1, 2, 1)}, since=(5.0, 4.0, 6.0))).row == 0
    idle = scene(requests=(1, 1, 1), since=(float("-inf"), 4.0, float("-inf")))
    assert {pick(idle, seed).row for seed in range(20)} == {0, 2}
    assert pick(scene(**{**busy, "prefill_tokens": (4_071, 4_471, 4_072)}, since=(5.0, 4.0, 6.0))).row == 0


def test_nobody() -> None:
    assert pick(scene(0)).row == -1 and pick(scene(0)).refused == "no worker takes work"


def test_busy_ranks_get_nothing() -> None:
    full: dict[str, Any] = {"blocks_total": (100, 100, 0), "step_tokens": (1000, 1000, 0)}
    snapshot = scene(device=(10, 0, 0), blocks=(95, 89, 99), prefill_tokens=(0, 50, 9999), **full)
    assert pick(snapshot).row == 0
    choice = pick(snapshot, busy_decode_blocks=0.9)
    assert choice.row == 1 and list(choice.busy) == [True, False, False], "of unknown size: never too full"
    assert pick(snapshot, busy_prefill_tokens=60).busy == [False, False, True]
    assert pick(snapshot, busy_prefill_fraction=0.04).busy == [False, True, False]
    refused = pick(snapshot, busy_decode_blocks=0.1, busy_prefill_tokens=60)
    assert refused.row == -1 and refused.refused == "all 3 that could take it are busy"
    assert pick(snapshot, busy_decode_blocks=0.9, temperature=5.0).row != 0


def test_the_queue_opens_only_when_all_are_over_its_threshold() -> None:
    snapshot = scene(2, prefill_tokens=(900, 600), step_tokens=(1000, 1000))
    assert not all_queued(snapshot, PLAIN)
    assert all_queued(snapshot, Knobs(queue_threshold=0.5))
    assert not all_queued(snapshot, Knobs(queue_threshold=0.7))
    assert not all_queued(scene(2, prefill_tokens=(900, 600)), Knobs(queue_threshold=0.5)), "sizes unknown"
    assert not all_queued(scene(0), Knobs(queue_threshold=0.0))


def test_a_session_is_a_hint_that_loses_to_real_overlap() -> None:
    assert pick(scene(blocks=(0, 4, 4), session=2)).row == 2, "four blocks more to decode, five hoped for"
    assert pick(scene(blocks=(0, 6, 6), session=2)).row == 0, "load wins when it must"
    choice = pick(scene(device=(0, 1, 0), session=2))
    assert choice.row == 1 and choice.hinted == -1
    assert pick(scene(device=(0, 3, 3), session=2)).row == 2, "nobody has more"
    assert pick(scene(blocks=(0, 4, 4), session=2), session_credit=0).row == 0


def test_temperature_spreads_by_cost() -> None:
    snapshot = scene(device=(8, 4, 0))
    drawn = {t: Counter(pick(snapshot, seed, temperature=t).row for seed in range(600)) for t in (0.01, 0.5, 100.0)}
    assert drawn[0.01] == {0: 600}
    assert drawn[0.5][0] > drawn[0.5][1] > drawn[0.5][2] > 20
    assert max(drawn[100.0].values()) - min(drawn[100.0].values()) < 90
    even = Counter(pick(scene(), seed, temperature=0.5).row for seed in range(300))
    assert len(even) == 3
    assert pick(snapshot, temperature=1e-9).row == 0


# --- Knobs -------------------------------------------------------------------------------------------------


def test_every_alias_names_a_knob() -> None:
    for name, ours in ALIASES.items():
        assert ours in Knobs.__struct_fields__ or ours == "overlap_weight", name


def test_names_in_any_spelling() -> None:
    assert read({"router-temperature": 1, "OVERLAP-CREDIT": 0.5}) == Knobs(temperature=1.0, overlap_credit=0.5)
    given = {
        "router_max_tree_size": 10,
        "use_kv_events": False,
        "router_ttl_secs": 3,
        "active_decode_blocks_threshold": 0.9,
    }
    assert read(given) == Knobs(index_blocks_max=10, events=False, approximate_ttl_s=3.0, busy_decode_blocks=0.9)


def test_the_one_weight_of_old_releases() -> None:
    assert read({"kv_overlap_score_weight": 2.0}) == Knobs(prefill_load_scale=2.0)
    assert read({"overlap_score_weight": 0}) == Knobs(prefill_load_scale=0.0, overlap_credit=0.0)
    assert read({"overlap_score_weight": None}) == Knobs()


def test_none_is_not_said_or_off() -> None:
    assert read({"queue_threshold": None}, Knobs(queue_threshold=1.0)).queue_threshold is None
    assert read({"router_session_affinity_ttl_secs": None}) == Knobs()
    assert (
        read({"router_predicted_ttl_secs": None}).predict is False and read({"predicted_ttl_secs": 2.0}).predict is True
    )


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"overlap": 1}, "there is no knob 'overlap'; there are overlap_credit, "),
        ({"temperature": -1}, "temperature is -1: it must be a number between 0 and"),
        ({"temperature": float("nan")}, "must be a number"),
        ({"temperature": "hot"}, "temperature is 'hot': it must be a number"),
        ({"prune_ratio": 2}, "between 0 and 1"),
        ({"sessions_max": 1.5}, "a whole number"),
        ({"queue_policy": "luck"}, "must be one of fcfs, lcfs, wspt"),
        ({"approximate_policy": "luck"}, "must be one of ttl, lru"),
        ({"events": 3}, "must be true or false"),
    ],
)
def test_mistakes_are_told(given: "dict[str, object]", complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(given)


def test_a_request_may_change_what_is_its_own_business() -> None:
    base = Knobs(temperature=0.5)
    assert overridden(base, {}) is base
    assert overridden(base, {"router_temperature": 0, "assume_kv_reuse": 0}) == Knobs(assume_reuse=False)
    with pytest.raises(
        ValueError, match="index_blocks_max cannot be set for one request; those that can: overlap_credit"
    ):
        overridden(base, {"max_tree_size": 5})


# --- Explanations ------------------------------------------------------------------------------------------


def decision(snapshot: Snapshot, **given: object) -> Decision:
    knobs = read(given, PLAIN)
    return Decision(7, 1, 2.5, PROMPT, snapshot, choose(snapshot, PROMPT, knobs, Random(1)), knobs)


def test_an_explanation_has_all_that_was_compared() -> None:
    found = explain(
        decision(scene(device=(0, 5, 2), blocks=(0, 0, 9), exact=(True, False, True)), prefill_load_scale=2)
    )
    assert [(one.node, one.device, one.cost, one.chosen) for one in found.candidates] == [
        (11, 5, 20.0, True),
        (10, 0, 30.0, False),
        (12, 2, 35.0, False),
    ]
    assert found.why == "kv: 5 of 10 blocks probably cached, cost 20.0 of 3 candidates, next 30.0"
    assert found.knobs == {"prefill_load_scale": 2.0, "decode_weight": 1.0}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=type(found)) == found
    lines = table(found, {11: "quick"})
    assert lines[0].startswith("160 tokens, 10 blocks: kv: 5 of 10")
    assert lines[2].split() == ["000000000000000b", "quick", "20.0", "5", "0", "0.0", "0", "0", "chosen,", "guessed"]


def test_an_explanation_of_a_refusal_and_of_a_hint() -> None:
    refused = decision(scene(prefill_tokens=(9, 9, 9)), busy_prefill_tokens=1)
    assert why(refused) == "kv: all 3 that could take it are busy" and refused.rank is None
    assert all(one.busy and not one.chosen for one in explain(refused).candidates)
    assert why(decision(scene(session=1))).endswith("its session was here")
    assert why(decision(scene())).endswith("drawn")


def test_a_large_mesh_is_not_told_in_full() -> None:
    found = explain(decision(scene(100, device=(*range(99), 0))))
    assert len(found.candidates) == ROWS_MAX and found.left_out == 36 and found.candidates[0].chosen
    assert table(found, {})[-1] == "  and 36 more that would have cost more"


def test_what_a_terminal_shows_names_nodes_and_says_nothing_twice() -> None:
    made = explain(decision(scene(device=(0, 5, 2))))
    stop = ToldStop("generate/m", 11, 0, made.why, made)
    told = Told(1, 2, 1, "generate/m", 99, 0.5, made.why, [stop])
    shown = lines(told, {11: "quick", 99: "here"})
    assert shown[0] == "request 0000000000000001-2, attempt 1: placed by 0000000000000063 here 0.5 s ago"
    assert shown[1] == "stop 1: generate/m at 000000000000000b quick"
    assert len(shown) == 7 and "\n".join(shown).count(made.why) == 1
    assert lines(replace(told, why="it is far"), {})[-1] == "why: it is far"
    assert lines(replace(told, stops=[], why="all are busy"), {})[1:] == ["nowhere: all are busy"]
