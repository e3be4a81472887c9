"""Pure. One run: processes on their places, a network between them, faults, and at the end the peace that must come."""

from collections.abc import Callable
from math import inf
from random import Random
from typing import Any

from msgspec import Struct

from mesh.core import Effect, Event
from mesh.simulation.clock import Clock
from mesh.simulation.directory import Directory
from mesh.simulation.nemesis import Nemesis
from mesh.simulation.network import Network
from mesh.simulation.oracles import Oracles
from mesh.simulation.plan import Call, Plan
from mesh.simulation.process import Process
from mesh.simulation.streams import ClientStream
from mesh.simulation.violation import Violation, require
from proto.session import State

CONVERGE_S = 40.0  # after the last fault: what was moved is patient for 30 s, and then it may still run
LOOK_S = 0.25
EXIT_S = 0.4  # between the Bye and the end of the process: its inbox stays open while its last words travel
STEPS_MAX = 400_000  # a run that takes more is a storm
FAULTS_ONLY = (
    *(
        "requests.moved",
        "requests.feeders_lost",
        "requests.duplicates",
        "requests.gaps",
        "requests.stale",
        "requests.lost_legs",
    ),
    *("requests.migrated", "sync.orphans", "sync.vanished", "peers.down.", "sessions.lost.", "sessions.reset."),
    "frames.",
)

Trace = Callable[[Process, Event, list[Effect]], None]


class Trouble:
    """What a place has gone through."""

    __slots__ = ("began", "calm_since", "count", "last")

    def __init__(self) -> None:
        self.count = 0  # faults that last
        self.calm_since = -inf  # inf while one lasts
        self.last = -inf
        self.began = -inf  # the last one that lasts


class Result(Struct):
    """What a run came to."""

    seed: int
    digest: int
    events: int
    virtual_s: float
    requests: int
    submits: int
    faults: int
    reasons: dict[str, int]
    stats: dict[str, int]
    invariant: str = ""
    text: str = ""

    @property
    def failed(self) -> bool:
        """Whether an invariant broke."""
        return bool(self.invariant)


