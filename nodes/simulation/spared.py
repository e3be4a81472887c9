"""Pure. Invariant 29: of what is handed over, a worker pulls what its own cache lacks, all of that, and nothing else.

Both halves are judged: what a worker believes of its engine's cache must be what is there, unless a step has changed it
that is not over yet; and a pull must begin where that ends.
"""

from typing import TYPE_CHECKING

from mesh.core import Leg
from mesh.simulation.violation import require
from nodes.contract.engine import Job
from nodes.rooms import Room
from nodes.transfer.handle import Handle

if TYPE_CHECKING:
    from nodes.simulation.worker import Worker


class Spared:
    """What the workers of one run believed that they need not pull."""

    def __init__(self) -> None:
        self._believed: dict[tuple[str, Leg], int] = {}  # positions

    def believes(self, worker: "Worker", job: Job, positions: int) -> None:
        """A leg begins whose prompt others compute."""
        leg: Leg = job.key  # type: ignore[assignment]
        self._believed[worker.label, leg] = positions
        if job.media or not worker.tells_all:
            return
        true = worker.engine.leading(job)
        require(positions == true, "29 spared", f"{worker.label} believes to have {positions} of {leg}, not {true}")

    def pulls(self, worker: "Worker", room: Room, wanted: Handle) -> int:
        """Its pull begins; how many bytes it need not bring."""
        leg: Leg = room.leg  # type: ignore[assignment]
        assert wanted.layout is not None
        blocks = wanted.size // wanted.layout.block_bytes
        here = self._believed[worker.label, leg] // wanted.layout.block_tokens
        first = min(here, blocks - 1) * wanted.layout.block_bytes  # a pull of nothing could not say how it went
        require(room.start == first, "29 spared", f"{worker.label} pulls {leg} from {room.start}, not {first}")
        return first
