"""Pure. Room: how many legs run at once, in all and by endpoint, and who waits for it."""

from collections import deque
from collections.abc import Iterator

from mesh.core import Leg
from proto.messages import Load, Offer


class Slots:
    """The slots and queues of one node."""

    def __init__(self, offers: tuple[Offer, ...], slots_max: int, queue_max: int, engine: str = "") -> None:
        self._engine = engine
        self._slots_max = slots_max
        self._queue_max = queue_max
        self._offers = {offer.endpoint: offer for offer in offers}
        self._running_of: dict[str, int] = dict.fromkeys(self._offers, 0)
        self._queues: dict[str, deque[Leg]] = {endpoint: deque() for endpoint in self._offers}
        self.running = 0
        self.waiting = 0
        self.suspect: Leg | None = None  # it runs alone, and nothing starts before it
        self._asked = False  # its owner knows that it could start
        self._allowed = False  # and wants it to

    def load(self) -> Load:
        """For heartbeats."""
        return Load(self.running, self.waiting, self._slots_max)

    def free(self, endpoint: str) -> bool:
        """Whether a leg of this endpoint could start now."""
        if self.isolated(endpoint):
            return False
        slots = self._offers[endpoint].slots
        return self.running < self._slots_max and (slots == 0 or self._running_of[endpoint] < slots)

    def full(self, endpoint: str) -> bool:
        """Whether a leg of this endpoint could not even wait."""
        return not self.free(endpoint) and self.waiting >= self._queue_max

    def enqueue(self, endpoint: str, leg: Leg) -> None:
        """Wait for a slot, perhaps for no time at all: `take` follows."""
        self._queues[endpoint].append(leg)
        self.waiting += 1

    def dequeue(self, endpoint: str, leg: Leg) -> None:
        """Wait no more."""
        if leg in self._queues[endpoint]:
            self._queues[endpoint].remove(leg)
            self.waiting -= 1

    def take(self) -> Iterator[Leg]:
        """The legs that can start now, each with its slot taken."""
        for endpoint, queue in self._queues.items():
            if self._allowed and self.suspect is not None and self.suspect in queue and self.alone(endpoint):
                queue.remove(self.suspect)
                yield self._taken(endpoint, self.suspect)
            while queue and self.free(endpoint):
                yield self._taken(endpoint, queue.popleft())

    def _taken(self, endpoint: str, leg: Leg) -> Leg:
        self.waiting -= 1
        self.running += 1
        self._running_of[endpoint] += 1
        return leg

    def isolated(self, endpoint: str) -> bool:
        """Whether a suspect runs alone here, or waits to. It may only kill an engine, where there is one."""
        return self.suspect is not None and self._engine in ("", endpoint)

    def alone(self, endpoint: str) -> bool:
        """Whether nothing runs that a suspect of this endpoint must not meet."""
        return not (self._running_of[endpoint] if self._engine else self.running)

    def busy(self, endpoint: str) -> bool:
        """Whether a leg of this endpoint runs."""
        return self._running_of[endpoint] > 0

    def isolate(self, leg: Leg) -> None:
        """From now on this leg is the suspect."""
        self.suspect, self._asked, self._allowed = leg, False, False

    def to_be_asked(self) -> Leg | None:
        """The suspect, once: when it could start."""
        if self.suspect is None or self._asked:
            return None
        for endpoint, queue in self._queues.items():
            if self.suspect in queue and self.alone(endpoint):
                self._asked = True
                return self.suspect
        return None

    def allow(self, leg: Leg) -> bool:
        """Its owner wants it to run; whether it is a suspect that was waiting for that."""
        if leg != self.suspect or not self._asked:
            return False
        self._allowed = True
        return True

    def absolve(self, leg: Leg) -> bool:
        """This leg has not killed us: if it was a suspect, others may run again."""
        if leg != self.suspect:
            return False
        self.suspect = None
        return True

    def give_back(self, endpoint: str) -> None:
        """A leg has ended."""
        self.running -= 1
        self._running_of[endpoint] -= 1

    def check(self, started: dict[str, int]) -> None:
        """Assert that the counts agree with the legs that have started, by endpoint."""
        assert self.running == sum(started.values()) <= self._slots_max
        queued = any(self.suspect in queue for queue in self._queues.values())
        running = self._running_of[self._engine] if self._engine else self.running
        assert self.suspect is None or queued or running == 1, "a suspect runs alone"
        assert self.waiting == sum(map(len, self._queues.values()))
        assert self.waiting <= self._queue_max + (self.suspect is not None), "a suspect may wait although none may"
        for endpoint, offer in self._offers.items():
            assert self._running_of[endpoint] == started.get(endpoint, 0)
            assert offer.slots == 0 or self._running_of[endpoint] <= offer.slots
