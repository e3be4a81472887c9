"""The cache of the numpy engine, handed over: to the bit, whatever the model, the block size and the moment."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from nodes.contract.engine import Job, Output, Sampling
from nodes.engines.numpy.engine import NumpyEngine
from nodes.engines.numpy.exchange import Exchange, stretches
from nodes.engines.scheduler import Running
from nodes.transfer.layout import Layout
from tests.nodes.engines.handing import advanced, carried, room
from tests.nodes.engines.models import collect, engine_of, run
from tests.nodes.engines.test_exact import alone, block_bytes, same

MODELS = ["llama", "mistral", "qwen2-window", "qwen3"]  # grouped heads, windows and norms of heads among them
SIZES = [1, 2, 4, 16, 32]


def layout_of(engine: NumpyEngine) -> Layout:
    found = engine._running._exchange.layout
    assert found.block_bytes
    return found


# --- The memory alone ------------------------------------------------------------------------------------


def memory(size: int, blocks: int = 12, layers: int = 2, heads: int = 3, width: int = 4) -> Exchange:
    """All numbers are different."""
    shape = layers, heads, width, blocks * size
    keys = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    values = -1 - keys.transpose(0, 1, 3, 2).copy()
    return Exchange(keys, values, size)


def sequence(blocks: list[int]) -> Running:
    return Running(Job("key", [1]), "key", (0, 0), [1], 9, frozenset(), 0, blocks=blocks)


@given(st.permutations(range(12)), st.integers(1, 5), st.integers(0, 60), st.integers(0, 60))
def test_stretches_are_the_positions(blocks: list[int], size: int, start: int, stop: int) -> None:
    stop = min(stop, len(blocks) * size)
    found: list[tuple[int, int]] = []
    for index, count, first, last in stretches(blocks, size, start, stop):
        assert blocks[index : index + count] == list(range(blocks[index], blocks[index] + count))
        found += [(block, token) for block in range(index, index + count) for token in range(first, last)]
    assert found == [divmod(position, size) for position in range(start, stop)]


@given(st.permutations(range(12)), st.integers(1, 5), st.integers(0, 60), st.integers(0, 60))
def test_out_and_in_again(blocks: list[int], size: int, start: int, stop: int) -> None:
    """Each number is where the layout says, nothing else is touched, and all comes back."""
    stop = min(stop, len(blocks) * size)
    one, other = memory(size), memory(size)
    other._keys[...] = other._values[...] = 0.5
    out = room(one.layout, len(blocks) * size)
    one.gather(sequence(blocks), start, stop, out)
    content = np.frombuffer(out, np.float32).reshape(len(blocks), 2, 2, 3, size, 4)
    marks = np.frombuffer(room(one.layout, size), np.float32)[0]
    for position in range(len(blocks) * size):
        index, token = divmod(position, size)
        slot = blocks[index] * size + token
        if start <= position < stop:
            np.testing.assert_array_equal(content[index, :, 0, :, token], one._keys[..., slot])
            np.testing.assert_array_equal(content[index, :, 1, :, token], one._values[:, :, slot])
        else:
            assert (content[index, :, :, :, token] == marks).all()
    other.scatter(sequence(blocks), start, stop, out)
    slots = [blocks[position // size] * size + position % size for position in range(start, stop)]
    rest = [slot for slot in range(12 * size) if slot not in slots]
    np.testing.assert_array_equal(other._keys[..., slots], one._keys[..., slots])
    np.testing.assert_array_equal(other._values[:, :, slots], one._values[:, :, slots])
    assert (other._keys[..., rest] == 0.5).all() and (other._values[:, :, rest] == 0.5).all()


# --- Engines ---------------------------------------------------------------------------------------------


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    shared = draw(st.lists(st.integers(0, 69), min_size=20, max_size=20))
    found = []
    for key in range(draw(st.integers(1, 5))):
        prompt = [*shared[: draw(st.integers(0, 20))], *draw(st.lists(st.integers(0, 69), min_size=1, max_size=20))]
        sampling = Sampling(draw(st.sampled_from([0.0, 1.0])), seed=key, logprobs=2, frequency_penalty=0.5)
        found.append(Job(key, prompt, max_tokens=draw(st.integers(1, 12)), ignore_eos=True, sampling=sampling))
    return found


@cache
def holder(name: str, role: str, size: int, step: int, caching: bool) -> NumpyEngine:
    blocks = 3 * (64 // size) + 6
    bytes_ = blocks * block_bytes(name) * size // 4
    return engine_of(
        name, exact=True, block_tokens=size, slots=4, step_tokens=step, cache_bytes=bytes_, caching=caching
    )


def joined(*parts: Output) -> Output:
    tokens = [token for part in parts for token in part.tokens]
    logprobs = [row for part in parts for row in part.logprobs]
    return Output(parts[0].key, tokens, logprobs, parts[-1].ending)


@pytest.mark.parametrize("name", MODELS)
@given(jobs(), st.sampled_from(SIZES), st.sampled_from(SIZES), st.sampled_from([4, 9, 40]), st.booleans(), st.data())
@settings(max_examples=12)
def test_prefill_here_and_decode_there_is_aggregated_to_the_bit(
    name: str, jobs: list[Job], size: int, other_size: int, step: int, caching: bool, data: st.DataObject
) -> None:
    """Tokens and log-probabilities; all of the prompt comes, or some of it, or nothing."""
    first, second = holder(name, "first", size, step, caching), holder(name, "second", other_size, step, caching)
    first.clear()
    second.clear()
    outs = {job.key: room(layout_of(first), len(job.prompt)) for job in jobs}
    for job in jobs:
        assert first.submit(structs.replace(job, max_tokens=1, out=outs[job.key])) is None
        assert second.submit(structs.replace(job, lands=True)) is None
    begun = run(first)
    found: dict[Any, Output] = {}
    whole = True
    for job in jobs:
        advanced(second, 1, found)
        here = begun[job.key].exported
        assert here == len(job.prompt)
        came = data.draw(st.sampled_from([here, here, here, here // 2, 0]))
        whole &= came == here
        source = carried(outs[job.key], layout_of(first), layout_of(second))
        second.land(job.key, source, came, begun[job.key].tokens)
        source[:] = b"\xdd" * len(source)
    computed = advanced(second, 1000, found)
    assert not whole or not computed
    for job in jobs:
        assert same(joined(begun[job.key], found[job.key]), alone(name, job))


@pytest.mark.parametrize("name", MODELS)
@given(jobs(), st.sampled_from(SIZES), st.sampled_from(SIZES), st.integers(1, 12))
@settings(max_examples=12)
def test_a_hand_over_at_any_step_computes_nothing_again(
    name: str, jobs: list[Job], size: int, other_size: int, steps: int
) -> None:
    """In the middle of a prompt too: then only what is missing is computed."""
    old, new = holder(name, "first", size, 9, True), holder(name, "second", other_size, 9, True)
    old.clear()
    new.clear()
    found: dict[Any, Output] = {}
    for job in jobs:
        assert old.submit(job) is None
    advanced(old, steps, found)
    missing, moved = 0, []
    for job in jobs:
        whole = found.setdefault(job.key, Output(job.key, [], []))
        if whole.ending is not None:
            continue
        out = room(layout_of(old), 64)
        positions = old.cancel(job.key, out)
        length = len(job.prompt) + len(whole.tokens)
        missing += 0 if positions == length - 1 else length - positions
        assert new.submit(structs.replace(job, generated=[*whole.tokens], lands=True)) is None
        new.land(job.key, carried(out, layout_of(old), layout_of(new)), positions, ())
        moved.append(job.key)
    run(old)
    rest: dict[Any, Output] = {}
    assert advanced(new, 1000, rest) <= missing
    for job in jobs:
        parts = [found[job.key], rest[job.key]] if job.key in moved else [found[job.key]]
        assert same(joined(*parts), alone(name, job))


def test_fast_tokens_are_those_of_one_engine_too() -> None:
    """Without `exact`: 24 jobs, greedy and sampled."""
    first, second, whole = (engine_of("qwen2", slots=8) for _ in range(3))
    for key in range(24):
        sampling = Sampling(temperature=key % 2, seed=key)
        job = Job(key, [key, 2, 3, key + 9, 11, 12], max_tokens=12, ignore_eos=True, sampling=sampling)
        out = room(layout_of(first), 6)
        first.submit(structs.replace(job, max_tokens=1, out=out))
        begun = run(first)[key]
        whole.submit(job)
        second.submit(structs.replace(job, lands=True))
        collect(second.step(), {})
        second.land(key, out, 6, begun.tokens)
        assert [*begun.tokens, *run(second)[key].tokens] == run(whole)[key].tokens
