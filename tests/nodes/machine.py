"""A machine for the supervisor: it carries out effects, and its processes live until the test ends them."""

from random import Random

from nodes.places import Charge, Event, Exit, Exited, Place, Probe, Said, Show, Signal, Spawn, Spawned, Tick, Topic
from nodes.supervision import Supervisor

GRACE_S = 8.0
HOPELESS = 78
ROLES = {"worker-1": "worker", "worker-2": "worker", "router-1": "router", "frontend-1": "frontend"}


class Machine:
    """One supervisor and its processes, in virtual time."""

    def __init__(self, *names: str, obeys: bool = True) -> None:
        places = [Place(name, name.partition("-")[0], (name,)) for name in names or ROLES]
        self.supervisor = Supervisor(places, Random(1), GRACE_S, hopeless=(HOPELESS,))
        self.now = 0.0
        self.obeys = obeys
        self.live: dict[str, int] = {}  # pid by place
        self.asked: set[int] = set()
        self.killed: set[int] = set()
        self.shown: list[Show] = []
        self.signals: list[tuple[str, bool]] = []
        self.probes = 0
        self.code: int | None = None
        self._pids = 0
        self.tell(Tick())

    def tell(self, event: Event) -> None:
        """One event, and all that follows from it at once."""
        for effect in self.supervisor.handle(event, self.now):
            assert self.code is None, "something after the end"
            match effect:
                case Spawn(place):
                    assert place.name not in self.live, "a second process for one place"
                    self._pids += 1
                    self.live[place.name] = self._pids
                    self.supervisor.check()
                    self.tell(Spawned(place.name, self._pids))
                case Signal(name, pid, hard):
                    assert self.live[name] == pid
                    self.signals.append((name, hard))
                    (self.killed if hard else self.asked).add(pid)
                case Probe():
                    self.probes += 1
                case Show():
                    self.shown.append(effect)
                case Exit(code):
                    self.code = code
        self.supervisor.check()

    def wait(self, seconds: float) -> None:
        """Time passes; ticks come when they were asked for, and who was asked to leave does so."""
        end = self.now + seconds
        while self.code is None and self.supervisor.deadline() <= end:
            self.now = max(self.now, self.supervisor.deadline())
            self.tell(Tick())
            self.obey()
        self.now = end

    def obey(self) -> None:
        for name, pid in list(self.live.items()):
            if pid in self.killed or (self.obeys and pid in self.asked):
                self.die(name, -9 if pid in self.killed else 0)

    def ready(self, *names: str) -> None:
        for name in names or tuple(self.live):
            self.tell(Said(name, self.live[name], f"{name} is ready: node 00000000000000ab ({name}) serves"))

    def die(self, name: str, code: int = -9) -> None:
        self.tell(Exited(name, self.live.pop(name), code, f"ended with {code}"))

    def charge(self, name: str) -> Charge:
        return self.supervisor.charges[name]

    def topics(self) -> list[Topic]:
        return [show.topic for show in self.shown]
