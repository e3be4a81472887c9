"""Pure. Invariant 31: what somebody has at hand goes there. A router that knows of caches heeds what it was told.

Judged where nobody can have misheard: all has been calm for some time, and what is there has not changed since. A known
picture goes to an encoder that has it, unless that has no slot left; and where nobody has anything to do, a prompt goes
to the worker that has most of it.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Any

from mesh.peer import Peer
from mesh.simulation.violation import require
from nodes.media.shelf import hash_of
from nodes.names import ENCODE, GENERATE
from nodes.routing.hashes import unpack
from nodes.routing.knobs import KV
from nodes.simulation.plan import ServingPlace
from nodes.simulation.telling import SimTeller
from proto.placing import Place, Placed, Wish

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

SETTLED_S, SETTLED_LOSSY_S = 0.3, 8.0  # until everybody knows; where words get lost, beats and copies must come first


class Known:
    """What routers should have known when they placed a request."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._clock = world.clock
        self._ended_at = -inf  # the last request
        self.judged = {"encoders": 0, "workers": 0}

    def ended(self) -> None:
        """A request is over."""
        self._ended_at = self._clock.now

    def advises(self, router: "Process", able: dict[str, dict[int, Peer]], place: Place, placed: Placed) -> None:
        """A router answers; `able`: by endpoint, who could take it."""
        spec, wish = router.spec, place.wish
        assert isinstance(spec, ServingPlace)
        if wish is None or spec.policy != KV or not self._is_calm():
            return
        model = place.endpoint.removeprefix(GENERATE)
        chosen = dict(zip(placed.endpoints, placed.itinerary, strict=False))
        if wish.media and ENCODE + model in chosen:
            self._encoder(router, able[ENCODE + model], chosen[ENCODE + model], wish)
        idle = self._clock.now - self._ended_at > SETTLED_S and self._world.oracles.open_streams == 1
        if idle and not (wish.session or place.policy):
            self._worker(router, able[place.endpoint], placed.itinerary[-1], wish)

    def _encoder(self, router: "Process", able: dict[int, Peer], chosen: int, wish: Wish) -> None:
        names = [hash_of(content) for content in wish.media]
        found = self._counts(able, lambda cached: sum(name in cached for name in names))
        free = [
            count for node, count in found.items()
            if able[node].load.running + able[node].load.waiting < able[node].load.slots
        ]  # fmt: skip
        self.judged["encoders"] += len(found) > 1 and max(found.values()) > min(found.values())
        if chosen in found and free:
            text = f"{router.label} sends {len(names)} pictures to an encoder that has {found[chosen]}, not {max(free)}"
            require(found[chosen] >= max(free), "31 known", text)

    def _worker(self, router: "Process", able: dict[int, Peer], chosen: int, wish: Wish) -> None:
        names = unpack(wish.hashes)
        found = self._counts(able, lambda cached: _leading(names, cached))
        self.judged["workers"] += len(found) > 1 and max(found.values()) > min(found.values())
        if chosen in found:
            most = max(found.values())
            text = f"{router.label} sends a prompt to a worker that has {found[chosen]} blocks of it, not {most}"
            require(found[chosen] == most, "31 known", text)

    def _counts(self, able: Iterable[int], count: Callable[[set[int]], int]) -> dict[int, int]:
        """By node, of those whose caches everybody knows."""
        found = {}
        for node in able:
            process: Any = self._world.process_with(node)
            teller: SimTeller | None = getattr(process, "teller", None)
            if process is not None and teller is not None and process.tells_all and self._is_settled(process, teller):
                found[node] = count(process.cached())
        return found

    def _is_settled(self, process: "Process", teller: SimTeller) -> bool:
        spec = process.spec
        assert isinstance(spec, ServingPlace)
        needed_s = SETTLED_LOSSY_S if spec.untold else SETTLED_S
        return self._clock.now - teller.changed_at > needed_s

    def _is_calm(self) -> bool:
        world = self._world
        since = max([trouble.calm_since for trouble in world.troubles])
        return self._clock.now - max([since, *(one.born for one in world.processes())]) > SETTLED_S


def _leading(names: Iterable[int], cached: set[int]) -> int:
    count = 0
    for name in names:
        if name not in cached:
            break
        count += 1
    return count
