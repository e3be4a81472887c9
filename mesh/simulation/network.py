"""Pure. The network: sessions, as ZeroMQ gives them. In order and without gaps; at the end an unknown suffix is lost.

A frame waits in its link's queue, and one event per frame takes the first of them: order holds whatever delays events.
A partition holds frames as TCP does; a reset, a crash and a close without linger lose what has not arrived. When it
heals each connection goes on when its own retransmission timer says so: what was said later may be heard earlier.
"""

from collections import deque
from random import Random
from typing import TYPE_CHECKING
from zlib import crc32

from mesh.simulation.clock import Clock

if TYPE_CHECKING:
    from mesh.simulation.process import Process

STEP_S = 1e-6  # between two frames of one link
RESUME_S = (0.0005, 0.0005, 0.02, 0.2)  # after a partition, until a connection's retransmission timer fires
DRAWS = 1024  # latencies drawn in advance; each link walks through them in its own steps


class Link:
    """One session: the opener's DEALER and the receiver's connection."""

    __slots__ = (
        "closed",
        "cut",
        "held",
        "last",
        "name",
        "queue",
        "sent",
        "shift",
        "source",
        "step",
        "target",
        "turn",
        "zid",
    )

    def __init__(self, name: str, source: "Process", target: "Process | None") -> None:
        number = crc32(name.encode())
        self.name = name
        self.source = source
        self.target = target  # None: nobody listened; frames vanish, and nobody says so
        self.zid = name.encode()
        self.queue: deque[bytes] = deque()
        self.last = 0.0  # arrival of the newest frame
        self.held = 0  # arrivals that a partition holds up
        self.closed = False  # by its opener
        self.cut = False  # by a reset or a death
        self.sent = 0  # messages, as the core numbers them
        self.shift = 0  # frames of a newer version that were put in between
        self.turn = number % DRAWS
        self.step = (number >> 10) % DRAWS | 1  # odd: it visits every draw


class Network:
    """All links, and who cannot reach whom."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self._clock = clock
        random = Random(f"{seed}/latency")
        self._latency_s = [
            random.uniform(0.01, 0.3) if random.random() < 0.02 else random.uniform(0.0001, 0.002) for _ in range(DRAWS)
        ]
        self._random = Random(f"{seed}/loss")
        self._timers = Random(f"{seed}/retransmission")
        self._blocked: dict[tuple[int, int], int] = {}
        self._held: dict[Link, None] = {}
        self._held_words: list[tuple[int, int, Link]] = []
        self._opened: dict[str, int] = {}
        self.links: dict[Link, None] = {}
        self.listeners: dict[str, Process] = {}

    # --- Sessions ------------------------------------------------------------------------------------

    def open(self, source: "Process", address: str) -> Link:
        """A session to whoever listens there at this moment."""
        target = self.listeners.get(address)
        pair = f"{source.label}>{address}"
        number = self._opened[pair] = self._opened.get(pair, 0) + 1
        link = Link(f"{pair}#{number}", source, target)
        if target is not None:
            self.links[link] = None
        return link

    def send(self, link: Link, frame: bytes) -> None:
        """Put a frame on its way."""
        if link.closed or link.cut or link.target is None:
            return
        link.queue.append(frame)
        link.turn = turn = (link.turn + link.step) % DRAWS
        arrival = self._clock.now + self._latency_s[turn]
        if arrival <= link.last:
            arrival = link.last + STEP_S
        link.last = arrival
        self._clock.at(arrival, self._arrive, link)

    def close(self, link: Link, linger_ms: int) -> None:
        """The opener closes. What has not left may be lost, unless it lingers."""
        link.closed = True
        if linger_ms == 0 and self._random.random() < 0.5:
            self._lose(link)
        self.links.pop(link, None)

    def break_(self, link: Link) -> None:
        """The connection is reset: a suffix is lost, and the opener hears of it."""
        if not link.cut:
            link.cut = True
            self._lose(link)
            self._tell(link, self._random.uniform(0.0005, 0.01))

    def die(self, process: "Process", graceful: bool) -> None:
        """A process is gone: nobody listens, its own sessions end, and who had one to it is told."""
        for address in process.addresses:
            if self.listeners.get(address) is process:
                del self.listeners[address]
        for link in [link for link in self.links if process in (link.source, link.target)]:
            if link.source is process:
                link.closed = True
                if not graceful:
                    self._lose(link)
                del self.links[link]
            else:
                link.cut = True
                link.queue.clear()
                self._tell(link, self._random.uniform(0.0001, 0.002))

    def between(self, one: int, other: int) -> list[Link]:
        """All sessions between two places, in either direction."""
        pair = (one, other)
        return [
            link
            for link in self.links
            if link.target is not None and (link.source.place, link.target.place) in (pair, pair[::-1])
        ]

    # --- Partitions ------------------------------------------------------------------------------------

    def block(self, source: int, target: int) -> None:
        """Nothing gets from one place to the other."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1

    def unblock(self, source: int, target: int) -> None:
        """It does again; what waited comes soon, in order within a link, and in no order between them."""
        left = self._blocked[source, target] - 1
        if left:
            self._blocked[source, target] = left
            return
        del self._blocked[source, target]
        for link in list(self._held):
            assert link.target is not None
            if (link.source.place, link.target.place) == (source, target):
                del self._held[link]
                self._release(link)
        words = self._held_words
        self._held_words = []
        for held_source, held_target, link in words:
            if (held_source, held_target) == (source, target):
                self._tell(link, 0.001)
            else:
                self._held_words.append((held_source, held_target, link))

    def reaches(self, source: int, target: int) -> bool:
        """Whether frames get from one place to the other."""
        return (source, target) not in self._blocked

    # --- On the way ------------------------------------------------------------------------------------

    def _arrive(self, link: Link) -> None:
        target = link.target
        assert target is not None
        if self._blocked and (link.source.place, target.place) in self._blocked:
            link.held += 1
            self._held[link] = None
        else:
            target.wake(target.receive, link)

    def _release(self, link: Link) -> None:
        when = self._clock.now + self._timers.choice(RESUME_S) * self._timers.uniform(0.5, 1.5)
        link.last = max(link.last, when)
        for _ in range(link.held):
            self._clock.at(when, self._arrive, link)
        link.held = 0

    def _lose(self, link: Link) -> None:
        """A random suffix of what is under way never arrives."""
        keep = self._random.randint(0, len(link.queue))
        while len(link.queue) > keep:
            link.queue.pop()

    def _tell(self, link: Link, delay_s: float) -> None:
        """The opener's socket notices, if word of it gets through."""
        assert link.target is not None
        self._clock.at(self._clock.now + delay_s, self._told, link)

    def _told(self, link: Link) -> None:
        assert link.target is not None
        source, target = link.source, link.target
        if (target.place, source.place) in self._blocked:
            self._held_words.append((target.place, source.place, link))
        elif not link.closed:
            self.links.pop(link, None)
            source.wake(source.link_down, link)