class World:
    """Everything that there is."""

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        self.plan = plan
        self.trace = trace
        self.clock = Clock()
        self.network = Network(self.clock, plan.seed)
        self.directory = Directory(self)
        self.oracles = self._oracles()
        self.troubles = [Trouble() for _ in plan.places]
        self.nemesis = self._nemesis()
        self.digest = 0
        self.hurried = False  # somebody left with less grace than its work needs
        self.forgetful = any(fault.kind.startswith("forget") for fault in plan.faults)
        self.trouble_count = 0
        self.drain_count = 0
        self.stats: dict[str, int] = {}
        self._at: list[Process | None] = [None] * len(plan.places)
        self._incarnations = [0] * len(plan.places)

    # --- Who is where ----------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """All that live."""
        return [process for process in self._at if process is not None]

    def process(self, place: int) -> Process | None:
        """Who lives there now."""
        return self._at[place]

    def process_called(self, label: str) -> Process | None:
        """The process of this label, if it lives."""
        return next((process for process in self._at if process is not None and process.label == label), None)

    def process_with(self, node: int) -> Process | None:
        """The process of this node, if it lives."""
        return next(
            (process for process in self._at if process is not None and process.node.settings.node == node), None
        )

    def address(self, place: int) -> str:
        """The address that a place is known by, if it keeps it."""
        return f"ipc:///{self.plan.places[place].name}"

    def node_of(self, place: int) -> int:
        """The node that lives there; of an empty place one that does not exist."""
        process = self._at[place]
        return process.node.settings.node if process else 1

    def boot(self, place: int, same_address: bool = True) -> None:
        """Start a process, if there is none."""
        if self._at[place] is not None:
            return
        number = self._incarnations[place] = self._incarnations[place] + 1
        address = self.address(place) if same_address else f"{self.address(place)}.{number}"
        node = Random(f"{self.plan.seed}/node/{place}/{number}").getrandbits(63) | 1
        process = self._process(place, number, node, address)
        self._at[place] = process
        self.network.listeners[address] = process
        process.start()
        if self.plan.places[place].mesh == "sim":
            self.directory.introduce(process)
            self.directory.publish(process, process.node.record())

    def end(self, process: Process, graceful: bool) -> None:
        """A process is no more."""
        if not process.alive:
            return
        process.alive = False
        process.ended()
        self._at[process.place] = None
        for name, number in process.node.stats.items():
            self.stats[name] = self.stats.get(name, 0) + number
        for stream in process.streams.values():
            if stream.over is None:
                require(not graceful, "1 once", f"{process.label} left, and {stream.request} has no end")
                self.oracles.open_streams -= 1
                stream.gone = True
        self.network.die(process, graceful)
        self.oracles.obligations.owner_died(process)
        self.directory.gone(process, graceful)

    # --- Running ----------------------------------------------------------------------------------------

    def run(self) -> Result:
        """From the first process to the last word; the result says what broke, if something did."""
        plan, clock = self.plan, self.clock
        for place, spec in enumerate(plan.places):
            clock.at(spec.born_s, self.boot, place)
        for call in plan.calls:
            clock.at(call.at_s, self._call, call)
        for fault in plan.faults:
            clock.at(fault.at_s, self.nemesis.strike, fault)
        invariant = text = ""
        try:
            self._run_until(plan.heal_s)
            self._converge()
        except Violation as violation:
            invariant, text = violation.invariant, violation.text
        except Exception as error:  # whatever a core raises is a finding, not an end of the search
            invariant, text = _crashed(error)
        return self._result(invariant, text)

    def _call(self, call: Call) -> None:
        process = self._at[call.place]
        if process is not None and not process.leaving:
            process.wake(self._stream(process, call).begin)

    def _oracles(self) -> Oracles:
        return Oracles(self)

    def _nemesis(self) -> Nemesis:
        return Nemesis(self)

    def _process(self, place: int, number: int, node: int, address: str) -> Process:
        return Process(self, place, number, node, (address,))

    def _stream(self, process: Process, call: Call) -> ClientStream:
        return ClientStream(process, call)

    def _run_until(self, when: float) -> None:
        quiet = self.clock.run(when, STEPS_MAX)
        require(quiet, "18 storm", f"{STEPS_MAX} steps within {self.clock.now:.1f} s")

    def _converge(self) -> None:
        """Nothing goes wrong any more: peace must come, and stay."""
        self.nemesis.heal()
        for place in range(len(self._at)):
            self.boot(place)
        until = self.clock.now + CONVERGE_S
        while (why := self.unrest()) and self.clock.now < until:
            self._run_until(self.clock.now + LOOK_S)
        require(not why, "18 peace", f"{CONVERGE_S:.0f} s after the last fault {why}")
        for process in self.processes():
            process.node.check()
            apart = process.spec.mesh == "sim" or not any(process.instances.values())
            require(apart, "9 foreign", f"{process.label} of another mesh has found a way in")
        if not self.plan.faults and not self.plan.stale:
            self._undisturbed()

    def _undisturbed(self) -> None:
        """Invariant 25: what never goes wrong is never repaired. It finds what repairs hide."""
        moving = any(call.work.retryable or call.stall_s for call in self.plan.calls)
        broken = [
            name for name in self._stats() if name.startswith(FAULTS_ONLY) and not (moving and "requests" in name)
        ]
        require(not broken, "25 masked", f"without a fault there is {', '.join(broken)}")
        for process in self.processes():
            owed = [name for name, count in process.cancels.items() if count]
            require(not owed, "15 answer", f"{process.label} has never answered the cancels of {owed}")

    def unrest(self) -> str:
        """What still keeps peace from the mesh."""
        for stream in self.oracles.streams:
            if stream.over is None and not stream.gone:
                return f"{stream.process.label}/{stream.request} ({stream.endpoint}) is open at {stream.position}"
        for process in self.processes():
            node = process.node
            if process.handlers or node.holder.legs:
                return f"{process.label} still holds {list(node.holder.legs)}"
            if len(node.owner.claims):
                return f"{process.label} still claims {len(node.owner.claims)} legs"
            if text := self._unlinked(process):
                return text
        return ""

    def _unlinked(self, process: Process) -> str:
        """Whom it wants to call and cannot; and whether it knows whom it can."""
        for endpoint in process.spec.wants:
            live = []
            for other in self.processes():
                if endpoint not in other.spec.offers or other.spec.mesh != process.spec.mesh or other is process:
                    continue
                live.append(other.node.settings.node)
                if not (_sees(process, other) and _sees(other, process)):
                    return f"{process.label} and {other.label} are not linked"
            seen = process.instances.get(endpoint, ())
            if list(seen) != sorted(live):
                return f"{process.label} believes that {endpoint} lives on {seen}, not {sorted(live)}"
        return ""

    def _stats(self) -> dict[str, int]:
        stats = dict(self.stats)
        for process in self.processes():
            for name, number in process.node.stats.items():
                stats[name] = stats.get(name, 0) + number
        return stats

    def _result(self, invariant: str, text: str) -> Result:
        return Result(
            self.plan.seed, self.digest, self.oracles.events, self.clock.now, len(self.oracles.streams),
            self.oracles.submits, len(self.plan.faults), self.oracles.reasons, self._stats(), invariant, text,
        )  # fmt: skip

    def departed(self, process: Process) -> None:
        """It has said Bye; its last words are under way."""
        process.departed = True
        self.clock.at(self.clock.now + EXIT_S, self.end, process, True)


def _sees(one: Process, other: Process) -> bool:
    peer = one.node.peers.by_node.get(other.node.settings.node)
    return peer is not None and peer.state is State.UP


def _crashed(error: Exception) -> tuple[str, str]:
    """An assertion of a core, or an exception that it let out."""
    trail: Any = error.__traceback__
    while trail.tb_next is not None:
        trail = trail.tb_next
    where = f"{trail.tb_frame.f_code.co_name}:{trail.tb_lineno}"
    kind = "check" if isinstance(error, AssertionError) else "crash"
    return kind, f"{type(error).__name__} in {where}: {error}"
