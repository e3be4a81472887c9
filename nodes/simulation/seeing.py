"""Shell. Simulated processes that see: encoders, and workers that wait for embeddings or make them themselves.

The real host of an encoder (`nodes.encoder`), the real desk of a worker (`nodes.media.desk`) and the real embedder run
here, each process in an asyncio loop of its own in virtual time. Only the bytes on their way, the process that decodes
and the towers are simulated: those know a few pictures, and take as long as their plan says.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from mesh.aide import Aide
from mesh.core import Event, Failed, Finished, Go, Halt, Hint, Leg, Prepared, Start, Yielded
from mesh.settings import Settings
from mesh.simulation.process import Process
from mesh.simulation.virtual import VirtualLoop
from mesh.simulation.world import Result
from nodes.encoder import EncoderHost
from nodes.media import limits
from nodes.media.content import MediaRefused
from nodes.media.desk import Desk
from nodes.media.embedder import Embedder, Rows, Unreachable
from nodes.media.shelf import hash_of
from nodes.media.wanted import Wanted
from nodes.names import ENCODE
from nodes.simulation.pictures import CARDS, FEATURES, embedding_of, number_of
from nodes.simulation.plan import ENCODER, WORKER, ServingPlace
from nodes.simulation.planes import SimPlane
from nodes.simulation.telling import SimTeller, teller_of
from nodes.simulation.worker import Run, Worker
from nodes.simulation.world import KINDS, ServingWorld
from nodes.transfer.plane import Plane
from proto.messages import Offer
from proto.placing import Report

if TYPE_CHECKING:
    from mesh.simulation.world import World

CPU_S = 1e-5  # virtual time that a step of such a loop takes
STUCK_S = 0.05  # between two looks of a tower at whether its process still hangs
BLIND = "this worker cannot read pictures and sounds by itself"  # as `nodes.media.desk` says it


class Loop(VirtualLoop):
    """The loop of one process, and the one thread that computes beside it."""

    def __init__(self, process: Process, takes_s: float) -> None:
        super().__init__(process.local)
        self._process = process
        self._takes_s = takes_s
        self._free_at = -inf
        self._step_at = inf
        self.broken: BaseException | None = None
        self.set_exception_handler(self._note)

    def _note(self, loop: Any, context: dict[str, Any]) -> None:
        """What a callback or a task lets out is a mistake of ours, but for what an embedder may raise."""
        error = context.get("exception") or RuntimeError(context["message"])
        if not isinstance(error, MediaRefused | Unreachable):
            self.broken = self.broken or error

    def turn(self) -> None:
        """Go on as soon as there is something to do."""
        at = self.next_at() if not self.is_closed() else inf
        if at < self._step_at:
            self._step_at = at
            self._process.after(max(CPU_S, at - self.time()), self._went, at)

    def again(self) -> None:
        """The clock has jumped."""
        self._step_at = inf
        self.turn()

    def _went(self, at: float) -> None:
        if at == self._step_at and not self.is_closed():
            self._step_at = inf
            self.step()
            if self.broken is not None:
                raise self.broken

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *arguments: Any
    ) -> "asyncio.Future[Any]":
        """One after the other, each in its time."""
        future = self.create_future()
        self._free_at = max(self.time(), self._free_at) + self._takes_s
        self.call_at(self._free_at, self._compute, future, func, arguments)
        return future

    def _compute(self, future: "asyncio.Future[Any]", func: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self._process.hung:
            self.call_later(STUCK_S, self._compute, future, func, arguments)
            return
        try:
            result = func(*arguments)
        except (ValueError, Unreachable) as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)


class SeenPlane(SimPlane):
    """A plane that coroutines fetch from, as they do from the real one."""

    def __init__(self, process: Process, loop: Loop) -> None:
        super().__init__(process)
        self._loop = loop

    fetch = Plane.fetch


class Towers:
    """What makes embeddings."""

    def __init__(self, blind: bool) -> None:
        self._blind = blind

    def encode(self, kind: str, array: Any) -> Rows:
        """The rows of a picture."""
        if self._blind:
            raise Unreachable(BLIND)
        rows = embedding_of(number_of(array.tobytes()))
        return np.frombuffer(rows, np.float32).reshape(-1, FEATURES)


class Decoder:
    """What stands for the process that decodes."""

    async def decode(self, wanted: Wanted, data: Any) -> Any:
        """It looks at nothing, but it takes its time."""
        if len(data) != wanted.size:
            raise MediaRefused("it is cut short")
        await asyncio.sleep(0.002)
        return np.frombuffer(data, np.uint8)

    def close(self) -> None:
        """There is nothing to end."""


class Seeing(Process):
    """A process with a loop, a plane, and an embedder on it."""

    def __init__(self, world: "World", place: int, incarnation: int, node: int, addresses: tuple[str, ...]) -> None:
        spec = world.plan.places[place]
        assert isinstance(spec, ServingPlace)
        super().__init__(world, place, incarnation, node, addresses)
        self.loop = Loop(self, spec.encode_ms / 1000)
        self.plane = SeenPlane(self, self.loop)
        room = np.zeros(spec.shelf_parts * limits.CACHE_BLOCK_BYTES, np.uint8)
        self.memory = self.plane.register(room)
        plane: Any = self.plane
        self.embedder = Embedder(plane, room, CARDS, "", Towers(spec.blind))
        decoder: Any = Decoder()
        self.embedder.decoder.close()
        self.embedder.decoder = decoder

    def end_turn(self) -> None:
        """Whatever happened may have given the loop something to do."""
        super().end_turn()
        self.loop.turn()

    def jump(self, ahead_s: float) -> None:
        super().jump(ahead_s)
        self.loop.again()

    def ended(self) -> None:
        """Its tasks end with it."""
        super().ended()
        if not self.loop.is_closed():
            self.alive = False
            self.plane.close()
            self.loop.end()
            self.embedder.close()

    def busy(self) -> str:
        """What still keeps peace from it."""
        shelf = self.embedder.shelf
        shelf.check()
        held = sum(place.holders for place in shelf._places.values())
        tasks = len(asyncio.all_tasks(self.loop))
        held_up = held or tasks or self.plane.offers or self.plane.pulls or self.embedder._making
        books = f"{held} embeddings held, {tasks} tasks, {len(self.plane.offers)} offers, {len(self.plane.pulls)} pulls"
        return books if held_up else ""


class SeeingWorker(Seeing, Worker):
    """A worker whose model takes pictures."""

    def __init__(self, world: "World", place: int, incarnation: int, node: int, addresses: tuple[str, ...]) -> None:
        super().__init__(world, place, incarnation, node, addresses)
        self.host.core.desk = Desk(self.embedder, self.loop)

    def busy(self) -> str:
        return Seeing.busy(self) or Worker.busy(self)


class Encoder(Seeing):
    """A process that makes embeddings for others."""

    def __init__(self, world: "World", place: int, incarnation: int, node: int, addresses: tuple[str, ...]) -> None:
        self.teller: SimTeller | None = None
        super().__init__(world, place, incarnation, node, addresses)
        model = self.spec.offers[0].removeprefix(ENCODE)
        self.host = EncoderHost(model, self._feed, self.spec.slots)
        self.host.attach(self._post, self.loop)
        embedder, memory = self.embedder, self.memory
        self.host.begin(embedder, memory)  # type: ignore[arg-type]

    def _settings(self, node: int, incarnation: int) -> Settings:
        return structs.replace(super()._settings(node, incarnation), engine=self.spec.offers[0])

    def _offers(self) -> tuple[Offer, ...]:
        return tuple(Offer(endpoint, True, self.spec.slots) for endpoint in self.spec.offers)

    def _aide(self) -> Aide | None:
        self.teller = teller_of(self, lambda: [Report(self.host.active, 0)])
        return self.teller

    def _feed(self, events: Any) -> None:
        if self.teller is not None:
            self.teller.feed(events)

    def cached(self) -> set[int]:
        """What it can hand over at once, as routers name it."""
        return {hash_of(name) for name in self.embedder.shelf.known()}

    @property
    def tells_all(self) -> bool:
        """Whether routers were told of all that is on its shelf."""
        return not self.embedder.shelf.events

    @property
    def promises(self) -> bool:
        """Whether others may still come for something."""
        return self.host.offered_bytes > 0

    def busy(self) -> str:
        still = f"{self.host.offered_bytes} bytes on offer, {self.host.active} legs"
        return super().busy() or (still if self.host.offered_bytes or self.host.active else "")

    # --- Legs ------------------------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        ends = isinstance(event, Finished | Failed | Yielded)
        if (ends or isinstance(event, Prepared)) and event.leg not in self.handlers:  # type: ignore[union-attr]
            return  # it was forgotten
        if ends:
            self.handlers.pop(event.leg, None)  # type: ignore[union-attr]
        self.run(event)

    def _start(self, effect: Start) -> None:
        run: Any = Run(effect.leg)
        self.handlers[effect.leg] = run
        self.oracles.started(self, run)
        self.host.start(effect)

    def _go(self, effect: Go) -> None:
        self.host.go(effect)

    def _hint(self, effect: Hint) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].hinted = True
        self.host.hint(effect)

    def _halt(self, effect: Halt) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].halting = True
        self.host.halt(effect)

    def forget(self, leg: Leg) -> None:
        """A leg is here for nobody any more."""
        super().forget(leg)
        self.host.halt(Halt(leg))

    def unhang(self) -> None:
        """Its towers move again."""
        self.hung = False


class SeeingWorld(ServingWorld):
    """A world in which some can see."""

    kinds = {**KINDS, ENCODER: Encoder}

    def _process(self, place: int, number: int, node: int, address: str) -> Process:
        spec = self.plan.places[place]
        assert isinstance(spec, ServingPlace)
        if spec.kind == WORKER and spec.sees:
            return SeeingWorker(self, place, number, node, (address,))
        return super()._process(place, number, node, address)

    def run(self) -> Result:
        """As every world; then the loops of all processes are closed."""
        try:
            return super().run()
        finally:
            for process in self.processes():
                process.ended()
