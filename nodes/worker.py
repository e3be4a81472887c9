"""Shell. A worker: an engine on the mesh. It serves a model's tokens, and the files that a frontend needs for them."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

from xxhash import xxh3_64_intdigest

from mesh.actor import Actor
from mesh.component import EXIT_CRASHED
from mesh.core import Progressed
from mesh.options import OptionRefused, Options
from nodes.alone import alone_endpoints, check_hand_over, stages
from nodes.cached import cached_positions
from nodes.contract.engine import BlockEvent, EngineLoad, Job
from nodes.endpoints import model_endpoints, node_endpoints
from nodes.engine_options import EngineOptions
from nodes.engines.outside import OutsideEngine
from nodes.folder import folder_of
from nodes.forwarding import forwarded
from nodes.host import EngineHost, LoopHost, OutsideHost, ThreadHost
from nodes.host_metrics import families, handing_families
from nodes.loading import Loaded
from nodes.metrics import Family
from nodes.names import offered_by
from nodes.native import mark_of
from nodes.objections import Objections
from nodes.pooled import pool_endpoints
from nodes.resting import rest_endpoints, shunned
from nodes.routing.teller import Teller
from nodes.serving import Beside, introduction, serve
from nodes.transfer.causes import Way
from nodes.transfer_metrics import transfer_families
from proto.messages import Role
from proto.placing import Report

if TYPE_CHECKING:
    from nodes.dock import PlaneDock
    from nodes.media.desk import Desk
    from nodes.transfer import Memory, Plane

NATIVE_LINGER_S = 2.0  # engines fetch from each other at once, and do not tell us when they have
LINGER_S = 12.0  # a little longer than the lease of what was handed over
SIDE_LEGS = 128  # metrics, status and files at once, beside a full engine: a few hundred nodes may ask together

log = logging.getLogger("wiremesh.worker")


def crashed(error: BaseException) -> NoReturn:
    """An engine that has raised may have anything in its memory. End at once: peers see closed links, and move on."""
    what = f"{type(error).__name__}: {error}"
    log.critical("the engine crashed (%s): this worker ends, its requests go on elsewhere", what)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(EXIT_CRASHED)


class Worker(Beside):
    """A loaded model and its place in the mesh."""

    def __init__(
        self,
        options: Options,
        loaded: Loaded,
        flags: EngineOptions,
        queue: int,
        crashed: Callable[[BaseException], None],
    ) -> None:
        card = loaded.card
        self.loaded = loaded
        self.flags = flags
        self.objections = Objections()
        self.plane: Plane | None = None
        self.dock: PlaneDock | None = None
        self.desk: Desk | None = None
        offered = offered_by(flags.role, card.model)
        self.host = host_of(loaded, offered, crashed, flags.enforce_disagg)
        native = self.host.core.native
        native.mode, native.mark = card.engine.native, mark_of(card.engine.engine, card.build)
        endpoints = {
            **node_endpoints(flags.role, lambda: self.actor, self.families, self.facts),
            **model_endpoints(card, loaded.contents, self.objections.hear),
            **pool_endpoints(flags.pool),
            **rest_endpoints(card.engine, self.host),
            **alone_endpoints(card.engine, flags),
        }
        levels, below = (loaded.tiers.levels, loaded.tiers.blocks) if loaded.tiers is not None else (1, 0)
        blocks = card.engine.blocks // card.engine.ranks + below
        self.teller = Teller(card.engine.ranks, levels, blocks, self.reports)
        self.host.core.teller = self.teller
        self.host.core.cached = self._cached
        slots = self.host.offer().slots + SIDE_LEGS
        self.actor = Actor(
            options, Role.WORKER, endpoints, flags.role, host=self.host, aide=self.teller, slots=slots, queue=queue
        )

    async def begin(self) -> None:
        """Have a data plane, if there is something to be moved."""
        if self.loaded.tiers is not None:
            self.loaded.tiers.bind(self.actor.loop, self._told, self.host.stir)
        from nodes.dock import PlaneDock  # Loads NumPy, which a simulated engine does not need before this.
        from nodes.planes import WAYS, start_plane
        from nodes.transfer import TransferRefused

        layout, ways = self.loaded.card.engine.layout, self.flags.ways
        check_ways(ways)
        check_hand_over(self.loaded.card.engine, self.flags)
        hands_over = stages(self.loaded.card.engine, self.flags)
        if hands_over or self.loaded.card.engine.media:
            try:
                self.plane = await start_plane(self.actor, ways or WAYS)
            except TransferRefused as refused:
                raise OptionRefused(f"no data plane can be had: {refused}") from None
            self._open_desk(self.plane)
        if self.plane is None or layout is None or not hands_over:
            return
        blocks = self.flags.kv_staging_bytes // layout.block_bytes
        memory = allocated(self.plane, blocks * layout.block_bytes)
        handing = self.host.core.handing
        handing.digest = self.loaded.card.build  # The digest of a card knows nothing of weights.
        self.dock = PlaneDock(self.plane, memory, layout, handing, self.host.refresh)
        handing.rooms.open(self.dock, blocks)

    def _open_desk(self, plane: "Plane") -> None:
        """Pictures and sounds are read there, if the model takes any."""
        from nodes.eyes import Eyes
        from nodes.media.desk import open_desk

        own = getattr(self.loaded.engine, "towers", None)  # some engines see with their own eyes
        towers = own or Eyes(folder_of(self.flags.model), self.flags.exact)
        self.desk = open_desk(plane, self.actor.loop, self.loaded.card, towers)
        self.host.core.desk = self.desk

    async def linger(self) -> None:
        """Requests that moved from here fetch what was computed for them."""
        if self.dock is not None:
            await self.dock.fetched(min(self.actor.options.drain_s, LINGER_S))
        elif self.host.core.native.mode and self.host.core.handing.counts["offered"]:
            await asyncio.sleep(min(self.actor.options.drain_s, NATIVE_LINGER_S))

    async def end(self) -> None:
        if self.loaded.tiers is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.loaded.tiers.close)
        if self.desk is not None:
            await self.desk.close()
        if self.plane is not None:
            await self.plane.close()

    def _told(self, changes: Sequence[tuple[int, Sequence[BlockEvent]]]) -> None:
        """The tiers have gained or lost blocks: routers hear of it at the end of a turn."""
        for medium, events in changes:
            self.teller.feed(events, medium)
        self.actor.post(Progressed())

    def reports(self) -> list[Report]:
        """What each Pong says of our load."""
        load, card = shunned(self.host.load()), self.loaded.card.engine
        # A heartbeat shows how many ranks there are: so it does before an engine has said how full each is.
        empty = [EngineLoad()] * card.ranks if card.ranks > 1 and not load.asleep else [load] * card.ranks
        return [
            Report(one.running, one.waiting, one.prefill_tokens, one.blocks_used, one.blocks_total, card.step_tokens)
            for one in load.ranks or empty
        ]

    def _cached(self, job: Job) -> int:
        """How many positions of a sequence need not come from elsewhere: as the engine has told."""
        card = self.loaded.card.engine
        if card.ranks > 1:
            return 0  # nobody knows yet who will run it
        return cached_positions(job, card.block_tokens, self.teller.leading, xxh3_64_intdigest)

    def families(self) -> list[Family]:
        """What this worker adds to its metrics."""
        core = self.host.core
        found = families(core.counts, self.host.load()) + handing_families(core.handing)
        if self.loaded.tiers is not None:
            found += self.loaded.tiers.families()
        if isinstance(self.loaded.engine, OutsideEngine):
            found += own_families(self.loaded.engine)
        if self.desk is not None:
            from nodes.media.metrics import media_families

            found += media_families(self.desk.embedder)
        return found + transfer_families(self.dock) if self.dock is not None else found

    def facts(self) -> dict[str, Any]:
        """What this worker adds to its status."""
        card, load = self.loaded.card, self.host.load()
        return {
            "offers": self.host.offer().endpoint,
            "staging": self.host.core.handing.rooms.blocks(),
            "model": card.model,
            "digest": card.digest,
            "objections": self.objections.texts,
            "engine": card.engine,
            "tokens": self.loaded.tokens,
            "load": load,
            "tiers": self.loaded.tiers.facts() if self.loaded.tiers is not None else {},
        }

    def introduction(self) -> str:
        card = self.loaded.card
        engine = card.engine
        does = "computes prompts of" if self.flags.role == "prefill" else "serves"
        return introduction(
            self.flags.role,
            self.actor,
            f"{does} {card.model} with the {engine.engine} engine, {engine.slots} slots, context {engine.context}",
        )


def own_families(engine: OutsideEngine) -> list[Family]:
    """An engine's own metrics. They must not cost those of the node."""
    try:
        return forwarded(engine.families())
    except Exception as error:  # It reads whatever the engine has registered.
        log.warning("the engine's own metrics cannot be read: %s: %s", type(error).__name__, error)
        return []


