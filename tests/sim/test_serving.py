"""Serving in the simulator: the stage of `nodes.simulation`, its reference, its stories, its judges and its mutants."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import cli
from mesh.simulation import mutants
from mesh.simulation.mutations import MUTATIONS as OF_THE_MESH
from mesh.simulation.plan import Fault, Work, from_json, to_json
from mesh.simulation.violation import Violation
from nodes.contract.engine import Ending, Job
from nodes.generation import encode_logprobs, job_of
from nodes.simulation import faults, plan, planes, plots
from nodes.simulation.caller import ServingStream
from nodes.simulation.draw import PROFILES, draw
from nodes.simulation.mutations import MUTATIONS
from nodes.simulation.plan import ENCODER, FRONTEND, POISON, ROUTER, WORKER, ServingCall, ServingPlace, ServingPlan
from nodes.simulation.retries import BURST, Retries
from nodes.simulation.seeing import Encoder, SeeingWorker, SeeingWorld
from nodes.simulation.stage import STAGE
from nodes.simulation.worker import WatchedEngine, digest
from nodes.simulation.world import ServingWorld
from nodes.transfer.handle import Handle
from proto.errors import Reason
from proto.messages import Error, Role

ROOT = Path(__file__).parents[2]
NOTICED: dict[str, int] = json.loads(mutants.NOTICED.read_text(encoding="utf-8"))
SEEDS = 12
MUTANTS_MIN = 155  # with those of the mesh


@pytest.mark.parametrize("profile", PROFILES)
def test_every_invariant_holds(profile: str) -> None:
    for seed in range(SEEDS):
        result = STAGE.run(seed, profile)
        assert not result.failed, f"seed {seed}: {result.invariant}: {result.text}"


def test_the_command_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sim", "run", "--profile", "serving-calm", "--seeds", "0:3", "--jobs", "1"]) == 0
    assert "3 seeds" in capsys.readouterr().out


# --- What is drawn ---------------------------------------------------------------------------------------------


def test_a_plan_is_all_there_is() -> None:
    drawn = draw(7)
    again = from_json(to_json(drawn), ServingPlan)
    assert again == drawn
    assert STAGE.world(again, None).run().digest == STAGE.world(drawn, None).run().digest


def test_everything_is_drawn() -> None:
    drawn = [draw(seed) for seed in range(400)]
    kinds = {fault.kind for one in drawn for fault in one.faults}
    assert kinds >= {*faults.SIMPLE} - {"router"} | {"drop_after_accept", "drop_after_go"}
    calls = [call for one in drawn for call in one.calls]
    for trait in (
        *("poison", "wrong", "cancel", "timeout_s", "stall_s", "salt", "routed", "heeds_end", "pace_ms"),
        *("pictures", "spoilt", "wishes", "session"),
    ):
        assert len({bool(getattr(call, trait)) for call in calls}) == 2, trait
    places = [place for one in drawn for place in one.places]
    for trait in ("sees", "blind", "tells", "untold", "queue_steps", "staging", "splits"):
        assert len({bool(getattr(place, trait)) for place in places}) == 2, trait
    assert {place.kind for place in places} == {WORKER, FRONTEND, ROUTER, ENCODER}
    assert {sum(place.kind == ROUTER for place in one.places) for one in drawn} == {0, 1, 2}


@pytest.mark.parametrize("name", sorted(plots.PLOTS))
def test_every_plot_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    plot = plots.PLOTS[name]
    monkeypatch.setitem(plots.PLOTS, name, lambda random, plan: told.append(plan) or plot(random, plan))
    for seed in range(60):
        draw(seed)
    assert told
    result = STAGE.world(told[0], None).run()
    assert not result.failed, f"{result.invariant}: {result.text}"


# --- The reference ---------------------------------------------------------------------------------------------

CALLS = st.builds(
    ServingCall,
    at_s=st.just(0.0), place=st.just(0), endpoint=st.just("generate/a"),
    work=st.builds(Work, st.integers(1, 40), st.just(0)),
    prompt=st.integers(1, 60), shared=st.integers(0, 24), max_tokens=st.integers(0, 120), min_tokens=st.integers(0, 9),
    stop_at=st.integers(-1, 12), heeds_end=st.booleans(), logprobs=st.integers(-1, 3),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(call=CALLS)
def test_the_reference_is_what_an_engine_says(call: ServingCall) -> None:
    prompt = plan.prompt_of(call)
    wanted = plan.generation_of(call, prompt)
    tokens, stops = plan.undisturbed(wanted, prompt)
    engine = WatchedEngine(plan.engine_settings(ServingPlace("worker", int(Role.WORKER))), digest)
    begun: list[Job] = []
    engine.begun, engine.found = begun.append, lambda job, count: None
    engine.computes, engine.evicts = lambda plan: None, lambda: None
    job = job_of("key", wanted, prompt, [], plan.VOCABULARY)
    assert engine.submit(job) is None and (begun == [job])
    said: list[int] = []
    rows: list[bytes] = []
    ending = None
    while ending is None:
        for output in engine.step().outputs:
            said += output.tokens
            rows += map(encode_logprobs, output.logprobs)
            ending = output.ending
    assert said == tokens
    assert ending is (Ending.STOP if stops else Ending.LENGTH)
    assert rows == (plan.rows(tokens, prompt, call.logprobs) if call.logprobs >= 0 else [])


# --- Stories ---------------------------------------------------------------------------------------------------


def mesh(workers: int, calls: list[ServingCall], *faults_: Fault, routers: int = 1) -> ServingPlan:
    places = [
        ServingPlace(f"worker{number}", int(Role.WORKER), ["generate/a"], slots=64, queue=24, engine=True)
        for number in range(workers)
    ]
    for number in range(routers):
        kinds = {"offers": ["wiremesh.router.best_worker"], "wants": ["generate/"], "kind": ROUTER}
        places.append(ServingPlace(f"router{number}", int(Role.ROUTER), **kinds))  # type: ignore[arg-type]
    wants = ["generate/", "wiremesh.router.best_worker"]
    places.append(ServingPlace("frontend", int(Role.COMPONENT), wants=wants, kind=FRONTEND))
    for call in calls:
        call.place = len(places) - 1
    return ServingPlan(1, "serving", places, calls, list(faults_), heal_s=6.0)


def call(number: int, at_s: float = 1.0, max_tokens: int = 20, poison: bool = False) -> ServingCall:
    work = Work(number, 0)
    return ServingCall(at_s, 0, "generate/a", work, prompt=8, max_tokens=max_tokens, poison=poison)


def test_a_poison_kills_two_and_nobody_else_is_blamed() -> None:
    world = ServingWorld(mesh(3, [call(1, 1.2, poison=True), *(call(number) for number in range(2, 9))]))
    result = world.run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    assert result.reasons == {"poison": 1, "length": 7}
    streams = [stream for stream in world.oracles.streams if isinstance(stream, ServingStream)]
    assert [stream.kills for stream in streams if stream.prompt[0] == POISON] == [2]


def test_with_all_routers_gone_everything_is_placed() -> None:
    deaths = [Fault(0.9, "crash", place, for_s=3.0) for place in (2, 3)]
    result = ServingWorld(mesh(2, [call(number) for number in range(1, 7)], *deaths, routers=2)).run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    assert result.reasons == {"length": 6}
    assert not result.stats.get("requests.routed", 0)


def test_an_engine_that_hangs_in_its_first_step_is_left() -> None:
    world = ServingWorld(mesh(2, [call(number, 0.9) for number in range(1, 5)], Fault(0.8, "hang", 0, for_s=8.0)))
    world.plan.heal_s = 9.5
    result = world.run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    assert result.reasons == {"length": 4}
    assert result.stats["requests.moved"] > 0


def test_preempted_streams_go_elsewhere_and_on() -> None:
    calls = [call(number, 1.0 + number / 50, max_tokens=60) for number in range(1, 9)]
    crowded = mesh(2, calls)
    for place in crowded.places:
        place.blocks, place.hand_over = 42, True
    result = ServingWorld(crowded).run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    assert result.stats["requests.migrated"] > 0
    assert set(result.reasons) <= {"length", "unavailable"}


ENDPOINTS = {"encoder": "encode/", "prefill": "prefill/"}


def shown(number: int, pictures: list[int], at_s: float = 1.0) -> ServingCall:
    showing = call(number, at_s)
    showing.pictures, showing.wishes = pictures, True
    return showing


def seeing(calls: list[ServingCall], *faults_: Fault, encoders: int = 1, prefills: int = 0) -> ServingPlan:
    """A mesh whose model takes pictures; its encoders live on place 4 and after it."""
    planned = mesh(2, calls, *faults_)
    for kind, count in (("encoder", encoders), ("prefill", prefills)):
        for number in range(count):
            place = ServingPlace(f"{kind}{number}", int(Role.WORKER), [f"{ENDPOINTS[kind]}a"], queue=24, engine=True)
            place.kind, place.slots = (ENCODER if kind == "encoder" else WORKER), 64
            planned.places = [*planned.places, place]
    for place in planned.places:
        place.sees, place.staging = place.kind in (WORKER, ROUTER), 60
        place.splits = place.kind == ROUTER and prefills > 0
        if place.kind in (FRONTEND, ROUTER):
            place.wants = [*place.wants, *ENDPOINTS.values()]
    return planned


def seen(world: SeeingWorld) -> tuple[dict[str, int], int, int]:
    """How its requests ended, and how many pictures its encoders have read, and its workers."""
    result = world.run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    read = {Encoder: 0, SeeingWorker: 0}
    for process in world.processes():
        if isinstance(process, Encoder | SeeingWorker):
            read[type(process)] += process.embedder.figures["encoded"]
    return result.reasons, read[Encoder], read[SeeingWorker]


@pytest.fixture
def lucky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls neither break nor stop."""
    monkeypatch.setattr(planes.SimPlane, "_unlucky", lambda plane, share: share == 1.0)


