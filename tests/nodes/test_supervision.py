"""The supervisor against a machine that does whatever it likes: every order of deaths, words, signals and time."""

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes import supervision
from nodes.places import (
    Exit,
    Exited,
    Place,
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
from nodes.supervision import DEATHS_MAX, KILL_S, PROBE_S, STEADY_S, UNSERVED_S, Supervisor
from proto import limits
from tests.nodes.machine import GRACE_S, HOPELESS, ROLES, Machine

# --- Whatever happens ------------------------------------------------------------------------------------

NAMES = st.sampled_from(sorted(ROLES))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ready"), NAMES),
        st.tuples(st.just("die"), NAMES, st.sampled_from([-9, -11, 0, 1, 70, HOPELESS])),
        st.tuples(
            st.just("say"), NAMES, st.sampled_from(["loading: 10 %", "hello", "x is ready: node "]), st.booleans()
        ),
        st.tuples(st.just("stale"), NAMES, st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.3, 2.0, 30.0])),
        st.tuples(st.just("probed"), st.booleans()),
        st.tuples(st.just("obey")),
        st.tuples(st.just("stop")),
    ),
    max_size=60,
)


def play(machine: Machine, step: tuple[object, ...]) -> None:
    match step:
        case ("ready", str(name)) if name in machine.live:
            machine.ready(name)
        case ("die", str(name), int(code)) if name in machine.live:
            machine.die(name, code)
        case ("say", str(name), str(line), bool(log)) if name in machine.live:
            machine.tell(Said(name, machine.live[name], line, log))
        case ("stale", str(name), int(pid)) if pid != machine.live.get(name):
            machine.tell(Exited(name, pid, 0, "ended"))
            machine.tell(Said(name, pid, "x is ready: node 0000000000000001 (x)"))
        case ("wait", float(seconds)):
            machine.wait(seconds)
        case ("probed", bool(healthy)) if machine.probes:
            machine.probes = 0
            machine.tell(Probed(healthy))
        case ("obey",):
            machine.obey()
        case ("stop",):
            machine.tell(Stop())


@given(STEPS)
def test_each_wanted_node_runs_or_is_due_and_backoff_is_bounded(steps: list[tuple[object, ...]]) -> None:
    machine = Machine(obeys=False)
    for step in steps:
        play(machine, step)
        if machine.supervisor.stopping:
            continue
        for name, charge in machine.supervisor.charges.items():
            runs = charge.stage in (Stage.STARTING, Stage.READY)
            assert runs == (name in machine.live)
            assert runs or machine.supervisor.deadline() <= charge.due <= machine.now + limits.BACKOFF_MAX_S


@given(STEPS, st.booleans())
def test_a_stop_always_ends(steps: list[tuple[object, ...]], obeys: bool) -> None:
    machine = Machine(obeys=obeys)
    for step in [*steps, ("stop",)]:
        play(machine, step)
    machine.obey()
    machine.wait(2 * GRACE_S + KILL_S + 1)
    assert machine.code is not None
    assert machine.supervisor.deadline() == inf
    assert not machine.live


@given(STEPS)
def test_a_stop_ends_even_if_nothing_can_be_killed(steps: list[tuple[object, ...]]) -> None:
    machine = Machine()
    for step in [*steps, ("stop",)]:
        play(machine, step)
    machine.obey = lambda: None  # type: ignore[method-assign]
    machine.wait(2 * GRACE_S + KILL_S + 1)
    assert machine.code is not None


@given(STEPS)
def test_frontends_are_asked_first_and_nobody_else_while_one_is_left(steps: list[tuple[object, ...]]) -> None:
    machine = Machine(obeys=False)
    for step in [*steps, ("stop",)]:
        before = len(machine.signals)
        play(machine, step)
        asked = [name for name, hard in machine.signals[before:] if not hard]
        if "frontend-1" in machine.live:
            assert set(asked) <= {"frontend-1"}


# --- Starting again --------------------------------------------------------------------------------------


def test_who_dies_is_started_again_with_its_own_words() -> None:
    machine = Machine()
    machine.ready()
    machine.wait(12)
    machine.die("worker-1", -9)
    show = machine.shown[-1]
    assert (show.topic, show.name, show.code, show.after_s) == (Topic.ENDED, "worker-1", -9, 12)
    assert show.text.startswith("worker-1 ended with -9 after 12.0 s; it starts again in 0.0 s")
    machine.wait(limits.BACKOFF_BASE_S)
    charge = machine.charge("worker-1")
    assert (charge.stage, charge.starts, charge.node) == (Stage.STARTING, 2, "")


