"""Two cores of the data plane in virtual time, with memory that is really reused and a network that really fails.

The bytes are few (`small_limits`), the code is the real one. What ZeroMQ sends is read from the owner's memory when it
leaves, not when it is queued: so memory that is freed too early shows. A direct move reads in two halves, long before
it looks at the ledger: so a torn read shows. Freed memory is overwritten at once.
"""

import zlib
from collections import Counter, deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

import pytest

from nodes.transfer import limits, moves, pulling, serving, wire
from nodes.transfer.causes import Cause, Ending, Way

SMALL: dict[str, float] = {
    "PIECE_BYTES": 16,
    "WINDOW_BYTES": 64,
    "WINDOWS_BYTES": 130,
    "STEP_BYTES": 40,
    "PULLS_RUNNING_MAX": 3,
    "PULLS_WAITING_MAX": 8,
}
SMALL |= {"EXPORTS_MAX": 3, "SERVES_MAX": 6, "LINK_IDLE_S": 7.0}
BEAT_S, RESTING_BEAT_S = 0.01, 0.1  # when hardly anything is left to move
HEARTBEAT_S = 3.0  # ZeroMQ's own: a connection to a silent host is cut


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(limits, name, value)


class Connection:
    """A link: two queues that keep their order, until it is cut."""

    def __init__(self, link: int, owner: "Owner") -> None:
        self.link, self.owner = link, owner
        self.peer = link.to_bytes(4, "big")
        self.there: deque[wire.Message] = deque()
        self.back: deque[wire.Message | serving.Send] = deque()
        self.cut = False


class Owner:
    """A process with memory, a ledger and offers."""

    def __init__(self, world: "World", plane: int) -> None:
        self.world, self.plane = world, plane
        self.core = serving.Serving(plane)
        self.alive, self.frozen_until = True, 0.0
        self.ledger: dict[int, int] = {}
        self.memory: dict[int, bytearray] = {}  # by offer
        self.truth: dict[int, bytes] = {}
        self.opened: dict[int, serving.Opened] = {}
        self.freed: Counter[int] = Counter()
        self.sealed: set[int] = set()
        self.connections: dict[bytes, Connection] = {}

    @property
    def frozen(self) -> bool:
        return self.world.now < self.frozen_until

    def offer(self, number: int, size: int, ready: int, lease_s: float, pulls: int) -> None:
        self.truth[number] = self.world.random.randbytes(size)
        self.memory[number] = bytearray(self.truth[number][:ready] + b"?" * (size - ready))
        self.tell(serving.Offered(number, size, ready, lease_s, pulls))

    def advance(self, number: int, ready: int) -> None:
        if number in self.sealed or number in self.freed:
            return
        self.memory[number][:ready] = self.truth[number][:ready]
        self.tell(serving.Advanced(number, ready))

    def tell(self, event: serving.Event) -> None:
        if not self.alive:
            return
        for effect in self.core.handle(event, self.world.now):
            self.do(effect)
        self.core.check()
        self.pump()
        self.drain()

    def do(self, effect: serving.Effect) -> None:
        match effect:
            case serving.Opened():
                self.ledger[effect.slot] = effect.generation
                self.opened[effect.offer] = effect
            case serving.Sealed():
                assert self.ledger[effect.slot] == self.opened[effect.offer].generation
                self.ledger[effect.slot] = effect.generation
                self.sealed.add(effect.offer)
            case serving.Freed():
                self.freed[effect.offer] += 1
                self.memory[effect.offer][:] = self.world.random.randbytes(len(self.memory[effect.offer]))
            case serving.Tell():
                self.send(effect.peer, effect.message)
            case serving.Cut():
                raise AssertionError(f"the puller broke the protocol: {effect.text}")

    def send(self, peer: bytes, frame: wire.Message | serving.Send) -> None:
        connection = self.connections.get(peer)
        if connection is not None and not connection.cut:
            connection.back.append(frame)

    def pump(self) -> None:
        while self.core.busy:
            for send in self.core.pump(2):
                self.send(send.peer, send)

    def drain(self) -> None:
        """What ZeroMQ still holds keeps the memory."""
        held = {
            frame.offer
            for connection in self.connections.values()
            for frame in connection.back
            if isinstance(frame, serving.Send) and frame.payload
        }
        free = sorted(self.sealed - held)
        self.sealed -= set(free)
        for number in free:
            self.tell(serving.Drained(number))


class Job:
    """A move of the copying thread."""

    def __init__(self, effect: moves.Move) -> None:
        self.effect, self.position, self.halted = effect, effect.start, False


