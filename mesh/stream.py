"""Shell. The caller's end of a request: items in order, then its end; and what a caller does to it meanwhile.

Two objects: the actor holds the `Feed`, the caller the `Stream`. So a stream that nobody holds any more is noticed,
and its request is killed. Items are decoded when they are taken; what was taken is told in steps of a quarter window.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mesh.core import Abandon, Ask, Consumed, Finish
from mesh.failures import MeshError, failure
from mesh.schema import Refused
from proto.errors import Reason
from proto.messages import Strength

if TYPE_CHECKING:
    from mesh.actor import Actor
    from mesh.context import Context

_GOOD = (Reason.COMPLETE, Reason.STOPPED)


class Feed:
    """What the actor knows of one request of ours."""

    __slots__ = ("__weakref__", "_waiter", "actor", "context", "finish", "items", "position", "request", "told")

    def __init__(self, actor: "Actor", request: int, context: "Context | None") -> None:
        self.actor = actor
        self.request = request
        self.context = context
        self.items: deque[bytes] = deque()
        self.position = 0  # items that the caller has taken
        self.told = 0  # of them, those that the core knows of
        self.finish: Finish | None = None
        self._waiter: asyncio.Future[None] | None = None

    def deliver(self, position: int, items: Sequence[bytes], tokens: Sequence[int] = ()) -> None:
        """More items. Tokens are not for components."""
        self.items.extend(items)
        self._wake()

    def end(self, finish: Finish) -> None:
        """No more items."""
        self.finish = finish
        if self.context is not None:
            self.context.unlink(self)
        self._wake()

    async def wait(self) -> None:
        """Return when there is something to take, or nothing more to come."""
        if self._waiter is not None:
            raise RuntimeError("two tasks read one stream: let one read, and pass the items on")
        self._waiter = self.actor.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def stop(self) -> None:
        """Ask for a graceful end."""
        self.abandon(Strength.STOP)

    def kill(self) -> None:
        """Drop everything."""
        self.abandon(Strength.KILL)

    def abandon(self, strength: Strength) -> None:
        """End the request, unless it has ended."""
        if self.finish is None:
            self.actor.post(Abandon(self.request, strength))

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Stream:
    """An async iterator over the items of one request. Leaving it, by any way, ends the request."""

    def __init__(
        self, actor: "Actor", ask: Ask, decode: Callable[[bytes], Any], context: "Context | None" = None
    ) -> None:
        self.endpoint = ask.endpoint
        self._decode = decode
        self._step = max(1, ask.window // 4)
        self._feed = Feed(actor, ask.request, context)
        self._closed = False
        actor.ask(ask, self._feed)
        if context is not None:
            context.link(self._feed)

    # --- What it tells ---------------------------------------------------------------------------------

    @property
    def request(self) -> int:
        """The number of the request at this node."""
        return self._feed.request

    @property
    def position(self) -> int:
        """How many items were taken."""
        return self._feed.position

    @property
    def attempts(self) -> int:
        """How many instances were asked so far: more than one if it was moved."""
        return len(self.instances)

    @property
    def instances(self) -> tuple[int, ...]:
        """The instances that were asked so far, in order."""
        finish = self._feed.finish
        return finish.nodes if finish is not None else self._feed.actor.asked(self._feed.request)

    # --- Reading ---------------------------------------------------------------------------------------

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        feed = self._feed
        while not feed.items:
            if feed.finish is not None or self._closed:
                self._raise_end()
            await feed.wait()
        item = feed.items.popleft()
        feed.position += 1
        if feed.position - feed.told >= self._step and feed.finish is None:
            feed.told = feed.position
            feed.actor.post(Consumed(feed.request, feed.position))
        try:
            return self._decode(item)
        except Refused as error:
            await self.aclose()
            raise MeshError(f"{self.endpoint}: the caller {error}", Reason.MALFORMED) from None

    def _raise_end(self) -> None:
        finish = self._feed.finish
        if self._closed or finish is None or finish.reason in _GOOD:
            raise StopAsyncIteration
        self._closed = True  # An iterator that has raised is exhausted.
        raise failure(self.endpoint, finish)

    async def first(self) -> Any:
        """The first item; the rest is not wanted. Raises MeshError if there is none."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise MeshError(f"{self.endpoint}: it ended without an item", Reason.COMPLETE) from None
        finally:
            await self.aclose()

    async def all(self) -> list[Any]:
        """Every item, when it has ended."""
        return [item async for item in self]

    # --- Ending ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the handler to finish; what it still yields comes, and then the stream ends."""
        self._feed.stop()

    def kill(self) -> None:
        """Drop everything: the handler is cancelled, and reading on raises StreamKilled."""
        self._feed.items.clear()
        self._feed.kill()

    async def aclose(self) -> None:
        """Leave: the request is killed unless it has ended."""
        self._closed = True
        self.kill()

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None and feed.finish is None:
            feed.actor.forget(feed)
