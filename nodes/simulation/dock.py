"""Pure. The data plane of simulated workers: offers with leases, pulls that take time, break, and outlive a cancel.

Nothing here is gentle. Memory that was offered is used again as soon as its owner may do so: a pull that still reads
it learns of that afterwards, by the generation. A pull that was cancelled writes on until it says that it has ended.
"""

from random import Random
from typing import TYPE_CHECKING, Any

from mesh.simulation.violation import require
from nodes.rooms import Room
from nodes.simulation.plan import CALM
from nodes.transfer.handle import Handle
from nodes.transfer.pieces import pack, unpack

if TYPE_CHECKING:
    from nodes.simulation.worker import Worker

CHUNK_BLOCKS_MAX = 4  # of one read
RETRY_S = 0.004  # until a reader looks again for bytes that were not there
TELL_S = 0.002  # until an owner hears that its offer was fetched
DEAD_S = 1.0  # at most, until a reader notices that the other process is gone
LEASE_S_MAX = 15.0  # as a plane may have it: peace is waited for that long
LINGER_S = 0.05  # at most, until a pull that was cancelled has ended
NOBODYS = b"\xee"  # what lies in a room where nothing was pulled to


class Offer:
    """What others may pull."""

    __slots__ = ("good", "lease_s", "number", "ready", "renewed", "room")

    def __init__(self, number: int, room: Room, ready: int, lease_s: float) -> None:
        self.number = number
        self.room = room
        self.ready = ready
        self.lease_s = lease_s
        self.renewed = 0  # how often
        self.good = True  # its generation is still that of its handle


class Pull:
    """What comes into a room of ours."""

    __slots__ = ("cancelled", "handle", "position", "room")

    def __init__(self, room: Room, handle: Handle) -> None:
        self.room = room
        self.handle = handle
        self.position = room.start
        self.cancelled = False


