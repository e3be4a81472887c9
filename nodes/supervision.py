"""Pure. Which processes of `wiremesh up` run, which are started again and when, and in what order all of them end.

Strategy: one place for each node that is wanted; a place has at most one process, and until we stop it has one or the
time of its next. What happens comes in as events, and what to do goes out as effects, so that every order of deaths,
signals and words can be tried without a process. Frontends end first: what they still run needs the workers.
"""

from collections.abc import Sequence
from math import inf
from random import Random

from mesh.backoff import backoff_s
from nodes.places import (
    Charge,
    Effect,
    Event,
    Exit,
    Exited,
    Place,
    Probe,
    Probed,
    Said,
    Show,
    Signal,
    Spawn,
    Spawned,
    Stage,
    Stop,
    Tick,
    Topic,
)

STEADY_S = 3.0  # who was ready and ran this long was well: its next death is the first one again
DEATHS_MAX = 5  # in a row, of a node that was never ready: the sixth try would be no different
PROBE_S = 0.05  # between two looks whether requests are served: nobody sees the difference
HEALTHY_PER_FRONTEND = 3  # several share one port, and each look meets one of them by chance
UNSERVED_S = 5.0  # when everybody is ready and still nothing is served, somebody should say so
KILL_S = 5.0  # a killed process that is still there hangs in the system: we leave without it
SAID_CHARS_MAX = 2_000  # of a line of a node: it may be anything
EXIT_FAILED = 1
EXIT_CRASHED = 70  # EX_SOFTWARE
EXIT_INTERRUPTED = 130

FRONTEND = "frontend"
WORKER = "worker"
READY = " is ready: node "
LOADING = "loading: "


