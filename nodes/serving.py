"""Shell. A node's process from its start to its end: run it, say that it is ready, drain it when it is told to."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

from mesh import logs, process
from mesh.actor import Actor
from mesh.component import EXIT_CRASHED, FORCED_S, new_loop
from mesh.options import Options

GARBAGE_MAX = 20_000  # objects between two collections of the youngest


def run(options: Options, body: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Give a node its process: its log, its limits, its event loop. Returns the exit code."""
    logs.configure(options.log_format)
    process.raise_descriptor_limit()
    process.disable_core_dumps()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(body())


class Beside:
    """What else a node is, from its start to its end."""

    async def begin(self) -> None:
        """It has started, and says so when this returns."""

    async def linger(self) -> None:
        """It has said goodbye. Who still needs something of it may have it now."""

    async def end(self) -> None:
        """It is gone."""


async def serve(
    actor: Actor, ready: Callable[[], str], started: Callable[[], None] = lambda: None, beside: Beside | None = None
) -> int:
    """Serve until a signal or a drain, then leave. `ready` is the line for whoever waits for this node."""
    beside = beside or Beside()
    await actor.start()
    try:
        process.on_signals(actor.loop, lambda: actor.leave(actor.options.drain_s), lambda: None)
        await beside.begin()
        started()
        spare_collector()
        print(ready(), flush=True)
        await actor.departed
        await beside.linger()
    finally:
        await actor.depart(0.0, FORCED_S)
        await beside.end()
    return 0 if actor.crashed is None else EXIT_CRASHED


def spare_collector() -> None:
    """What is loaded by now stays; and a request makes so many objects that collections by the default come too often.
    What a request leaves behind in cycles is little."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_MAX, 20, 20)


def introduction(role: str, actor: Actor, serves: str) -> str:
    """The one line that says that a node is ready, and how it is found."""
    settings = actor.node.settings
    return f"{role} is ready: node {settings.node:016x} ({settings.name}) {serves}; {actor.describe()}"
