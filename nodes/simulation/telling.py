"""Pure. What a simulated worker tells routers of its cache, and what of that is lost on the way.

The mesh loses no word while a session lasts. What numbers, replays and copies are for is tried all the same: a plan
may lose a share of a teller's words, shorten its ring, and cut what is copied into several pieces.
"""

from collections.abc import Callable, Sequence
from math import inf
from random import Random

from msgspec import structs

from mesh.aide import Surroundings
from mesh.simulation.process import Process
from nodes.contract.engine import BlockEvent
from nodes.routing.closure import Closure
from nodes.routing.publisher import Publisher
from nodes.routing.teller import Teller
from nodes.simulation.plan import ServingPlace
from proto.basics import Message
from proto.placing import Blocks, Cut, Piece, Report


class SimPublisher(Publisher):
    """One whose cache is cut into so many pieces from the start: small caches would have one."""

    def __init__(self, blocks: int, changes_max: int, pieces: int) -> None:
        super().__init__(blocks=blocks, ring_changes_max=changes_max)
        self._closures = [Closure(pieces, blocks)]

    @property
    def closure(self) -> Closure:
        """What can be found."""
        return self._closures[0]


class SimTeller(Teller):
    """One whose words to routers may get lost."""

    def __init__(
        self,
        place: ServingPlace,
        report: Callable[[], Sequence[Report]],
        loses: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        super().__init__(report=report)
        self.changed_at = -inf  # when it was last told that its cache is another one
        self.publisher = SimPublisher(place.blocks, place.ring_changes, place.pieces)
        self.publishers: list[Publisher] = [self.publisher]
        self._loses = loses
        self._now = now
        self._listen(False)

    def feed(self, events: Sequence[BlockEvent], medium: int = 0) -> None:
        """What happened to the cache."""
        self.changed_at = self._now()
        super().feed(events, medium)

    def attach(self, around: Surroundings) -> None:
        def send(peer: int, message: Message, now: float) -> bool:
            lost = isinstance(message, Blocks | Cut | Piece) and self._loses()
            return lost or around.send(peer, message, now)

        super().attach(structs.replace(around, send=send))


def teller_of(process: Process, report: Callable[[], Sequence[Report]]) -> SimTeller | None:
    """What tells routers of a cache, as its place has it. A share of it gets lost, as long as there is trouble."""
    place, world = process.spec, process.world
    assert isinstance(place, ServingPlace)
    if not place.tells:
        return None
    random, share = Random(f"{world.plan.seed}/untold/{process.label}"), place.untold
    heal_s, clock = world.plan.heal_s, world.clock

    def loses() -> bool:
        return share > 0 and clock.now < heal_s and random.random() < share

    return SimTeller(place, report, loses, lambda: clock.now)
