"""Shell. The stage of serving meshes: `wiremesh sim run --profile serving`."""

from typing import cast

from mesh.simulation.plan import Plan
from mesh.simulation.stage import Stage
from mesh.simulation.world import Trace, World
from nodes.simulation.draw import DRAIN, PROFILES, draw
from nodes.simulation.plan import CALM, ServingPlan
from nodes.simulation.seeing import SeeingWorld


def _world(plan: Plan, trace: Trace | None) -> World:
    return SeeingWorld(cast(ServingPlan, plan), trace)


STAGE = Stage(
    "nodes.simulation.stage",
    PROFILES,
    ("serving", "serving", "serving", CALM, "serving", DRAIN, "serving", "serving"),
    draw,
    _world,
    ServingPlan,
)
