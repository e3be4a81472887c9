"""Pure. Discovery, as unreliable as the real ones: late, told twice, out of date, and of other meshes too."""

from random import Random
from typing import TYPE_CHECKING

from mesh.core import Found, Lost
from proto.messages import Record

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

EARLIEST_S, LATEST_S = 0.005, 0.5  # until others hear of a record
LOST_LATEST_S = 20.0  # until others hear that a node which died is gone
AGAIN_LATEST_S = 5.0


class Directory:
    """What everybody hears about everybody."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._records: dict[int, tuple[Record, str]] = {}
        self._random: dict[str, Random] = {}
        self.foreign: dict[int, str] = {}

    def publish(self, process: "Process", record: Record) -> None:
        """A node says where it is, or that this has changed."""
        if not self._world.plan.discovery:
            return
        self._records[record.node] = (record, process.label)
        random = self._draws(process.label)
        for other in self._world.processes():
            if other is not process:
                self._tell(other, record, random)

    def introduce(self, process: "Process") -> None:
        """A new process hears of everybody, perhaps of the dead too."""
        random = self._draws(process.label + "?")
        for record, label in list(self._records.values()):
            if label != process.label:
                self._tell(process, record, random)

    def gone(self, process: "Process", graceful: bool) -> None:
        """A node is no more; sooner or later that shows."""
        node = process.node.settings.node
        if node not in self._records:
            return
        random = self._draws(process.label + "!")
        if random.random() >= self._world.plan.stale:
            del self._records[node]
        for other in self._world.processes():
            delay_s = random.uniform(EARLIEST_S, LATEST_S if graceful else LOST_LATEST_S)
            other.after(delay_s, other.run, Lost(node))

    def _tell(self, process: "Process", record: Record, random: Random) -> None:
        process.after(random.uniform(EARLIEST_S, LATEST_S), process.run, Found(record))
        if random.random() < self._world.plan.stale:
            process.after(random.uniform(EARLIEST_S, AGAIN_LATEST_S), process.run, Found(record))

    def _draws(self, label: str) -> Random:
        """Draws of one place and purpose, so that a fault that is cut away changes nothing elsewhere."""
        if label not in self._random:
            self._random[label] = Random(f"{self._world.plan.seed}/directory/{label}")
        return self._random[label]
