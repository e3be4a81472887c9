"""Two vLLM engines, one of which computes prompts for the other: exact, and what nobody fetches is free again.

Needs vLLM and NIXL: ./launch/test.sh --engine vllm
"""

import gc
import json
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import count

import pytest

if any(find_spec(name) is None for name in ("vllm", "nixl")):
    pytest.skip("vLLM is not installed here, or NIXL", allow_module_level=True)

from nodes.contract.engine import Ending, Job, Output
from nodes.folder import folder_of
from tests.conftest import children, threads
from tests.engines.harness import Harness, job
from tests.engines.of_vllm import kill_core, vllm
from tests.engines.reference import greedy

CACHE_BYTES = 64 << 20
LEASE_S = 8
CONNECTOR = {
    "kv_connector": "NixlConnector",
    "kv_load_failure_policy": "recompute",
    "kv_connector_extra_config": {"kv_lease_duration": LEASE_S},
}
PORT = "VLLM_NIXL_SIDE_CHANNEL_PORT"
NEW = 12
SLOTS = 4


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """As for every test, but for descriptors of vLLM's."""
    before = threads() | children()
    yield
    gc.collect()
    assert not (threads() | children()) - before


def opened(role: str) -> Harness:
    """An engine with a side channel of its own, as each has that is alone in its process."""
    os.environ.pop(PORT, None)
    config = {**CONNECTOR, "kv_role": "kv_producer" if role == "prefill" else "kv_consumer"}
    words = ("--kv-transfer-config", json.dumps(config))
    return Harness(vllm(folder_of("demo"), SLOTS, CACHE_BYTES, True, *words, role=role), outside=True)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Harness, Harness]]:
    first = opened("prefill")
    try:
        second = opened("decode")
        try:
            yield first, second
        finally:
            second.stop()
    finally:
        first.stop()
        os.environ.pop(PORT, None)


def prompt(seed: int, length: int) -> list[int]:
    return [100 + (seed * 7919 + at * 31) % 1200 for at in range(length)]


def stranger(given: Sequence[int]) -> list[int]:
    """Another prompt, of the same length. With its cache another token would come."""
    others = (prompt(seed, len(given)) for seed in count(1000))
    return next(other for other in others if greedy([*other[:-1], given[-1]], 1) != greedy(given, 1))


def fed(harness: Harness, key: str, given: Sequence[int]) -> Output:
    """A prompt that is computed for another."""
    (found,) = harness.run(job(key, given, 1, feeds=True))
    assert list(found.tokens) == greedy(given, 1) and found.native
    return found


def test_who_goes_on_says_what_one_engine_would_have_said(pair: tuple[Harness, Harness]) -> None:
    first, second = pair
    for length in (5, 31, 32, 33, 64, 300):
        given = prompt(length, length)
        found = fed(first, f"exact {length}", given)
        wanted = job(f"exact {length}", given, NEW, generated=found.tokens, native=found.native)
        (rest,) = second.run(wanted)
        assert [*found.tokens, *rest.tokens] == greedy(given, NEW), length
    first.rests()
    second.rests()


def test_it_is_fetched_indeed(pair: tuple[Harness, Harness]) -> None:
    """Who is given another prompt's cache, and no token to compare with, goes on with that prompt."""
    first, second = pair
    other = prompt(500, 96)
    given = [*prompt(501, 95), other[-1]]  # the last is computed by who goes on
    assert greedy(given, NEW) != greedy(other, NEW)
    (found,) = second.run(job("fetched", given, NEW, native=fed(first, "fetched", other).native))
    assert list(found.tokens) == greedy(other, NEW)


def test_another_prompts_cache_is_not_followed(pair: tuple[Harness, Harness]) -> None:
    first, second = pair
    given, other = prompt(502, 96), fed(first, "other", prompt(503, 96))
    said = greedy(given, NEW)
    assert said[:1] != greedy([*prompt(503, 95), given[-1]], 1), "or it could not be seen"
    (found,) = second.run(job("other", given, NEW, generated=said[:1], native=other.native))
    assert [said[0], *found.tokens] == said
    (again,) = second.run(job("found", given, NEW))
    assert list(again.tokens) == said, "and nobody finds it under this prompt's name"


