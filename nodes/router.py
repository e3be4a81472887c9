"""Shell. A router: it places requests and never sees one. What it decides is in `mesh.routing` and `mesh.placement`.

It holds no state that anybody depends on: several share the work, and with none alive frontends place by themselves.
The endpoint `best_worker` is for components that only want advice; who serves it is asked with Place messages too.
"""

from msgspec import Struct

from mesh.actor import Actor
from mesh.core import Want
from mesh.endpoint import define
from mesh.options import Options
from mesh.routing import ROUTER
from nodes.endpoints import node_endpoints
from nodes.names import GENERATE
from nodes.serving import introduction, serve
from proto.messages import Role

ROLE = "router"


class Question(Struct):
    """Which node should get a request for this endpoint?"""

    endpoint: str
    policy: str = ""  # empty: the router's own
    excluded: list[int] = []


class Advice(Struct):
    """That one, and why; node 0 means nobody."""

    node: int
    why: str


def router(options: Options, policy: str) -> Actor:
    """The node. A policy is one of `mesh.placement.POLICIES`."""

    async def best_worker(question: Question) -> Advice:
        return Advice(*actor.node.routing.choose(question.endpoint, question.policy, tuple(question.excluded)))

    endpoints = node_endpoints(ROLE, lambda: actor, facts=lambda: {"policy": policy})
    endpoints = {**endpoints, ROUTER: define(ROUTER, best_worker)}
    actor = Actor(options, Role.ROUTER, endpoints, ROLE, policy=policy)
    return actor


async def run(options: Options, policy: str) -> int:
    """Advise until told to leave; returns the exit code."""
    actor = router(options, policy)
    shown = f"places requests by {policy.replace('_', '-')}"
    return await serve(actor, lambda: introduction(ROLE, actor, shown), lambda: actor.post(Want(GENERATE)))