def test_the_words_of_an_earlier_process_count_for_nothing() -> None:
    machine = Machine("worker-1")
    machine.tell(Said("worker-1", 99, "worker is ready: node 00000000000000ab (worker)"))
    assert machine.charge("worker-1").stage is Stage.STARTING


def test_backoff_grows_with_deaths_in_a_row_and_forgets_them_when_all_was_well() -> None:
    machine = Machine("worker-1")
    waits = []
    for _ in range(40):
        machine.ready()
        machine.die("worker-1", 70)
        waits.append(machine.charge("worker-1").due - machine.now)
        machine.wait(waits[-1])
    assert max(waits[:2]) <= 2 * limits.BACKOFF_BASE_S
    assert max(waits[10:]) > 2
    machine.ready()
    machine.wait(STEADY_S)
    machine.die("worker-1", 70)
    assert machine.charge("worker-1").deaths == 1


def test_who_left_because_it_was_drained_is_started_at_once_however_often() -> None:
    machine = Machine("worker-1")
    for _ in range(20):
        machine.ready()
        machine.die("worker-1", 0)
        assert machine.charge("worker-1").due - machine.now <= limits.BACKOFF_BASE_S
        machine.wait(limits.BACKOFF_BASE_S)
    assert machine.charge("worker-1").starts == 21


def test_a_node_that_is_never_ready_ends_it_all_and_its_last_words_say_why() -> None:
    machine = Machine("worker-1", "frontend-1")
    machine.ready("frontend-1")
    for _ in range(DEATHS_MAX):
        assert not machine.supervisor.stopping
        machine.tell(Said("worker-1", machine.live["worker-1"], "wiremesh: no memory", log=True))
        machine.die("worker-1", 70)
        machine.wait(limits.BACKOFF_MAX_S)
    machine.obey()
    assert machine.code == 70 and not machine.live
    text = next(show.text for show in machine.shown if show.topic is Topic.GIVEN_UP)
    assert text == (
        f"worker-1 never became ready: {DEATHS_MAX} times in a row, the last time it ended with 70: wiremesh: no memory"
    )


def test_a_mistake_of_the_user_is_not_tried_again() -> None:
    machine = Machine("worker-1", "frontend-1")
    machine.die("worker-1", HOPELESS)
    machine.obey()
    assert machine.code == HOPELESS and Topic.GIVEN_UP in machine.topics()


def test_a_process_that_a_signal_ends_before_it_is_ready_is_a_crash() -> None:
    machine = Machine("worker-1")
    for _ in range(DEATHS_MAX):
        machine.die("worker-1", -11)
        machine.wait(limits.BACKOFF_MAX_S)
    assert machine.code == supervision.EXIT_CRASHED


def test_who_was_ready_once_is_never_given_up() -> None:
    machine = Machine("worker-1")
    machine.ready()
    for _ in range(3 * DEATHS_MAX):
        machine.die("worker-1", HOPELESS)
        machine.wait(limits.BACKOFF_MAX_S)
    assert not machine.supervisor.stopping and machine.live


def test_a_process_that_cannot_be_started_counts_as_a_death() -> None:
    supervisor = Supervisor([Place("worker-1", "worker", ("x",))], Random(1), GRACE_S)
    (spawn,) = supervisor.handle(Tick(), 0.0)
    assert spawn == Spawn(Place("worker-1", "worker", ("x",)))
    supervisor.handle(Exited("worker-1", 0, 70, "could not be started"), 0.0)
    supervisor.check()
    assert supervisor.charges["worker-1"].stage is Stage.DUE


# --- Serving ---------------------------------------------------------------------------------------------


def test_nothing_is_announced_before_a_request_would_be_served() -> None:
    machine = Machine()
    machine.ready("worker-1", "router-1")
    assert machine.probes == 0
    machine.ready("frontend-1")
    assert machine.probes == 1
    machine.tell(Probed(False, "503"))
    machine.wait(PROBE_S)
    assert machine.probes == 2 and Topic.SERVING not in machine.topics()
    machine.now = 1.5
    machine.tell(Probed(True))
    assert machine.supervisor.serving and machine.probes == 2
    assert machine.shown[-1] == Show(Topic.SERVING, "ready for requests 1.5 s after the start", after_s=1.5)


