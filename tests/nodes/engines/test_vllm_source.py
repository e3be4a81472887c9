"""vLLM's source with an engine that only says what it was asked for: sleep, and a hand-over that does not fit."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from nodes.contract.engine import Ending, Job, Sampling
from nodes.engine_options import EngineOptions
from nodes.engines.kv_feed import KvFeed
from nodes.engines.outside import EngineDead
from nodes.engines.vllm.params import Asked, word
from nodes.engines.vllm.source import FORGETS_MAX, VllmSource

GREEDY = Sampling(temperature=0.0)


def source_of() -> VllmSource:
    return VllmSource(Path("model"), EngineOptions("model", engine="vllm"), (), 100)


# --- Sleep -------------------------------------------------------------------------------------------------


class Sleepy:
    """What vLLM's engine is asked for, in order."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def sleep(self, level: int) -> None:
        self.asked.append(("sleep", level))

    async def wake_up(self, tags: list[str] | None = None) -> None:
        self.asked.append(("wake", tags))

    async def collective_rpc(self, method: str) -> None:
        self.asked.append(method)


@pytest.mark.parametrize(
    ("level", "wakes"), [(1, [("wake", None)]), (2, [("wake", ["weights"]), "reload_weights", ("wake", ["kv_cache"])])]
)
def test_whoever_gave_its_weights_away_reads_them_again(level: int, wakes: list[object]) -> None:
    """vLLM itself would go on with whatever is in that memory."""
    source = source_of()
    source._engine = engine = Sleepy()
    with zmq.Context() as context:
        feed = KvFeed(context, "ipc:///nowhere/a", "ipc:///nowhere/b", lambda data: 1, rank=1)
        source._feeds = [feed]
        asyncio.run(source.sleep(level))
        assert [(event.kind, event.rank) for event in source.events()] == [("cleared", 1)], "routers hear it at once"
        asyncio.run(source.wake())
        feed.close()
    assert engine.asked == [("sleep", level), *wakes]
    assert not source._forgotten


# --- A hand-over -------------------------------------------------------------------------------------------


class Told(VllmSource):
    """vLLM says one answer after the other."""

    answers: list[Sequence[int]]
    asked: list[Asked]
    forgotten = 0
    fetching = 0  # how often it cannot forget

    async def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        self.fetching -= 1
        if self.fetching >= 0:
            raise RuntimeError("some wait for a remote transfer")
        self.forgotten += reset_running_requests
        return True

    def _generate(self, job: Job, wanted: Asked, lora: Any) -> Any:
        self.asked.append(wanted)
        return outputs(self.answers[len(self.asked) - 1])


async def outputs(tokens: Sequence[int]) -> AsyncIterator[Any]:
    for token in tokens:
        ends = "length" if token == tokens[-1] else None
        made = SimpleNamespace(token_ids=[token], logprobs=None, finish_reason=ends)
        yield SimpleNamespace(outputs=[made], num_cached_tokens=0, kv_transfer_params=None)


def said(
    job: Job, *answers: Sequence[int], forgets: int = 0, exact: bool = True, fetching: int = 0
) -> tuple[list[int], list[Asked]]:
    """All tokens that come of a job, and what vLLM was asked for. `forgets`: how often its whole cache was wrong."""
    source = Told(Path("model"), EngineOptions("model", engine="vllm"), (), 100)
    source._said = SimpleNamespace(keyed=True, processed=False, lease_s=30.0)  # type: ignore[assignment]
    source.answers, source.asked = list(answers), []
    source._engine, source._exact, source.fetching = source, exact, fetching

    async def read() -> list[int]:
        pieces = [piece async for piece in source.stream(job)]
        assert pieces[-1].ending is Ending.LENGTH
        return [token for piece in pieces for token in piece.tokens]

    tokens = asyncio.run(read())
    assert source.forgotten == forgets
    return tokens, source.asked


def fed(*generated: int) -> Job:
    """One whose prompt was computed elsewhere, just now."""
    prompt = [5, 6, 7]
    native = word({"remote": 1}, len(prompt), FETCHED_AT, 30.0)
    return Job("a", prompt, generated=list(generated), max_tokens=4, native=native, sampling=GREEDY)


FETCHED_AT = 1_000_000.0


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.engines.vllm.source.time", SimpleNamespace(time=lambda: FETCHED_AT))


def test_what_the_prefill_said_is_not_said_again() -> None:
    tokens, asked = said(fed(60), [60, 61, 62, 63])
    assert tokens == [61, 62, 63] and [one.tokens for one in asked] == [[5, 6, 7]]


@pytest.mark.parametrize("exact", [True, False])
def test_a_cache_with_another_beginning_is_computed_anew(exact: bool) -> None:
    """Whatever was fetched, it was not this prompt's: it is asked for again, nothing of it is told, nor found again.

    Where numbers are coarse it may well be this prompt's.
    """
    tokens, asked = said(fed(60), [70, 71, 72, 73], [61, 62, 63], forgets=int(exact), exact=exact)
    assert tokens == [61, 62, 63]
    assert [one.tokens for one in asked] == [[5, 6, 7], [5, 6, 7, 60]]
    assert "extra_args" not in asked[1].params, "without the cache that was offered"


def test_a_wrong_cache_that_cannot_be_forgotten_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other requests that are being fetched hinder it for a moment."""
    monkeypatch.setattr("nodes.engines.vllm.source.FORGET_S", 0.0)
    tokens, _ = said(fed(60), [70, 71, 72, 73], [61, 62, 63], forgets=1, fetching=FORGETS_MAX - 1)
    assert tokens == [61, 62, 63]
    with pytest.raises(EngineDead, match="cannot forget it"):
        said(fed(60), [70, 71, 72, 73], [61, 62, 63], fetching=FORGETS_MAX)
