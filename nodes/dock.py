"""Shell. The staging memory of a worker on its data plane: it offers rooms and fills them, as `nodes.handing` says."""

import asyncio
import logging
from collections.abc import Callable

from nodes.handing import Handing
from nodes.metrics import Histogram
from nodes.rooms import Room
from nodes.transfer import Cause, Ended, Ending, Handle, Layout, Memory, Offer, Plane, TransferRefused
from nodes.transfer.pieces import Piece

COMPLAINTS_MAX = 100  # different ones; what is said more often than that is no news
PULL_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
OUTCOMES = {Cause.COMPLETE: "fetched", Cause.EXPIRED: "expired"}

log = logging.getLogger("wiremesh.worker")


class PlaneDock:
    """Keeps the contract of `nodes.rooms.Dock`. `refresh` is called when the plane had something to say."""

    def __init__(
        self, plane: Plane, memory: Memory, layout: Layout, handing: Handing, refresh: Callable[[], None]
    ) -> None:
        self.received_bytes: dict[str, float] = {str(way): 0 for way in plane.settings.ways}
        self.failures: dict[str, float] = {}
        self.pull_s = Histogram(PULL_BOUNDS_S)
        self._plane = plane
        self._memory = memory
        self._bytes = memory.array.data
        self._layout = layout
        self._handing = handing
        self._refresh = refresh
        self._loop = asyncio.get_running_loop()
        self._offers: dict[int, Offer] = {}
        self._pulls: dict[int, int] = {}
        self._complaints: dict[str, None] = {}
        self._fetched = asyncio.Event()

    def view(self, room: Room) -> memoryview:
        start, length = self._piece(room)
        return self._bytes[start : start + length]

    def offer(self, room: Room, ready: bool, lease_s: float) -> Handle | None:
        piece = self._piece(room)
        number = room.number

        def freed(cause: Cause) -> None:
            if self._offers.pop(number, None) is not None:
                self._handing.freed(number, OUTCOMES.get(cause, "withdrawn"))
                self._fetched.set()
                self._refresh()

        try:
            offer = self._plane.offer(
                self._memory,
                [piece],
                lease_s=lease_s,
                ready=piece[1] if ready else 0,
                layout=self._layout,
                freed=freed,
            )
        except TransferRefused as refused:
            self.complain(str(refused))
            return None
        self._offers[number] = offer
        return offer.handle()

    def advance(self, room: Room, ready_bytes: int) -> None:
        self._offers[room.number].advance(ready_bytes)

    def withdraw(self, room: Room) -> None:
        self._offers[room.number].withdraw()

    def visited(self, room: Room) -> bool:
        return self._offers[room.number].visited

    def pull(self, room: Room, wanted: Handle) -> bool:
        number, began = room.number, self._loop.time()

        def ended(end: Ended) -> None:
            del self._pulls[number]
            came = max(0, end.position - room.start)
            self.received_bytes[str(end.way)] = self.received_bytes.get(str(end.way), 0) + came
            if end.ending is Ending.DONE:
                self.pull_s.add(self._loop.time() - began)
            elif end.ending is Ending.FAILED:
                self.failures[end.cause.label] = self.failures.get(end.cause.label, 0) + 1
            self._handing.pulled(number, end.position, end.ending is Ending.DONE)
            self._refresh()

        def progressed(position: int) -> None:
            self._handing.progressed(number, position)

        try:
            self._pulls[number] = self._plane.pull(
                wanted,
                self._memory,
                [self._piece(room)],
                layout=self._layout,
                start=room.start,
                ended=ended,
                progressed=progressed,
            )
        except TransferRefused as refused:
            self.failures["refused"] = self.failures.get("refused", 0) + 1
            self.complain(str(refused))
            return False
        return True

    def cancel(self, room: Room) -> None:
        self._plane.cancel(self._pulls[room.number])

    def complain(self, text: str) -> None:
        if text not in self._complaints and len(self._complaints) < COMPLAINTS_MAX:
            self._complaints[text] = None
            log.warning("%s", text)

    async def fetched(self, patience_s: float) -> None:
        """Until all that is offered was fetched, or is no more; at most so long."""
        try:
            async with asyncio.timeout(patience_s):
                while self._handing.offers:
                    self._fetched.clear()
                    await self._fetched.wait()
        except TimeoutError:
            log.warning("%d offers were not fetched: their requests are computed again", self._handing.offers)

    def figures(self) -> dict[str, int]:
        """What the plane has counted."""
        return self._plane.figures()

    def _piece(self, room: Room) -> Piece:
        size = self._layout.block_bytes
        return room.first * size, room.count * size