class World:
    """One puller, one owner after the other, and time."""

    def __init__(self, random: Random, mapped: bool = True, corrupt: float = 0.0) -> None:
        self.random, self.mapped, self.corrupt = random, mapped, corrupt
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.core = pulling.Pulling()
        self.owner = Owner(self, 1)
        self.connections: dict[int, Connection] = {}
        self.begun: dict[int, moves.Begin] = {}
        self.source: dict[int, Owner] = {}
        self.targets: dict[int, bytearray] = {}
        self.ends: dict[int, list[moves.Ended]] = {}
        self.jobs: dict[int, Job] = {}
        self.puller_frozen_until = 0.0
        self.held: bytes | serving.Send | None = None
        self.beat_s = BEAT_S
        self.later(0.0, self.beat)

    # --- Time ---

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.count += 1
        heappush(self.events, (self.now + delay_s, self.count, call))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, call = heappop(self.events)
            call()
        self.now = until

    def beat(self) -> None:
        """Timers of both, and frames that move; each at its own pace."""
        self.later(self.beat_s, self.beat)
        owner = self.owner
        if owner.alive and not owner.frozen:
            owner.drain()
            if owner.core.deadline() <= self.now:
                owner.tell(serving.Tick())
        if self.now >= self.puller_frozen_until and self.core.deadline() <= self.now:
            self.tell(moves.Tick())
        for connection in list(self.connections.values()):
            self.carry(connection)

    # --- The network ---

    def carry(self, connection: Connection) -> None:
        """A few frames, if both ends live."""
        for _ in range(self.random.randint(0, 3)):
            if connection.there and not connection.cut and not connection.owner.frozen:
                self.deliver_there(connection, connection.there.popleft())
        for _ in range(self.random.randint(0, 3)):
            if self.now < self.puller_frozen_until or connection.owner.frozen:
                break
            if connection.back and not connection.cut:
                self.deliver_back(connection, connection.back.popleft())

    def deliver_there(self, connection: Connection, message: wire.Message) -> None:
        asked = wire.decode_asked(wire.encode(message))
        connection.owner.connections[connection.peer] = connection
        connection.owner.tell(serving.Heard(connection.peer, asked))

    def deliver_back(self, connection: Connection, frame: wire.Message | serving.Send) -> None:
        if not isinstance(frame, serving.Send):
            answered = wire.decode_answered(wire.encode(frame))
            self.tell(moves.Heard(connection.link, answered))
            return
        payload = bytes(connection.owner.memory[frame.offer][frame.start : frame.stop])
        checksum = zlib.crc32(payload) if frame.checksum else None
        if frame.payload and self.random.random() < self.corrupt:
            payload = payload[:-1] + bytes([payload[-1] ^ 1])
        piece = wire.Piece(frame.pull, frame.start, frame.stop - frame.start, checksum)
        self.payload = payload
        intact = checksum is None or not frame.payload or checksum == zlib.crc32(payload)
        self.tell(moves.Heard(connection.link, piece, len(payload) if frame.payload else 0, intact))

    def cut(self, connection: Connection) -> None:
        """Both ends notice, at their own time; what was under way is lost."""
        if connection.cut:
            return
        connection.cut = True
        connection.there.clear()
        connection.back.clear()
        self.later(self.random.random() * 0.1, lambda: self.noticed(connection))

    def noticed(self, connection: Connection) -> None:
        if self.connections.get(connection.link) is connection:
            self.tell(moves.LinkDown(connection.link))
        connection.owner.tell(serving.PeerGone(connection.peer))

    # --- The puller ---

    def pull(
        self, number: int, offer: int, ways: tuple[Way, ...], timeout_s: float, checksum: bool, start: int
    ) -> None:
        owner = self.owner
        opened, size = owner.opened[offer], len(owner.truth[offer])
        ready = size if self.random.random() < 0.5 else self.random.randint(0, size)
        if offer in owner.core._offers and owner.core._offers[offer].ready < ready:
            ready = 0
        lease_s = owner.core.lease_s(offer, self.now)
        if self.random.random() < 0.3:
            lease_s = 10.0  # the handle was long under way
        begin = moves.Begin(
            number,
            owner.plane,
            ("near", "far"),
            offer,
            opened.generation,
            size,
            ready,
            lease_s,
            timeout_s,
            ways,
            min(start, size),
            checksum,
        )
        self.begun[number], self.source[number] = begin, owner
        self.targets[number] = bytearray(size)
        self.ends[number] = []
        self.tell(begin)

    def tell(self, event: moves.Event) -> None:
        for effect in self.core.handle(event, self.now):
            self.do(effect)
        self.core.check()

    def do(self, effect: moves.Effect) -> None:
        match effect:
            case moves.Dial():
                connection = Connection(effect.link, self.owner)
                self.connections[effect.link] = connection
                if not self.owner.alive or self.random.random() < 0.05:
                    self.cut(connection)
            case moves.Tell():
                connection = self.connections[effect.link]
                if not connection.cut:
                    connection.there.append(effect.message)
            case moves.Hang():
                assert not effect.text, effect.text
                connection = self.connections.pop(effect.link)
                connection.there.clear()
                connection.back.clear()
                connection.cut = True
                connection.owner.tell(serving.PeerGone(connection.peer))
            case moves.Store():
                self.write(effect.pull, effect.start, self.payload)
            case moves.Move():
                assert effect.start < effect.stop
                job = self.jobs[effect.move] = Job(effect)
                self.later(self.random.random() * 0.05, lambda: self.first_half(job))
            case moves.Halt():
                self.jobs[effect.move].halted = True
            case moves.Progressed():
                self.is_true(effect.pull, effect.position)
            case moves.Ended():
                self.ends[effect.pull].append(effect)

    def write(self, pull: int, start: int, payload: bytes) -> None:
        assert not self.ends[pull], "written after the end"
        self.targets[pull][start : start + len(payload)] = payload

    def is_true(self, pull: int, position: int) -> None:
        begin = self.begun[pull]
        truth = self.source[pull].truth[begin.offer]
        assert self.targets[pull][begin.start : position] == truth[begin.start : position], (
            "bytes of another generation"
        )

    # --- The copying thread ---

    def first_half(self, job: Job) -> None:
        effect, source = job.effect, self.source[job.effect.pull]
        if not self.mapped:
            self.over(job, Cause.UNREACHABLE)
        elif job.halted and self.random.random() < 0.5:  # it looks up now and then
            self.over(job, Cause.CANCELLED)
        else:
            stop = min(effect.stop, job.position + limits.STEP_BYTES)
            middle = (job.position + stop) // 2
            memory = source.memory[self.begun[effect.pull].offer]
            self.write(effect.pull, job.position, bytes(memory[job.position : middle]))
            self.later(self.random.random() * 0.1, lambda: self.second_half(job, middle, stop))

    def second_half(self, job: Job, middle: int, stop: int) -> None:
        effect, source = job.effect, self.source[job.effect.pull]
        memory = source.memory[self.begun[effect.pull].offer]
        self.write(effect.pull, middle, bytes(memory[middle:stop]))
        self.later(self.random.random() * 0.02, lambda: self.compared(job, stop))

    def compared(self, job: Job, stop: int) -> None:
        begin, source = self.begun[job.effect.pull], self.source[job.effect.pull]
        slot = source.opened[begin.offer].slot
        if source.ledger[slot] != begin.generation:
            self.over(job, Cause.STALE)
            return
        job.position = stop
        if stop < job.effect.stop:
            self.tell(moves.Moved(begin.pull, job.effect.move, stop, False))
            self.later(0.001, lambda: self.first_half(job))
            return
        copied = bytes(self.targets[begin.pull][job.effect.start : stop])
        right = job.effect.checksum in (None, zlib.crc32(copied))
        self.over(job, None if right else Cause.CORRUPT)

    def over(self, job: Job, cause: Cause | None) -> None:
        del self.jobs[job.effect.move]
        self.tell(moves.Moved(job.effect.pull, job.effect.move, job.position, True, cause))

    # --- Faults ---

    def crash(self) -> None:
        """The owner dies; its memory stays for who has mapped it; another process takes its address."""
        dead = self.owner
        dead.alive = False
        for connection in list(self.connections.values()):
            self.cut(connection)
        self.owner = Owner(self, dead.plane + 1)

    def freeze_owner(self, for_s: float) -> None:
        self.owner.frozen_until = self.now + for_s
        if for_s > HEARTBEAT_S:
            for connection in list(self.connections.values()):
                self.later(HEARTBEAT_S, lambda connection=connection: self.cut(connection))  # type: ignore[misc]

    def freeze_puller(self, for_s: float, hung: bool) -> None:
        """Hung: only its event loop; what the kernel and ZeroMQ do goes on."""
        self.puller_frozen_until = self.now + for_s
        if for_s > HEARTBEAT_S and not hung:
            for connection in list(self.connections.values()):
                self.later(HEARTBEAT_S, lambda connection=connection: self.cut(connection))  # type: ignore[misc]

    # --- The end ---

    def at_rest(self) -> None:
        """Every pull has ended once and truly, every offer is freed once, nothing is left."""
        assert self.core.pulls == 0 and not self.jobs, "a pull has no end"
        for number, ends in self.ends.items():
            assert len(ends) == 1, f"pull {number} ended {len(ends)} times"
            begin, end = self.begun[number], ends[0]
            self.is_true(number, end.position)
            if end.ending is Ending.DONE:
                assert end.position == begin.size
        owner = self.owner
        assert owner.core.offers == 0, "an offer was never freed"
        assert owner.freed == Counter(dict.fromkeys(owner.opened, 1))
        assert not owner.core._serves and not owner.core._silences
        assert self.core.deadline() == owner.core.deadline() == float("inf"), "a timer is left"
        assert not self.connections, "a link is left"
