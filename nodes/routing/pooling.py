"""Pure. The aide of a global router: first a pool of workers, then a worker of that pool.

A node belongs to the pool that it is tagged with, else to the one called "default". Each pool has a placer of its own,
which sees its own workers and nobody else: so a prompt is prefilled in the pool that decodes it, and the knowledge of
caches costs what it costs without pools. A pool that has nobody for a request hands it to the next that the table
allows; a request that nobody may have waits at its owner until somebody may, as it does without pools.
"""

from collections import OrderedDict
from collections.abc import Mapping
from math import inf

from msgspec import Struct, structs

from mesh.aide import Surroundings
from mesh.peer import Peer
from mesh.routing import ROUTER, Routing
from nodes.metrics import Family, counter, gauge
from nodes.names import ENCODE, GENERATE, POOL, PREFILL
from nodes.routing.advisor import Advisor
from nodes.routing.explain import Decision
from nodes.routing.itinerary import Stop, Told, unique, wish_of
from nodes.routing.knobs import SECOND_BEST
from nodes.routing.placer import Placer
from nodes.routing.pools import Health, PoolChoice, Table, Target, choose_pool
from proto.basics import LegName, Message
from proto.messages import Pong
from proto.placing import Blocks, Cut, Parked, Piece, Place, Placed, Report, Routed, Settled, Wish

WORK = (GENERATE, PREFILL, ENCODE)
DEFAULT = "default"  # the pool of who is tagged with none
REMEMBERED_MAX = 262_144  # requests whose pool is known: some 100 bytes each; of older ones all pools are told
REASONS_MAX = 16_384  # requests whose pool is explained: as many as a frontend knows by name


class Promise(Struct, frozen=True):
    """What clients are promised that do not say what they want; 0: nothing."""

    first_token_ms: float = 0.0
    next_token_ms: float = 0.0


