"""Shell. A frontend: everything that its handlers share, and the life of the requests that it owns."""

import asyncio
from functools import cached_property
from os import urandom
from time import monotonic
from typing import TYPE_CHECKING

from mesh.actor import Actor
from mesh.core import Abandon
from nodes.frontend.batch import Batch
from nodes.frontend.board import Board, Kept
from nodes.frontend.broadcast import Broadcast, Turns
from nodes.frontend.generation import CANCELLED
from nodes.frontend.journal import Journal
from nodes.frontend.keys import Admission, Keyring, Quotas
from nodes.frontend.record import Record
from nodes.frontend.registry import Registry
from nodes.frontend.routes import Names
from nodes.frontend.settings import Settings
from nodes.frontend.tally import Key, Tally
from nodes.metrics import Family
from nodes.openai.errors import SERVER, Problem
from proto.messages import Strength

if TYPE_CHECKING:
    from nodes.frontend.media import Attendant
    from nodes.media.ground import Ground

TICK_S = 0.5  # how often the board is looked at
LEAVING = Problem(503, "This frontend is being shut down.", SERVER, None, "shutting_down", 0.2)


class Frontend:
    """One frontend on one node of the mesh."""

    def __init__(self, actor: Actor, settings: Settings, version: str, log_format: str = "text") -> None:
        self.actor = actor
        self.settings = settings
        self.version = version
        self.tally = Tally()
        self.keyring: Keyring | None = None  # without one everybody may come in
        self.quotas = Quotas(settings.rate_per_key, settings.concurrency_per_key)
        self.admission = Admission(settings.streams_max)
        self.board: Board[Broadcast] = Board(_log_bytes, settings.kept_bytes_max)
        self.running: dict[Broadcast, None] = {}
        self.batches: dict[Batch, None] = {}  # of embeddings
        self.draining = False
        self.journal = Journal(log_format)
        self.names = Names()
        self._grounds: asyncio.Task[Ground] | None = None  # the first picture starts it
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event = asyncio.Event()

    def start(self) -> None:
        """The actor has started: look for models."""
        self.loop = self.actor.loop
        self.now = monotonic
        self.turns = Turns(self.loop)
        self.registry = Registry(self.actor)
        self.registry.start()
        self._tick()

    async def close(self) -> None:
        """End what still runs."""
        if self._timer is not None:
            self._timer.cancel()
        self._end_all()
        await self.registry.close()
        if "attendant" in vars(self):
            self.attendant.close()
        if self._grounds is not None:
            for ground in await asyncio.gather(self._grounds, return_exceptions=True):
                if not isinstance(ground, BaseException):
                    await ground.plane.close()
        self.journal.flush()

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, and return when what runs has ended or the grace is over."""
        self.draining = True
        try:
            async with asyncio.timeout(grace_s):
                while self.running or self.batches:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self._end_all()

    def _end_all(self) -> None:
        for broadcast in list(self.running):
            self.fail(broadcast, LEAVING)
        for batch in list(self.batches):
            self.end_batch(batch, LEAVING)

    def new_name(self) -> str:
        """The name of a request: whose it is, and a number that nobody can guess."""
        return f"{self.actor.node.settings.node:016x}-{urandom(8).hex()}"

    @cached_property
    def attendant(self) -> "Attendant":
        """Looks after pictures, sounds and clips. The first of them loads it: it needs NumPy and the data plane."""
        from nodes.frontend.media import Attendant

        return Attendant(self._ground, self.settings.media_bytes_max, self.settings.media_urls)

    def _ground(self) -> "asyncio.Future[Ground]":
        """From where others get the bytes of pictures."""
        if self._grounds is None or (self._grounds.done() and self._grounds.exception() is not None):
            self._grounds = self.loop.create_task(self._lay_ground(), name="plane")
        return self._grounds

    async def _lay_ground(self) -> "Ground":
        from nodes.media.ground import Ground
        from nodes.planes import start_plane

        return Ground(await start_plane(self.actor))

    # --- Generations -------------------------------------------------------------------------------------

    def broadcast(self, kept: bool) -> Broadcast:
        """A new one, without its generation yet."""
        made = Broadcast(self.turns, self.actor.post, kept, self._over, self._deserted)
        self.running[made] = None
        return made

    def keep(self, kept: Kept[Broadcast]) -> None:
        """Let others find it."""
        self.board.add(kept)

    def fail(self, broadcast: Broadcast, problem: Problem) -> None:
        """End a generation from here."""
        broadcast.fail(problem, self.now())

    def _over(self, broadcast: Broadcast) -> None:
        """A generation has ended: count it."""
        generation, tally = broadcast.generation, self.tally
        self.running.pop(broadcast, None)
        broadcast.held()
        self.admission.end(len(generation.choices), self.now())
        tally.tokens(*generation.counts())
        for choice in generation.choices:
            if choice.moved():
                tally.count("migrations", len(choice.finish.nodes) - 1)  # type: ignore[union-attr]
                tally.stall_s.add(choice.longest_s)
        if broadcast.log is not None:
            self.board.leave(generation.name, self.now() + self.settings.grace_s)
        if not (self.running or self.batches):
            self._idle.set()

    def end_batch(self, batch: Batch, problem: Problem) -> None:
        """A batch is over, or is to end here: what of it still runs is wanted by nobody."""
        batch.fail(problem)
        for request in list(batch.running):
            self.actor.post(Abandon(request, Strength.KILL))
        self.batches.pop(batch, None)
        if not (self.running or self.batches):
            self._idle.set()

    def _deserted(self, broadcast: Broadcast) -> None:
        """Nobody listens any more: what is kept gets a grace, all else ends now."""
        generation = broadcast.generation
        if generation.done:
            return
        if broadcast.log is not None and not self.draining:
            self.board.leave(generation.name, self.now() + self.settings.grace_s)
        else:
            self._cancel(broadcast)

    def _cancel(self, broadcast: Broadcast) -> None:
        self.tally.count("cancellations")
        broadcast.fail(CANCELLED, self.now())

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK_S, self._tick)
        if len(self.board):
            for broadcast in self.board.due(self.now()):
                if not broadcast.generation.done:
                    self._cancel(broadcast)

    # --- Telling -----------------------------------------------------------------------------------------

    def families(self) -> list[Family]:
        """What this frontend adds to its node's metrics."""
        self.tally.queued = sum(broadcast.generation.first_s < 0 for broadcast in self.running)
        self.tally.counts["refused_workers"] = self.registry.models.refused
        counts = self.registry.models.counts()
        return self.tally.families(self.admission.streams, len(self.board), self.board.bytes, counts)

    def tell(self, told: Record, stream: bool) -> None:
        """A request is over: one line, and one more in the metrics."""
        key = Key(told.model, told.endpoint, stream, told.status)
        self.tally.ended(key, told.duration_s)
        self.journal.add(told)


def _log_bytes(broadcast: Broadcast) -> int:
    return broadcast.log.bytes if broadcast.log is not None else 0
