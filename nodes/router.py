"""Shell. A router: it places requests and never sees one. All that it decides is in `nodes.routing`.

It holds no state that anybody depends on: several share the work, and with none alive frontends place by themselves.
Who serves `best_worker` is asked with Place messages; the endpoint itself, and `overlap`, are for components that only
want advice, and `explain` is for people.
"""

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta, Struct
from xxhash import xxh3_64_intdigest

from mesh.actor import Actor
from mesh.core import Want
from mesh.endpoint import Endpoint, define
from mesh.options import Options
from mesh.routing import ROUTER
from nodes.contract.blocks import chain, root
from nodes.endpoints import node_endpoints
from nodes.metrics import Family
from nodes.names import ENCODE, EXPLAIN, GENERATE, OVERLAP, PREFILL
from nodes.routing import metrics
from nodes.routing.explain import Explanation, explain
from nodes.routing.hashes import pack
from nodes.routing.itinerary import Told
from nodes.routing.knobs import KV, SECOND_BEST
from nodes.routing.placer import Placer
from nodes.routing.pooling import Pools
from nodes.serving import introduction, serve
from proto.limits import TOKEN_ID_MAX, TOKENS_MAX
from proto.messages import Role
from proto.placing import BLOCK_TOKENS_MAX, Wish

ROLE = "router"
NAMES_MAX = 256  # requests explained at once

Token = Annotated[int, Meta(ge=0, le=TOKEN_ID_MAX)]


class Question(Struct):
    """Which node should get a request for this endpoint? With its prompt the answer looks at caches too."""

    endpoint: str
    policy: str = ""  # empty: the router's own
    excluded: list[int] = []
    prompt: Annotated[list[Token], Meta(max_length=TOKENS_MAX)] = []
    block_tokens: Annotated[int, Meta(ge=1, le=BLOCK_TOKENS_MAX)] = 16  # of the workers: their card tells
    cache_salt: str = ""


class Advice(Struct):
    """That one, and why; node 0 means nobody."""

    node: int
    why: str
    rank: int = 0
    cached_tokens: int = 0
    worker: str = ""  # the node as people write it: `wiremesh nodes` shows it, `wiremesh call --direct` takes it


class Names(Struct):
    """Requests to be explained, as routers name them: the owner's id XOR its number."""

    requests: Annotated[list[int], Meta(max_length=NAMES_MAX)]


def router(options: Options, policy: str, placer: Placer | Pools) -> Actor:
    """The node. A policy is one of `nodes.routing.knobs.CHOICES`."""

    async def best_worker(question: Question) -> Advice:
        excluded = tuple(question.excluded)
        stop = placer.best(question.endpoint, question.policy, excluded, _wish(question), actor.loop.time())
        cached = stop.decision.cached * question.block_tokens if stop.decision is not None else 0
        return Advice(stop.node, stop.why, stop.rank, cached, f"{stop.node:016x}" if stop.node else "")

    async def overlap(question: Question) -> Explanation | None:
        decision = placer.overlaps(question.endpoint, _wish(question), actor.loop.time())
        return None if decision is None else explain(decision)

    async def explained(names: Names) -> list[Told]:
        found = [placer.told(key, actor.loop.time()) for key in names.requests]
        return [told for told in found if told is not None]

    def families() -> list[Family]:
        found = metrics.of(placer.advisors, actor.loop.time())
        return [*found, *placer.families()] if isinstance(placer, Pools) else found

    def facts() -> dict[str, object]:
        return {"policy": policy, "endpoints": list(placer.advisors)}

    served: dict[str, Callable[..., Any]] = {ROUTER: best_worker, OVERLAP: overlap, EXPLAIN: explained}
    endpoints: dict[str, Endpoint] = {
        **node_endpoints(ROLE, lambda: actor, families, facts),
        **{name: define(name, handler) for name, handler in served.items()},
    }
    plain = SECOND_BEST if policy == KV else policy
    actor = Actor(options, Role.ROUTER, endpoints, ROLE, policy=plain, aide=placer)
    return actor


def _wish(question: Question) -> Wish:
    first = root(question.cache_salt, xxh3_64_intdigest)
    hashes = chain(question.prompt, question.block_tokens, first, xxh3_64_intdigest)
    return Wish(pack(hashes), len(question.prompt), question.block_tokens)


async def run(options: Options, policy: str, placer: Placer | Pools) -> int:
    """Advise until told to leave; returns the exit code."""
    actor = router(options, policy, placer)
    shown = f"places requests by {policy.replace('_', '-')}"
    if isinstance(placer, Pools):
        shown += f" in pools: {', '.join(placer.placed)}"

    def want() -> None:
        for wish in (GENERATE, PREFILL, ENCODE, ROUTER):
            actor.post(Want(wish))

    return await serve(actor, lambda: introduction(ROLE, actor, shown), want)
