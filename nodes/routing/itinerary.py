"""Pure. The stops of a request on its way, as a router chose them, and why; and what it tells people of that."""

from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct, structs

from nodes.routing import explain
from nodes.routing.explain import Decision, Explanation
from proto.basics import LegName
from proto.placing import Place, Placed, Settled, Wish

ROWS_MAX = 131_072  # of answers kept to be explained: candidates of all of them, some 200 bytes each
HEAD_ROWS = 8  # what an answer is beside its candidates


class Stop(Struct, gc=False):
    """A node that was chosen."""

    endpoint: str
    node: int
    rank: int
    why: str
    decision: Decision | None = None  # None: by a plain policy


class Route(Struct, gc=False):
    """What was answered to one Place."""

    owner: int
    place: Place
    at: float
    stops: list[Stop] = []
    split: str = ""  # why the prompt is computed where it is
    why: str = ""  # why nobody
    wanted: tuple[str, ...] = ()  # endpoints that nobody serves, and without which it cannot be placed
    refused: int = 0

    @property
    def rows(self) -> int:
        """How much there is to remember."""
        return HEAD_ROWS + sum([len(stop.decision.snapshot.ranks) for stop in self.stops if stop.decision is not None])

    def placed(self) -> Placed:
        """The answer."""
        last = self.stops[-1] if self.stops else None
        return Placed(
            self.place.request,
            self.place.attempt,
            [stop.node for stop in self.stops],
            self.told,
            [stop.endpoint for stop in self.stops] if self.stops else list(self.wanted),
            last.rank if last is not None else 0,
            last.decision.cached if last is not None and last.decision is not None else 0,
            self.refused,
            [stop.rank for stop in self.stops[:-1]],
        )

    @property
    def told(self) -> str:
        """Why, in a line."""
        if not self.stops:
            return self.why
        before = [f"{stop.endpoint.partition('/')[0]}: {stop.why}" for stop in self.stops[:-1]]
        return "; ".join([self.stops[-1].why, *([self.split] if self.split else []), *before])


class Book:
    """The last answers, to be explained."""

    def __init__(self) -> None:
        self._routes: OrderedDict[int, Route] = OrderedDict()  # the oldest first
        self._rows = 0

    def keep(self, route: Route) -> None:
        """Remember it, without the prompt."""
        key = unique(route.owner, route.place.request)
        old = self._routes.pop(key, None)
        self._rows += route.rows - (old.rows if old is not None else 0)
        self._routes[key] = route
        route.place = structs.replace(route.place, wish=None)
        while self._rows > ROWS_MAX:
            self._rows -= self._routes.popitem(last=False)[1].rows

    def get(self, key: int) -> Route | None:
        """The last answer about a request."""
        return self._routes.get(key)


class ToldStop(Struct):
    """A stop, for people."""

    endpoint: str
    node: int
    rank: int
    why: str
    explanation: Explanation | None = None


class Told(Struct):
    """An answer to a Place, for people."""

    owner: int
    request: int
    attempt: int
    endpoint: str
    router: int
    ago_s: float
    why: str
    stops: list[ToldStop]


def tell(route: Route, router: int, now: float) -> Told:
    """All of it."""
    stops = [
        ToldStop(
            stop.endpoint,
            stop.node,
            stop.rank,
            stop.why,
            None if stop.decision is None else explain.explain(stop.decision),
        )
        for stop in route.stops
    ]
    place = route.place
    ago_s = max(0.0, now - route.at)
    return Told(route.owner, place.request, place.attempt, place.endpoint, router, ago_s, route.told, stops)


def lines(told: Told, names: Mapping[int, str]) -> list[str]:
    """For a terminal. `names` of nodes, as far as they are known."""
    router = explain.called(told.router, 0, names)
    head = f"request {told.owner:016x}-{told.request}, attempt {told.attempt}: placed by {router}"
    found = [f"{head} {told.ago_s:.1f} s ago"]
    for number, stop in enumerate(told.stops, 1):
        where = f"stop {number}: {stop.endpoint} at {explain.called(stop.node, stop.rank, names)}"
        shown = stop.explanation
        found += [f"{where}: {stop.why}"] if shown is None else [where, *explain.table(shown, names)]
    if not told.stops:
        return [*found, f"nowhere: {told.why}"]
    rest = [part for part in told.why.split("; ") if part not in [stop.why for stop in told.stops]]
    return [*found, f"why: {'; '.join(rest)}"] if rest else found


def unique(owner: int, request: int) -> int:
    """The name of a request among routers."""
    return owner ^ request


def wish_of(place: Place) -> Wish:
    """What is known of the prompt."""
    if place.wish is None:
        return Wish(tokens=place.length)
    return place.wish if place.wish.tokens >= place.length else structs.replace(place.wish, tokens=place.length)


def renamed(message: Settled, owner: int) -> Settled:
    """An owner's word, with requests as routers name them."""
    return Settled(
        [LegName(unique(owner, leg.request), leg.attempt) for leg in message.prefilled],
        [LegName(unique(owner, leg.request), leg.attempt) for leg in message.freed],
    )
