"""Shell. Runs handlers: each leg that the core starts is a task here, and what it makes comes back as events.

Needs an event loop and nothing of ZeroMQ, so that the simulator can run users' handlers in virtual time. A leg's room
is given back by exactly one event (Finished, Failed or Yielded), which is posted when its handler has really ended: a
handler that ignores its end keeps its slot, gets told again, and nothing of what it makes is sent.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mesh import schema
from mesh.context import Context
from mesh.core import (
    Checkpointed,
    Event,
    Failed,
    Finished,
    Go,
    Halt,
    Hint,
    Leg,
    Pause,
    Produced,
    Start,
    Unpause,
    Yielded,
)
from mesh.endpoint import Checkpoint, Endpoint
from proto import limits
from proto.errors import Reason

if TYPE_CHECKING:
    from mesh.client import Mesh

BURST_MAX = 64  # items in a row from a handler that never waits: then others get their turn
HALT_AGAIN_S = 0.5  # a handler that took its end for something else hears of it again
BAD_STATE = "the checkpoint cannot be read: was it made by another version of this component?"

log = logging.getLogger("wiremesh.component")
_read_state = msgspec.msgpack.Decoder().decode


class Run:
    """One leg that runs."""

    __slots__ = ("again", "context", "endpoint", "halted", "leg", "paused", "start", "task", "unpaused")

    def __init__(self, start: Start, endpoint: Endpoint, context: Context) -> None:
        self.leg = start.leg
        self.start = start
        self.endpoint = endpoint
        self.context = context
        self.task: asyncio.Task[None] | None = None
        self.paused = False
        self.unpaused: asyncio.Future[None] | None = None  # what a paused run waits for
        self.halted = False
        self.again: asyncio.TimerHandle | None = None


class Runner:
    """All legs that run in this process."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        post: Callable[[Event], None],
        loop: asyncio.AbstractEventLoop,
        mesh: "Mesh | None" = None,
    ) -> None:
        self._endpoints = endpoints
        self._post = post
        self._loop = loop
        self._mesh = mesh
        self._runs: dict[Leg, Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    # --- Effects -------------------------------------------------------------------------------------

    def start(self, start: Start) -> None:
        """Run a leg."""
        run = Run(start, self._endpoints[start.endpoint], self._context(start))
        self._runs[start.leg] = run
        run.task = self._loop.create_task(self._serve(run), name=f"{start.endpoint} {start.leg.request}")
        run.task.add_done_callback(lambda task: self._ended(run, task))

    def hint(self, hint: Hint) -> None:
        """Ask a leg to finish by itself."""
        run = self._runs.get(hint.leg)
        if run is not None:
            run.context.stop()

    def go(self, go: Go) -> None:
        """Nothing: a handler waits for no other leg."""

    def halt(self, halt: Halt) -> None:
        """End a leg now, as far as its handler lets us."""
        run = self._runs.get(halt.leg)
        if run is not None:
            run.halted = True
            run.context.kill()
            self._cancel(run)

    def pause(self, pause: Pause) -> None:
        """Take no more from a leg for now."""
        run = self._runs.get(pause.leg)
        if run is not None:
            run.paused = True

    def unpause(self, unpause: Unpause) -> None:
        """Go on."""
        run = self._runs.get(unpause.leg)
        if run is not None:
            run.paused = False
            if run.unpaused is not None and not run.unpaused.done():
                run.unpaused.set_result(None)

    async def close(self, timeout_s: float) -> None:
        """End whatever still runs; what does not end in time is left behind."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for run in self._runs.values():
            run.halted = True
            run.context.kill()
            self._cancel(run)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    # --- One run ---------------------------------------------------------------------------------------

    def _context(self, start: Start) -> Context:
        leg = start.leg
        return Context(
            deadline=None if start.deadline == float("inf") else start.deadline,
            metadata=start.metadata,
            trace=start.trace,
            id=f"{leg.owner:016x}-{leg.request}",
            request=leg.request,
            attempt=leg.attempt,
            mesh=self._mesh,
        )

    def _cancel(self, run: Run) -> None:
        if run.task is None or run.task.done():
            return
        run.task.cancel()
        run.again = self._loop.call_later(HALT_AGAIN_S, self._cancel, run)

    async def _serve(self, run: Run) -> None:
        """Run the handler to its end, and say how it ended."""
        outcome: Finished | Failed | Yielded
        try:
            await self._drive(run)
            outcome = Finished(run.leg)
        except asyncio.CancelledError:
            # The handler's own way to end: after a stop that is what was asked for, else it is a cancellation.
            outcome = Finished(run.leg) if run.context.stopped else Yielded(run.leg)
        except schema.Refused as error:
            outcome = self._refused(run, error)
        except (Exception, SystemExit) as error:
            outcome = self._failed(run, error)
        self._end(run, Yielded(run.leg) if run.halted else outcome)

    def _ended(self, run: Run, task: "asyncio.Task[None]") -> None:
        """The task is over. One that was cancelled before its first step has said nothing."""
        if run.again is not None:
            run.again.cancel()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a mistake of ours while %s ran", run.endpoint.name, exc_info=error)
        self._end(run, Yielded(run.leg))

    def _end(self, run: Run, outcome: Finished | Failed | Yielded) -> None:
        if self._runs.pop(run.leg, None) is not None:
            run.context.kill()  # Requests that it made and forgot end with it.
            self._post(outcome)

    async def _drive(self, run: Run) -> None:
        request = run.endpoint.read(run.start.payload)
        made = run.endpoint.call(request, run.context, _resume(run.start))
        if inspect.isawaitable(made):
            made = await made
        if hasattr(made, "__aiter__"):
            await self._each(run, made)
        elif hasattr(made, "__next__"):
            await self._each(run, _stepwise(made))
        else:
            self._emit(run, made)

    async def _each(self, run: Run, made: Any) -> None:
        """Pass on what a handler yields, no faster than it is wanted."""
        burst = 0
        items = aiter(made)
        try:
            async for item in items:
                if run.halted:
                    break
                self._emit(run, item)
                burst += 1
                if run.paused:
                    await self._until_unpaused(run)
                elif burst >= BURST_MAX:
                    burst = 0
                    await asyncio.sleep(0)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _until_unpaused(self, run: Run) -> None:
        while run.paused:
            run.unpaused = self._loop.create_future()
            await run.unpaused

    def _emit(self, run: Run, item: Any) -> None:
        if type(item) is not Checkpoint:
            self._post(Produced(run.leg, (encode_item(item),)))
        elif run.endpoint.resumable:
            self._post(Checkpointed(run.leg, _encode_state(item.state)))
        else:
            raise TypeError(f"{run.endpoint.name} yields a Checkpoint, but its handler takes no 'resume'")

    # --- How a run failed ------------------------------------------------------------------------------

    def _refused(self, run: Run, error: schema.Refused) -> Failed:
        return Failed(run.leg, Reason.INVALID, text=_words(error)[: limits.TEXT_CHARS_MAX])

    def _failed(self, run: Run, error: BaseException) -> Failed:
        """The caller gets the name and the words; the rest is for the log of this process."""
        log.error("%s failed in request %s", run.endpoint.name, run.context.id, exc_info=error)
        return Failed(run.leg, Reason.FAILED, type(error).__name__, _words(error)[: limits.TEXT_CHARS_MAX])


def encode_item(item: Any) -> bytes:
    """The bytes of an item. What cannot be sent is the handler's mistake, not the caller's."""
    try:
        return schema.encode_item(item)
    except schema.Refused as error:
        raise TypeError(str(error)) from None


def _encode_state(state: Any) -> bytes:
    try:
        return schema.encode_state(state)
    except schema.Refused as error:
        raise TypeError(str(error)) from None


def _resume(start: Start) -> Any:
    """The last checkpoint's state; None without one."""
    if not start.state:
        return None
    try:
        return _read_state(start.state)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise schema.Refused(BAD_STATE) from None


async def _stepwise(items: Iterable[Any]) -> AsyncIterator[Any]:
    """A plain generator: it runs inline, and others get their turn between its items."""
    try:
        for item in items:
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _words(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "replace").decode()  # Half a character cannot be sent.
    except Exception as other:  # A user's __str__ may do anything.
        return f"(its text cannot be had: {type(other).__name__})"
