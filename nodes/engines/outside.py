"""Shell. An engine that runs by itself: in processes of its own, with a batch of its own, or behind a URL.

An adapter writes a `Source`. `OutsideEngine` makes an engine of it that keeps the contract: each job is a task in the
worker's event loop that reads the job's stream; what comes in one turn of the loop is one `Step`. The host is told by
`on_news` that there is something to be taken, and `begin` and `close` are its first and its last call from the loop.

A source that raises `EngineDead`, says twice that it is not well, or does not answer at all for long, is dead: `step`
raises, the worker ends, and its requests go on elsewhere. `JobLost` and `JobMoved` move one job; any other exception
fails it.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import aclosing, suppress
from itertools import count
from typing import Any, Protocol

from nodes.contract.below import Below
from nodes.contract.engine import ASLEEP, BlockEvent, Card, Ending, EngineLoad, Job, Step
from nodes.engines.gathering import SILENT, Gathering, Going
from nodes.engines.gathering import Piece as Piece
from nodes.folder import ModelRefused
from nodes.guiding.library import GuideRefused

PROBE_S = 1.0  # between two looks whether it is well: several in what a node takes for a hang
PROBE_LONG_S = 5.0  # a probe that takes longer says nothing
UNWELL_MAX = 2  # in a row: one may be chance
HANGS_S = 30.0  # without an answer to any probe: it will not come back
QUIET_S = 120.0  # with jobs, and nothing came of any: the longest prompt is computed by then
ABORT_S = 2.0  # at the end: how long it may take to abort what runs
STOP_S = 20.0  # likewise, to stop by itself; after that its processes are killed
EVENTS_S = 0.2  # between two looks for what its cache has told outside of steps
CHARS_MAX = 500  # of what an engine says went wrong
SEQUENCE_DIGITS = 12  # more requests than a process lives for

log = logging.getLogger("wiremesh.engine")


class EngineRefused(ModelRefused):
    """An engine that cannot start. Its text is one sentence that says what to do."""


class EngineDead(Exception):
    """The engine is gone, and all that it ran with it."""


class JobLost(Exception):
    """This job cannot go on here, but it can elsewhere."""


class JobMoved(JobLost):
    """Likewise, and it is not the request's fault: it costs none of the retries that a mesh has."""


class Source(Protocol):
    """What an adapter writes."""

    def start(self) -> Card:
        """Load and be ready, before the event loop runs; may take long. Raises EngineRefused."""
        ...

    def refusal(self, job: Job) -> str | None:
        """Why a job can never run, besides what its card says: asked before the engine sees it."""
        ...

    def stream(self, job: Job) -> AsyncIterator[Piece]:
        """Run a job: `sequence_of(job)` is its prompt, `budget_of(job)` what it may get. The last piece has an ending.

        In the worker's loop. When its task is cancelled, it aborts the job in the engine (in a `finally`).
        """
        ...

    def load(self) -> EngineLoad:
        """How full it is; 0 for what it does not say."""
        ...

    def events(self) -> list[BlockEvent]:
        """What its prefix cache got and lost since the last call."""
        ...

    def families(self) -> list[Any]:
        """Its own metrics, as `nodes.metrics.Family`."""
        ...

    async def well(self) -> bool:
        """Whether it lives. May take a while; raises EngineDead if it is sure."""
        ...

    async def stop(self) -> None:
        """End it with all its processes; twice is once."""
        ...


def sequence_of(job: Job) -> list[int]:
    """What the engine gets as its prompt."""
    return [*job.prompt, *job.generated]


def budget_of(job: Job) -> int:
    """How many tokens the engine may make: a job's own number counts those of earlier holders."""
    return max(0, job.max_tokens - len(job.generated))


def names() -> Iterator[str]:
    """Names for an engine's requests: unique, of one length (engines take a name for all that begin so)."""
    process = os.urandom(4).hex()
    return (f"wm-{process}-{number:0{SEQUENCE_DIGITS}}" for number in count())


