"""Who takes part in the tests of sessions and requests: a client and workers that are up, and what workers do."""

from typing import Any

from mesh.core import Finished, Leg, Produced, Start
from tests.pair import COUNT, ECHO, Wire


def pair(wire: Wire, **changes: Any) -> tuple[int, int]:
    """A client and a worker that are up."""
    client, worker = wire.client(), wire.worker(**changes)
    wire.meet(client, worker)
    return client, worker


def running(wire: Wire, endpoint: str = ECHO, **ask: Any) -> tuple[int, int, int, Leg]:
    """Client, worker, request and its leg, which runs."""
    client, worker = pair(wire)
    request = wire.ask(client, endpoint, **ask)
    return client, worker, request, wire.leg(worker)


def produce(wire: Wire, leg: Leg, worker: int, *items: bytes) -> None:
    wire.tell(worker, Produced(leg, list(items)))
    wire.settle()


def end(wire: Wire, leg: Leg, worker: int) -> None:
    wire.tell(worker, Finished(leg))
    wire.settle()


def three(wire: Wire) -> tuple[int, int, int]:
    """A client and two workers that are up."""
    client, left, right = wire.client(), wire.worker(), wire.worker()
    wire.meet(client, left, right)
    return client, left, right


def begin(wire: Wire, endpoint: str = COUNT, **ask: Any) -> tuple[int, int, int, int, Leg]:
    """Client, the worker that holds the leg, the other one, the request, and the leg."""
    client, left, right = three(wire)
    request = wire.ask(client, endpoint, **ask)
    holder, other = (left, right) if wire.did(left, Start) else (right, left)
    return client, holder, other, request, wire.leg(holder)


def finish(wire: Wire, holder: int) -> None:
    wire.tell(holder, Finished(wire.leg(holder)))
    wire.settle()
