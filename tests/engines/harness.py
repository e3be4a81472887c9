"""Drives an engine for a test, whichever kind it is: one that is stepped, or one that runs by itself in a loop."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any

from nodes.contract.engine import BlockEvent, Card, EngineLoad, Job, Output, Sampling

WITHIN_S = 60.0  # the slowest of them, on a crowded machine
NAP_S = 0.02  # an engine that runs by itself is looked at so often
GREEDY = Sampling(temperature=0.0)


class Harness:
    """One engine that has started, and all that it has said."""

    def __init__(self, engine: Any, outside: bool = False) -> None:
        self.engine = engine
        self.card: Card = engine.start()
        self.loop = asyncio.new_event_loop() if outside else None
        self.found: dict[Hashable, Output] = {}  # all outputs of a job as one
        self.pieces: dict[Hashable, int] = {}  # how many of its outputs had tokens
        self.events: list[BlockEvent] = []
        self.steps = 0
        self._news = asyncio.Event()
        if outside:
            engine.on_news(self._news.set)
            self._call(engine.begin)

    # --- What is asked of it ----------------------------------------------------------------------------------

    def submit(self, job: Job) -> str | None:
        """Why not, if it is refused."""
        refusal: str | None = self._call(self.engine.submit, job)
        if refusal is None:
            assert job.key not in self.found, "each job of a test has a name of its own"
            self.found[job.key] = Output(job.key, [], [])
        return refusal

    def take(self, *jobs: Job) -> None:
        """These are not refused."""
        for job in jobs:
            refusal = self.submit(job)
            assert refusal is None, (job.key, refusal)

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        positions: int = self._call(self.engine.cancel, key, out)
        return positions

    def load(self) -> EngineLoad:
        load: EngineLoad = self._call(self.engine.load)
        return load

    def stop(self) -> None:
        """The engine stops, and the loop with it."""
        self._call(self.engine.stop)
        if self.loop is not None:
            self.loop.run_until_complete(self.engine.close())
            self.loop.close()

    def pass_by(self) -> None:
        """Some time passes, and nobody asks what came of it. To an engine that is stepped nothing happens."""
        if self.loop is not None:
            self.loop.run_until_complete(asyncio.sleep(NAP_S))

    # --- Until something is so --------------------------------------------------------------------------------

    def turn(self) -> None:
        """A step; or whatever an engine that runs by itself has told in a while."""
        if self.loop is not None:
            self.loop.run_until_complete(self._listen())
        if not self.engine.idle():
            self._collect()

    def until(self, holds: Callable[[], object], within_s: float = WITHIN_S) -> None:
        """Go on until it is so."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not so after {within_s} s"
            assert self.loop is not None or not self.engine.idle(), "it has nothing to do, and it is not so"
            self.turn()

    def ended(self, *keys: Hashable) -> list[Output]:
        """All of these jobs, at their end."""
        self.until(lambda: all(self.found[key].ending is not None for key in keys))
        return [self.found[key] for key in keys]

    def run(self, *jobs: Job) -> list[Output]:
        """Take these jobs, and go on until all have ended."""
        self.take(*jobs)
        return self.ended(*[job.key for job in jobs])

    def says(self, key: Hashable, count: int) -> None:
        """Until a job has so many tokens."""
        self.until(lambda: len(self.found[key].tokens) >= count)

    def rests(self) -> None:
        """Nothing runs, nothing waits, no block is in use, and what was cancelled has closed what it had open."""
        self.until(lambda: self.engine.idle() and _free(self.load()) and not getattr(self.engine, "_leaving", ()))

    # --- Inside -----------------------------------------------------------------------------------------------

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """In the loop, where there is one."""
        if self.loop is None:
            return function(*arguments)

        async def called() -> Any:
            return function(*arguments)

        return self.loop.run_until_complete(called())

    async def _listen(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), NAP_S)
        self._news.clear()

    def _collect(self) -> None:
        step = self._call(self.engine.step)
        self.steps += 1
        self.events += step.events
        for output in step.outputs:
            whole = self.found[output.key]
            assert whole.ending is None, f"{output.key} got something after its end"
            assert not output.logprobs or len(output.logprobs) == len(output.tokens), "one for each, or none"
            whole.tokens = [*whole.tokens, *output.tokens]
            whole.logprobs = [*whole.logprobs, *output.logprobs]
            whole.cached_tokens = whole.cached_tokens or output.cached_tokens
            whole.exported = max(whole.exported, output.exported)
            whole.ending, whole.text = output.ending, output.text
            whole.vector, whole.native = output.vector or whole.vector, output.native or whole.native
            self.pieces[output.key] = self.pieces.get(output.key, 0) + bool(output.tokens)


def _free(load: EngineLoad) -> bool:
    return not (load.running or load.waiting or load.blocks_used or load.prefill_tokens)


def job(key: Hashable, prompt: Sequence[int], max_tokens: int = 8, **more: Any) -> Job:
    """One that nothing but its length ends, and that takes the likeliest."""
    return Job(key, prompt, **{"max_tokens": max_tokens, "ignore_eos": True, "sampling": GREEDY, **more})
