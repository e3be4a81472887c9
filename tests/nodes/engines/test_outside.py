"""Engines that run by themselves, in the host that drives them: tokens, ends, bursts, deaths, and the end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import pytest

from mesh.core import Failed, Finished, Go, Halt, Hint, Leg, Start, Yielded
from nodes import generation
from nodes.contract.engine import BlockEvent, EngineLoad, Job
from nodes.engines import outside
from nodes.engines.outside import EngineDead, EngineRefused, OutsideEngine, names
from nodes.generation import Generation
from nodes.host import OutsideHost
from proto.errors import Reason
from tests.nodes.engines.sources import VOCABULARY, Counter, counted, counter
from tests.nodes.hosting import start_of
from tests.nodes.test_host import Listener

Body = Callable[[OutsideHost, Listener], Awaitable[None]]


def play(source: Counter, body: Body) -> None:
    async def main() -> None:
        engine, listener = OutsideEngine(source), Listener()
        host = OutsideHost(engine, engine.start(), "generate/x", listener.crashed)
        host.attach(listener.post, asyncio.get_running_loop())
        try:
            await body(host, listener)
        finally:
            await host.close()
        assert source.stopped == 1 and not source.running
        assert not listener.crashes or host._closed
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, "tasks that nobody waits for"

    asyncio.run(main())


def begun(host: OutsideHost, number: int, prompt: list[int], count: int = 5, generated: tuple[int, ...] = ()) -> Leg:
    start = start_of(number, prompt, list(generated), Generation(count))
    host.start(start)
    return start.leg


def test_streams_are_what_the_engine_says() -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        legs = [begun(host, number, [5, 6, 7, 100 * number + 20], 30) for number in range(12)]
        await listener.until(lambda: len(listener.ends) == 12)
        for number, leg in enumerate(legs):
            assert listener.tokens[leg] == counted(100 * number + 20, 30)
            assert listener.ends[leg] == Finished(leg, Reason.LENGTH) and not host.holds(leg)
        counts = host.counts
        assert counts.generated_tokens == 360 and counts.cached_tokens == 36
        assert counts.computed_tokens - counts.prefilled_tokens == 360
        assert host.load() == EngineLoad(blocks_used=7, blocks_total=64)

    play(Counter(), body)


def test_what_comes_in_one_turn_is_one_step() -> None:
    source = Counter(slots=256)

    async def body(host: OutsideHost, listener: Listener) -> None:
        source.gate.clear()
        for number in range(200):
            begun(host, number, [number + 20], 1)
        await listener.until(lambda: len(source.running) == 200)
        assert host.load().waiting == 0 and host.load().prefill_tokens == 200
        before = listener.steps
        source.gate.set()
        await listener.until(lambda: len(listener.ends) == 200)
        assert listener.steps == before + 1

    play(source, body)


def test_a_cancelled_job_is_over_at_once_and_aborted_in_the_engine() -> None:
    source = Counter()

    async def body(host: OutsideHost, listener: Listener) -> None:
        stays, goes, enough = (begun(host, number, [100 * number + 20], 400) for number in range(3))
        await listener.until(lambda: all(len(listener.tokens.get(leg, ())) > 3 for leg in (stays, goes, enough)))
        host.halt(Halt(goes))
        host.hint(Hint(enough))
        await listener.until(lambda: len(listener.ends) == 2)
        assert isinstance(listener.ends[goes], Yielded) and isinstance(listener.ends[enough], Finished)
        said = len(listener.tokens[goes])
        await listener.until(lambda: len(source.aborted) == 2 and len(source.running) == 1)
        await listener.until(lambda: len(listener.tokens[stays]) > said + 20)
        assert len(listener.tokens[goes]) == said

    play(source, body)


def test_one_that_is_cancelled_before_it_ran_never_reaches_the_engine() -> None:
    source = Counter()

    async def body(host: OutsideHost, listener: Listener) -> None:
        leg = begun(host, 1, [20], 400)
        host.halt(Halt(leg))
        await listener.until(lambda: leg in listener.ends)
        again = begun(host, 1, [20], 3)
        assert again == leg
        listener.ends.clear()
        await listener.until(lambda: leg in listener.ends)
        assert listener.tokens[leg] == counted(20, 3) and not source.aborted

    play(source, body)


def test_a_resumed_job_gets_what_is_left_of_its_budget() -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        leg = begun(host, 1, [20], 10, (21, 22, 23))
        done = begun(host, 2, [20], 3, (21, 22, 23))
        stopped = begun(host, 3, [20], 10, (21, 1))
        await listener.until(lambda: len(listener.ends) == 3)
        assert listener.tokens == {leg: counted(23, 7)}
        assert listener.ends[done] == Finished(done, Reason.LENGTH)
        assert listener.ends[stopped] == Finished(stopped)

    play(Counter(), body)


def test_a_job_that_awaits_others_goes_on_after_what_they_made() -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        payload = generation.encode(Generation(6))
        start = Start(Leg(7, 1, 1), "generate/x", payload, [20], 0, [], b"", inf, "", {}, awaits=True)
        host.start(start)
        assert host.load().prefill_tokens == 0
        host.go(Go(start.leg, 1, [21]))
        await listener.until(lambda: start.leg in listener.ends)
        assert listener.tokens[start.leg] == counted(21, 5)

    play(Counter(), body)


@pytest.mark.parametrize(
    ("last", "reason", "retryable", "words"),
    [
        (13, Reason.FAILED, False, "the engine failed: ValueError: thirteen"),
        (14, Reason.UNAVAILABLE, True, "the server is busy"),
        (16, Reason.FAILED, False, "the engine cancelled it"),
        (17, Reason.FAILED, False, "without saying why"),
    ],
)
def test_one_failure_costs_one_job(last: int, reason: Reason, retryable: bool, words: str) -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        bad, good = begun(host, 1, [last], 4 if last == 17 else 9), begun(host, 2, [50], 9)
        if last == 17:
            host.core.runs[bad].length = 1
        await listener.until(lambda: len(listener.ends) == 2)
        failed = listener.ends[bad]
        assert isinstance(failed, Failed) and failed.reason is reason and failed.retryable is retryable
        assert words in failed.text
        assert listener.tokens[good] == counted(50, 9) and not listener.crashes

    source = Counter()
    if last == 17:
        source.card = source.card.__class__(**{**_fields(source.card), "context": 4096})
        stream = source.stream

        async def cut(job: Job) -> Any:
            async for piece in stream(job):
                if job.prompt != [17] or piece.tokens != [20]:
                    yield piece
                else:
                    return

        source.stream = cut  # type: ignore[method-assign]
    play(source, body)


def _fields(card: Any) -> dict[str, Any]:
    return {name: getattr(card, name) for name in card.__struct_fields__}


def test_an_engine_that_dies_is_a_crash_and_says_so_once() -> None:
    async def body(host: OutsideHost, listener: Listener) -> None:
        begun(host, 1, [50], 400)
        begun(host, 2, [15], 9)
        begun(host, 3, [15], 9)
        await listener.until(lambda: bool(listener.crashes))
        assert [str(error) for error in listener.crashes] == ["the core died"]

    play(Counter(), body)


@pytest.mark.parametrize("how", ["unwell", "raises", "hangs", "dead"])
def test_an_engine_that_is_not_well_is_a_crash(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(outside, "PROBE_S", 0.002)
    monkeypatch.setattr(outside, "PROBE_LONG_S", 0.002)
    monkeypatch.setattr(outside, "HANGS_S", 0.02)
    source = Counter()

    async def well() -> bool:
        if how == "hangs":
            await asyncio.Event().wait()
        if how == "raises":
            raise OSError("no answer")
        if how == "dead":
            raise EngineDead("it was killed")
        return False

    async def body(host: OutsideHost, listener: Listener) -> None:
        await listener.until(lambda: bool(listener.crashes))
        words = {"hangs": "hangs", "dead": "it was killed"}.get(how, "not well")
        assert words in str(listener.crashes[0])

    source.well = well  # type: ignore[method-assign]
    play(source, body)


def test_one_bad_answer_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "PROBE_S", 0.001)
    source, asked = Counter(), []

    def probe() -> bool:
        asked.append(1)
        return len(asked) % 2 == 0

    source.probe = probe

    async def body(host: OutsideHost, listener: Listener) -> None:
        async with asyncio.timeout(20):
            while len(asked) < 20:
                await asyncio.sleep(0)
        assert not listener.crashes

    play(source, body)


def test_an_engine_that_says_nothing_for_long_is_not_called_well(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Counter()

    async def body(host: OutsideHost, listener: Listener) -> None:
        assert host._is_well()
        source.gate.clear()
        leg = begun(host, 1, [20], 5)
        await listener.until(lambda: len(source.running) == 1)
        assert host._is_well()
        monkeypatch.setattr(outside, "QUIET_S", 0.0)
        assert not host._is_well()
        host.halt(Halt(leg))
        await listener.until(lambda: leg in listener.ends)
        assert host._is_well()

    play(source, body)


def test_what_its_cache_says_is_told_although_no_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "EVENTS_S", 0.001)
    source, told = Counter(), []

    class Teller:
        def feed(self, events: list[BlockEvent]) -> None:
            told.extend(events)

    async def body(host: OutsideHost, listener: Listener) -> None:
        host.core.teller = Teller()  # type: ignore[assignment]
        source.pending.append(BlockEvent("stored", [1, 2], 0, [5] * 32))
        await listener.until(lambda: bool(told))
        assert told == [BlockEvent("stored", [1, 2], 0, [5] * 32)]

    play(source, body)


def test_it_stops_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "STOP_S", 0.01)
    monkeypatch.setattr(outside, "ABORT_S", 0.01)
    source = Counter()
    source.stops = lambda: asyncio.Event().wait()

    async def body(host: OutsideHost, listener: Listener) -> None:
        source.gate.clear()
        begun(host, 1, [20], 5)
        await listener.until(lambda: len(source.running) == 1)

    began = time.monotonic()
    play(source, body)
    assert time.monotonic() - began < 10


def test_one_that_cannot_start_says_why_in_a_sentence() -> None:
    def exits() -> None:
        raise SystemExit(3)

    def raises() -> None:
        raise RuntimeError("Engine core initialization failed.\n See root cause above")

    for starts, words in ((exits, "SystemExit: 3"), (raises, "RuntimeError: Engine core initialization failed. See")):
        source, engine = counter()
        source.starts = starts
        with pytest.raises(EngineRefused) as caught:
            engine.start()
        assert words in str(caught.value) and "\n" not in str(caught.value)
        engine.stop()
        engine.stop()
        assert source.stopped == 1


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (Job("a", []), "the prompt is empty"),
        (Job("a", [VOCABULARY]), "outside the vocabulary"),
        (Job("a", [-1]), "outside the vocabulary"),
        (Job("a", [5] * 512), "no room in a context of 512"),
        (Job("a", [5], lora="x"), "x"),
        (Job("a", [5], embeds=True), "makes no embeddings"),
        (Job("a", [5], lora="broken"), "the adapter is broken"),
    ],
)
def test_what_can_never_run_is_refused_before_the_engine_sees_it(job: Job, words: str) -> None:
    source, engine = counter(loras=("broken",))
    source.refuses["broken"] = "the adapter is broken"
    engine.start()
    assert words in (engine.submit(job) or "")
    assert engine.idle() and engine.load().waiting == 0
    engine.stop()


def test_sleeping_takes_no_jobs() -> None:
    source = Counter()

    async def body(host: OutsideHost, listener: Listener) -> None:
        engine: OutsideEngine = host._outside
        engine.sleep(1)
        engine.sleep(1)
        assert engine.submit(Job("a", [5])) == "the engine is asleep" and engine.load().asleep == 0
        async with asyncio.timeout(20):
            while engine.load().asleep != 1:
                await asyncio.sleep(0)
        engine.wake()
        assert engine.submit(Job("a", [5])) == "the engine is asleep"
        async with asyncio.timeout(20):
            while engine.load().asleep:
                await asyncio.sleep(0)
        assert engine.submit(Job("a", [5])) is None
        assert source.slept == [1, 0]

    play(source, body)


def test_names_have_one_length() -> None:
    several = names()
    found = [next(several) for _ in range(1000)]
    assert len(set(found)) == 1000 and len({len(name) for name in found}) == 1