@pytest.mark.usefixtures("lucky")
@pytest.mark.parametrize("prefills", [0, 1])
def test_encoders_read_pictures_once_and_workers_need_not_look(prefills: int) -> None:
    calls = [shown(number, [number % 2, 3], 1.0 + number / 10) for number in range(1, 7)]
    assert seen(SeeingWorld(seeing(calls, prefills=prefills))) == ({"length": 6}, 3, 0)


@pytest.mark.usefixtures("lucky")
def test_when_an_encoder_dies_its_requests_go_on() -> None:
    calls = [shown(number, [number % 4], 1.0 + number / 100) for number in range(1, 9)]
    planned = seeing(calls, Fault(1.1, "crash", 4, for_s=3.0), encoders=2)
    planned.places[4].encode_ms = 200.0
    reasons, _, _ = seen(SeeingWorld(planned))
    assert reasons == {"length": 8}


@pytest.mark.usefixtures("lucky")
def test_an_embedding_that_never_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some time a worker looks for itself."""
    world = SeeingWorld(seeing([shown(number, [number]) for number in range(1, 4)]))
    pull = planes.SimPlane.pull

    def stuck(plane: planes.SimPlane, wanted: Handle, *more: Any, **how: Any) -> int:
        encoders = [process.node.settings.node for process in world.processes() if isinstance(process, Encoder)]
        plane._stuck_share = 1.0 if wanted.node in encoders else 0.0
        return pull(plane, wanted, *more, **how)

    monkeypatch.setattr(planes.SimPlane, "pull", stuck)
    reasons, encoded, looked = seen(world)
    assert (reasons, encoded, looked) == ({"length": 3}, 3, 3)


def test_a_spoilt_picture_is_its_askers_mistake() -> None:
    spoilt, forged, good = (shown(number, [number]) for number in (1, 2, 3))
    spoilt.spoilt, forged.spoilt = "bytes", "name"
    result = SeeingWorld(seeing([spoilt, forged, good])).run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    assert result.reasons == {"invalid": 2, "length": 1}


@pytest.mark.usefixtures("lucky")
def test_a_known_picture_goes_to_the_encoder_that_has_it() -> None:
    calls = [shown(number, [number % 3], 1.0 + number * 0.7) for number in range(1, 10)]
    planned = seeing(calls, encoders=3)
    planned.heal_s = 9.0
    for place in planned.places:
        place.tells = place.kind in (WORKER, ENCODER)
        if place.kind == ROUTER:
            place.policy, place.wants = "kv", [*place.wants, "wiremesh.router.best_worker"]
    world = SeeingWorld(planned)
    assert seen(world) == ({"length": 9}, 3, 0)
    judges: Any = world.oracles
    assert judges.advice.known.judged["encoders"] >= 6


def fed_alike(*faults_: Fault) -> ServingPlan:
    """Three prompts that begin alike, one after the other, through one prefill worker and one decode worker."""
    calls = [call(number, 0.5 + number * 0.8) for number in range(1, 4)]
    planned = seeing(calls, *faults_, encoders=0, prefills=1)
    planned.places[1].offers = ["generate/b"]
    for one in planned.calls:
        one.shared, one.needs, one.routed = 24, ["prefill/a"], False
    for place in planned.places:
        place.sees, place.splits = False, False
    return planned


def test_what_a_worker_has_is_not_pulled() -> None:
    result = ServingWorld(fed_alike()).run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    assert (result.stats["handing.pulled"], result.stats["handing.spared"]) == (3, 48)


def test_what_it_has_may_be_gone_before_the_rest_comes() -> None:
    result = ServingWorld(fed_alike(Fault(0.0, "evict"), Fault(0.0, "evict"))).run()
    assert not result.failed, f"{result.invariant}: {result.text}"
    assert result.reasons == {"length": 3}
    assert result.stats["handing.spared"] > 0


# --- The judges ------------------------------------------------------------------------------------------------


class Someone:
    """A process with requests, as the judge of retries sees it."""

    label = "someone"
    now = 0.0

    def __init__(self) -> None:
        self.node = self
        self.owner = self
        self.requests = {1: None}

    def local(self) -> float:
        return self.now


def test_retries_are_counted() -> None:
    judge, someone = Retries(), Someone()

    def retry() -> None:
        judge.heard(someone, Error(1, 1, 0, int(Reason.BUSY), True))  # type: ignore[arg-type]
        judge.handled(someone)  # type: ignore[arg-type]

    for _ in range(int(BURST)):
        retry()
    with pytest.raises(Violation, match="22 retries"):
        retry()
    someone.now = 0.1
    retry()
    someone.requests = {}
    retry()  # it was given up: that is no retry


# --- Mutants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutant_fits_in_one_place(mutation: mutants.Mutation) -> None:
    text = (ROOT / mutation.file).read_text()
    assert text.count(mutation.old) == 1, "its old text must occur exactly once: change it together with the core"
    compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")


def test_there_are_enough() -> None:
    names = [mutation.name for mutation in (*MUTATIONS, *OF_THE_MESH)]
    assert len(names) == len(set(names)) >= MUTANTS_MIN


@pytest.mark.parametrize(
    "name",
    [
        *("generated_forgotten", "suspect_not_asked", "router_herds", "embedded_untold", "blocks_unused"),
        *("evicted_is_believed_in", "overlap_unheeded"),
    ],
)
def test_mutants_are_noticed(name: str) -> None:
    found = mutants.run(name, 60, STAGE.module, [NOTICED[name]])  # first by the seed that noticed it before
    assert found["seed"] >= 0, found


# --- Determinism -----------------------------------------------------------------------------------------------

PROGRAM = """
from nodes.simulation.stage import STAGE
print([STAGE.run(seed, "serving").digest for seed in range(4)])
"""


def test_everywhere_the_same() -> None:
    def elsewhere(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    here = [STAGE.run(seed, "serving").digest for seed in range(4)]
    assert elsewhere("1") == elsewhere("2") == repr(here)
