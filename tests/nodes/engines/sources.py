"""An engine that runs by itself, for tests: it counts upwards, and does what it is told to do wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from nodes.contract.engine import BlockEvent, Card, Ending, EngineLoad, Job
from nodes.engines.outside import EngineDead, JobLost, OutsideEngine, Piece, budget_of, sequence_of
from nodes.metrics import gauge

VOCABULARY = 10_000


class Counter:
    """Says the number after its last, and so on. `gate` holds all streams until it is set."""

    def __init__(self, **card: Any) -> None:
        given = {"engine": "counter", "model": "x", "vocabulary": VOCABULARY, "context": 512, "slots": 64}
        self.card = Card(**{**given, "block_tokens": 16, "blocks": 64, "eos_tokens": (1,), **card})
        self.gate = asyncio.Event()
        self.gate.set()
        self.running: dict[Any, Job] = {}
        self.aborted: list[Any] = []
        self.pending: list[BlockEvent] = []
        self.probe: Callable[[], bool] = lambda: True
        self.refuses: dict[str, str] = {}
        self.starts: Callable[[], None] = lambda: None
        self.stops: Callable[[], Any] = lambda: asyncio.sleep(0)
        self.stopped = 0
        self.slept: list[int] = []

    def start(self) -> Card:
        self.starts()
        return self.card

    def refusal(self, job: Job) -> str | None:
        return self.refuses.get(job.lora)

    async def stream(self, job: Job) -> AsyncIterator[Piece]:
        self.running[job.key] = job
        ended = False
        try:
            last = sequence_of(job)[-1]
            if last == 13:
                raise ValueError("thirteen")
            if last == 14:
                raise JobLost("the server is busy")
            if last == 15:
                raise EngineDead("the core died")
            if last == 16:
                raise asyncio.CancelledError
            for number in range(budget_of(job)):
                await asyncio.sleep(0)
                await self.gate.wait()
                yield Piece([last + number + 1], cached_tokens=3 if number == 0 else 0)
            if last != 17:
                yield Piece(ending=Ending.LENGTH)
            ended = True
        finally:
            del self.running[job.key]
            if not ended:
                self.aborted.append(job.key)

    def load(self) -> EngineLoad:
        return EngineLoad(running=len(self.running), blocks_used=7, blocks_total=64)

    def events(self) -> list[BlockEvent]:
        events, self.pending = self.pending, []
        return events

    def families(self) -> list[Any]:
        return [gauge("counter:running", "How many run.", len(self.running))]

    async def well(self) -> bool:
        return self.probe()

    async def sleep(self, level: int) -> None:
        self.slept.append(level)

    async def wake(self) -> None:
        self.slept.append(0)

    async def stop(self) -> None:
        self.stopped += 1
        await self.stops()


def counter(**card: Any) -> tuple[Counter, OutsideEngine]:
    source = Counter(**card)
    return source, OutsideEngine(source)


def counted(last: int, count: int) -> list[int]:
    return list(range(last + 1, last + 1 + count))
