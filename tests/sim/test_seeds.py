"""The cores in the simulator: some seeds of each profile, and every plan that ever failed. The gate runs thousands."""

from pathlib import Path

import pytest

from mesh.simulation.draw import PROFILES, draw
from mesh.simulation.plan import from_json
from mesh.simulation.world import World

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.json"))
SEEDS = 16


@pytest.mark.parametrize("profile", PROFILES)
def test_every_invariant_holds(profile: str) -> None:
    for seed in range(SEEDS):
        result = World(draw(seed, profile)).run()
        assert not result.failed, f"seed {seed}: {result.invariant}: {result.text}"


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_once_failed_holds(path: Path) -> None:
    plan = from_json(path.read_bytes())
    result = World(plan).run()
    assert not result.failed, f"{plan.note}: {result.invariant}: {result.text}"


def test_there_are_regressions() -> None:
    assert REGRESSIONS


def test_peace_is_quiet() -> None:
    """Invariant 25 means something: in peace work is done, and in chaos it is moved."""
    calm, chaos = ([World(draw(seed, profile)).run() for seed in range(SEEDS)] for profile in ("calm", "chaos"))
    assert sum(result.stats.get("requests.moved", 0) for result in chaos) > 5
    assert sum(result.reasons.get("complete", 0) for result in calm) > 50
    assert all(not result.faults for result in calm)
