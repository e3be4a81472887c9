"""Shell. A worker: an engine on the mesh. It serves a model's tokens, and the files that a frontend needs for them."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mesh.actor import Actor
from mesh.component import EXIT_CRASHED
from mesh.options import Options
from nodes.endpoints import model_endpoints, node_endpoints
from nodes.host import EngineHost, LoopHost, ThreadHost
from nodes.host_core import families
from nodes.loading import Loaded
from nodes.metrics import Family
from nodes.serving import introduction, serve
from proto.messages import Role

ROLE = "worker"
SIDE_LEGS = 128  # metrics, status and files at once, beside a full engine: a few hundred nodes may ask together

log = logging.getLogger("wiremesh.worker")


def crashed(error: BaseException) -> NoReturn:
    """An engine that has raised may have anything in its memory. End at once: peers see closed links, and move on."""
    what = f"{type(error).__name__}: {error}"
    log.critical("the engine crashed (%s): this worker ends, its requests go on elsewhere", what)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(EXIT_CRASHED)


class Worker:
    """A loaded model and its place in the mesh."""

    def __init__(self, options: Options, loaded: Loaded, queue: int, crashed: Callable[[BaseException], None]) -> None:
        card = loaded.card
        self.loaded = loaded
        kind = LoopHost if card.engine.engine == "sim" else ThreadHost
        self.host: EngineHost = kind(loaded.engine, card.engine, card.model, crashed, card.digest)
        endpoints = {
            **node_endpoints(ROLE, lambda: self.actor, self.families, self.facts),
            **model_endpoints(card, loaded.contents),
        }
        slots = self.host.offer().slots + SIDE_LEGS
        self.actor = Actor(options, Role.WORKER, endpoints, ROLE, host=self.host, slots=slots, queue=queue)

    def families(self) -> list[Family]:
        """What this worker adds to its metrics."""
        return families(self.host.counts, self.host.load())

    def facts(self) -> dict[str, Any]:
        """What this worker adds to its status."""
        card, load = self.loaded.card, self.host.load()
        return {
            "model": card.model,
            "digest": card.digest,
            "engine": card.engine,
            "tokens": self.loaded.tokens,
            "load": load,
        }

    def introduction(self) -> str:
        card = self.loaded.card
        engine = card.engine
        return introduction(
            ROLE,
            self.actor,
            f"serves {card.model} with the {engine.engine} engine, {engine.slots} slots, context {engine.context}",
        )


async def run(options: Options, loaded: Loaded, queue: int) -> int:
    """Serve a model until told to leave; returns the exit code."""
    worker = Worker(options, loaded, queue, crashed)
    return await serve(worker.actor, worker.introduction, lambda: _on_demand(worker))


def _on_demand(worker: Worker) -> None:
    """SIGUSR2 calls up the fault that a simulated engine was given, and heals it."""
    from nodes.faults import FaultyEngine

    engine, host = worker.loaded.engine, worker.host
    if not isinstance(engine, FaultyEngine) or not isinstance(host, LoopHost):
        return

    def toggle() -> None:
        engine.toggle()
        host.counts.faults = engine.faults
        host.wake()

    worker.actor.loop.add_signal_handler(signal.SIGUSR2, toggle)
