"""A client, workers of each role and a request that walks from one to the other."""

from typing import Any, TypeVar

from mesh.core import (
    Finished,
    Found,
    Leg,
    Prepared,
    Start,
    Stepped,
    Want,
)
from mesh.routing import ROUTER
from proto.basics import Message
from proto.errors import Reason
from proto.messages import Offer, Role
from proto.placing import Placed
from tests.pair import Wire

ENCODE, PREFILL, GENERATE = "encode/m", "prefill/m", "generate/m"
PROMPT = (1, 2, 3)
Kind = TypeVar("Kind", bound=Message)


class Mesh:
    """A client, some workers of each role, and a request that goes from one to the other."""

    def __init__(self, wire: Wire, encoders: int = 0, prefills: int = 1, decodes: int = 1, **worker: Any) -> None:
        self.wire = wire
        self.client = wire.client()
        self.encoders = [wire.worker([Offer(ENCODE)], **worker) for _ in range(encoders)]
        self.prefills = [wire.worker([Offer(PREFILL)], **worker) for _ in range(prefills)]
        self.decodes = [wire.worker([Offer(GENERATE)], **worker) for _ in range(decodes)]
        for endpoint in (ENCODE, PREFILL, GENERATE):
            wire.tell(self.client, Want(endpoint))
        for node in (*self.encoders, *self.prefills, *self.decodes):
            self.find(node)

    def find(self, node: int) -> None:
        self.wire.tell(self.client, Found(self.wire.nodes[node].record()))
        self.wire.settle()

    def ask(self, *needs: str, **ask: Any) -> int:
        return self.wire.ask(self.client, GENERATE, prompt=PROMPT, needs=needs or (PREFILL,), **ask)

    def sent(self, kind: type[Kind]) -> list[Kind]:
        return [entry.message for entry in self.wire.sent if isinstance(entry.message, kind)]

    def leg(self, node: int) -> Leg:
        return self.wire.leg(node)

    def hand(self, node: int, handle: bytes = b"blocks") -> None:
        self.wire.tell(node, Prepared(self.leg(node), handle))
        self.wire.settle()

    def step(self, node: int, *tokens: int) -> None:
        self.wire.tell(node, Stepped([(self.leg(node), tokens, ())]))
        self.wire.settle()

    def finish(self, node: int, reason: Reason = Reason.LENGTH) -> None:
        self.wire.tell(node, Finished(self.leg(node), reason))
        self.wire.settle()

    def router(self) -> int:
        """A router that a test speaks for."""
        node = self.wire.node(Role.ROUTER, [Offer(ROUTER)])
        self.wire.tell(self.client, Want(ROUTER))
        self.find(node)
        self.wire.freeze(node)
        return node

    def ask_routed(self, *stops: tuple[int, str]) -> int:
        """A request that a router sends along these stops."""
        router = self.router()
        request = self.ask(routed=True)
        self.advise(router, request, *stops)
        return request

    def advise(self, router: int, request: int, *stops: tuple[int, str], attempt: int = 1, **more: Any) -> None:
        itinerary, endpoints = [node for node, _ in stops], [endpoint for _, endpoint in stops]
        fields = {"why": "so", "endpoints": endpoints} | more
        self.wire.forge(router, self.client, Placed(request, attempt, itinerary, **fields))
        self.wire.settle()

    def walked(self) -> tuple[int, int, int]:
        """A request that has its decode leg while its prefill leg still lives."""
        request = self.ask()
        prefill = self.holder(self.prefills)
        self.hand(prefill)
        return request, prefill, self.holder(self.decodes)

    def holder(self, nodes: list[int]) -> int:
        """Who of these was the last to start something."""
        starts = [(node, effect) for node, effect in self.wire.effects if isinstance(effect, Start) and node in nodes]
        return starts[-1][0]
