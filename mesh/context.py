"""Shell. What a request knows of its own fate, and what links it to the requests that it makes.

One class for both ends: a handler is given one, and a caller may make one. A stop, a kill or the deadline of a context
reaches every request that was made with it, and so travels down a chain of components.
"""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    from mesh.client import Client, Mesh


class Linked(Protocol):
    """What a context passes its end on to."""

    def stop(self) -> None:
        """Finish gracefully."""

    def kill(self) -> None:
        """Drop everything."""


class Context:
    """One request, or a group of requests, that is stopped, killed and timed together."""

    def __init__(
        self,
        *,
        timeout_s: float | None = None,
        metadata: dict[str, str] | None = None,
        trace: str = "",
        deadline: float | None = None,
        id: str = "",
        request: int = 0,
        attempt: int = 0,
        mesh: "Mesh | None" = None,
    ) -> None:
        if timeout_s is not None:
            deadline = _loop().time() + timeout_s
        self.deadline = deadline  # on the event loop's clock; None without one
        self.metadata = dict(metadata or {})  # travels with every request made with this context
        self.trace = trace  # W3C traceparent
        self.id = id  # equal for all attempts of a request
        self.request = request
        self.attempt = attempt  # 1 at first, more if other instances have tried before
        self._mesh = mesh
        self._stopped = False
        self._killed = False
        self._waiters: list[asyncio.Future[None]] = []
        self._linked: dict[Linked, None] = {}

    # --- What a handler asks ---------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether the caller wants no more: finish soon. A kill is also a stop."""
        return self._stopped

    @property
    def killed(self) -> bool:
        """Whether the caller has gone: what is still produced, nobody gets."""
        return self._killed

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline, never negative; None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - _loop().time())

    async def until_stopped(self) -> None:
        """Return when the request is stopped or killed."""
        if self._stopped:
            return
        waiter: asyncio.Future[None] = _loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def client(self, endpoint: str, **options: Any) -> "Client":
        """A client for another endpoint, over the same node. Pass `context=` on to link its requests to this one."""
        if self._mesh is None:
            raise RuntimeError("this context belongs to no mesh: use 'mesh.client' of the one that you joined")
        return self._mesh.client(endpoint, **options)

    # --- What its owner does -----------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask everything that was made with this context to finish gracefully."""
        if self._stopped:
            return
        self._stopped = True
        self._wake()
        for linked in list(self._linked):
            linked.stop()

    def kill(self) -> None:
        """Drop everything that was made with this context."""
        if self._killed:
            return
        self._stopped = self._killed = True
        self._wake()
        for linked in list(self._linked):
            linked.kill()

    def child(self) -> "Context":
        """A context that ends with this one, and that can be ended alone."""
        child = self.detached()
        child.deadline = self.deadline
        self.link(child)
        return child

    def detached(self) -> "Context":
        """A context with the same trace and metadata that does not end with this one."""
        return Context(
            metadata=self.metadata,
            trace=self.trace,
            id=self.id,
            request=self.request,
            attempt=self.attempt,
            mesh=self._mesh,
        )

    # --- For `mesh.stream` and `mesh.runner` ---------------------------------------------------------------

    def link(self, linked: Linked) -> None:
        """End this with the context; at once if the context has ended."""
        self._linked[linked] = None
        if self._killed:
            linked.kill()
        elif self._stopped:
            linked.stop()

    def unlink(self, linked: Linked) -> None:
        """It has ended by itself."""
        self._linked.pop(linked, None)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


def _loop() -> "asyncio.AbstractEventLoop":
    import asyncio  # Takes longer to load than all else that a component's definition needs.

    return asyncio.get_running_loop()