def fetching(first: Harness, seed: int, wrong: object) -> Job:
    """A job whose prompt was computed by another; or another prompt was."""
    given = prompt(seed, 96)
    native = fed(first, f"fed {seed}", stranger(given) if wrong else given).native
    return job(f"fetches {seed}", given, NEW, generated=greedy(given, 1), native=native)


def alike(seed: int) -> list[Job]:
    """The same prompt, and one that begins like it."""
    given = prompt(seed, 96)
    return [job(f"same {seed}", given, NEW), job(f"alike {seed}", [*given[:64], *stranger(given)[64:]], NEW)]


def test_wrong_ones_among_right_ones_spoil_nobodys_words(pair: tuple[Harness, Harness]) -> None:
    first, second = pair
    jobs = [one for seed in range(600, 608) for one in (fetching(first, seed, seed % 2), *alike(seed))]
    for one, asked in zip(second.run(*jobs), jobs, strict=True):
        assert [*asked.generated, *one.tokens] == greedy(asked.prompt, NEW), asked.key
    for number, asked in enumerate(jobs):
        (again,) = second.run(job(f"again {number}", asked.prompt, NEW))
        assert list(again.tokens) == greedy(asked.prompt, NEW), "and nobody finds what was wrong"
    second.rests()


def test_who_is_given_a_wrong_one_before_it_is_known_does_not_speak(pair: tuple[Harness, Harness]) -> None:
    """All slots are taken when it has come, and get free at once: those who begin alike start beside who fetched it."""
    first, second = pair
    for seed in range(620, 623):
        busy = [job(f"busy {seed} {number}", prompt(10 * seed + number, 8), 100) for number in range(SLOTS)]
        jobs = [*busy[1:], fetching(first, seed, True), busy[0], *alike(seed)]
        for one, asked in zip(second.run(*jobs), jobs, strict=True):
            assert [*asked.generated, *one.tokens] == greedy(asked.prompt, asked.max_tokens), asked.key
    second.rests()


def test_what_nobody_fetches_is_free_after_its_lease_and_not_fetched_then(pair: tuple[Harness, Harness]) -> None:
    first, second = pair
    given = prompt(504, 200)
    found = fed(first, "late", given)
    assert first.load().blocks_used > 0, "it is kept for who may come"
    first.rests()
    for number in range(4):  # whose cache lies where the other's lay
        first.run(job(f"over it {number}", prompt(505 + number, 900), 2))
    (rest,) = second.run(job("late", given, NEW, generated=found.tokens, native=found.native))
    assert [*found.tokens, *rest.tokens] == greedy(given, NEW)


def test_given_up_on_either_side_nothing_stays(pair: tuple[Harness, Harness]) -> None:
    first, second = pair
    first.take(job("no prefill", prompt(510, 900), 1, feeds=True))
    first.cancel("no prefill")
    first.rests()
    found = fed(first, "no decode", prompt(511, 400))
    second.take(job("no decode", prompt(511, 400), NEW, generated=found.tokens, native=found.native))
    second.cancel("no decode")
    second.rests()
    first.rests()
    given = prompt(512, 70)
    after = fed(first, "after", given)
    (rest,) = second.run(job("after", given, NEW, generated=after.tokens, native=after.native))
    assert [*after.tokens, *rest.tokens] == greedy(given, NEW)


def test_who_is_dead_is_not_waited_for(pair: tuple[Harness, Harness]) -> None:
    first, second = pair
    given = prompt(513, 150)
    found = fed(first, "dead", given)
    kill_core(first.engine)
    (rest,) = second.run(job("dead", given, NEW, generated=found.tokens, native=found.native))
    assert ([*found.tokens, *rest.tokens], rest.ending) == (greedy(given, NEW), Ending.LENGTH)
    second.rests()