class OutsideEngine:
    """Keeps the contract of `nodes.contract.engine.Engine` and `Sleeper` around a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._jobs: Gathering | None = None
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # whose jobs are being aborted
        self._watching: list[asyncio.Task[None]] = []
        self._news: Callable[[], None] = _nobody
        self._dead: BaseException | None = None
        self._asleep = self._rests = 0  # how deep it sleeps; how deep it is to sleep
        self._turning = asyncio.Lock()
        self._stopped = self._closed = False
        self._well = True
        self._heard = 0.0  # when something came last, in the loop's time

    # --- The contract ----------------------------------------------------------------------------------------

    def start(self) -> Card:
        try:
            card = self._source.start()
        except ModelRefused:
            raise
        except (Exception, SystemExit) as error:  # Engines raise anything, and some exit.
            raise EngineRefused(f"the engine cannot start: {_words(error)}") from error
        self._jobs = Gathering(card)
        return card

    @property
    def towers(self) -> Any:
        """Its own eyes, as of `nodes.media.embedder.Encodes`, if its source has such `towers` once it has begun."""
        return getattr(self._source, "towers", None)

    def submit(self, job: Job) -> str | None:
        if self._rests or self._asleep:
            return ASLEEP
        taken = self._gathering.submit(job)
        if not isinstance(taken, Going):
            self._tell()
            return taken
        if refusal := self._source.refusal(job):
            del self._gathering.going[job.key]
            return refusal
        if not job.lands:
            self._begin(taken)
        return None

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        self._gathering.cancel(key)
        self._abort(key)
        self._tell()
        return 0

    def land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        going = self._gathering.land(key, tokens)
        if going is not None:
            self._begin(going)
        self._tell()

    def attach(self, below: Below) -> None:
        raise AssertionError("an engine that keeps its cache to itself has nothing below it")

    def stir(self) -> None:
        self._tell()

    def step(self) -> Step:
        if self._dead is not None:
            raise self._dead
        self._gathering.feed(self._source.events())
        return self._gathering.step()

    def load(self) -> EngineLoad:
        load = self._gathering.load(self._source.load())
        return load if not self._asleep else EngineLoad(blocks_total=load.blocks_total, asleep=self._asleep)

    def idle(self) -> bool:
        return self._dead is None and self._gathering.idle()

    def stop(self) -> None:
        """End all jobs. What must be awaited is done by `close`; without a loop it is done here."""
        if self._stopped:
            return
        self._stopped = True
        for key in list(self._tasks):
            self._abort(key)
        for task in self._watching:
            task.cancel()
        if self._jobs is not None:
            self._jobs.stop()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self.close())

    # --- Besides, for its host -------------------------------------------------------------------------------

    def on_news(self, callback: Callable[[], None]) -> None:
        """Call this when `idle` may have become False."""
        self._news = callback

    def begin(self) -> None:
        """The loop runs. A source that has a `begin` hears of it before anything else."""
        begin = getattr(self._source, "begin", None)
        if begin is not None:
            begin()
        self._heard = asyncio.get_running_loop().time()
        self._watching = [asyncio.ensure_future(self._probe()), asyncio.ensure_future(self._look())]

    def well(self) -> bool:
        """Whether it works as far as we know: it answers, and something comes of what it has."""
        if self._dead is not None or not self._well:
            return False
        return not self._tasks or asyncio.get_running_loop().time() - self._heard < QUIET_S

    def families(self) -> list[Any]:
        """Its own metrics."""
        return self._source.families()

    async def close(self) -> None:
        """Stop within a bound; twice is once."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        pending = [*self._leaving, *self._watching]
        if pending:
            await asyncio.wait(pending, timeout=ABORT_S)
        try:
            async with asyncio.timeout(STOP_S):
                await self._source.stop()
        except TimeoutError:
            log.warning("the engine has not stopped within %.0f s: its processes are killed", STOP_S)
        except Exception as error:  # It is gone anyway.
            log.warning("the engine did not stop as it should: %s", _words(error))

    # --- Sleeping --------------------------------------------------------------------------------------------

    def sleep(self, level: int) -> None:
        """Give memory back; see `Sleeper`."""
        if self._rests != level:
            self._rests = level
            self._keep(self._turn_in(level))

    def wake(self) -> None:
        """Be as after `start`. Jobs are taken again as soon as it is."""
        if self._rests:
            self._rests = 0
            self._keep(self._turn_in(0))

    async def _turn_in(self, level: int) -> None:
        source: Any = self._source
        try:
            async with self._turning:  # one after the other
                await (source.sleep(level) if level else source.wake())
                self._asleep = level
        except Exception as error:  # Where its memory is now, nobody knows.
            self._die(error)

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    # --- Jobs ------------------------------------------------------------------------------------------------

    @property
    def _gathering(self) -> Gathering:
        assert self._jobs is not None, "it was not started"
        return self._jobs

    def _begin(self, going: Going) -> None:
        if not self._tasks:
            self._heard = asyncio.get_running_loop().time()
        self._tasks[going.job.key] = asyncio.ensure_future(self._run(going))

    def _abort(self, key: Hashable) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            task.cancel()

    async def _run(self, going: Going) -> None:
        """Read one job's stream to its end."""
        gathering, key = self._gathering, going.job.key
        ending, text = Ending.FAILED, SILENT
        try:
            await self._read(going)
        except asyncio.CancelledError:
            if self._tasks.get(key) is not asyncio.current_task():
                raise  # by us
            text = "the engine cancelled it"
        except EngineDead as error:
            self._die(error)
        except GuideRefused as error:
            ending, text = Ending.REFUSED, str(error)
        except JobLost as error:
            ending = Ending.PREEMPTED if isinstance(error, JobMoved) else Ending.LOST
            text = str(error)
        except Exception as error:  # Whatever it is, the other jobs go on.
            log.debug("a job failed in the engine", exc_info=error)
            text = f"the engine failed: {_words(error)}"
        if self._tasks.get(key) is asyncio.current_task():
            del self._tasks[key]
        if self._dead is None:
            gathering.end(going, ending, text)
        self._tell()

    async def _read(self, going: Going) -> None:
        loop = asyncio.get_running_loop()
        stream: Any = self._source.stream(going.job)
        async with aclosing(stream):
            async for piece in stream:
                self._heard = loop.time()
                over = self._gathering.add(going, piece)
                self._tell()
                if over:
                    await self._let_end(going, stream)
                    return

    async def _let_end(self, going: Going, stream: Any) -> None:
        """It is over, and its engine may have a word to say yet: to abort it now would cost more than to wait."""
        task = self._tasks.pop(going.job.key, None)
        if task is not None:
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        with suppress(TimeoutError):
            async with asyncio.timeout(ABORT_S):
                async for piece in stream:
                    if piece.tokens:
                        break

    def _tell(self) -> None:
        if not self.idle():
            self._news()

    def _die(self, error: BaseException) -> None:
        if self._dead is None and not self._stopped:
            self._dead = error
            self._news()

    # --- Watching --------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Ask whether it is well, for ever."""
        loop = asyncio.get_running_loop()
        unwell, answered = 0, loop.time()
        while True:
            await asyncio.sleep(PROBE_S)
            found: bool | None = None
            try:
                async with asyncio.timeout(PROBE_LONG_S):
                    found = await self._source.well()
            except TimeoutError:
                pass
            except EngineDead as error:
                return self._die(error)
            except Exception as error:
                log.warning("the engine cannot be asked whether it is well: %s", _words(error))
                found = False
            self._well = bool(found)
            if found is not None:
                answered, unwell = loop.time(), 0 if found else unwell + 1
            if unwell >= UNWELL_MAX:
                return self._die(EngineDead("the engine says that it is not well"))
            if loop.time() - answered > HANGS_S:
                return self._die(EngineDead(f"the engine hangs: it has not answered for {HANGS_S:.0f} s"))

    async def _look(self) -> None:
        """Take what its cache has told while no job said anything."""
        while True:
            await asyncio.sleep(EVENTS_S)
            try:
                self._gathering.feed(self._source.events())
            except Exception as error:
                return self._die(error)
            self._tell()


def _words(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())[:CHARS_MAX]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _nobody() -> None:
    """Nobody wants to hear news before the host does."""
