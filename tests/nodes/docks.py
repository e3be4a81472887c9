"""Data planes for tests: memory, offers and pulls of several workers in one process, in whatever order a test likes."""

from random import Random

from nodes.handing import Handing
from nodes.rooms import Room
from nodes.transfer.handle import Handle
from nodes.transfer.layout import Layout, blocks_needed, reorder
from nodes.transfer.pieces import compose, pack, pair, stream, unpack

Docks = dict[int, "SimDock"]


class Pull:
    """One of them, on its way."""

    def __init__(self, room: Room, wanted: Handle) -> None:
        self.room, self.wanted = room, wanted
        self.position = room.start
        self.cancelled = False


class SimDock:
    """Keeps the contract of `nodes.rooms.Dock`. Nothing happens but in `move`."""

    def __init__(self, number: int, layout: Layout, blocks: int, docks: Docks) -> None:
        self.number, self.layout = number, layout
        self.memory = bytearray(b"?" * (blocks * layout.block_bytes))
        self.offers: dict[int, int] = {}  # how many bytes are ready, by room
        self.closing: dict[int, str] = {}
        self.pulls: dict[int, Pull] = {}
        self.pulled_bytes = 0
        self.complaints: list[str] = []
        self.refuses = False
        self._docks = docks
        docks[number] = self

    # --- What handing asks ---

    def view(self, room: Room) -> memoryview:
        size = self.layout.block_bytes
        return memoryview(self.memory)[room.first * size : (room.first + room.count) * size]

    def offer(self, room: Room, ready: bool, lease_s: float) -> Handle | None:
        if self.refuses:
            return None
        size = self.layout.block_bytes
        whole = stream([(room.first * size, room.count * size)])
        assert room.number not in self.offers and room.number not in self.closing
        self.offers[room.number] = whole.size if ready else 0
        ready_bytes = self.offers[room.number]
        return Handle(
            *(self.number, self.number, room.number, 1, 1, whole.size, ready_bytes, int(lease_s * 1000), "here", []),
            *(pack(whole.pieces), None, None, self.layout),
        )

    def advance(self, room: Room, ready_bytes: int) -> None:
        if room.number in self.offers:
            assert ready_bytes > self.offers[room.number], "an offer goes back"
            self.offers[room.number] = ready_bytes

    def withdraw(self, room: Room) -> None:
        if self.offers.pop(room.number, None) is not None:
            self.closing[room.number] = "withdrawn"

    def visited(self, room: Room) -> bool:
        pulls = [pull for dock in self._docks.values() for pull in dock.pulls.values()]
        return any((pull.wanted.plane, pull.wanted.offer) == (self.number, room.number) for pull in pulls)

    def pull(self, room: Room, wanted: Handle) -> bool:
        if self.refuses:
            return False
        self.pulls[room.number] = Pull(room, wanted)
        return True

    def cancel(self, room: Room) -> None:
        self.pulls[room.number].cancelled = True

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    # --- What happens ---

    def expire(self, random: Random) -> None:
        """A lease is over."""
        if self.offers:
            number = random.choice(sorted(self.offers))
            del self.offers[number]
            self.closing[number] = "expired"

    def move(self, handing: Handing, random: Random, broken: float = 0.0) -> bool:
        """Let some bytes move and some ends be told; whether there was anything."""
        busy = bool(self.closing) or any(map(self._moves, self.pulls.values()))
        for number, outcome in list(self.closing.items()):
            if random.random() < 0.5:
                del self.closing[number]
                handing.freed(number, outcome)
        for number, pull in list(self.pulls.items()):
            if random.random() < 0.7:
                self._go_on(number, pull, handing, random, broken)
        return busy

    def _moves(self, pull: Pull) -> bool:
        """Whether it waits for nobody."""
        ready = self._ready(pull)
        return pull.cancelled or ready < 0 or ready > pull.position

    def _ready(self, pull: Pull) -> int:
        owner = self._docks.get(pull.wanted.plane)
        return owner.offers.get(pull.wanted.offer, -1) if owner is not None else -1

    def _go_on(self, number: int, pull: Pull, handing: Handing, random: Random, broken: float) -> None:
        ready = self._ready(pull)
        if pull.cancelled or ready < 0 or random.random() < broken:
            del self.pulls[number]
            handing.pulled(number, pull.position, False)
            return
        owner = self._docks[pull.wanted.plane]
        position = random.randint(pull.position, max(pull.position, ready))
        self._copy(pull, owner, position)
        handing.progressed(number, position)
        if position == pull.wanted.size:
            del self.pulls[number]
            del owner.offers[pull.wanted.offer]
            owner.closing[pull.wanted.offer] = "fetched"
            handing.pulled(number, position, True)

    def _copy(self, pull: Pull, owner: "SimDock", position: int) -> None:
        theirs, ours = owner.layout, self.layout
        room, blocks = pull.room, pull.wanted.size // theirs.block_bytes
        source = stream(unpack(pull.wanted.pieces))
        assert room.count == blocks_needed(theirs, ours, blocks)
        target = compose(
            stream([(room.first * ours.block_bytes, room.count * ours.block_bytes)]), reorder(theirs, ours, blocks)
        )
        for start, into, length in pair(source, target, pull.position, position):
            self.memory[into : into + length] = owner.memory[start : start + length]
            self.pulled_bytes += length
        pull.position = position
