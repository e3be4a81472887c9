"""Same seed, same digest: here, again, in another process, and under another hash seed."""

import os
import subprocess
import sys
from pathlib import Path

from mesh.simulation.draw import draw
from mesh.simulation.plan import from_json, to_json
from mesh.simulation.world import World

ROOT = Path(__file__).parents[2]
SEEDS = {"chaos": (0, 1, 2, 3), "skew": (4, 5), "seeds": (6, 7)}
PROGRAM = """
from mesh.simulation.draw import draw
from mesh.simulation.world import World
seeds = {seeds!r}
print([World(draw(seed, profile)).run().digest for profile in seeds for seed in seeds[profile]])
"""


def digests() -> list[int]:
    return [World(draw(seed, profile)).run().digest for profile in SEEDS for seed in SEEDS[profile]]


def elsewhere(hash_seed: str) -> str:
    command = [sys.executable, "-c", PROGRAM.format(seeds=SEEDS)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_everywhere_the_same() -> None:
    here = digests()
    assert len(set(here)) == len(here), "seeds differ"
    assert digests() == here
    assert elsewhere("1") == elsewhere("2") == repr(here)


def test_a_plan_is_all_there_is() -> None:
    """A plan from a file runs like the one that was drawn."""
    plan = draw(11)
    again = from_json(to_json(plan))
    assert again == plan
    assert World(again).run().digest == World(plan).run().digest
