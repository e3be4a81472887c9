"""Pure. The aide of a router's node: it hears workers, owners and other routers, and answers Place with an itinerary.

One advisor serves one endpoint of one model: caches of different models, or of prefill and decode workers, are apart.
Owners number their requests each by themselves; here a request is the owner's id XOR its number, which nobody else has:
ids are random, numbers small.
"""

from collections.abc import Callable, Iterable
from math import inf

from msgspec import structs

from mesh.aide import Surroundings
from mesh.peer import Peer
from mesh.placement import POLICIES
from mesh.routing import ROUTER
from nodes.names import ALONE, ENCODE, GENERATE, PREFILL
from nodes.routing.advisor import Advisor, Asked, anywhere
from nodes.routing.explain import Decision, why
from nodes.routing.hashes import Hashes
from nodes.routing.itinerary import Book, Route, Stop, Told, renamed, tell, unique, wish_of
from nodes.routing.knobs import CHOICES, DEFAULTS, KV, SECOND_BEST, Knobs
from nodes.routing.sources import Sends
from nodes.routing.split import DEFAULTS as SPLIT_DEFAULTS
from nodes.routing.split import Scene, SplitKnobs, Where, split
from proto.basics import Message
from proto.errors import Reason
from proto.messages import Pong
from proto.placing import Blocks, Cut, Parked, Piece, Place, Rank, Report, Routed, Settled, Wish

FLUSH_S = 0.01  # what other routers are told of is gathered for so long
PARKED_S = 2.0  # how often an owner hears that its request still waits here


