"""A user's own component in the simulator, as a user would test it: the resumable example, and handlers that cheat."""

import asyncio
import importlib.util
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from mesh import Checkpoint, Component
from mesh.simulation import Simulation, Violation

EXAMPLE = Path(__file__).parents[2] / "launch/examples/resumable/server.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("resumable_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sums() -> Component:
    component = load(EXAMPLE).sums
    assert isinstance(component, Component)
    return component


def test_the_resumable_example_survives_chaos(sums: Component) -> None:
    summary = Simulation(sums).run("running", requests=[0, 7, 60, 120, 200], seeds=range(20))
    assert summary.seeds == 20
    assert summary.moves > 10, "the faults have hardly touched it"
    assert set(summary.reasons) <= {"complete", "unavailable", "busy"}, summary.reasons


def test_it_survives_a_rolling_restart(sums: Component) -> None:
    summary = Simulation(sums).run("running", requests=[150, 350, 450], seeds=range(8), faults="drain")
    assert summary.moves >= 6
    assert summary.reasons == {"complete": summary.requests}


def test_nothing_moves_in_peace(sums: Component) -> None:
    summary = Simulation(sums).run("running", requests=[3, 50], seeds=range(3), faults="calm")
    assert (summary.moves, summary.items) == (0, 3 * 53)


def test_a_checkpoint_that_lacks_something_is_found() -> None:
    cheat = Component("test.cheat")

    @cheat.endpoint
    async def forgets(request: int, resume: int | None = None) -> AsyncIterator[int | Checkpoint]:
        done, total = resume or 0, 0  # The sum so far is not in the state.
        while done < request:
            done += 1
            total += done
            yield total
            yield Checkpoint(done)
            await asyncio.sleep(0.02)

    with pytest.raises(Violation, match=r"values.*seed"):
        Simulation(cheat).run("forgets", requests=[100, 100], seeds=range(30))


def test_a_handler_that_draws_is_found() -> None:
    cheat = Component("test.draws")

    @cheat.endpoint
    async def draws(request: int, resume: int | None = None) -> AsyncIterator[float]:
        for _ in range(request):
            yield random.random()

    with pytest.raises(Violation, match="values"):
        Simulation(cheat).run("draws", requests=[3], seeds=range(1), faults="calm")


def test_plain_handlers_are_served_too() -> None:
    plain = Component("test.plain")

    @plain.endpoint
    async def once(request: int) -> int:
        await asyncio.sleep(0.5)
        return request + 1

    @plain.endpoint
    def many(request: int) -> object:
        return (item for item in range(request))

    simulation = Simulation(plain)
    assert simulation.run("once", requests=[1, 2], seeds=range(5), faults="calm").reasons == {"complete": 10}
    assert simulation.run("many", requests=[500], seeds=range(5), faults="calm").items == 2500
