"""Engine hosts in a real event loop: the simulated engine in it, the computing one beside it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from mesh.core import Event, Failed, Finished, Halt, Hint, Leg, Progressed, Stepped, Yielded
from nodes import host as hosts
from nodes.contract.engine import Card, Engine, EngineLoad, Job, Sampling, Step
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Settings, SimEngine, continuation
from nodes.engines.timing import Timing
from nodes.faults import Fault
from nodes.generation import Generation
from nodes.host import BURST_STEPS, LoopHost, ThreadHost
from proto.errors import Reason
from tests.nodes.engines.models import engine_of, greedy, run
from tests.nodes.hosting import start_of

RANGE = (20, 119)
PATIENCE_S = 10.0
LIMITS = Limits(vocabulary=200, context=4096, block_tokens=4, blocks=4096, slots=8, step_tokens=64)


class Listener:
    """What an actor would be: it gets the events, and waits for some."""

    def __init__(self) -> None:
        self.tokens: dict[Leg, list[int]] = {}
        self.ends: dict[Leg, Event] = {}
        self.steps = 0
        self.crashes: list[BaseException] = []
        self.threads: set[int] = set()
        self._changed = asyncio.Event()

    def post(self, event: Event) -> None:
        self.threads.add(threading.get_ident())
        if isinstance(event, Stepped):
            self.steps += 1
            for leg, tokens, _ in event.made:
                assert leg not in self.ends
                self.tokens.setdefault(leg, []).extend(tokens)
        elif not isinstance(event, Progressed):
            assert isinstance(event, Finished | Failed | Yielded) and event.leg not in self.ends
            self.ends[event.leg] = event
        self._changed.set()

    def crashed(self, error: BaseException) -> None:
        self.crashes.append(error)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


Host = LoopHost | ThreadHost
Body = Callable[[Any, Listener], Awaitable[None]]


def sim(timing: Timing) -> SimEngine:
    return SimEngine(Settings(LIMITS, timing, RANGE), xxh3_64_intdigest)


def play(kind: type[Host], engine: Engine, body: Body) -> None:
    """Run a host around an engine in a loop of its own."""

    async def main() -> None:
        listener = Listener()
        host = kind(engine, engine.start(), "generate/x", listener.crashed)
        host.attach(listener.post, asyncio.get_running_loop())
        try:
            await body(host, listener)
        finally:
            await host.close()
        assert listener.threads <= {threading.get_ident()}, "events belong into the loop's thread"

    asyncio.run(main())


@pytest.mark.parametrize("kind", [LoopHost, ThreadHost])
@pytest.mark.parametrize("speedup", [0.0, 20.0])
def test_streams_are_what_was_promised(kind: type[Host], speedup: float) -> None:
    async def body(host: Host, listener: Listener) -> None:
        legs = []
        for number in range(12):
            start = start_of(number, [number, 5, 6], [], Generation(30))
            legs.append(start.leg)
            host.start(start)
            assert host.holds(start.leg)
        await listener.until(lambda: len(listener.ends) == 12)
        for number, leg in enumerate(legs):
            assert listener.tokens[leg] == continuation([number, 5, 6], 30, RANGE)
            assert listener.ends[leg] == Finished(leg, Reason.LENGTH) and not host.holds(leg)
        assert host.counts.steps == listener.steps >= 30
        assert host.load() == EngineLoad(0, 0, 0, 4096)

    play(kind, sim(Timing(speedup)), body)


def test_the_loop_reads_between_two_steps_that_take_no_time() -> None:
    async def body(host: LoopHost, listener: Listener) -> None:
        turns = 0

        def count() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(count)

        count()
        host.start(start_of(0, [1], [], Generation(200)))
        await listener.until(lambda: bool(listener.ends))
        assert turns >= 200 // BURST_STEPS

    play(LoopHost, sim(Timing(0.0)), body)


def test_steps_last_as_long_as_they_say() -> None:
    async def body(host: LoopHost, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        host.start(start_of(0, [1], [], Generation(51)))
        await listener.until(lambda: bool(listener.ends))
        assert 0.2 <= loop.time() - begin < 2.0

    play(LoopHost, sim(Timing(decode_ms=((0, 4.0),), prefill_ms=((0, 4.0),))), body)


@pytest.mark.parametrize("kind", [LoopHost, ThreadHost])
def test_halt_and_hint(kind: type[Host]) -> None:
    async def body(host: Host, listener: Listener) -> None:
        halted, hinted, other = (start_of(number, [number, 2], [], Generation(2000)) for number in range(3))
        for start in (halted, hinted, other):
            host.start(start)
        await listener.until(lambda: len(listener.tokens) == 3)
        host.halt(Halt(halted.leg))
        host.hint(Hint(hinted.leg))
        host.halt(Halt(Leg(1, 1, 1)))
        await listener.until(lambda: len(listener.ends) == 2)
        assert listener.ends == {halted.leg: Yielded(halted.leg), hinted.leg: Finished(hinted.leg)}
        assert host.holds(other.leg)
        said = listener.tokens[halted.leg]
        assert said == continuation([0, 2], len(said), RANGE)

    play(kind, sim(Timing(4.0)), body)


@pytest.mark.parametrize("kind", [LoopHost, ThreadHost])
def test_what_cannot_run_fails(kind: type[Host]) -> None:
    async def body(host: Host, listener: Listener) -> None:
        unread, refused = start_of(0, [1], [], b"?"), start_of(1, [999], [], Generation(1))
        host.start(unread)
        host.start(refused)
        await listener.until(lambda: len(listener.ends) == 2)
        assert all(isinstance(end, Failed) and end.reason is Reason.INVALID for end in listener.ends.values())
        assert host.counts.outcomes["refused"] == 2

    play(kind, sim(Timing(0.0)), body)


@pytest.mark.parametrize("kind", [LoopHost, ThreadHost])
def test_an_engine_that_raises_is_reported_once(kind: type[Host]) -> None:
    async def body(host: Host, listener: Listener) -> None:
        host.start(start_of(0, [1], [], Generation(2000)))
        await listener.until(lambda: bool(listener.tokens))
        engine.fault(Fault.CRASH)
        await listener.until(lambda: bool(listener.crashes))
        host.start(start_of(1, [1], [], Generation(3)))
        await asyncio.sleep(0.02)
        assert [str(error) for error in listener.crashes] == ["crashed on command"]
        assert not listener.ends

    engine = sim(Timing(4.0))
    play(kind, engine, body)


def test_a_mistake_of_ours_in_the_loop_is_a_crash_too() -> None:
    """Else the loop would log it, and the streams would never end."""

    async def body(host: ThreadHost, listener: Listener) -> None:
        def post(event: Event) -> None:
            raise AssertionError("ours")

        host.attach(post, asyncio.get_running_loop())
        host.start(start_of(0, [1], [], Generation(3)))
        await listener.until(lambda: bool(listener.crashes))

    class Unattached(ThreadHost):
        attached = False

        def attach(self, post: Callable[[Event], None], loop: asyncio.AbstractEventLoop) -> None:
            if self.attached:
                super().attach(post, loop)
            self.attached = True

    play(Unattached, sim(Timing(0.0)), body)


def test_a_hung_engine_can_be_woken() -> None:
    async def body(host: LoopHost, listener: Listener) -> None:
        start = start_of(0, [1, 2], [], Generation(40))
        host.start(start)
        await listener.until(lambda: bool(listener.tokens))
        engine.fault(Fault.HANG)
        await asyncio.sleep(0.03)
        steps = listener.steps
        await asyncio.sleep(0.03)
        assert listener.steps == steps
        engine.fault(Fault.NONE)
        host.wake()
        await listener.until(lambda: bool(listener.ends))
        assert listener.tokens[start.leg] == continuation([1, 2], 40, RANGE)

    engine = sim(Timing(10.0))
    play(LoopHost, engine, body)


def test_the_numpy_engine_computes_beside_the_loop() -> None:
    """The same tokens as by itself, log-probabilities included, and the loop turns meanwhile."""
    engine = engine_of("llama")
    engine.submit(greedy("alone", [5, 6, 7], 20))
    alone = run(engine)["alone"].tokens

    async def body(host: ThreadHost, listener: Listener) -> None:
        wanted = Generation(20, ignore_eos=True, sampling=Sampling(temperature=0.0, logprobs=1))
        start = start_of(0, [5, 6, 7], [], wanted)
        host.start(start)
        await listener.until(lambda: bool(listener.ends))
        assert listener.tokens[start.leg] == list(alone)
        resumed = start_of(1, [5, 6, 7], list(alone[:9]), wanted)
        host.start(resumed)
        await listener.until(lambda: len(listener.ends) == 2)
        assert listener.tokens[resumed.leg] == list(alone[9:])

    play(ThreadHost, engine_of("llama"), body)


class Slow:
    """An engine whose step waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.in_step = threading.Event()
        self.cancelled: list[object] = []
        self.jobs: list[Job] = []

    def start(self) -> Card:
        return Card("slow", "x", 100, 100, 1, 4, 4)

    def submit(self, job: Job) -> str | None:
        self.jobs.append(job)
        return None

    def cancel(self, key: object, out: memoryview | None = None) -> int:
        self.cancelled.append(key)
        self.jobs = [job for job in self.jobs if job.key != key]
        return 0

    def land(self, key: object, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        raise AssertionError("nothing lands here")

    def attach(self, below: object) -> None:
        raise AssertionError("there is nothing below")

    def stir(self) -> None: ...

    def step(self) -> Step:
        self.in_step.set()
        assert self.go.wait(PATIENCE_S)
        return Step()

    def load(self) -> EngineLoad:
        return EngineLoad()

    def idle(self) -> bool:
        return not self.jobs

    def stop(self) -> None:
        self.jobs = []


def test_a_cancel_is_answered_when_the_step_that_runs_is_over() -> None:
    """Not one step later: what the engine reports in its next step is told when it has been cancelled."""
    engine = Slow()

    async def body(host: ThreadHost, listener: Listener) -> None:
        first, second = start_of(0, [1], [], Generation(9)), start_of(1, [1], [], Generation(9))
        host.start(first)
        host.start(second)
        await asyncio.get_running_loop().run_in_executor(None, engine.in_step.wait, PATIENCE_S)
        host.halt(Halt(first.leg))
        await asyncio.sleep(0.01)
        assert not listener.ends, "the step that runs still has its slot"
        engine.in_step.clear()
        engine.go.set()
        await listener.until(lambda: bool(listener.ends))
        assert listener.ends == {first.leg: Yielded(first.leg)}
        host.halt(Halt(second.leg))
        await listener.until(lambda: len(listener.ends) == 2)

    play(ThreadHost, engine, body)
    assert len(engine.cancelled) == 2


class Busy(Slow):
    """An engine whose step computes until it is let go."""

    def step(self) -> Step:
        while not self.go.is_set():
            pass
        return Step()


@pytest.mark.parametrize("engine", [Busy(), Slow()], ids=["computes", "hangs"])
def test_a_long_step_that_computes_is_progress_and_one_that_hangs_is_none(
    engine: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PULSE_S", 0.05)
    progress: list[Event] = []

    async def body(host: ThreadHost, listener: Listener) -> None:
        await listener.until(lambda: bool(progress))  # idle: nothing that could hang
        progress.clear()
        host.start(start_of(0, [1], [], Generation(9)))
        if isinstance(engine, Busy):
            await listener.until(lambda: len(progress) > 2)
        else:
            await asyncio.sleep(0.3)
            assert not progress[1:]
        engine.go.set()
        host.halt(Halt(Leg(7, 0, 1)))
        await listener.until(lambda: bool(listener.ends))

    class Told(ThreadHost):
        def attach(self, post: Callable[[Event], None], loop: asyncio.AbstractEventLoop) -> None:
            super().attach(lambda event: told(event, post), loop)

    def told(event: Event, post: Callable[[Event], None]) -> None:
        if isinstance(event, Progressed):
            progress.append(event)
        post(event)

    play(Told, engine, body)


def test_an_idle_engine_costs_nothing() -> None:
    async def body(host: ThreadHost, listener: Listener) -> None:
        host.start(start_of(0, [1], [], Generation(3)))
        await listener.until(lambda: bool(listener.ends))
        host._computes()
        await asyncio.sleep(0.2)
        assert not host._computes(), "its thread sleeps"

    play(ThreadHost, sim(Timing(0.0)), body)


def test_an_offer_names_the_model_and_its_room() -> None:
    async def body(host: Host, listener: Listener) -> None:
        offer = host.offer()
        assert (offer.endpoint, offer.resumable) == ("generate/x", True)
        assert offer.slots == 8 + (hosts.AHEAD if isinstance(host, ThreadHost) else 0)

    for kind in (LoopHost, ThreadHost):
        play(kind, sim(Timing(0.0)), body)
