"""A worker with several data-parallel ranks: the router chooses one, the worker's engine is told, and tells of it."""

from collections.abc import Hashable, Sequence

import pytest

from mesh.core import Event, Leg, Start
from nodes import generation
from nodes.contract.below import Below
from nodes.contract.engine import Card, EngineLoad, Job, Step
from nodes.engines.sim import SimEngine
from nodes.generation import Generation, job_of
from nodes.paced import PacedHost
from nodes.routing.split import SplitKnobs
from proto.limits import METADATA_ENTRIES_MAX
from proto.placing import RANK, Report
from tests.nodes.hosting import AT_ONCE, engine_of
from tests.nodes.routing.mesh import BLOCK, GEN, PRE, Mesh, wish

WANTED = generation.encode(Generation(max_tokens=2))


class Ranks:
    """An engine of two ranks: two of one, each with a cache of its own."""

    def __init__(self) -> None:
        self.engines = [engine_of(AT_ONCE, block_tokens=BLOCK, context=512, step_tokens=512) for _ in range(2)]
        self.given: list[int] = []  # the ranks of all jobs

    def start(self) -> Card:
        raise AssertionError("its parts were started")

    def submit(self, job: Job) -> str | None:
        self.given.append(job.rank)
        return self._of(job.rank).submit(job)

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        return max(engine.cancel(key, out) for engine in self.engines)

    def land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        for engine in self.engines:
            engine.land(key, source, positions, tokens)

    def attach(self, below: Below) -> None:
        """Nothing lies below."""

    def stir(self) -> None:
        for engine in self.engines:
            engine.stir()

    def step(self) -> Step:
        whole = Step([], [])
        for rank, engine in enumerate(self.engines):
            step = engine.step()
            for event in step.events:
                event.rank = rank
            whole.outputs += step.outputs
            whole.events += step.events
        return whole

    def load(self) -> EngineLoad:
        return EngineLoad(ranks=tuple(engine.load() for engine in self.engines))

    def idle(self) -> bool:
        return all(engine.idle() for engine in self.engines)

    def stop(self) -> None:
        for engine in self.engines:
            engine.stop()

    def _of(self, rank: int) -> SimEngine:
        return self.engines[rank if rank in (0, 1) else 0]


class Ranked(Mesh):
    """Workers that run what they are given, on engines of two ranks."""

    def ranked(self) -> tuple[int, Ranks]:
        worker, engine = self.worker(ranks=2), Ranks()
        host = self.hosts[worker] = PacedHost(engine)
        host.core.teller = self.tellers[worker]
        return worker, engine

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[int, PacedHost] = {}
        self._run: set[tuple[int, Leg]] = set()

    def run(self, now: float = 0.0) -> None:
        """Let the engines have what was started, until all of it is done."""
        for worker, host in self.hosts.items():
            for start in self.wire.did(worker, Start):
                if (worker, start.leg) not in self._run:
                    self._run.add((worker, start.leg))
                    host.start(start, now)
            events: list[Event] = []
            while host.deadline() <= now:
                host.turn(now, events.append)
            for event in events:
                self.wire.tell(worker, event)
        self.wire.advance(0.02)


def prompt(seed: int) -> list[int]:
    """Tokens that the engine knows."""
    return [20 + (seed * 7 + place * (seed + 1)) % 90 for place in range(4 * BLOCK)]


@pytest.fixture
def mesh() -> Ranked:
    return Ranked()


def test_a_prompt_goes_to_the_rank_that_has_it(mesh: Ranked) -> None:
    """Told by nothing but what the ranks say of their caches."""
    worker, engine = mesh.ranked()
    mesh.router()
    client = mesh.client()
    mesh.wire.advance(1.5)  # a heartbeat shows how many ranks there are
    for seed in (1, 2, 3):
        engine.given.clear()
        for _ in range(3):
            mesh.ask(client, prompt(seed), payload=WANTED)
            mesh.run()
        assert len(engine.given) == 3 and len(set(engine.given)) == 1 and engine.given[0] in (0, 1)
        assert mesh.placed(client).cached_blocks >= 3
    mesh.tellers[worker].check()


def test_work_spreads_over_the_ranks_of_one_worker(mesh: Ranked) -> None:
    _, engine = mesh.ranked()
    mesh.router()
    client = mesh.client()
    mesh.wire.advance(1.5)
    for seed in range(8):
        mesh.ask(client, prompt(seed), payload=WANTED)
    mesh.run()
    assert sorted(engine.given) == [0] * 4 + [1] * 4


def test_a_rank_that_was_wished_for_is_kept_without_a_router(mesh: Ranked) -> None:
    _, engine = mesh.ranked()
    client = mesh.client()
    mesh.wire.advance(1.5)
    mesh.ask(client, prompt(1), payload=WANTED, wish=wish(prompt(1), rank=1))
    mesh.ask(client, prompt(2), payload=WANTED)
    mesh.run()
    assert engine.given == [1, -1]


def test_metadata_that_is_full_stays_as_it_is(mesh: Ranked) -> None:
    _, engine = mesh.ranked()
    client = mesh.client()
    mesh.wire.advance(1.5)
    full = {f"name-{number}": "" for number in range(METADATA_ENTRIES_MAX)}
    mesh.ask(client, prompt(1), payload=WANTED, wish=wish(prompt(1), rank=1), metadata=full)
    mesh.run()
    assert engine.given == [-1]


def test_who_has_one_rank_is_told_none(mesh: Ranked) -> None:
    worker = mesh.worker()
    mesh.reports[worker].append(Report())
    mesh.router()
    client = mesh.client()
    mesh.wire.advance(1.5)
    mesh.ask(client, prompt(1), payload=WANTED)
    assert mesh.wire.did(worker, Start)[0].metadata == {}


@pytest.mark.parametrize("said", ["", "-1", "x", "1.5", "9999", "²"])
def test_what_is_no_rank_is_none(said: str) -> None:
    assert job_of(0, Generation(), [1], [], 10, {RANK: said}).rank == -1
    assert job_of(0, Generation(), [1], [], 10).rank == -1


def test_a_prefill_worker_is_told_its_rank_too(mesh: Ranked) -> None:
    feeder, decoder = mesh.worker(PRE, ranks=2), mesh.worker(GEN)
    mesh.router(splitting=SplitKnobs(uncached_tokens_max=0))
    client = mesh.client()
    mesh.wire.advance(1.5)
    for seed in range(4):
        mesh.ask(client, prompt(seed), payload=WANTED)
    ranks = [start.metadata[RANK] for start in mesh.wire.did(feeder, Start)]
    assert sorted(ranks) == ["0", "0", "1", "1"] and not mesh.wire.did(decoder, Start)
