"""The smallest adapter that keeps the contract: what nodes/engines/README.md tells to write, and nothing more.

Its engine says what the simulated one says, a token at a time, and as many sequences at once as it has slots.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from nodes.contract.engine import BlockEvent, Card, Ending, EngineLoad, Job
from nodes.engines.outside import EngineDead, Piece, budget_of, sequence_of
from tests.engines.reference import CONTEXT, SAID, simulated


class Smallest:
    """Keeps `nodes.engines.outside.Source`."""

    def __init__(self, slots: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._card = Card(
            engine="smallest",
            model="smallest",
            vocabulary=SAID[1] + 1,
            context=CONTEXT,
            slots=slots,
            block_tokens=0,
            blocks=0,
            eos_tokens=(0,),
            tells_blocks=False,
            sleeps=True,
            lacks=("logprobs", "priority", "cache_salt", "logit_bias", "repetition_penalty"),
        )
        self._running = 0
        self.dead = False

    def start(self) -> Card:
        return self._card

    def refusal(self, job: Job) -> str | None:
        return None

    async def stream(self, job: Job) -> AsyncIterator[Piece]:
        async with self._slots:
            self._running += 1
            try:
                async for piece in self._said(job):
                    yield piece
            finally:  # a real one aborts here what has not ended
                self._running -= 1

    async def _said(self, job: Job) -> AsyncIterator[Piece]:
        sequence = sequence_of(job)
        stops = {*job.stop_tokens} if job.ignore_eos else {*job.stop_tokens, *self._card.eos_tokens}
        for made in range(len(job.generated) + 1, len(job.generated) + budget_of(job) + 1):
            await asyncio.sleep(0.0005)
            if self.dead:
                raise EngineDead("its process was killed")
            sequence += simulated(sequence, 1)
            ends = sequence[-1] in stops and made > job.min_tokens
            yield Piece(sequence[-1:], ending=Ending.STOP if ends else None)
            if ends:
                return

    def load(self) -> EngineLoad:
        return EngineLoad(running=self._running)

    def events(self) -> list[BlockEvent]:
        return []

    def families(self) -> list[Any]:
        return []

    async def well(self) -> bool:
        return not self.dead

    async def sleep(self, level: int) -> None:
        await asyncio.sleep(0.02)  # only who `sleeps` has these two

    async def wake(self) -> None:
        await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self.dead = True
