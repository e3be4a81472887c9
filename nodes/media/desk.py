"""Shell. The desk of a worker: legs with pictures, sounds or clips wait here until their embeddings are there."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.core import Failed, Leg
from nodes.card import ModelCard
from nodes.engines.media import Media
from nodes.generation import Spot
from nodes.media import decoder, limits
from nodes.media.content import MediaRefused
from nodes.media.embedder import Embedder, Encodes, Rows, Unreachable
from nodes.transfer import Plane
from proto.errors import Reason

log = logging.getLogger("wiremesh.worker")

Done = Callable[[list[Media] | Failed], None]


class Desk:
    """Everything that waits. `done` is called once for each leg, in the loop, later; not after `forget`."""

    def __init__(self, embedder: Embedder, loop: asyncio.AbstractEventLoop) -> None:
        self.embedder = embedder
        self._loop = loop
        self._tasks: dict[Leg, asyncio.Task[None]] = {}

    def embed(self, leg: Leg, spots: Sequence[Spot], handles: Sequence[bytes], done: Done) -> None:
        """Get the embeddings of a leg."""
        self._tasks[leg] = self._loop.create_task(self._embed(leg, spots, handles, done), name="desk")

    def forget(self, leg: Leg) -> None:
        """It has ended; one that does not wait here is no error."""
        task = self._tasks.pop(leg, None)
        if task is not None:
            task.cancel()

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
            found = [Media(spot.first, spot.count, spot.content, held[spot.content].rows) for spot in spots]
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


class Eyes:
    """A model's towers, read from its directory when they are first needed: where encoders are, that is never."""

    def __init__(self, folder: Path, exact: bool) -> None:
        self._folder, self._exact = folder, exact
        self._towers: Encodes | None = None

    def encode(self, kind: str, array: NDArray[Any]) -> Rows:
        """Called in one thread only."""
        if self._towers is None:
            # Not every worker reads pictures by itself.
            from nodes.engines.numpy.config import Unsupported
            from nodes.engines.numpy.safetensors import Damaged
            from nodes.engines.numpy.towers import load

            try:
                self._towers = load(self._folder, self._exact)
            except (Unsupported, Damaged, OSError) as error:
                log.error("the eyes and ears of %s cannot be used: %s", self._folder, error)
                raise Unreachable("this worker cannot read pictures and sounds by itself") from None
            assert self._towers is not None, "its card says that it takes media"
        return self._towers.encode(kind, array)


def open_desk(
    plane: Plane,
    loop: asyncio.AbstractEventLoop,
    folder: Path,
    card: ModelCard,
    exact: bool = False,
    towers: Encodes | None = None,
) -> Desk | None:
    """The desk of a worker; None for a model that takes text alone. `exact`: as of the engine. `towers`: its own."""
    kinds = card.engine.media
    if not kinds:
        return None
    blind = [kind for kind in kinds if not decoder.reads(kind)]
    if blind:
        log.warning("%s is not decoded here: pip install 'wiremesh[media]', or start encoders", " and ".join(blind))
    memory = np.empty(limits.CACHE_BYTES_DEFAULT, np.uint8)
    return Desk(Embedder(plane, memory, kinds, card.build, towers or Eyes(folder, exact), brought=card.digest), loop)
