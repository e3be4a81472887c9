"""Pure. What an owner tells routers of the requests that they placed: these have had their first token, these are over.

Only a router that placed something hears of it; it passes it on to the others. If it is gone, another one is told. It
leaves at the end of the turn, or with what comes within some milliseconds after the last message: a router must not
take who is done for busy, and a message for each of thousands of requests would cost more than it is worth. Nothing
here is needed to be right.
"""

from collections.abc import Callable
from math import inf

from proto.basics import LegName, Message
from proto.placing import ENTRIES_MAX, Settled

BATCH_S = 0.005  # between two messages: 200 in a second at most

Send = Callable[[int, Message, float], bool]


class Settling:
    """The requests that routers placed. `routers` lists those that could be told."""

    def __init__(self, routers: Callable[[], list[int]]) -> None:
        self._routers = routers
        self._placed: dict[int, tuple[int, int]] = {}  # by request: which router placed which attempt
        self._prefilled: dict[int, list[LegName]] = {}  # by router
        self._freed: dict[int, list[LegName]] = {}
        self._due = inf
        self._told = -inf

    def placed(self, router: int, request: int, attempt: int, now: float) -> None:
        """This router has been asked to place this attempt: from now on it counts it."""
        before = self._placed.get(request)
        if before is not None and before[0] != router:
            self._add(self._freed, *before, request, now)
        self._placed[request] = (router, attempt)

    def first(self, request: int, attempt: int, now: float) -> None:
        """Its first token is there."""
        placed = self._placed.get(request)
        if placed is not None and placed[1] == attempt:
            self._add(self._prefilled, *placed, request, now)

    def over(self, request: int, now: float) -> None:
        """It is over, or went where no router sent it."""
        placed = self._placed.pop(request, None)
        if placed is not None:
            self._add(self._freed, *placed, request, now)

    def deadline(self) -> float:
        """When `tick` is wanted."""
        return self._due

    def tick(self, now: float, send: Send) -> None:
        """Say what was gathered."""
        if now < self._due:
            return
        self._due, self._told = inf, now
        prefilled, self._prefilled = self._prefilled, {}
        freed, self._freed = self._freed, {}
        for router in [*prefilled, *(router for router in freed if router not in prefilled)]:
            for message in _batches(prefilled.get(router, []), freed.get(router, [])):
                if not send(router, message, now):
                    any(send(other, message, now) for other in self._routers())

    def _add(self, where: dict[int, list[LegName]], router: int, attempt: int, request: int, now: float) -> None:
        where.setdefault(router, []).append(LegName(request, attempt))
        self._due = min(self._due, max(now, self._told + BATCH_S))

    def __len__(self) -> int:
        return len(self._placed)


def _batches(prefilled: list[LegName], freed: list[LegName]) -> list[Settled]:
    size = max(len(prefilled), len(freed))
    return [
        Settled(prefilled[start : start + ENTRIES_MAX], freed[start : start + ENTRIES_MAX])
        for start in range(0, size, ENTRIES_MAX)
    ]