def test_several_frontends_are_looked_at_several_times() -> None:
    machine = Machine("worker-1", "frontend-1", "frontend-2")
    machine.ready("worker-1", "frontend-1")
    assert machine.probes == 0
    machine.ready("frontend-2")
    for _ in range(5):
        machine.tell(Probed(True))
    machine.tell(Probed(False))
    machine.wait(PROBE_S)
    for _ in range(5):
        machine.tell(Probed(True))
    assert not machine.supervisor.serving
    machine.tell(Probed(True))
    assert machine.supervisor.serving


def test_without_a_frontend_readiness_is_all() -> None:
    machine = Machine("worker-1", "worker-2")
    machine.ready("worker-1")
    assert machine.supervisor.serving and machine.probes == 0


def test_without_workers_of_its_own_it_looks_for_those_of_others() -> None:
    machine = Machine("frontend-1")
    machine.ready()
    assert machine.probes == 1


def test_a_frontend_that_serves_nothing_is_spoken_of() -> None:
    machine = Machine()
    machine.ready()
    while machine.now < 2 * UNSERVED_S + 1:
        machine.tell(Probed(False, "no worker"))
        machine.wait(PROBE_S)
    waiting = [show.text for show in machine.shown if show.topic is Topic.WAITING]
    assert waiting == ["all nodes are ready, but no request would be served: no worker"] * 2


def test_progress_and_other_words() -> None:
    machine = Machine("worker-1")
    pid = machine.live["worker-1"]
    machine.tell(Said("worker-1", pid, "loading: 3 of 4 files"))
    assert machine.charge("worker-1").steps == "3 of 4 files"
    assert machine.shown[-1].text == "worker-1 loads: 3 of 4 files"
    machine.tell(Said("worker-1", pid, "x" * 9_999))
    assert len(machine.shown[-1].text) == supervision.SAID_CHARS_MAX
    machine.ready()
    assert (machine.charge("worker-1").node, machine.charge("worker-1").steps) == ("00000000000000ab", "")


# --- The end ---------------------------------------------------------------------------------------------


def test_a_clean_stop() -> None:
    machine = Machine()
    machine.ready()
    machine.tell(Stop())
    assert machine.signals == [("frontend-1", False)]
    machine.obey()
    assert sorted(machine.signals[1:]) == [("router-1", False), ("worker-1", False), ("worker-2", False)]
    machine.obey()
    assert machine.code == 0
    assert machine.topics()[-2:] == [Topic.STOPPING, Topic.STOPPED]


def test_a_second_stop_kills() -> None:
    machine = Machine(obeys=False)
    machine.ready()
    machine.tell(Stop())
    machine.tell(Stop())
    machine.obey()
    assert machine.code == supervision.EXIT_INTERRUPTED
    assert sum(hard for _, hard in machine.signals) == len(ROLES)


def test_each_turn_has_its_own_time_and_who_exceeds_it_is_killed() -> None:
    machine = Machine(obeys=False)
    machine.ready()
    machine.tell(Stop())
    machine.wait(GRACE_S - 1)
    machine.die("frontend-1", 0)
    machine.wait(GRACE_S - 1)
    assert not machine.killed
    machine.die("worker-1", 0)
    machine.wait(2)
    assert machine.code == supervision.EXIT_FAILED
    assert [name for name, hard in machine.signals if hard] == ["worker-2", "router-1"]
    assert machine.shown[-1].text == "all nodes have left"


def test_a_process_that_appears_while_we_stop_is_dismissed() -> None:
    supervisor = Supervisor([Place("worker-1", "worker", ("x",))], Random(1), GRACE_S)
    supervisor.handle(Tick(), 0.0)
    supervisor.handle(Stop(), 0.0)
    effects = supervisor.handle(Spawned("worker-1", 7), 0.1)
    assert Signal("worker-1", 7) in effects
    assert Exit(0) in supervisor.handle(Exited("worker-1", 7, -15, "ended"), 0.2)


def test_a_process_that_appears_while_we_kill_is_killed() -> None:
    supervisor = Supervisor([Place("worker-1", "worker", ("x",))], Random(1), GRACE_S)
    supervisor.handle(Tick(), 0.0)
    supervisor.handle(Stop(), 0.0)
    supervisor.handle(Stop(), 0.0)
    assert Signal("worker-1", 7, hard=True) in supervisor.handle(Spawned("worker-1", 7), 0.1)


def test_names_are_unique() -> None:
    with pytest.raises(AssertionError, match="two places"):
        Supervisor([Place("a", "worker", ()), Place("a", "worker", ())], Random(1), GRACE_S)
