"""What placing by cache does to a mesh: more is found in caches, and nobody is overrun."""

from functools import cache
from random import Random

from tests.nodes.routing.fleet import Fleet, Outcome


def text(random: Random, tokens: int) -> "list[int]":
    return [random.randrange(50_000) for _ in range(tokens)]


@cache
def shared_system_prompt(**given: object) -> Outcome:
    """Every prompt begins with the same 2,000 tokens; 200 are its own."""
    fleet = Fleet(workers=8, **given)  # type: ignore[arg-type]
    random = Random(5)
    system = text(random, 2000)
    when = 0.0
    for _ in range(600):
        when += random.expovariate(60.0)
        fleet.ask(when, system + text(random, 200), decode_s=random.uniform(0.5, 1.5))
    return fleet.run()


@cache
def conversations(**given: object) -> Outcome:
    """16 prefixes that a few conversations share, each of 8 turns that grow."""
    fleet = Fleet(workers=4, **given)  # type: ignore[arg-type]
    random = Random(6)
    prefixes = [text(random, 1500) for _ in range(16)]
    for prefix in prefixes:
        for _ in range(3):
            history = list(prefix)
            when = random.uniform(0.0, 10.0)
            for _ in range(8):
                history = history + text(random, 150)
                fleet.ask(when, history, decode_s=0.5)
                when += random.uniform(1.0, 3.0)
    return fleet.run()


def test_a_shared_system_prompt_makes_no_hot_spot() -> None:
    kv, load, turn = (
        shared_system_prompt(),
        shared_system_prompt(overlap_credit=0),
        shared_system_prompt(policy="round_robin"),
    )
    assert kv.unevenness < 1.25, kv.unevenness
    assert kv.ratio > load.ratio - 0.01
    assert kv.wait_s < 1.1 * min(load.wait_s, turn.wait_s), (kv.wait_s, load.wait_s, turn.wait_s)


def test_conversations_find_their_cache() -> None:
    kv, turn = conversations(), conversations(policy="round_robin")
    assert kv.ratio > 0.95 * kv.best, kv
    assert turn.ratio < 0.8 * kv.best
    assert kv.wait_s < 0.7 * turn.wait_s
    assert kv.unevenness < 1.5


def test_without_events_what_was_routed_does_nearly_as_well() -> None:
    exact, guessed = conversations(), conversations(events=False)
    assert guessed.ratio > 0.97 * exact.ratio


def test_small_caches_that_turn_out_much() -> None:
    """The index follows what is turned out, so no prompt waits where its blocks have been."""
    kv, turn = conversations(blocks=1000), conversations(blocks=1000, policy="round_robin")
    assert kv.ratio > 1.2 * turn.ratio


@cache
def burst(**given: object) -> Outcome:
    """Four prompts, each asked for six times within a few milliseconds."""
    fleet = Fleet(workers=8, **given)  # type: ignore[arg-type]
    random = Random(7)
    for group in range(4):
        prompt = text(random, 4000)
        for number in range(6):
            fleet.ask(group * 0.5 + number * 0.002, prompt + text(random, 20), decode_s=1.0)
    return fleet.run()


def test_a_burst_that_begins_alike_is_computed_less_often() -> None:
    """To wait for the first one takes as long as to compute it again, so some do; but nobody waits longer."""
    together, apart = burst(), burst(predict=False)
    assert together.computed < 0.9 * apart.computed
    assert together.wait_s <= apart.wait_s


def test_dynamos_weights_drive_conversations_from_their_caches() -> None:
    assert conversations(decode_weight=1.0).ratio < 0.9 * conversations().ratio


def test_new_prompts_that_come_at_once_wait_for_who_is_done_first() -> None:
    """Sixteen of about one length over four workers: their queues look alike, and one of them is nearly done."""
    waits: list[float] = []
    for seed in range(8):
        fleet, random = Fleet(workers=4, seed=seed), Random(seed)
        for number in range(16):
            tokens = range((16 * seed + number) * 10_000, (16 * seed + number) * 10_000 + 1_700 + number % 3)
            fleet.ask(random.uniform(0.0, 0.6), [*tokens], decode_s=0.5)
        fleet.run()
        waits += fleet.waits
    assert sorted(waits)[-3] < 0.135, "by a draw it would be 0.15"