class Placer:
    """See above. `policy`: one of CHOICES, for what names none."""

    def __init__(self, policy: str = KV, knobs: Knobs = DEFAULTS, splitting: SplitKnobs = SPLIT_DEFAULTS) -> None:
        self._policy = policy
        self._knobs = knobs
        self._feeder_knobs = structs.replace(  # they decode nothing, and what they cannot take is computed elsewhere
            knobs,
            track_active_blocks=False,
            queue_threshold=None,
            busy_decode_blocks=None,
            busy_prefill_tokens=None,
            busy_prefill_fraction=None,
        )
        self._splitting = splitting
        self.advisors: dict[str, Advisor] = {}  # by endpoint
        self._offers: dict[int, tuple[str, ...]] = {}  # by worker: the endpoints that advisors know it by
        self._routers: dict[int, None] = {}  # the others
        self._alone: dict[int, None] = {}  # workers that neither hand over nor take
        self._capacity: dict[Rank, tuple[int, int]] = {}  # blocks, and tokens in a step
        self._book = Book()
        self._parked: dict[int, Route] = {}
        self._parked_at = inf  # when to tell their owners again
        self._tick_at = 0.0
        self._flush_at = inf

    # --- The node's events -------------------------------------------------------------------------------

    def attach(self, around: Surroundings) -> None:
        self._around = around

    def received(self, peer: int, message: Message, now: float) -> bool:
        if isinstance(message, Place):
            self._asked(peer, message, now)
        elif isinstance(message, Blocks | Cut | Piece):
            for advisor in self._advisors_of(peer):
                self._ask(advisor.heard(peer, message, now), now)
        elif isinstance(message, Settled | Routed):
            self._settled(peer, message, now)
        elif isinstance(message, Pong):
            self._reported(peer, message.reports, now)
        else:
            return False
        return True

    def peer_up(self, peer: Peer, now: float) -> None:
        if ROUTER in peer.offers:
            self._routers[peer.node] = None
        if ALONE in peer.offers:
            self._alone[peer.node] = None
        if peer.node in self._offers or self._policy != KV:
            return
        found = tuple(name for name in peer.offers if name.startswith((GENERATE, PREFILL, ENCODE)))
        if found:
            self._offers[peer.node] = found
        for endpoint in found:
            self._ask(self._advisor(endpoint).up(peer.node, now), now)

    def peer_down(self, peer: int, now: float) -> None:
        self._routers.pop(peer, None)
        self._alone.pop(peer, None)
        endpoints = self._offers.pop(peer, ())
        for endpoint in endpoints:
            self.advisors[endpoint].down(peer)
        for rank in [rank for rank in self._capacity if rank[0] == peer]:
            del self._capacity[rank]
        for key in [key for key, route in self._parked.items() if route.owner == peer]:
            self._unwait(key)
        self._unpark(now)
        for endpoint in endpoints:
            if not any(endpoint in offered for offered in self._offers.values()):
                del self.advisors[endpoint]

    def deadline(self) -> float:
        return min(self._tick_at, self._flush_at, self._parked_at)

    def tick(self, now: float) -> None:
        if now >= self._tick_at:
            for advisor in self.advisors.values():
                self._ask(advisor.tick(now), now)
            self._unpark(now)
            self._tick_at = min([advisor.deadline() for advisor in self.advisors.values()], default=inf)
        if now >= self._flush_at:
            self._flush_at = inf
            self._flush(now)
        if now >= self._parked_at:
            self._parked_at = now + PARKED_S if self._parked else inf
            for route in self._parked.values():
                self._around.send(route.owner, Parked(route.place.request, route.place.attempt), now)

    def reports(self) -> list[Report]:
        return []

    # --- Workers, owners, routers ------------------------------------------------------------------------

    def _advisor(self, endpoint: str) -> Advisor:
        found = self.advisors.get(endpoint)
        if found is None:
            knobs = self._knobs if endpoint.startswith(GENERATE) else self._feeder_knobs
            found = self.advisors[endpoint] = Advisor(
                knobs, self._around.random, lambda rank: self._capacity.get(rank, (0, 0))
            )
            self._tick_at = -inf
        return found

    def _advisors_of(self, node: int) -> list[Advisor]:
        return [self.advisors[endpoint] for endpoint in self._offers.get(node, ())]

    def _ask(self, sends: Sends, now: float) -> None:
        for node, question in sends:
            self._around.send(node, question, now)

    def _reported(self, node: int, reports: Iterable[Report], now: float) -> None:
        for number, report in enumerate(reports if node in self._offers else ()):
            rank = (node, number)
            self._capacity[rank] = (report.blocks_total, report.step_tokens)
            for advisor in self._advisors_of(node):
                advisor.reported(rank, report, now)
        self._unpark(now)

    def _settled(self, peer: int, message: Settled | Routed, now: float) -> None:
        """What became of requests: an owner's word is passed on, another router's is not."""
        if isinstance(message, Routed):
            for endpoint, advisor in self.advisors.items():
                there = [one for one in message.placements if endpoint in self._offers.get(one.node, ())]
                if there:
                    advisor.replicated(Routed(there), now)
            return
        own = peer not in self._routers
        if own:
            message = renamed(message, peer)
        fed = Settled(message.prefilled, [*message.prefilled, *message.freed])  # a prefill worker is done then
        for endpoint, advisor in self.advisors.items():
            told = fed if endpoint.startswith(PREFILL) else message
            if own:
                advisor.settled(told, now)
                self._flush_at = min(self._flush_at, now + FLUSH_S)
            else:
                advisor.replicated(told, now)
        for leg in message.freed:
            self._unwait(leg.request)
        self._unpark(now)

    def _flush(self, now: float) -> None:
        for advisor in self.advisors.values():
            for message in advisor.outbox.flush():
                for router in self._routers:
                    self._around.send(router, message, now)

    # --- Placing -----------------------------------------------------------------------------------------

    def _asked(self, owner: int, place: Place, now: float) -> None:
        route = Route(owner, place, now)
        self._unwait(unique(owner, place.request))
        try:
            parked = self._place(route, now)
        except ValueError as error:
            self._around.count("router.senseless")
            route.why, route.refused, parked = str(error), int(Reason.INVALID), None
        if parked is None:
            self._answer(route, now)
            return
        self._around.count("router.parked")
        key = unique(owner, place.request)
        parked.request = place.request
        self._parked[key] = route
        self._parked_at = min(self._parked_at, now + PARKED_S)
        self._around.send(owner, parked, now)

    def _answer(self, route: Route, now: float) -> None:
        if not route.stops:
            self._around.count("router.nobody")
        self._flush_at = min(self._flush_at, now + FLUSH_S)
        self._around.send(route.owner, route.placed(), now)
        self._book.keep(route)

    def _place(self, route: Route, now: float) -> Parked | None:
        """Choose all stops; or let it wait."""
        place, endpoint = route.place, route.place.endpoint
        policy = place.policy if place.policy in CHOICES else self._policy
        model = endpoint.removeprefix(GENERATE) if endpoint.startswith(GENERATE) else ""
        feeders = self._ready(PREFILL + model, place) if model else []
        if model and self._splitting.enforce and not feeders:
            route.why, route.wanted = f"no prefill worker of {model} takes work", (PREFILL + model,)
            return None
        if model and self._splitting.enforce and not self._ready(endpoint, place):
            route.why, route.wanted = f"no worker of {model} takes over what a prefill worker computes", (endpoint,)
            return None
        if policy != KV or endpoint not in self.advisors:
            self._plainly(route, policy if policy != KV else SECOND_BEST, feeders, model, now)
            return None
        asked = Asked(unique(route.owner, place.request), place.attempt, wish_of(place))
        found = self.advisors[endpoint].place(
            asked, self._ready(endpoint, place), now, self._is_fed(route, asked, feeders, now)
        )
        if isinstance(found, Parked):
            return found
        self._around.count("router.placed.kv")
        self._decided(route, asked, found, feeders, now)
        return None

    def _ready(self, endpoint: str, place: Place) -> list[int]:
        serving, barred = self._around.serving(endpoint), self._barred(endpoint, place)
        return [peer.node for peer in serving if peer.ready and peer.node not in barred]

    def _barred(self, endpoint: str, place: Place) -> tuple[int, ...]:
        """Who must not get it: those that failed it, and those that hand nothing over where that must be."""
        moved = endpoint.startswith(PREFILL) or self._splitting.enforce
        return (*place.excluded, *(self._alone if moved else ()))

    def _is_fed(self, route: Route, asked: Asked, feeders: list[int], now: float) -> Callable[[Decision], bool]:
        """Whether the prompt is worth the trip to a prefill worker."""

        def is_fed(decision: Decision) -> bool:
            if not feeders or decision.rank is None or decision.rank[0] in self._alone:
                return False
            scene = self._scene(decision, route.place.endpoint, asked, feeders, now)
            where, route.split = split(scene, self._splitting)
            return where is Where.THERE

        return is_fed

    def _scene(self, decision: Decision, endpoint: str, asked: Asked, feeders: list[int], now: float) -> Scene:
        rank, row, prompt = decision.rank, decision.choice.row, decision.prompt
        assert rank is not None
        blocks = self._capacity.get(rank, (0, 0))[0]
        used = (
            (decision.snapshot.blocks[row] + prompt.blocks - decision.snapshot.common[row]) / blocks if blocks else 0.0
        )
        prefill = PREFILL + endpoint.removeprefix(GENERATE)
        feeder = self._advisor(prefill).best(anywhere(asked), feeders, now)
        return Scene(
            tokens=prompt.tokens,
            cached_tokens=decision.cached * prompt.block_tokens,
            prefill_workers=len(feeders),
            prefill_cached_tokens=feeder.cached * prompt.block_tokens if feeder.rank is not None else 0,
            prefill_queued=self._queued(prefill, feeders),
            decode_used=used,
        )

    def _queued(self, endpoint: str, feeders: list[int]) -> float:
        """Steps of work that wait on the least busy of them."""
        advisor = self.advisors.get(endpoint)
        ranks = advisor.queued(feeders) if advisor is not None else []
        steps = [tokens / size for rank, tokens in ranks if (size := self._capacity.get(rank, (0, 0))[1])]
        return min(steps, default=0.0)

    def _decided(self, route: Route, asked: Asked, decision: Decision, feeders: list[int], now: float) -> None:
        """The decode worker is chosen: now those before it."""
        endpoint, rank = route.place.endpoint, decision.rank
        if rank is None:
            route.why = why(decision)
            busy = bool(decision.snapshot.ranks)  # there are some, and all are over a threshold
            route.refused = int(Reason.BUSY) if busy else 0
            return
        model = endpoint.removeprefix(GENERATE)
        route.stops += self._encoder(route.place, model)
        if decision.fed:
            route.stops += self._feeder(route.place, asked, model, feeders, now)
        route.stops.append(Stop(endpoint, *rank, why(decision), decision))

    def _feeder(self, place: Place, asked: Asked, model: str, feeders: list[int], now: float) -> list[Stop]:
        endpoint = PREFILL + model
        found = self._advisor(endpoint).place(anywhere(asked), feeders, now)
        if isinstance(found, Parked) or found.rank is None:
            return []
        return [Stop(endpoint, *found.rank, why(found), found)]

    def _encoder(self, place: Place, model: str) -> list[Stop]:
        """The encoder that has its media, else the least busy."""
        endpoint, media = ENCODE + model, place.wish.media if place.wish is not None else []
        able = self._ready(endpoint, place) if media and model else []
        if not able:
            return []
        names = Hashes("Q", [int.from_bytes(content[:8], "little") for content in media])
        known = self.advisors[endpoint].holding(names) if endpoint in self.advisors else {}
        most = max((known.get(node, 0) for node in able), default=0)
        others = tuple(node for node in able if known.get(node, 0) < most)
        node, said = self._around.choose(endpoint, SECOND_BEST, (*place.excluded, *others))
        return [Stop(endpoint, node, 0, f"{most} of {len(media)} embeddings there, {said}")] if node else []

    def _plainly(self, route: Route, policy: str, feeders: list[int], model: str, now: float) -> None:
        """By a policy that knows nothing of caches."""
        place = route.place
        node, said = self._around.choose(place.endpoint, policy, self._barred(place.endpoint, place))
        if not node:
            route.why = said
            return
        route.stops += self._encoder(place, model)
        if feeders and node not in self._alone:
            tokens = wish_of(place).tokens
            where, route.split = split(Scene(tokens, 0, len(feeders)), self._splitting)
            if where is Where.THERE:
                feeder, because = self._around.choose(PREFILL + model, policy, self._barred(PREFILL, place))
                route.stops += [Stop(PREFILL + model, feeder, 0, because)] if feeder else []
        route.stops.append(Stop(place.endpoint, node, 0, said))

    def _unwait(self, key: int) -> None:
        """It waits no more, and nobody asks why."""
        route = self._parked.pop(key, None)
        if route is not None:
            self.advisors[route.place.endpoint].drop(key)

    def _unpark(self, now: float) -> None:
        """Answer those who waited and need not wait any more."""
        if not self._parked:
            return
        for endpoint, advisor in self.advisors.items():
            while advisor.parked:
                found = self._next(endpoint, advisor, now)
                if found is None:
                    break
                route, asked, decision, feeders = found
                self._decided(route, asked, decision, feeders, now)
                self._answer(route, now)

    def _next(self, endpoint: str, advisor: Advisor, now: float) -> tuple[Route, Asked, Decision, list[int]] | None:
        """The next of them, placed."""
        model = endpoint.removeprefix(GENERATE)
        taken: list[Route] = []

        def able(asked: Asked) -> list[int]:
            taken.append(self._parked[asked.request])
            return self._ready(endpoint, taken[0].place)

        def is_fed(decision: Decision) -> bool:
            route = taken[0]
            asked = Asked(decision.request, decision.attempt, wish_of(route.place))
            return self._is_fed(route, asked, self._ready(PREFILL + model, route.place), now)(decision)

        found = advisor.next_parked(able, now, is_fed)
        if found is None:
            return None
        asked, decision = found
        route = self._parked.pop(asked.request)
        return route, asked, decision, self._ready(PREFILL + model, route.place)

    # --- Questions ---------------------------------------------------------------------------------------

    def best(self, endpoint: str, policy: str, excluded: tuple[int, ...], wish: Wish | None, now: float) -> Stop:
        """Advice only: nothing is counted."""
        advisor = self.advisors.get(endpoint)
        if advisor is None or (policy or self._policy) != KV:
            chosen = policy if policy in POLICIES else SECOND_BEST if self._policy == KV else self._policy
            node, said = self._around.choose(endpoint, chosen, excluded)
            return Stop(endpoint, node, 0, said)
        place = Place(0, 1, endpoint, excluded=list(excluded), wish=wish)
        decision = advisor.best(Asked(0, 1, wish_of(place)), self._ready(endpoint, place), now)
        return Stop(endpoint, *(decision.rank or (0, 0)), why(decision), decision)

    def overlaps(self, endpoint: str, wish: Wish, now: float) -> Decision | None:
        """What each worker has of a prompt, and what it would cost there; None if nobody serves it."""
        stop = self.best(endpoint, KV, (), wish, now)
        return stop.decision

    def told(self, key: int, now: float) -> Told | None:
        """Why a request went where it went, if that is not too long ago."""
        route = self._book.get(key)
        return None if route is None else tell(route, self._around.node, now)

    def check(self) -> None:
        assert sum(advisor.parked for advisor in self.advisors.values()) == len(self._parked)
        assert all(rank[0] in self._offers for rank in self._capacity)
        assert all(endpoint in self.advisors for offered in self._offers.values() for endpoint in offered)
        for advisor in self.advisors.values():
            advisor.tracking.check()
