"""Pure. The process of a simulated worker: the real host core and a simulated engine, as `nodes.host.LoopHost` has it.

An engine that raises ends its process at once, in the middle of the turn, as a real worker does: what it has gathered
to say is lost.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any
from zlib import crc32

from msgspec import structs

from mesh.aide import Aide
from mesh.core import Event, Failed, Finished, Go, Halt, Hint, Leg, Pause, Progressed, Start, Stepped, Unpause, Yielded
from mesh.settings import Settings
from mesh.simulation.process import Process
from mesh.simulation.violation import require
from nodes.cached import cached_positions
from nodes.contract.blocks import chain, root
from nodes.contract.engine import Job, Step
from nodes.contract.media import pieces
from nodes.engines.scheduler import Plan
from nodes.engines.sim import Crashed, SimEngine
from nodes.faults import Fault
from nodes.handing import Handing
from nodes.names import ALONE
from nodes.paced import PacedHost
from nodes.routing.teller import Teller
from nodes.simulation.dock import SimDock
from nodes.simulation.pictures import EMBEDDINGS
from nodes.simulation.plan import POISON, SALTS, ServingPlace, engine_settings
from nodes.simulation.telling import SimTeller, teller_of
from proto.messages import Offer
from proto.placing import Report

if TYPE_CHECKING:
    from mesh.simulation.world import World

DRIFT_S = 1e-3  # what a timer and a clock may differ by in a long step
PULSE_S = 1.0  # as `nodes.host` has it
SOON_S = 1e-5  # what a loop takes to come round


def digest(data: bytes) -> int:
    """64 bits that depend on all of it."""
    return crc32(data) << 32 | crc32(data[::-1])


ROOTS = {0, *(root(salt, digest) for salt in SALTS)}  # what first blocks follow


class WatchedEngine(SimEngine):
    """An engine that says which prompt it died of, and whom it still has."""

    victim: Leg | None = None
    begun: Callable[[Job], None]
    computes: Callable[[Plan], None]
    found: Callable[[Job, int], None]
    evicts: Callable[[], None]

    def submit(self, job: Job) -> str | None:
        refusal = super().submit(job)
        if refusal is None:
            self.begun(job)
        return refusal

    def step(self) -> Step:
        told = self._fault is Fault.CRASH
        jobs = {key: running.job for key, running in self._scheduler._all.items()}
        try:
            step = super().step()
        except Crashed:
            if not told:
                dead = next(running for running in self._scheduler.filling if POISON in running.job.prompt)
                self.victim = dead.key  # type: ignore[assignment]
            raise
        if any(event.kind == "removed" for event in step.events):
            self.evicts()
        for output in step.outputs:
            if output.cached_tokens and output.key in jobs:  # else it was cancelled since
                self.found(jobs[output.key], output.cached_tokens)
        return step

    def _feel(self, plan: Plan) -> None:
        """What it computes with are the rows of that picture."""
        super()._feel(plan)
        self.computes(plan)
        for part in plan.parts:
            for piece in pieces(part.running.job.media, part.start, part.start + part.count):
                rows = piece.media.embedding
                right = rows is not None and rows.tobytes() == EMBEDDINGS.get(piece.media.content)
                require(right, "2 embeddings", f"{part.running.key} shows what the engine cannot see right")

    def holds(self, leg: Leg) -> bool:
        """Whether a job is in it."""
        return leg in self._scheduler._all

    def leading(self, job: Job) -> int:
        """Positions of a sequence, but for the last, that it has in whole blocks."""
        size, first = self._settings.limits.block_tokens, root(job.cache_salt, digest)
        names = chain([*job.prompt, *job.generated][:-1], size, first, digest)
        return self._scheduler.pool.idle_among(names)[0] * size

    def evict(self) -> None:
        """Others need all the room of what nobody uses now."""
        pool = self._scheduler.pool
        pool.release([pool.take() for _ in range(pool.free)])

    @property
    def told(self) -> bool:
        """Whether it has told of every change of its cache."""
        return not self._scheduler.pool.events


class Run:
    """What the books of a process hold for a leg that its engine runs."""

    __slots__ = ("halting", "hinted", "inner", "leg", "over")

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.inner = None
        self.hinted = self.halting = self.over = False


class Worker(Process):
    """A process with an engine."""

    def __init__(self, world: "World", place: int, incarnation: int, node: int, addresses: tuple[str, ...]) -> None:
        self.place_of = world.plan.places[place]
        assert isinstance(self.place_of, ServingPlace)
        self.teller: SimTeller | None = None
        super().__init__(world, place, incarnation, node, addresses)
        self.engine = WatchedEngine(engine_settings(self.place_of), digest)
        judges: Any = self.oracles
        self.engine.begun = lambda job: judges.begun(self, job)
        self.engine.found = lambda job, tokens: judges.found_in_cache(self, job.key, tokens, job)
        self.engine.evicts = lambda: judges.thrift.lacks_room(self)
        self.engine.computes = lambda plan: judges.thrift.computes(self, plan)
        card = self.engine.start()
        self.slots = card.slots
        handing = Handing(card.layout)
        self.host = PacedHost(self.engine, card.vocabulary, handing=handing)
        self.known = self.teller or Teller()  # without routers too it remembers what it was told
        self.host.core.teller = self.known
        self.host.core.cached = self._cached
        self.host.core.wake = self._woken
        assert card.layout is not None
        self.dock = SimDock(self, self.place_of.staging, card.layout.block_bytes)
        if self.place_of.staging:
            handing.rooms.open(self.dock, self.place_of.staging)
        self.hands_over = self.place_of.hand_over or self.place_of.sees  # without embeddings it cannot compute again
        self.dying = False
        self._armed_for = inf
        self._turning = False

    def _aide(self) -> Aide | None:
        self.teller = teller_of(self, self._reports)
        return self.teller

    def _cached(self, job: Job) -> int:
        """As `nodes.worker` has it."""
        assert isinstance(self.place_of, ServingPlace)
        found = cached_positions(job, self.place_of.block_tokens, self.known.leading, digest)
        judges: Any = self.oracles
        judges.spared.believes(self, job, found)
        return found

    @property
    def tells_all(self) -> bool:
        """Whether what it was told of its engine's cache is all that there is to tell."""
        step = self.host._step
        return self.engine.told and (step is None or not step.events)

    def evict(self) -> None:
        """Its engine loses what it kept for others."""
        if self.alive and not self.hung:
            self.engine.evict()
            self._arm()

    def _reports(self) -> list[Report]:
        """What each Pong says, as `nodes.worker` has it."""
        load, place = self.engine.load(), self.place_of
        assert isinstance(place, ServingPlace)
        sizes = load.blocks_used, load.blocks_total, place.step_tokens
        return [Report(load.running, load.waiting, load.prefill_tokens, *sizes)]

    def _settings(self, node: int, incarnation: int) -> Settings:
        return structs.replace(super()._settings(node, incarnation), engine=self.spec.offers[0])

    def _offers(self) -> tuple[Offer, ...]:
        assert isinstance(self.place_of, ServingPlace)
        offers = [Offer(endpoint, True, self.place_of.engine_slots) for endpoint in self.spec.offers]
        return (*offers, *([] if self.place_of.staging else [Offer(ALONE)]))

    def start(self) -> None:
        """The first turn."""
        super().start()
        self.after(PULSE_S, self._pulse)

    def _pulse(self) -> None:
        """An engine with nothing to do is well."""
        self.after(PULSE_S, self._pulse)
        if self.host.core.at_rest:
            self.run(Progressed())

    # --- The driver of the host ------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        if isinstance(event, Finished | Failed | Yielded):
            self.handlers.pop(event.leg, None)
        elif isinstance(event, Stepped):
            for leg, _, _ in event.made:
                self.oracles.suspects.made(leg)
        self.run(event)

    def _woken(self, events: list[Event]) -> None:
        """What a leg waited for is there."""
        for event in events:
            self._post(event)
        self._arm()

    def refresh(self) -> None:
        """The data plane had something to say."""
        self._arm()

    def _arm(self) -> None:
        if self._turning or self.dying:
            return
        due = self.host.deadline()
        if due < self._armed_for:
            self._armed_for = due
            self.after(max(SOON_S, due - self.local()), self._turn_host, due)

    def _turn_host(self, due: float) -> None:
        if due != self._armed_for or self.dying:
            return
        self._armed_for = inf
        self._turning = True
        try:
            self.host.turn(max(self.local(), due), self._post)
        except Crashed:
            self.dying = True
            nemesis: Any = self.world.nemesis
            self.clock.at(self.clock.now, nemesis.engine_died, self)
        finally:
            self._turning = False
        self._look_at_room()
        self._arm()

    def _look_at_room(self) -> None:
        load = self.engine.load()
        if load.waiting or load.blocks_used * 2 > load.blocks_total or self.node.holder.slots.waiting:
            self.last_full = self.clock.now
            judges: Any = self.oracles
            judges.thrift.lacks_room(self)

    def could_start(self, since: float) -> bool:
        """Whether there was room for one more leg all the time."""
        return len(self.handlers) < self.slots and self.last_full < since

    def check(self) -> None:
        """Assert the invariants of host and engine."""
        self.host.check()
        self.engine.check()

    # --- What a process does ---------------------------------------------------------------------------------

    def wake(self, call: Any, *arguments: Any) -> None:
        """Nothing more once the engine is dead."""
        if not self.dying:
            super().wake(call, *arguments)

    def end_turn(self) -> None:
        """What was gathered is lost with the engine."""
        if not self.dying:
            super().end_turn()

    def _start(self, effect: Start) -> None:
        run: Any = Run(effect.leg)
        self.handlers[effect.leg] = run
        self.oracles.started(self, run)
        for event in self.host.start(effect, self.local()):
            self._post(event)
        self._arm()

    def _hint(self, effect: Hint) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].hinted = True
        for event in self.host.hint(effect, self.local()):
            self._post(event)
        self._arm()

    def _go(self, effect: Go) -> None:
        self.host.go(effect, self.local())
        self._arm()

    def _halt(self, effect: Halt) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].halting = True
        for event in self.host.halt(effect, self.local()):
            self._post(event)
        self._arm()
        due = self.host._due if self.host._step is not None else self.local()
        if due < inf:
            self.after(max(0.0, due - self.local()) + DRIFT_S, self._look_at_freed, effect.leg)

    def forget(self, leg: Leg) -> None:
        """A job runs for nobody any more; what waits for a word that will never come would wait for ever."""
        super().forget(leg)
        self.host.halt(Halt(leg), self.local())
        self._arm()

    def _look_at_freed(self, leg: Leg) -> None:
        """At the end of the step that ran when it was cancelled, its slot and its blocks are free."""
        still = leg in self.handlers or self.engine.holds(leg)
        require(not still or self.hung, "15 freed", f"{self.label} has not freed {leg} with the step that ran")

    def _pause(self, effect: Pause) -> None:
        """What credit does not allow waits in the node."""

    def _unpause(self, effect: Unpause) -> None:
        """See `_pause`."""

    # --- What goes wrong with it -------------------------------------------------------------------------------

    def cached(self) -> set[int]:
        """What a prompt can find in its engine: blocks with all that comes before them."""
        pool = self.engine._scheduler.pool
        found: set[int] = set()
        for name in pool._by_hash:
            path = [name]
            while path[-1] in pool._by_hash:
                path.append(pool._parents[pool._by_hash[path[-1]]])
            if path[-1] in ROOTS:
                found.update(path[:-1])
        return found

    @property
    def promises(self) -> bool:
        """Whether others may still come for something."""
        return self.host.core.handing.offers > 0

    def busy(self) -> str:
        """What still keeps peace from it: in the end an engine holds nothing."""
        load = self.engine.load()
        if load.running or load.waiting or load.blocks_used or self.host.core.runs:
            return f"its engine has {load}, {list(self.host.core.runs)}"
        rooms = self.host.core.handing.rooms.all
        return f"{len(rooms)} rooms, {list(rooms.values())[:3]}" if rooms else ""

    def hang(self) -> None:
        """Its steps never end."""
        self.hung = True
        self.engine.fault(Fault.HANG)

    def unhang(self) -> None:
        """The step that hung is over."""
        self.hung = False
        self.heal_engine()

    def jump(self, ahead_s: float) -> None:
        """The step that runs may be over by now."""
        super().jump(ahead_s)
        self._armed_for = inf
        self._arm()

    def heal_engine(self) -> None:
        """Nothing is wrong with the engine any more."""
        self.engine.fault(Fault.NONE)
        if self.alive:
            self.wake(self._healed)

    def _healed(self) -> None:
        self.host.wake(self.local())
        self._armed_for = inf
        self._arm()
