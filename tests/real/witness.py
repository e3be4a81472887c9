"""A component that says what reaches its handlers, and a bench of real nodes in one event loop to play with it."""

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from mesh import Component, Context, connect
from mesh.client import Client, Mesh
from mesh.component import Serving
from tests.real.processes import Child

SOON_S = 30.0  # for anything to happen on a busy machine


class Witness:
    """A component whose handlers say what reaches them."""

    def __init__(self, name: str = "test.it") -> None:
        self.component = Component(name)
        self.seen: list[Any] = []
        component = self.component

        @component.endpoint
        async def echo(request: Any) -> AsyncIterator[Any]:
            yield request

        @component.endpoint
        async def count(request: int, context: Context) -> AsyncIterator[int]:
            """As fast as it is read; 0 is without end."""
            number = 0
            try:
                while request == 0 or number < request:
                    if context.stopped:
                        self.seen.append(("stopped", context.stopped, context.killed))
                        return
                    yield number
                    number += 1
                    await asyncio.sleep(0 if request else 0.001)
            except asyncio.CancelledError:
                self.seen.append(("killed", context.stopped, context.killed))
                raise
            finally:
                self.seen.append(("ended", number))

        @component.endpoint
        async def fail(request: int) -> AsyncIterator[int]:
            for number in range(request):
                yield number
            raise ValueError("boom")

        @component.endpoint
        async def give_up(request: Any) -> AsyncIterator[int]:
            yield 1
            raise asyncio.CancelledError

        @component.endpoint
        async def tell(request: Any, context: Context) -> AsyncIterator[Any]:
            yield {"id": context.id, "attempt": context.attempt, "trace": context.trace, "metadata": context.metadata}
            yield context.remaining_s

        @component.endpoint(slots=1)
        async def one_at_a_time(request: float) -> float:
            self.seen.append(("begins", request))
            await asyncio.sleep(request)
            self.seen.append(("ends", request))
            return request

    async def until(self, holds: Callable[[list[Any]], object]) -> None:
        """Wait for what a handler says."""
        async with asyncio.timeout(SOON_S):
            while not holds(self.seen):
                await asyncio.sleep(0.001)


class Bench:
    """Some components and one client, each a node of its own."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.mesh: Mesh

    async def serve(self, *witnesses: Witness, **options: Any) -> list[Serving]:
        servings = [witness.component.serving(**options) for witness in witnesses]
        for serving in servings:
            await self._stack.enter_async_context(serving)
        return servings

    async def join(self, **options: Any) -> Mesh:
        return await self._stack.enter_async_context(connect(**options))

    async def client(self, endpoint: str, count: int = 1, **options: Any) -> Client:
        client = self.mesh.client(endpoint, **options)
        await client.ready(count, timeout_s=SOON_S)
        return client


def play(body: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            bench = Bench(stack)
            bench.mesh = await bench.join()
            await body(bench)

    asyncio.run(run())


def node_of(serving: Serving) -> int:
    return serving.actor.node.settings.node


def server(path: Path, name: str = "test.it") -> Child:
    """A process that counts without end, and says how it ended."""
    program = f"""
        import asyncio
        from mesh import Component, Context

        it = Component({name!r})

        @it.endpoint
        async def count(request: int, context: Context):
            number = 0
            try:
                while request == 0 or number < request:
                    yield number
                    number += 1
                    await asyncio.sleep(0.001 if request == 0 else 0.01)
            except asyncio.CancelledError:
                print("killed" if context.killed else "cancelled", flush=True)
                raise
            print("finished", flush=True)

        it.run()
    """
    path.write_text(textwrap.dedent(program))
    child = Child(path)
    child.line("is ready")
    return child
