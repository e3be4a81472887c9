"""Shell. The desk of a worker: legs with pictures, sounds or clips wait here until their embeddings are there."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import numpy as np

from mesh.core import Failed, Leg
from nodes.card import ModelCard
from nodes.contract.media import Media, Spot, media_of
from nodes.media import decoder, limits
from nodes.media.content import MediaRefused
from nodes.media.embedder import Embedder, Encodes, Unreachable
from nodes.media.ground import Ground
from nodes.native import UNSEEN, Rows, mark_of
from nodes.transfer import Plane, TransferRefused
from proto.errors import Reason

log = logging.getLogger("wiremesh.worker")

Done = Callable[[list[Media] | Failed], None]


class Desk:
    """Everything that waits. `done` is called once for each leg, in the loop, later; not after `forget`."""

    def __init__(self, embedder: Embedder, loop: asyncio.AbstractEventLoop) -> None:
        self.embedder = embedder
        self._loop = loop
        self._tasks: dict[Leg, asyncio.Task[None]] = {}
        self._ground: Ground | None = None

    def embed(self, leg: Leg, spots: Sequence[Spot], handles: Sequence[bytes], done: Done) -> None:
        """Get the embeddings of a leg."""
        self._tasks[leg] = self._loop.create_task(self._embed(leg, spots, handles, done), name="desk")

    def forget(self, leg: Leg) -> None:
        """It has ended; one that does not wait here is no error."""
        task = self._tasks.pop(leg, None)
        if task is not None:
            task.cancel()

    def lay_out(self, media: Sequence[Media]) -> Rows:
        """Their embeddings, for who goes on with a prompt that was computed here; nothing if there is no room."""
        rows = {one.content: np.ascontiguousarray(one.embedding, np.float32) for one in media}
        try:
            if self._ground is None:
                self._ground = Ground(self.embedder.plane, limits.HANDED_BYTES)
            packed = b"".join(one.tobytes() for one in rows.values())
            handle, _ = self._ground.lay(packed, limits.HANDED_LEASE_S, pulls=1)
        except TransferRefused as refused:
            log.warning("who goes on has to look at a picture again: %s", refused)
            return UNSEEN
        return handle, b"".join(rows)

    async def close(self) -> None:
        """End everything."""
        tasks = list(self._tasks.values())
        for leg in list(self._tasks):
            self.forget(leg)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.embedder.close()

    async def _embed(self, leg: Leg, spots: Sequence[Spot], handles: Sequence[bytes], done: Done) -> None:
        found: list[Media] | Failed
        try:
            held = await self.embedder.hold(spots, handles)
            self.embedder.let_go(held)  # the rows are copies
            found = [media_of(spot, held[spot.content].rows) for spot in spots]
        except (MediaRefused, Unreachable) as error:
            found = failed(leg, error)
        except Exception as error:  # A tower that raises must not leave a leg without an end.
            log.error("a mistake of ours, in the embeddings of a request", exc_info=error)
            found = failed(leg, error)
        if self._tasks.pop(leg, None) is not None:
            done(found)


def failed(leg: Leg, error: Exception) -> Failed:
    """What is wrong with a part is its client's mistake; what is not here may be elsewhere."""
    if isinstance(error, MediaRefused):
        return Failed(leg, Reason.INVALID, text=str(error))
    return Failed(leg, Reason.FAILED, text=str(error), retryable=True)


def open_desk(plane: Plane, loop: asyncio.AbstractEventLoop, card: ModelCard, towers: Encodes) -> Desk | None:
    """The desk of a worker; None for a model that takes text alone."""
    kinds = card.engine.media
    if not kinds:
        return None
    blind = [kind for kind in kinds if not decoder.reads(kind)]
    if blind:
        log.warning("%s is not decoded here: pip install 'wiremesh[media]', or start encoders", " and ".join(blind))
    memory = np.empty(limits.CACHE_BYTES_DEFAULT, np.uint8)
    good = (card.digest, mark_of(card.engine.engine, card.build))
    return Desk(Embedder(plane, memory, kinds, card.build, towers, brought=good), loop)
