"""Shell. A worker's engine sleeps on demand: its memory is for others then, and its requests go on elsewhere.

    wiremesh call wiremesh.worker.sleep '{"level": 2}' --direct NODE
    wiremesh call wiremesh.worker.wake --direct NODE

The node stays in the mesh meanwhile. Routers see it as full, and what is sent to it all the same is sent on.
"""

import asyncio
import time

from msgspec import Struct

from mesh import schema
from mesh.endpoint import Endpoint, define
from nodes import names
from nodes.contract.engine import Card, EngineLoad
from nodes.host import EngineHost

LEVELS = (1, 2)  # the cache; the weights too
LOOK_S = 0.02  # how often to see whether it sleeps
LONG_S = 600.0  # weights of the largest models are read again by then
SHUNNED_TOKENS = 1_000_000_000  # to be computed before the next request: no router sends one there


class Sleep(Struct, frozen=True):
    """How deep."""

    level: int = 1

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError("level must be 1 (the cache is given back) or 2 (the weights too)")


def rest_endpoints(card: Card, host: EngineHost) -> dict[str, Endpoint]:
    """How others make this worker sleep. They answer when it does."""

    async def turn_in(level: int) -> EngineLoad:
        if not card.sleeps:
            raise schema.Refused(f"the {card.engine} engine cannot sleep: drain the worker instead")
        host.rest(level)
        deadline = time.monotonic() + LONG_S
        while host.load().asleep != level:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {LONG_S:.0f} s")
            await asyncio.sleep(LOOK_S)
        return host.load()

    async def sleep(request: Sleep) -> EngineLoad:
        return await turn_in(request.level)

    async def wake(request: None) -> EngineLoad:
        return await turn_in(0)

    return {name: define(name, handler) for name, handler in ((names.SLEEP, sleep), (names.WAKE, wake))}


def shunned(load: EngineLoad) -> EngineLoad:
    """What routers are told of an engine: one that sleeps is the last that they would choose."""
    return EngineLoad(prefill_tokens=SHUNNED_TOKENS, asleep=load.asleep) if load.asleep else load
