"""A mesh of real cores on a wire in memory: workers tell of their caches, routers listen, clients ask."""

from collections.abc import Sequence
from typing import Any

from xxhash import xxh3_64_intdigest

from mesh.core import Finished, Found, Produced, Start, Want
from mesh.routing import ROUTER
from nodes.contract.blocks import chain
from nodes.contract.engine import BlockEvent
from nodes.names import ENCODE, GENERATE, PREFILL
from nodes.routing.hashes import pack
from nodes.routing.knobs import read
from nodes.routing.placer import Placer
from nodes.routing.split import SplitKnobs
from nodes.routing.teller import Teller
from proto.messages import Offer, Role
from proto.placing import Placed, Report, Wish
from tests.pair import Wire

MODEL = "m"
BLOCK = 16
GEN, PRE, ENC = GENERATE + MODEL, PREFILL + MODEL, ENCODE + MODEL
ID = 0x9E37_79B9_7F4A_7C15  # ids are far apart, as in a mesh


def prompt(seed: int, blocks: int = 8) -> list[int]:
    """A prompt that shares nothing with those of other seeds."""
    return [seed * 100_000 + place for place in range(blocks * BLOCK)]


def names(tokens: Sequence[int]) -> list[int]:
    return chain(tokens, BLOCK, 0, xxh3_64_intdigest)


def wish(tokens: Sequence[int], **more: Any) -> Wish:
    return Wish(pack(names(tokens)), len(tokens), BLOCK, **more)


class Mesh:
    """See above. Nodes know each other as soon as they are made."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.tellers: dict[int, Teller] = {}
        self.placers: dict[int, Placer] = {}
        self.reports: dict[int, list[Report]] = {}
        self._count = 0

    def _node(self, role: int, *offers: str, **changes: Any) -> int:
        self._count += 1
        node = self.wire.node(role, [Offer(name, True) for name in offers], node=self._count * ID % 2**64, **changes)
        for other in list(self.wire.nodes):
            if other != node:
                self.wire.tell(node, Found(self.wire.nodes[other].record()))
                self.wire.tell(other, Found(self.wire.nodes[node].record()))
        return node

    def worker(self, *endpoints: str, ranks: int = 1) -> int:
        reports = [Report()] * ranks if ranks > 1 else []
        teller = Teller(ranks, report=lambda: reports)
        node = self._node(Role.WORKER, *(endpoints or (GEN,)), aide=teller, slots=64)
        self.tellers[node], self.reports[node] = teller, reports
        self.wire.settle()
        return node

    def router(self, policy: str = "kv", splitting: SplitKnobs | None = None, **knobs: object) -> int:
        placer = Placer(policy, read(knobs), splitting or SplitKnobs())
        node = self._node(Role.ROUTER, ROUTER, aide=placer, policy="least_loaded" if policy == "kv" else policy)
        self.placers[node] = placer
        for want in (GENERATE, PREFILL, ENCODE, ROUTER):
            self.wire.tell(node, Want(want))
        self.wire.settle()
        return node

    def client(self) -> int:
        node = self._node(Role.CLIENT)
        for want in (GENERATE, PREFILL, ENCODE, ROUTER):
            self.wire.tell(node, Want(want))
        self.wire.settle()
        return node

    def store(self, worker: int, tokens: Sequence[int]) -> None:
        """Its engine has computed this prompt."""
        found = names(tokens)
        self.tellers[worker].feed([BlockEvent("stored", found, 0, list(tokens))])
        self.wire.settle()

    def ask(self, client: int, tokens: Sequence[int], **more: Any) -> int:
        """A request with this prompt, placed by a router."""
        wanted = more.pop("wish", None) or wish(tokens)
        return self.wire.ask(client, GEN, prompt=list(tokens), routed=True, wish=wanted, **more)

    def placed(self, client: int) -> Placed:
        """The last advice that a client got."""
        found = [one.message for one in self.wire.sent if one.target == client and isinstance(one.message, Placed)]
        return found[-1]

    def holder(self, client: int, request: int) -> int:
        """Who was given a request last."""
        starts = [
            node
            for node, effect in self.wire.effects
            if isinstance(effect, Start) and (effect.leg.owner, effect.leg.request) == (client, request)
        ]
        return starts[-1]

    def first(self, client: int, request: int) -> None:
        """Its first token."""
        holder = self.holder(client, request)
        leg = next(start.leg for start in self.wire.did(holder, Start) if start.leg.request == request)
        self.wire.tell(holder, Produced(leg, tokens=[7]))
        self.wire.advance(0.02)

    def end(self, client: int, request: int) -> None:
        """It is over."""
        holder = self.holder(client, request)
        leg = next(start.leg for start in self.wire.did(holder, Start) if start.leg.request == request)
        self.wire.tell(holder, Finished(leg))
        self.wire.advance(0.02)