class SimDock:
    """Keeps the contract of `nodes.rooms.Dock`."""

    def __init__(self, worker: "Worker", blocks: int, block_bytes: int) -> None:
        self._worker = worker
        self._size = block_bytes
        self.memory = bytearray(blocks * block_bytes)
        self.offers: dict[int, Offer] = {}
        self._of_room: dict[int, Offer] = {}
        self._pulls: dict[int, Pull] = {}
        self._numbers = 0
        self._random = Random(f"{worker.world.plan.seed}/dock/{worker.label}")
        self._block_s = self._random.choice((0.0002, 0.002, 0.02))
        self._through_sockets = self._random.random() < 0.5  # then a frozen owner sends nothing

    def _unlucky(self, share: float) -> bool:
        return self._random.random() < share and self._worker.world.plan.profile != CALM

    # --- Who offers --------------------------------------------------------------------------------------------

    def view(self, room: Room) -> memoryview:
        """Its bytes."""
        start = room.first * self._size
        return memoryview(self.memory)[start : start + room.count * self._size]

    def offer(self, room: Room, ready: bool, lease_s: float) -> Handle | None:
        """Until it is fetched, expired or withdrawn."""
        if self._unlucky(0.03):
            return None
        self._numbers += 1
        size = room.count * self._size
        offer = Offer(self._numbers, room, size if ready else 0, min(lease_s, LEASE_S_MAX))
        self.offers[offer.number] = self._of_room[room.number] = offer
        self._renew(offer)
        node, layout = self._worker.node.settings.node, self._worker.host.core.handing.rooms.layout
        pieces = pack([(room.first * self._size, size)])
        number = offer.number
        return Handle(
            node, 1, number, number, number, size, offer.ready, int(lease_s * 1000), "host", [], pieces, layout=layout
        )

    def advance(self, room: Room, ready_bytes: int) -> None:
        """So much of it is there now."""
        offer = self._of_room[room.number]
        require(offer.ready < ready_bytes <= room.count * self._size, "13 ready", f"{ready_bytes} bytes are not there")
        offer.ready = ready_bytes
        self._renew(offer)

    def _renew(self, offer: Offer) -> None:
        """Its lease begins anew."""
        offer.renewed += 1
        self._worker.after(offer.lease_s, self._expire, offer, offer.renewed)

    def _expire(self, offer: Offer, renewed: int) -> None:
        if renewed == offer.renewed:
            self._free(offer, "expired")

    def withdraw(self, room: Room) -> None:
        """It is taken back."""
        self._worker.after(0.0, self._free, self._of_room[room.number], "withdrawn")

    def _free(self, offer: Offer, outcome: str) -> None:
        if self.offers.pop(offer.number, None) is None:
            return
        offer.good = False
        del self._of_room[offer.room.number]
        self._worker.host.core.handing.freed(offer.room.number, outcome)
        self._worker.refresh()

    def visited(self, room: Room) -> bool:
        """Nobody is known to: who pulls notices when it is taken back."""
        return False

    # --- Who pulls ---------------------------------------------------------------------------------------------

    def pull(self, room: Room, wanted: Handle) -> bool:
        """Fill it."""
        judges: Any = self._worker.oracles
        spared = judges.spared.pulls(self._worker, room, wanted)
        if self._unlucky(0.03):
            return False
        pull = self._pulls[room.number] = Pull(room, wanted)
        self.view(room)[:spared] = NOBODYS * spared
        if spared:
            nemesis: Any = self._worker.world.nemesis
            nemesis.spares(self._worker)
        self._worker.after(self._random.uniform(0.0, 0.003), self._read, pull)
        return True

    def cancel(self, room: Room) -> None:
        """It ends soon, and not at once."""
        pull = self._pulls.get(room.number)
        if pull is not None and not pull.cancelled:
            pull.cancelled = True
            self._worker.after(self._random.uniform(0.0, LINGER_S), self._ended, pull, False)

    def _read(self, pull: Pull) -> None:
        """The next blocks, if they are there."""
        if self._pulls.get(pull.room.number) is not pull:
            return
        source: Any = self._worker.world.process_with(pull.handle.node)
        if source is None or self._unlucky(0.01):
            self._worker.after(self._random.uniform(0.0, DEAD_S), self._ended, pull, False)
            return
        offer = source.dock.offers.get(pull.handle.offer)
        if offer is None:
            self._ended(pull, False)
            return
        count = min(offer.ready - pull.position, CHUNK_BLOCKS_MAX * self._size)
        if count <= 0 or (source.frozen and self._through_sockets):
            self._worker.after(RETRY_S, self._read, pull)
            return
        self._copy(pull, source.dock, count)
        self._worker.after(self._block_s * count / self._size, self._checked, pull, offer, count, source)

    def _copy(self, pull: Pull, source: "SimDock", count: int) -> None:
        room = pull.room
        ours = self._worker.host.core.handing.rooms.all.get(room.number)
        require(ours is room and room.pulling, "13 reuse", f"{self._worker.label} is written to where nobody pulls")
        start = unpack(pull.handle.pieces)[0][0] + pull.position
        to = room.first * self._size + pull.position
        self.memory[to : to + count] = source.memory[start : start + count]

    def _checked(self, pull: Pull, offer: Offer, count: int, source: "Worker") -> None:
        """The bytes are here; they count if their generation is still the same."""
        if self._pulls.get(pull.room.number) is not pull:
            return
        if not offer.good:
            self._ended(pull, False)
            return
        pull.position += count
        self._worker.host.core.handing.progressed(pull.room.number, pull.position)
        if pull.position < pull.handle.size:
            self._read(pull)
            return
        if source.alive:
            source.after(TELL_S, source.dock._free, offer, "fetched")
        self._ended(pull, True)

    def _ended(self, pull: Pull, complete: bool) -> None:
        if self._pulls.get(pull.room.number) is pull:
            del self._pulls[pull.room.number]
            if not (complete or pull.cancelled):
                judges: Any = self._worker.oracles
                judges.thrift.broke(self._worker, pull.room.leg)
            self._worker.host.core.handing.pulled(pull.room.number, pull.position, complete)
            self._worker.refresh()

    def complain(self, text: str) -> None:
        """All blocks here are of one model and one shape: nothing is ever refused."""
        require("another model" not in text and "layout" not in text, "2 parcels", f"{self._worker.label}: {text}")
