"""Pure. What goes wrong with engines and clocks, besides everything that goes wrong with processes and links."""

from typing import TYPE_CHECKING, Any

from mesh.simulation.nemesis import Nemesis
from mesh.simulation.network import Link
from mesh.simulation.plan import Fault
from nodes.faults import Fault as EngineFault
from nodes.simulation.worker import Worker

if TYPE_CHECKING:
    from mesh.simulation.world import World

RESTART_S = 0.3  # a supervisor's first backoff
DROP_S = 0.003  # most words need less than that, and no prompt is computed so soon


class ServingNemesis(Nemesis):
    """The faults of one serving run."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._drop_after_accept: list[Fault] = []
        self._drop_after_go: list[Fault] = []
        self._evict: list[Fault] = []
        self._kinds |= {
            "engine_crash": self.engine_crash,
            "engine_slow": self.engine_slow,
            "clock": self.clock,
            "drop_after_accept": self._drop_after_accept.append,
            "drop_after_go": self._drop_after_go.append,
            "evict": self._evict.append,
        }

    def engine_crash(self, fault: Fault) -> None:
        """The engine's next step raises."""
        process = self._world.process(fault.place)
        if isinstance(process, Worker) and not process.hung:
            process.engine.fault(EngineFault.CRASH)

    def engine_died(self, worker: Worker) -> None:
        """It has raised: a real worker ends at once, and its supervisor starts another."""
        if worker.alive:
            judges: Any = self._world.oracles
            judges.killed(worker, worker.engine.victim)
            self._kill(worker, Fault(self._clock.now, "crash", worker.place, for_s=RESTART_S))

    def engine_slow(self, fault: Fault) -> None:
        """Steps take several times as long."""
        process = self._world.process(fault.place)
        if isinstance(process, Worker) and not process.hung:
            self._begin(process.place)
            process.engine.fault(EngineFault.SLOW, fault.amount)
            self._clock.at(self._clock.now + fault.for_s, self._quick, process)

    def _quick(self, worker: Worker) -> None:
        self._end(worker.place)
        if not worker.hung:
            worker.heal_engine()

    def taken(self, link: Link) -> None:
        """An Accept has just left: its owner will hear of it, and lose the link."""
        if self._drop_after_accept and not self._calm:
            self._drop_after_accept.pop()
            self._cut_off(link)

    def allowed(self, link: Link) -> None:
        """The word that a suspect may run has just left."""
        if self._drop_after_go and not self._calm:
            self._drop_after_go.pop()
            self._cut_off(link)

    def spares(self, worker: Worker) -> None:
        """A pull has begun that leaves out what the engine has: it may lose just that."""
        if self._evict and not self._calm:
            fault = self._evict.pop()
            self._clock.at(self._clock.now + fault.amount / 1000, worker.evict)

    def _cut_off(self, link: Link) -> None:
        assert link.target is not None
        places = link.source.place, link.target.place
        self._clock.at(self._clock.now + DROP_S, self.reset, Fault(0.0, "reset", places[0], places[1]))

    def clock(self, fault: Fault) -> None:
        """A machine's monotonic clock jumps ahead, as it does when a virtual machine is stopped."""
        process = self._world.process(fault.place)
        if process is not None and not process.frozen:
            self._pulse(fault.place)
            process.jump(fault.amount)

    def heal(self) -> None:
        """All that lasts ends now."""
        super().heal()
        for process in self._world.processes():
            if isinstance(process, Worker):
                process.heal_engine()
