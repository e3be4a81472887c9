"""Shell. A stage: what plans are drawn for it, the world that runs them, and where its mutants are.

This module has the one of the mesh itself. Whatever is built on the mesh can bring its own (`nodes.simulation.stage`);
other processes find it by the name of its module, which has it as STAGE and a module `mutations` beside it.
"""

from collections.abc import Callable
from importlib import import_module

from msgspec import Struct

from mesh.simulation.draw import PROFILES, draw
from mesh.simulation.plan import Plan
from mesh.simulation.world import Result, Trace, World


class Stage(Struct, frozen=True):
    """Everything that the runner must know about what it runs."""

    module: str
    profiles: tuple[str, ...]
    hunters: tuple[str, ...]  # profiles that take turns at a mutant
    draw: Callable[[int, str], Plan]
    world: Callable[[Plan, Trace | None], World]
    plan: type[Plan] = Plan

    def run(self, seed: int, profile: str) -> Result:
        """One seed."""
        return self.world(self.draw(seed, profile), None).run()


def find(module: str) -> Stage:
    """The stage of a module."""
    stage = import_module(module).STAGE
    assert isinstance(stage, Stage)
    return stage


STAGE = Stage(
    "mesh.simulation.stage",
    PROFILES,
    ("chaos", "chaos", "chaos", "calm", "drain", "seeds", "skew", "chaos"),
    draw,
    World,
)
