"""Shell. A worker's own eyes and ears, for pictures and sounds that no encoder has read for it."""

import logging
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.safetensors import Damaged
from nodes.engines.numpy.towers import load
from nodes.media.embedder import Encodes, Rows, Unreachable

log = logging.getLogger("wiremesh.worker")


class Eyes:
    """A model's towers, read from its directory when they are first needed: where encoders are, that is never."""

    def __init__(self, folder: Path, exact: bool) -> None:
        self._folder, self._exact = folder, exact
        self._towers: Encodes | None = None

    def encode(self, kind: str, array: NDArray[Any]) -> Rows:
        """Called in one thread only."""
        if self._towers is None:
            try:
                self._towers = load(self._folder, self._exact)
            except (Unsupported, Damaged, OSError) as error:
                log.error("the eyes and ears of %s cannot be used: %s", self._folder, error)
                raise Unreachable("this worker cannot read pictures and sounds by itself") from None
            assert self._towers is not None, "its card says that it takes media"
        return self._towers.encode(kind, array)