def host_of(loaded: Loaded, offered: str, crashed: Callable[[BaseException], None], enforce: bool) -> EngineHost:
    """What runs the engine: one that computes here has a thread of its own."""
    engine, card, digest = loaded.engine, loaded.card.engine, loaded.card.digest
    enforce = enforce or card.fed_only
    if isinstance(engine, OutsideEngine):
        return OutsideHost(engine, card, offered, crashed, digest, enforce)
    kind = LoopHost if card.engine == "sim" else ThreadHost
    return kind(engine, card, offered, crashed, digest, enforce)


def allocated(plane: "Plane", size: int) -> "Memory":
    """Staging memory. Raises OptionRefused."""
    try:
        return plane.allocate(size)
    except ValueError as error:
        raise OptionRefused(f"--kv-staging-bytes {size} cannot be had: {error}") from None


def check_ways(ways: Sequence[Way]) -> None:
    """Raises OptionRefused for a transport that is not installed."""
    if Way.NIXL in ways and find_spec("nixl") is None:
        raise OptionRefused("--transports names nixl, but it is not installed: 'pip install nixl', or leave it out")


async def run(options: Options, loaded: Loaded, flags: EngineOptions, queue: int) -> int:
    """Serve a model until told to leave; returns the exit code."""
    worker = Worker(options, loaded, flags, queue, crashed)
    return await serve(worker.actor, worker.introduction, lambda: _on_demand(worker), worker)


def _on_demand(worker: Worker) -> None:
    """SIGUSR2 calls up the fault that a simulated engine was given, and heals it."""
    from nodes.engines.faulty import FaultyEngine

    engine, host = worker.loaded.engine, worker.host
    if not isinstance(engine, FaultyEngine) or not isinstance(host, LoopHost):
        return

    def toggle() -> None:
        engine.toggle()
        host.counts.faults = engine.faults
        host.wake()

    worker.actor.loop.add_signal_handler(signal.SIGUSR2, toggle)
