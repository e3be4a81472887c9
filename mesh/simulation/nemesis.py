"""Pure. What goes wrong, when the plan says so: a method for each kind of fault, and the books on who is in trouble."""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from msgspec import structs

from mesh.core import Found, Garbled, Heard
from mesh.simulation import amnesia, gaps
from mesh.simulation.network import Link
from mesh.simulation.plan import BUSIEST, Fault
from proto.errors import Reason
from proto.messages import Ping, Record

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

BOTH, THERE, BACK = 0, 1, 2  # directions of a cut, in `amount`
OTHER_ADDRESS = 1  # of a restart, in `amount`
KILL_S = 8.0  # after the end of its grace a process that has not left is killed: longer than a node gives itself


class Nemesis:
    """The faults of one run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._clock = world.clock
        self._calm = False
        self._cuts: dict[int, tuple[Fault, list[tuple[int, int]]]] = {}
        self._kill_acceptor: list[Fault] = []
        self._drop_after_submit: list[Fault] = []
        self._kill_hander: list[Fault] = []
        self._kinds: dict[str, Callable[[Fault], None]] = {
            "crash": self.crash,
            "freeze": self.freeze,
            "suspend": self.suspend,
            "hang": self.hang,
            "slow": self.slow,
            "reset": self.reset,
            "cut": self.cut,
            "drain": self.drain,
            "foreign": self.foreign,
            "stranger": self.stranger,
            "kill_acceptor": self._kill_acceptor.append,
            "drop_after_submit": self._drop_after_submit.append,
            "kill_hander": self._kill_hander.append,
            "forget_held": self.forget_held,
            "forget_claim": self.forget_claim,
        }

    def strike(self, fault: Fault) -> None:
        """Its time has come."""
        if fault.place == BUSIEST:
            fault = self._aimed(fault)
        self._kinds[fault.kind](fault)

    def _aimed(self, fault: Fault) -> Fault:
        """At whoever holds most legs, and at the owner of one of them."""
        processes = self._world.processes()
        if not processes:
            return structs.replace(fault, place=0, other=1)
        busiest = max(processes, key=lambda process: (len(process.handlers), -process.place))
        leg = next(iter(busiest.handlers), None)
        owner = self._world.process_with(leg.owner) if leg is not None else None
        other = owner.place if owner is not None else (busiest.place + 1) % len(self._world.troubles)
        return structs.replace(fault, place=busiest.place, other=other)

    def heal(self) -> None:
        """All that lasts ends now."""
        self._calm = True
        for process in self._world.processes():
            self._thaw(process)
            self._unhang(process)
            self._speed_up(process)
        for number in list(self._cuts):
            self._uncut(number)

    # --- Trouble -------------------------------------------------------------------------------------

    def _pulse(self, place: int) -> None:
        """Something happened to a place, and is over."""
        trouble = self._world.troubles[place]
        self._world.trouble_count += 1
        trouble.last = self._clock.now
        if not trouble.count:
            trouble.calm_since = self._clock.now

    def _begin(self, place: int) -> None:
        trouble = self._world.troubles[place]
        self._world.trouble_count += 1
        trouble.count += 1
        trouble.last = trouble.began = self._clock.now
        trouble.calm_since = inf

    def _end(self, place: int) -> None:
        trouble = self._world.troubles[place]
        trouble.count -= 1
        trouble.last = self._clock.now
        if not trouble.count:
            trouble.calm_since = self._clock.now

    # --- Processes -------------------------------------------------------------------------------------

    def crash(self, fault: Fault) -> None:
        """kill -9; a new process comes after a while, perhaps under the same address."""
        process = self._world.process(fault.place)
        if process is not None:
            self._kill(process, fault)

    def _kill(self, process: "Process", fault: Fault) -> None:
        place = process.place
        gaps.watch(self._world, process, gaps.CRASH_S)
        self._begin(place)
        self._world.end(process, graceful=False)
        self._clock.at(self._clock.now + fault.for_s, self._restart, place, fault.amount != OTHER_ADDRESS)

    def _restart(self, place: int, same_address: bool) -> None:
        self._end(place)
        self._world.boot(place, same_address)

    def freeze(self, fault: Fault) -> None:
        """SIGSTOP, and SIGCONT later."""
        process = self._world.process(fault.place)
        if process is not None and not process.frozen:
            gaps.watch(self._world, process, gaps.FREEZE_S)
            self._begin(process.place)
            process.frozen = True
            self._clock.at(self._clock.now + fault.for_s, self._thaw, process)

    def _thaw(self, process: "Process") -> None:
        if process.frozen:
            process.frozen = False
            self._end(process.place)
            process.turn()

    def suspend(self, fault: Fault) -> None:
        """The lid of the laptop is closed: all processes stop at once, and go on at once."""
        for process in self._world.processes():
            self.freeze(Fault(fault.at_s, "freeze", process.place, for_s=fault.for_s))

    def hang(self, fault: Fault) -> None:
        """The engine stands still; the event loop does not."""
        process = self._world.process(fault.place)
        if process is not None and not process.hung:
            if process.spec.engine:
                gaps.watch(self._world, process, gaps.HANG_S)
            self._begin(process.place)
            process.hang()
            self._clock.at(self._clock.now + fault.for_s, self._unhang, process)

    def _unhang(self, process: "Process") -> None:
        if process.hung:
            self._end(process.place)
            process.unhang()

    def slow(self, fault: Fault) -> None:
        """Every turn begins late, and everything that came meanwhile is in it."""
        process = self._world.process(fault.place)
        if process is not None and not process.slow:
            self._begin(process.place)
            process.slow = fault.amount / 1000
            self._clock.at(self._clock.now + fault.for_s, self._speed_up, process)

    def _speed_up(self, process: "Process") -> None:
        if process.slow:
            process.slow = 0.0
            self._end(process.place)
            process.turn()

    def drain(self, fault: Fault) -> None:
        """SIGTERM, and a new process once it has left."""
        process = self._world.process(fault.place)
        if process is None or process.leaving:
            return
        process.leaving = True
        self._world.drain_count += 1
        if fault.amount < 5.0:
            self._world.hurried = True
        process.wake(process.leave, fault.amount)
        self._clock.at(self._clock.now + fault.for_s, self._after_drain, process, fault)

    def _after_drain(self, process: "Process", fault: Fault) -> None:
        if process.alive and self._clock.now < fault.at_s + fault.amount + KILL_S:
            self._clock.at(self._clock.now + 0.5, self._after_drain, process, fault)
        elif process.alive:
            self._kill(process, Fault(0.0, "crash", process.place))
        else:
            self._world.boot(process.place)

    # --- Links -----------------------------------------------------------------------------------------

    def reset(self, fault: Fault) -> None:
        """The connections between two places are reset; `amount` 1: only one of them."""
        links = self._world.network.between(fault.place, fault.other)
        if links:
            self._pulse(fault.place)
            self._pulse(fault.other)
        for link in links[:1] if fault.amount else links:
            self._world.network.break_(link)

    def cut(self, fault: Fault) -> None:
        """A partition between two places: both ways, or one."""
        pairs = [(fault.place, fault.other), (fault.other, fault.place)]
        blocked = {BOTH: pairs, THERE: pairs[:1], BACK: pairs[1:]}[int(fault.amount)]
        number = len(self._world.troubles) + self._clock.steps
        self._cuts[number] = (fault, blocked)
        for place in (fault.place, fault.other):
            process = self._world.process(place)
            if process is not None:
                gaps.watch(self._world, process, gaps.FREEZE_S, owner_place=sum(pairs[0]) - place)
            self._begin(place)
        for source, target in blocked:
            self._world.network.block(source, target)
        self._clock.at(self._clock.now + fault.for_s, self._uncut, number)

    def _uncut(self, number: int) -> None:
        if number not in self._cuts:
            return
        fault, blocked = self._cuts.pop(number)
        for source, target in blocked:
            self._world.network.unblock(source, target)
        self._end(fault.place)
        self._end(fault.other)

    def submitted(self, process: "Process", link: Link) -> None:
        """A Submit has just left: the moment that some faults wait for."""
        if self._calm or link.target is None:
            return
        if self._drop_after_submit:
            self._drop_after_submit.pop()
            self._pulse(process.place)
            self._pulse(link.target.place)
            self._world.network.break_(link)

    def accepted(self, process: "Process") -> None:
        """An Accept has just left."""
        if self._kill_acceptor and not self._calm:
            fault = self._kill_acceptor.pop()
            self._clock.at(self._clock.now, self._kill_if_alive, process, fault)

    def handed(self, process: "Process") -> None:
        """A Handed is about to leave: it dies with it, or a little later, while the next leg gets ready."""
        if self._kill_hander and not self._calm:
            fault = self._kill_hander.pop()
            self._clock.at(self._clock.now + fault.amount / 1000, self._kill_if_alive, process, fault)

    def _kill_if_alive(self, process: "Process", fault: Fault) -> None:
        if process.alive:
            self._kill(process, fault)

    # --- Lies ------------------------------------------------------------------------------------------

    def foreign(self, fault: Fault) -> None:
        """Discovery shows a node of another mesh."""
        process = self._world.process(fault.place)
        if process is not None:
            node = 2**62 + self._clock.steps
            offers = self._world.plan.places[fault.place].wants
            record = Record(node, "other", b"", "stranger", 1, "host", ["ipc:///elsewhere"], offers)
            self._world.directory.foreign[node] = "other"
            process.wake(process.run, Found(record))

    def stranger(self, fault: Fault) -> None:
        """Somebody connects and says nonsense."""
        process = self._world.process(fault.place)
        if process is not None:
            zid = b"stranger %d" % self._clock.steps
            process.wake(process.run, Garbled(zid, Reason.MALFORMED))
            process.wake(process.run, Heard(zid, 1, Ping(1), 40))
            process.wake(process.run, Heard(zid, 7, Ping(1), 40))

    # --- Bugs that cores must repair ---------------------------------------------------------------------

    def forget_held(self, fault: Fault) -> None:
        """A holder loses a leg without a word, as only a bug could do it. Sync must find out."""
        process = self._world.process(fault.place)
        if process is not None and not process.frozen:
            self._pulse(fault.place)
            amnesia.forget_held(process)

    def forget_claim(self, fault: Fault) -> None:
        """An owner loses track of a leg. Sync must free it."""
        process = self._world.process(fault.place)
        if process is not None and not process.frozen:
            self._pulse(fault.place)
            amnesia.forget_claim(process)