class Supervisor:
    """Keeps every place filled until it is told to stop."""

    def __init__(
        self, places: Sequence[Place], random: Random, grace_s: float, hopeless: Sequence[int] = (), begin: float = 0.0
    ) -> None:
        """`grace_s`: what nodes get to leave; `hopeless`: exit codes that another try cannot change."""
        self.charges = {place.name: Charge(place) for place in places}
        assert len(self.charges) == len(places), "two places have one name"
        self.serving = False
        self.stopping = False
        self._random = random
        self._grace_s = grace_s
        self._hopeless = tuple(hopeless)
        self._begin = begin
        self._code = 0
        self._healthy = 0  # looks in a row that found all well
        self._look = inf  # when to look next
        self._looking = False
        self._complete = inf  # since when everybody who is needed is ready
        self._hard = inf  # when patience with those who leave ends
        self._fronts_left = False
        self._killed = False
        self._done = False
        self._out: list[Effect] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; the only mutator."""
        if self._done:
            return []
        match event:
            case Spawned():
                self._spawned(event, now)
            case Said():
                self._said(event, now)
            case Exited():
                self._exited(event, now)
            case Probed():
                self._probed(event, now)
            case Stop():
                self._stop(now)
            case Tick():
                pass
        self._fill(now)
        self._watch(now)
        if self.stopping:
            self._end(now)
        effects, self._out = self._out, []
        return effects

    def deadline(self) -> float:
        """When the next Tick is wanted."""
        if self._done:
            return inf
        dues = [charge.due for charge in self.charges.values() if charge.stage is Stage.DUE]
        return min([self._look, self._hard, *dues])

    def check(self) -> None:
        """Assert what always holds."""
        for charge in self.charges.values():
            runs = charge.stage in (Stage.STARTING, Stage.READY, Stage.LEAVING)
            assert (charge.pid > 0) == runs, f"{charge} and its process disagree"
            assert charge.stage is not Stage.GONE or self.stopping, f"{charge} is wanted and nobody sees to it"
            assert charge.stage is not Stage.DUE or charge.due < inf, f"{charge} waits for ever"
            assert charge.stage is not Stage.DUE or not self.stopping, f"{charge} would be started while we stop"
        assert not self.stopping or self._done or self._hard < inf, "a stop that may never end"
        assert not self._done or all(charge.stage is Stage.GONE for charge in self.charges.values()) or self._killed

    # --- One process -----------------------------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Start what is due."""
        for charge in self.charges.values():
            if charge.stage is Stage.DUE and charge.due <= now:
                charge.stage, charge.began, charge.starts = Stage.BEGINNING, now, charge.starts + 1
                charge.node = charge.steps = charge.words = ""
                self._out.append(Spawn(charge.place))

    def _spawned(self, event: Spawned, now: float) -> None:
        charge = self.charges[event.name]
        assert charge.stage is Stage.BEGINNING, f"a second process for {event.name}"
        charge.stage, charge.pid = Stage.STARTING, event.pid
        self._show(Topic.STARTING, f"{event.name} starts (process {event.pid})", charge)

    def _said(self, event: Said, now: float) -> None:
        charge = self.charges[event.name]
        if charge.pid != event.pid:
            return
        line = event.line[:SAID_CHARS_MAX]
        if event.log:
            charge.words = line or charge.words
            self._show(Topic.LOG, line, charge)
        elif READY in line and charge.stage is Stage.STARTING:
            charge.stage, charge.proven, charge.steps = Stage.READY, True, ""
            charge.node = line.partition(READY)[2][:16]
            took = now - charge.began
            self._show(Topic.READY, f"{event.name} is ready after {took:.1f} s", charge, after_s=took)
        elif line.startswith(LOADING):
            charge.steps = line.removeprefix(LOADING)
            self._show(Topic.LOADING, f"{event.name} loads: {charge.steps}", charge)
        else:
            self._show(Topic.SAID, line, charge)

    def _exited(self, event: Exited, now: float) -> None:
        charge = self.charges[event.name]
        if event.pid != charge.pid or charge.stage in (Stage.DUE, Stage.GONE):
            return
        was, ran = charge.stage, now - charge.began
        pid, charge.pid = charge.pid, 0
        if self.stopping:
            charge.stage = Stage.GONE
            if was is not Stage.LEAVING or event.code > 0:
                self._show(Topic.ENDED, f"{event.name} {event.how}", charge, pid, event.code, ran)
            return
        well = was is Stage.READY and (ran >= STEADY_S or event.code == 0)  # 0: it was told to leave, and did
        charge.deaths = 1 if well else charge.deaths + 1
        if not charge.proven and (event.code in self._hopeless or charge.deaths >= DEATHS_MAX):
            charge.stage = Stage.GONE
            self._give_up(charge, event, now)
            return
        wait = backoff_s(charge.deaths - 1, self._random)
        charge.stage, charge.due = Stage.DUE, now + wait
        text = f"{event.name} {event.how} after {ran:.1f} s; it starts again in {wait:.1f} s"
        self._show(Topic.ENDED, text, charge, pid, event.code, ran, wait)

    def _give_up(self, charge: Charge, event: Exited, now: float) -> None:
        """A node that cannot start is a mistake of the user's, or of ours: to try on would hide it."""
        often = f"{charge.deaths} times in a row, the last time it " if charge.deaths > 1 else ""
        said = f": {charge.words}" if charge.words else ""
        text = f"{charge.place.name} never became ready: {often}{event.how}{said}"
        self._show(Topic.GIVEN_UP, text, charge, code=event.code)
        self._begin_to_stop(now, event.code if event.code in self._hopeless else EXIT_CRASHED)

    # --- Serving ---------------------------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        """Once every frontend and somebody behind them is ready, look until requests are served."""
        if self.serving or self.stopping:
            self._look = inf
        elif not self._is_complete():
            self._look, self._healthy, self._complete = inf, 0, inf
        elif not self._count(FRONTEND):
            self._served(now)
        elif not self._looking:
            self._complete = min(self._complete, now)
            self._look = now if self._look == inf else self._look
            if self._look <= now:
                self._look, self._looking = inf, True
                self._out.append(Probe())

    def _probed(self, event: Probed, now: float) -> None:
        self._looking = False
        if self.serving or self.stopping or not self._is_complete():
            return
        self._healthy = self._healthy + 1 if event.healthy else 0
        fronts = self._count(FRONTEND)
        if self._healthy >= (HEALTHY_PER_FRONTEND * fronts if fronts > 1 else 1):
            self._served(now)
            return
        self._look = now if event.healthy else now + PROBE_S
        if not event.healthy and now - self._complete >= UNSERVED_S:
            self._complete = now
            self._out.append(Show(Topic.WAITING, f"all nodes are ready, but no request would be served: {event.why}"))

    def _served(self, now: float) -> None:
        self.serving = True
        took = now - self._begin
        self._out.append(Show(Topic.SERVING, f"ready for requests {took:.1f} s after the start", after_s=took))

    def _is_complete(self) -> bool:
        """Whether all frontends are ready, and one of those who work behind them (none, if none is wanted)."""
        ready = [charge.place.role for charge in self.charges.values() if charge.stage is Stage.READY]
        fronts, workers = self._count(FRONTEND), self._count(WORKER)
        return bool(ready) and ready.count(FRONTEND) == fronts and ready.count(WORKER) >= min(1, workers)

    def _count(self, role: str) -> int:
        return sum(charge.place.role == role for charge in self.charges.values())

    # --- The end ---------------------------------------------------------------------------------------------

    def _stop(self, now: float) -> None:
        if not self.stopping:
            text = "stopping: what runs may finish, then all nodes leave (once more ends them now)"
            self._out.append(Show(Topic.STOPPING, text))
            self._begin_to_stop(now, 0)
        elif not self._killed:
            self._code = EXIT_INTERRUPTED
            self._kill(now)

    def _begin_to_stop(self, now: float, code: int) -> None:
        self.stopping, self._code = True, code
        self._hard = now + self._grace_s
        for charge in self.charges.values():
            if charge.stage is Stage.DUE:
                charge.stage = Stage.GONE

    def _end(self, now: float) -> None:
        """Frontends leave first, then the others; who takes too long is killed."""
        left = [charge for charge in self.charges.values() if charge.stage is not Stage.GONE]
        turn = [charge for charge in left if charge.place.role == FRONTEND] or left
        if turn is left and not self._fronts_left and not self._killed:
            self._fronts_left = True
            self._hard = max(self._hard, now + self._grace_s)
        for charge in turn:
            if charge.stage in (Stage.STARTING, Stage.READY):
                self._dismiss(charge)
        if not left:
            self._finish("all nodes have left")
        elif now >= self._hard and not self._killed:
            self._code = self._code or EXIT_FAILED
            self._kill(now)
        elif now >= self._hard:
            names = ", ".join(charge.place.name for charge in left)
            self._finish(f"left without {names}, which cannot even be killed")

    def _kill(self, now: float) -> None:
        """End whoever is left."""
        self._killed, self._hard = True, now + KILL_S
        for charge in self.charges.values():
            if charge.pid:
                self._out.append(Signal(charge.place.name, charge.pid, hard=True))
                self._show(Topic.KILLED, f"{charge.place.name} is killed", charge)
                charge.stage = Stage.LEAVING

    def _dismiss(self, charge: Charge) -> None:
        charge.stage = Stage.LEAVING
        self._out.append(Signal(charge.place.name, charge.pid, hard=self._killed))

    def _finish(self, text: str) -> None:
        self._done = True
        self._out += [Show(Topic.STOPPED, text, code=self._code), Exit(self._code)]

    def _show(
        self,
        topic: Topic,
        text: str,
        charge: Charge,
        pid: int = 0,
        code: int | None = None,
        after_s: float | None = None,
        again_s: float | None = None,
    ) -> None:
        self._out.append(Show(topic, text, charge.place.name, pid or charge.pid, charge.node, code, after_s, again_s))
