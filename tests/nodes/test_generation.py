"""Payloads: what was meant arrives, and nothing that an engine would die of does."""

from contextlib import suppress
from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes import generation
from nodes.contract.engine import Ending, Logprobs, Sampling
from nodes.generation import Generation
from tests.nodes.engines.models import engine_of, run

REFUSED: list[tuple[str, Any]] = [
    ("max_tokens", -1),
    ("stop_token", (5, -1)),
    ("min_tokens", -1),
    ("stop_tokens", tuple(range(generation.STOPS_MAX + 1))),
    ("cache_salt", "x" * (generation.SALT_CHARS_MAX + 1)),
    ("priority", 2**40),
]
FIELDS = {"stop_token": "stop_tokens"}  # a complaint about one of them
SAMPLINGS: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", nan),
    ("temperature", inf),
    ("top_p", 1.1),
    ("top_k", -2),
    ("min_p", -0.5),
    ("repetition_penalty", 0.0),
    ("frequency_penalty", -inf),
    ("presence_penalty", nan),
    ("logprobs", 1_000_000),
    ("logit_bias", {1: inf}),
    ("logit_bias", {1: nan}),
    ("logit_bias", dict.fromkeys(range(generation.BIASES_MAX + 1), 0.0)),
]

samplings = st.builds(
    Sampling,
    temperature=st.one_of(st.just(0.0), st.floats(0, generation.TEMPERATURE_MAX)),
    top_p=st.floats(0, 1),
    top_k=st.integers(-1, generation.TOP_K_MAX),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(1e-3, 1e3),
    frequency_penalty=st.floats(-1e3, 1e3),
    presence_penalty=st.floats(-1e3, 1e3),
    logit_bias=st.dictionaries(st.integers(0, 69), st.floats(-1e3, 1e3), max_size=4),
    seed=st.integers(-(2**63), 2**64 - 1),
    logprobs=st.integers(-1, generation.LOGPROBS_MAX),
)
generations = st.builds(
    Generation,
    max_tokens=st.integers(0, 2**31),
    min_tokens=st.integers(0, 2**40),
    stop_tokens=st.lists(st.integers(0, 100) | st.integers(0, 2**31), max_size=5).map(tuple),
    ignore_eos=st.booleans(),
    sampling=samplings,
    cache_salt=st.text(max_size=20),
    priority=st.integers(-generation.PRIORITY_MAX, generation.PRIORITY_MAX),
)


@given(generations)
def test_what_was_meant_arrives(wanted: Generation) -> None:
    assert generation.decode(generation.encode(wanted)) == wanted


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_a_field_that_no_engine_could_run(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field.replace("_", ".")):
        generation.decode(generation.encode(Generation(**{FIELDS.get(field, field): value})))


@pytest.mark.parametrize(("field", "value"), SAMPLINGS)
def test_a_sampling_that_no_engine_could_compute(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        generation.decode(generation.encode(Generation(sampling=Sampling(**{field: value}))))


@given(
    st.one_of(st.binary(max_size=60), st.builds(msgspec.msgpack.encode, st.lists(st.integers(-9, 2**63) | st.text())))
)
def test_any_bytes_are_a_generation_or_a_sentence(payload: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(generation.decode(payload), Generation)


@given(generations)
@settings(max_examples=60)
def test_nothing_that_is_accepted_kills_a_real_engine(wanted: Generation) -> None:
    """The golden model computes with it, and gives something that ends."""
    engine = engine_of("llama")
    job = generation.job_of("x", wanted, [5, 6, 7], [], 70)
    job.max_tokens = min(job.max_tokens, 6)
    assert engine.submit(job) is None
    output = run(engine)["x"]
    assert output.ending in (Ending.STOP, Ending.LENGTH, Ending.FAILED)


@given(st.floats(-100, 0), st.lists(st.tuples(st.integers(0, 2**20), st.floats(-100, 0)), max_size=20))
def test_log_probabilities_travel(chosen: float, top: list[tuple[int, float]]) -> None:
    given_ = Logprobs(chosen, top)
    assert generation.decode_logprobs(generation.encode_logprobs(given_)) == given_


@given(st.binary(max_size=30))
def test_an_item_that_is_no_row(item: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(generation.decode_logprobs(item), Logprobs)
