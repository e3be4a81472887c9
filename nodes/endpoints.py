"""Shell. The endpoints that every node has beside its work: its metrics, its status, and the way to make it leave.

They are ordinary endpoints, called over the mesh: no node opens a port for them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from mesh import schema
from mesh.actor import Actor
from mesh.endpoint import Endpoint, define
from nodes import names
from nodes.card import FileRequest, ModelCard, Objection, pieces
from nodes.metrics import Family, counter, gauge, labelled

GOODBYE_S = 0.02  # between the answer to a drain and the leaving: the answer is out first

Families = Callable[[], Iterable[Family]]
Facts = Callable[[], Mapping[str, Any]]


class Drain(Struct, frozen=True):
    """Leave the mesh. Without a grace the node takes the one that it was started with."""

    grace_s: float | None = None

    def __post_init__(self) -> None:
        if self.grace_s is not None and not 0 <= self.grace_s <= 86_400:
            raise ValueError("grace_s must be between 0 and 86400 seconds")


def node_endpoints(
    role: str,
    actor: Callable[[], Actor],
    families: Families = tuple,
    facts: Facts = dict,
    drain: Callable[[float], None] | None = None,
) -> dict[str, Endpoint]:
    """What every node serves. `actor` gives the node's own, which is made after its endpoints.

    `families` and `facts` are what its role adds to metrics and status; `drain` is how it leaves, if not at once.
    """

    def metrics(request: None) -> list[Family]:
        return labelled([*node_families(actor()), *families()], {"role": role})

    def status(request: None) -> dict[str, Any]:
        return {**actor().node.snapshot(), "role": role, **facts()}

    def leave(request: Drain) -> str:
        node = actor()
        grace_s = node.options.drain_s if request.grace_s is None else request.grace_s
        node.loop.call_later(GOODBYE_S, drain or node.leave, grace_s)
        return "draining"

    return _defined({names.METRICS: metrics, names.STATUS: status, names.DRAIN: leave})


def model_endpoints(
    card: ModelCard, contents: Mapping[str, bytes], told: Callable[[Objection], None] = lambda objection: None
) -> dict[str, Endpoint]:
    """What a worker tells of its model, and is `told`. `contents` are fields of `nodes.text.tokenizer.ModelFiles`."""

    def tell(request: None) -> ModelCard:
        return card

    def file(request: FileRequest) -> Iterator[bytes]:
        if request.name not in contents:
            raise schema.Refused(f"{request.name!r} is no file of a model: there are {', '.join(contents)}")
        return pieces(contents[request.name])

    def hear(request: Objection) -> str:
        told(request)
        return "heard"

    return _defined({names.CARD: tell, names.FILE: file, names.OBJECT: hear})


def node_families(actor: Actor) -> list[Family]:
    """What every node can tell of itself."""
    seen = actor.node.snapshot()
    states = [peer["state"] for peer in seen["peers"]]
    peers: dict[str, float] = {state: states.count(state) for state in sorted({*states})}
    return [
        counter("wiremesh_node_events_total", "What this node has counted.", seen["stats"], "event"),
        gauge("wiremesh_node_peers", "Other nodes that this one knows, by state.", peers, "state"),
        gauge("wiremesh_node_requests", "Requests that this node has made and that still run.", seen["requests"]),
        gauge("wiremesh_node_legs", "Requests of others that are held here.", seen["legs"]),
    ]


def _defined(handlers: Mapping[str, Callable[..., Any]]) -> dict[str, Endpoint]:
    return {name: define(name, handler) for name, handler in handlers.items()}
