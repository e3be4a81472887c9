"""Shell. An encoder: it makes embeddings of pictures, sounds and clips, keeps them, and hands them to who asks next.

A leg here makes no token. It is over as soon as its embeddings lie on offer; they stay until they are fetched, or for
their lease, and longer in the cache, whose changes routers hear of.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from mesh.core import Event, Finished, Go, Halt, Hint, Leg, Prepared, Start, Yielded
from nodes import generation, names, parcels
from nodes.contract.engine import BlockEvent
from nodes.host import PULSE_S, Pulse
from nodes.media import limits
from nodes.media.content import MediaRefused
from nodes.media.desk import failed
from nodes.media.embedder import Embedder, Held, Unreachable
from nodes.media.metrics import media_families
from nodes.metrics import Family, counter, gauge
from nodes.transfer import Memory, TransferRefused
from proto.messages import Offer

POLL_S = 0.02
TOWER_S_MAX = 30.0  # for one part: a long sound on a slow machine takes less; a tower that takes longer hangs
SLOTS = 64  # legs at once: most of them wait for a picture to come, or for the one that is worked on

log = logging.getLogger("wiremesh.encoder")

Tell = Callable[[list[BlockEvent]], None]


class EncoderHost:
    """Runs the legs of `encode/MODEL`. The embedder is there before the first leg is: see `begin`."""

    def __init__(self, model: str, tell: Tell, slots: int = SLOTS) -> None:
        self._offer = Offer(names.ENCODE + model, resumable=True, slots=slots)
        self._tell = tell
        self._tasks: dict[Leg, asyncio.Task[None]] = {}
        self._embedder: asyncio.Future[tuple[Embedder, Memory]] | None = None
        self.outcomes = dict.fromkeys(("complete", "refused", "failed", "cancelled", "stopped"), 0)
        self.offered_bytes = 0
        self._pulse: Pulse | None = None
        self._made, self._still_s = 0, 0.0  # embeddings, when the pulse last looked, and for how long that has been all

    def offer(self) -> Offer:
        return self._offer

    def attach(self, post: Callable[[Event], None], loop: asyncio.AbstractEventLoop) -> None:
        self._post, self._loop = post, loop
        self._embedder = loop.create_future()
        self._pulse = Pulse(post, loop, self._is_well)

    def begin(self, embedder: Embedder, memory: Memory) -> None:
        """The plane has started; `memory` is the shelf's, on it."""
        assert self._embedder is not None
        self._embedder.set_result((embedder, memory))

    def holds(self, leg: Leg) -> bool:
        return leg in self._tasks

    def start(self, start: Start) -> None:
        self._tasks[start.leg] = self._loop.create_task(self._run(start), name="encode")

    def go(self, go: Go) -> None:
        """No leg here waits for another."""

    def hint(self, hint: Hint) -> None:
        if self._ended(hint.leg, "stopped"):
            self._post(Finished(hint.leg))

    def halt(self, halt: Halt) -> None:
        if self._ended(halt.leg, "cancelled"):
            self._post(Yielded(halt.leg))

    def _is_well(self) -> bool:
        """Legs wait for parts to come, and for their turn, as long as they like; the tower may not stand still."""
        embedder = self._embedder.result()[0] if self._embedder is not None and self._embedder.done() else None
        made = embedder.figures["encoded"] if embedder is not None else 0
        moved = embedder is None or not embedder.encoding or made != self._made
        self._made, self._still_s = made, 0.0 if moved else self._still_s + PULSE_S
        return self._still_s < TOWER_S_MAX

    async def close(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def fetched(self, patience_s: float) -> None:
        """Wait until what it has made is fetched, but not for ever."""
        deadline = self._loop.time() + patience_s
        while self.offered_bytes and self._loop.time() < deadline:
            await asyncio.sleep(POLL_S)

    @property
    def active(self) -> int:
        """Legs that it works on."""
        return len(self._tasks)

    def _ended(self, leg: Leg, outcome: str) -> bool:
        task = self._tasks.pop(leg, None)
        if task is None:
            return False
        task.cancel()
        self.outcomes[outcome] += 1
        return True

    async def _run(self, start: Start) -> None:
        """One leg, to its one end."""
        try:
            parcel = await self._parcel(start)
            ends: list[Event] = [Prepared(start.leg, parcel), Finished(start.leg)]
            outcome = "complete"
        except (Unreachable, TransferRefused) as error:
            ends, outcome = [failed(start.leg, Unreachable(str(error)))], "failed"
        except ValueError as error:  # what an asker sent
            ends, outcome = [failed(start.leg, MediaRefused(str(error)))], "refused"
        except Exception as error:  # A tower that raises must not leave a leg without an end.
            log.error("a mistake of ours, in a leg of this encoder", exc_info=error)
            ends, outcome = [failed(start.leg, error)], "failed"
        if self._tasks.pop(start.leg, None) is not None:
            self.outcomes[outcome] += 1
            for event in ends:
                self._post(event)

    async def _parcel(self, start: Start) -> bytes:
        """The embeddings of a request, on offer."""
        assert self._embedder is not None
        embedder, memory = await self._embedder
        spots = generation.decode(start.payload).media
        if not spots:
            raise MediaRefused("the request holds nothing that an encoder could read")
        try:
            found = await embedder.hold(spots, start.handles)
        finally:  # what was read before a part that cannot be is there all the same
            if events := embedder.shelf.events:
                embedder.shelf.events = []
                self._tell(events)
        try:
            return self._offered(embedder, memory, found)
        except BaseException:
            embedder.let_go(found)
            raise

    def _offered(self, embedder: Embedder, memory: Memory, found: Mapping[bytes, Held]) -> bytes:
        pieces, rows = [], 0
        for held in found.values():
            if held.place is None:
                raise Unreachable("there is no room for its embeddings until others have been fetched")
            pieces += embedder.shelf.pieces(held.place)
            rows += held.place.rows
        size = sum(length for _, length in pieces)

        def freed(_cause: object) -> None:
            self.offered_bytes -= size
            embedder.let_go(found)

        offer = embedder.plane.offer(memory, pieces, lease_s=limits.LEASE_S, pulls=1, freed=freed)
        self.offered_bytes += size
        content = b"".join(found)
        return parcels.encode(parcels.Parcel(parcels.EMBEDDING, offer.handle(), embedder.digest, 0, rows, content))

    def families(self) -> list[Family]:
        """The metrics of this host."""
        outcomes: dict[str, float] = dict(self.outcomes)
        name = "wiremesh_encoder_"
        found = [
            counter(f"{name}requests_total", "Requests that this encoder has ended, by how.", outcomes, "outcome"),
            gauge(f"{name}active_requests", "Requests that it works on.", self.active),
            gauge(f"{name}offered_bytes", "Embeddings that wait to be fetched.", self.offered_bytes),
        ]
        if self._embedder is not None and self._embedder.done():
            found += media_families(self._embedder.result()[0])
        return found
