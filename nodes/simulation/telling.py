"""Pure. What a simulated worker tells routers of its cache, and what of that is lost on the way.

The mesh loses no word while a session lasts. What numbers, replays and copies are for is tried all the same: a plan
may lose a share of a teller's words, shorten its ring, and cut what is copied into several pieces.
"""

from collections.abc import Callable, Sequence
from random import Random

from msgspec import structs

from mesh.aide import Surroundings
from mesh.simulation.process import Process
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

    def __init__(self, place: ServingPlace, report: Callable[[], Sequence[Report]], loses: Callable[[], bool]) -> None:
        super().__init__(report=report)
        self.publisher = SimPublisher(place.blocks, place.ring_changes, place.pieces)
        self.publishers: list[Publisher] = [self.publisher]
        self._loses = loses

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
    return SimTeller(place, report, lambda: share > 0 and clock.now < heal_s and random.random() < share)
