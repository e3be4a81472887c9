"""Shell. An engine that makes vectors of texts: one step reads some texts, each as a whole, and ends their jobs.

A text is not cut, for each of its tokens sees all of it; so nothing is kept between steps, and there is no cache of
keys and values. What a step reads is bounded by its tokens, counted as if all its texts were as long as the longest.
"""

from bisect import insort
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.contract.below import Below
from nodes.contract.engine import FULL, Card, Ending, EngineLoad, Job, Output, Step
from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.engine import Settings
from nodes.engines.pooling import Pooling, vector
from nodes.engines.running import are_tokens

Floats = NDArray[np.float32]
OVERFLOWED = "the model's numbers overflowed: this text has no embedding"


class Body(Protocol):
    """A model without a head."""

    vocabulary: int
    positions: int  # of a text; 0: its files do not say
    width: int  # numbers in a row

    def rows(self, prompts: Sequence[Sequence[int]]) -> list[Floats]:
        """For each text one row for each of its tokens."""
        ...


class Waiting(Struct, eq=False):
    """A job in the queue."""

    order: tuple[int, int]
    job: Job


def order_of(waiting: Waiting) -> tuple[int, int]:
    return waiting.order


class EmbeddingEngine:
    """Keeps `nodes.contract.engine.Engine`."""

    def __init__(self, name: str, settings: Settings, load: Callable[[], Body], pooling: Pooling) -> None:
        self._name, self._settings, self._load, self._pooling = name, settings, load, pooling
        self._body: Body | None = None
        self._queue: list[Waiting] = []
        self._reports: list[Output] = []
        self._arrivals = 0

    def start(self) -> Card:
        """Raises Unsupported or Damaged."""
        body, settings, pooling = self._load(), self._settings, self._pooling
        lengths = [length for length in (settings.context, body.positions, pooling.positions) if length > 0]
        if not lengths:
            raise Unsupported("the model's files do not say how many positions it has: say it with --context")
        self._body, self._context = body, min(lengths)
        self._width = pooling.width(body.width)
        if pooling.layers and pooling.layers[0].weight.shape[1] != body.width * len(pooling.modes):
            raise Unsupported("the matrix after its pooling is of another width than its rows")
        return Card(
            engine=self._name,
            model=Path(settings.folder).resolve().name,
            vocabulary=body.vocabulary,
            context=self._context,
            slots=settings.slots,
            block_tokens=settings.block_tokens,
            blocks=0,
            tells_blocks=False,
            step_tokens=settings.step_tokens,
            embeds=self._width,
            generates=False,
            shortens=pooling.shortens,
            dimensions=pooling.dimensions,
        )

    def submit(self, job: Job) -> str | None:
        if refusal := self._refusal(job):
            return refusal
        if len(self._queue) >= self._settings.waiting_max:
            return FULL
        self._arrivals += 1
        insort(self._queue, Waiting((job.priority, self._arrivals), job), key=order_of)
        return None

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        for waiting in [waiting for waiting in self._queue if waiting.job.key == key]:
            self._queue.remove(waiting)
            self._reports.append(Output(key, ending=Ending.CANCELLED))
        return 0

    def land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        """Nothing can be handed over: a job that should land waits for nothing."""

    def attach(self, below: Below) -> None:
        """There is no cache that could have anything below it."""

    def stir(self) -> None:
        """Nobody waits."""

    def step(self) -> Step:
        assert self._body is not None, "start it first"
        outputs, self._reports = self._reports, []
        jobs = self._next()
        if not jobs:
            return Step(outputs)
        found = self._body.rows([job.prompt for job in jobs])
        outputs += [self._output(job, rows) for job, rows in zip(jobs, found, strict=True)]
        tokens = sum(len(job.prompt) for job in jobs)
        return Step(outputs, computed_tokens=tokens, prefilled_tokens=tokens)

    def load(self) -> EngineLoad:
        return EngineLoad(waiting=len(self._queue), prefill_tokens=sum(len(one.job.prompt) for one in self._queue))

    def idle(self) -> bool:
        return not self._queue and not self._reports

    def stop(self) -> None:
        for waiting in [*self._queue]:
            self.cancel(waiting.job.key)
        self._body = None

    def check(self) -> None:
        """Assert all invariants."""
        assert [*map(order_of, self._queue)] == sorted(map(order_of, self._queue))
        keys = [waiting.job.key for waiting in self._queue]
        assert len(keys) == len({*keys}) <= self._settings.waiting_max

    def _refusal(self, job: Job) -> str:
        """Why a job can never run; empty if it can."""
        assert self._body is not None, "start it first"
        pooling, length = self._pooling, len(job.prompt)
        if any(waiting.job.key == job.key for waiting in self._queue):
            return "a job of this key is already here"
        if not job.embeds:
            return "this model makes embeddings: it generates no text"
        if job.lora:
            return f"there is no LoRA adapter {job.lora!r} here: this engine has none"
        if not length or job.media:
            return "a text is wanted, and nothing else"
        if not are_tokens(job.prompt, self._body.vocabulary):
            return f"the prompt has a token outside the vocabulary of {self._body.vocabulary}"
        if length > self._context:
            return f"{length} tokens do not fit into a context of {self._context}"
        if job.dimensions not in (0, self._width) and not shortened(pooling, self._width, job.dimensions):
            return f"this model has no embeddings of {job.dimensions} numbers"
        return ""

    def _next(self) -> list[Job]:
        """The first in the queue, and those that follow it as far as they fit."""
        jobs: list[Job] = []
        longest = 0
        for waiting in self._queue[: self._settings.slots]:
            longest = max(longest, len(waiting.job.prompt))
            if jobs and longest * (len(jobs) + 1) > self._settings.step_tokens:
                break
            jobs.append(waiting.job)
        del self._queue[: len(jobs)]
        return jobs

    def _output(self, job: Job, rows: Floats) -> Output:
        dimensions = 0 if job.dimensions == self._width else job.dimensions
        found = vector(self._pooling, rows, dimensions)
        if not np.isfinite(found).all():
            return Output(job.key, ending=Ending.FAILED, text=OVERFLOWED)
        return Output(job.key, ending=Ending.STOP, vector=found.tobytes())


def shortened(pooling: Pooling, width: int, dimensions: int) -> bool:
    """Whether a vector may be cut to so many numbers."""
    return pooling.shortens and 0 < dimensions <= width and (not pooling.dimensions or dimensions in pooling.dimensions)