class Pools:
    """See above. `placers` by pool: one for each pool of the table."""

    def __init__(self, table: Table, placers: Mapping[str, Placer], promise: Promise | None = None) -> None:
        assert list(placers) == [pool.name for pool in table.pools]
        self._table = table
        self._placers = dict(placers)
        self._promise = promise or Promise()
        self._choosing: dict[str, Routing] = {}
        self._pool_of: dict[int, str] = {}  # by node
        self._unlisted: dict[int, None] = {}  # nodes of pools that are not in the table
        self._pool_for: OrderedDict[int, str] = OrderedDict()  # by request, the oldest first
        self._reasons: OrderedDict[int, str] = OrderedDict()  # likewise: why they went to a pool
        self._caught: list[Placed | Parked] | None = None  # what a placer answers is looked at before it leaves
        self.placed: dict[str, int] = dict.fromkeys(self._placers, 0)
        self.spilled: dict[str, int] = dict.fromkeys(self._placers, 0)  # wanted here, placed elsewhere
        self.refused = 0

    @property
    def advisors(self) -> dict[str, Advisor]:
        """Of all pools, named apart."""
        return {
            f"{endpoint}@{pool}": advisor
            for pool, placer in self._placers.items()
            for endpoint, advisor in placer.advisors.items()
        }

    # --- The node's events -------------------------------------------------------------------------------

    def attach(self, around: Surroundings) -> None:
        self._around = around
        for pool, placer in self._placers.items():
            placer.attach(self._surroundings(pool))

    def received(self, peer: int, message: Message, now: float) -> bool:
        if isinstance(message, Place):
            if not message.endpoint.startswith(GENERATE):
                return False  # a component's: it has no pool
            self._asked(peer, message, now)
        elif isinstance(message, Settled):
            self._settled(peer, message, now)
        elif isinstance(message, Routed):
            for placer in self._placers.values():
                placer.received(peer, message, now)
        elif isinstance(message, Blocks | Cut | Piece | Pong):
            placer_of = self._placers.get(self._pool_of.get(peer, ""))
            return placer_of is not None and placer_of.received(peer, message, now)
        else:
            return False
        return True

    def peer_up(self, peer: Peer, now: float) -> None:
        if ROUTER in peer.offers:
            for placer in self._placers.values():
                placer.peer_up(peer, now)
            return
        pool = pool_of(peer)
        if pool in self._placers:
            self._pool_of[peer.node] = pool
            self._placers[pool].peer_up(peer, now)
        elif any(endpoint.startswith(WORK) for endpoint in peer.offers):
            self._unlisted[peer.node] = None

    def peer_down(self, peer: int, now: float) -> None:
        self._pool_of.pop(peer, None)
        self._unlisted.pop(peer, None)
        for placer in self._placers.values():
            placer.peer_down(peer, now)
        for routing in self._choosing.values():
            routing.peer_down(peer)

    def deadline(self) -> float:
        return min([placer.deadline() for placer in self._placers.values()], default=inf)

    def tick(self, now: float) -> None:
        for placer in self._placers.values():
            if placer.deadline() <= now:
                placer.tick(now)

    def reports(self) -> list[Report]:
        return []

    def check(self) -> None:
        assert self._caught is None
        assert all(pool in self._placers for pool in self._pool_of.values())
        for placer in self._placers.values():
            placer.check()

    # --- Placing -----------------------------------------------------------------------------------------

    def _asked(self, owner: int, place: Place, now: float) -> None:
        choice = self._choose(place)
        self._keep(unique(owner, place.request), choice.why)
        answer: Placed | Parked | None = None
        for pool in choice.pools:
            found = self._try(pool, owner, place, now)
            if isinstance(found, Parked) or found.itinerary:
                self._remember(owner, place, pool, now)
                self._count(pool, choice)
                answer = found
                break
            answer = answer or found  # the pool that was wanted says best why nobody has it
        if answer is None:
            answer = Placed(place.request, place.attempt)
        if isinstance(answer, Placed):
            answer = self._explained(place, answer, choice)
        self._around.send(owner, answer, now)

    def _explained(self, place: Place, answer: Placed, choice: PoolChoice) -> Placed:
        """With the pool's reason. Without a place: who asks must not go where the table does not let it."""
        answer.why = f"{choice.why}; {answer.why}" if answer.why else choice.why
        if not answer.itinerary:
            self.refused += 1
            if not answer.refused and not answer.endpoints:
                answer.endpoints = [place.endpoint]
        return answer

    def _try(self, pool: str, owner: int, place: Place, now: float) -> Placed | Parked:
        """What this pool's placer answers."""
        self._caught = []
        self._placers[pool].received(owner, place, now)
        (answer,) = self._caught
        self._caught = None
        return answer

    def _choose(self, place: Place) -> PoolChoice:
        wish = wish_of(place)
        target = Target(
            model=place.endpoint.removeprefix(GENERATE),
            prompt_tokens=wish.tokens,
            first_token_ms=wish.first_token_ms or self._promise.first_token_ms or None,
            next_token_ms=wish.next_token_ms or self._promise.next_token_ms or None,
            priority=wish.priority,
        )
        return choose_pool(self._table, target, self._health(place.endpoint, place.excluded))

    def _health(self, endpoint: str, excluded: list[int]) -> dict[str, Health]:
        ready: dict[str, list[Peer]] = {}
        for peer in self._around.serving(endpoint):
            pool = self._pool_of.get(peer.node)
            if pool is not None and peer.ready and peer.node not in excluded:
                ready.setdefault(pool, []).append(peer)
        return {pool: Health(len(peers), all(_is_full(peer) for peer in peers)) for pool, peers in ready.items()}

    def _remember(self, owner: int, place: Place, pool: str, now: float) -> None:
        """Whose its end is to be told. An earlier attempt that was elsewhere is over there."""
        key = unique(owner, place.request)
        old = self._pool_for.pop(key, pool)
        if old != pool:
            over = Settled(freed=[LegName(place.request, max(1, place.attempt - 1))])
            self._placers[old].received(owner, over, now)
        self._pool_for[key] = pool
        if len(self._pool_for) > REMEMBERED_MAX:
            self._pool_for.popitem(last=False)

    def _keep(self, key: int, why: str) -> None:
        """The reason for a pool, to be explained."""
        self._reasons.pop(key, None)
        self._reasons[key] = why
        if len(self._reasons) > REASONS_MAX:
            self._reasons.popitem(last=False)

    def _count(self, pool: str, choice: PoolChoice) -> None:
        self.placed[pool] += 1
        if pool != choice.wanted:
            self.spilled[choice.wanted] += 1

    def _settled(self, peer: int, message: Settled, now: float) -> None:
        """What became of requests, to the pools that they are in; of those that nobody knows any more, to all."""
        parts = {pool: Settled([], []) for pool in self._placers}
        for leg in message.prefilled:
            for pool in self._pools_of(peer, leg.request):
                parts[pool].prefilled.append(leg)
        for leg in message.freed:
            for pool in self._pools_of(peer, leg.request):
                parts[pool].freed.append(leg)
            self._pool_for.pop(unique(peer, leg.request), None)
        for pool, part in parts.items():
            if part.prefilled or part.freed:
                self._placers[pool].received(peer, part, now)

    def _pools_of(self, peer: int, request: int) -> list[str]:
        pool = self._pool_for.get(unique(peer, request))
        return list(self._placers) if pool is None else [pool]

    # --- What a pool's placer sees -----------------------------------------------------------------------

    def _surroundings(self, pool: str) -> Surroundings:
        """Its own workers, and our ear for what it answers."""
        around = self._around

        def serving(endpoint: str) -> list[Peer]:
            return [peer for peer in around.serving(endpoint) if self._pool_of.get(peer.node) == pool]

        def send(node: int, message: Message, now: float) -> bool:
            if self._caught is not None and isinstance(message, Placed | Parked):
                self._caught.append(message)
                return True
            return around.send(node, message, now)

        routing = Routing(SECOND_BEST, around.random, serving, send, around.count)
        self._choosing[pool] = routing
        return structs.replace(around, serving=serving, send=send, choose=routing.choose)

    # --- Questions ---------------------------------------------------------------------------------------

    def best(self, endpoint: str, policy: str, excluded: tuple[int, ...], wish: Wish | None, now: float) -> Stop:
        """Advice only: nothing is counted."""
        if not endpoint.startswith(GENERATE):
            node, said = self._around.choose(endpoint, policy, excluded)
            return Stop(endpoint, node, 0, said)
        choice = self._choose(Place(0, 1, endpoint, excluded=list(excluded), wish=wish))
        for pool in choice.pools:
            stop = self._placers[pool].best(endpoint, policy, excluded, wish, now)
            if stop.node:
                return structs.replace(stop, why=f"{choice.why}; {stop.why}")
        return Stop(endpoint, 0, 0, choice.why)

    def overlaps(self, endpoint: str, wish: Wish, now: float) -> Decision | None:
        """What each worker of the pool that would get it has of a prompt."""
        choice = self._choose(Place(0, 1, endpoint, wish=wish))
        return self._placers[choice.pools[0]].overlaps(endpoint, wish, now) if choice.pools else None

    def told(self, key: int, now: float) -> Told | None:
        """Why a request went where it went, if that is not too long ago."""
        found = [told for placer in self._placers.values() if (told := placer.told(key, now)) is not None]
        if not found:
            return None
        best = min(found, key=lambda told: (not told.stops, told.ago_s))
        return structs.replace(best, why="; ".join(filter(None, [self._reasons.get(key, ""), best.why])))

    def families(self) -> list[Family]:
        """What the metrics say of the pools."""
        workers: dict[str, float] = dict.fromkeys(self._placers, 0)
        for pool in self._pool_of.values():
            workers[pool] += 1
        placed, spilled = ({pool: float(n) for pool, n in one.items()} for one in (self.placed, self.spilled))
        name = "wiremesh_pool_"
        return [
            gauge(f"{name}nodes", "Nodes of a pool that are live.", workers, "pool"),
            gauge(f"{name}unlisted_nodes", "Nodes of pools that the table does not name.", len(self._unlisted)),
            counter(f"{name}placed_total", "Requests placed in a pool.", placed, "pool"),
            counter(f"{name}spilled_total", "Those that another pool had to take.", spilled, "pool"),
            counter(f"{name}refused_total", "Times that no pool had a place.", float(self.refused)),
        ]


def pool_of(peer: Peer) -> str:
    """The pool that a node belongs to."""
    tags = [endpoint.removeprefix(POOL) for endpoint in peer.offers if endpoint.startswith(POOL)]
    return min(tags, default=DEFAULT)


def _is_full(peer: Peer) -> bool:
    """Whether what goes there has to wait."""
    load = peer.load
    return load.waiting > 0 or (load.slots > 0 and load.running >= load.slots)
