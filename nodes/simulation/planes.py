"""Pure. The data plane between simulated processes, as `nodes.transfer.plane` has it for pictures and embeddings.

Pulls take time, break, find their owner dead or its memory reused, and some never come: then their time runs out. Who
reads gets the bytes of the first moment, and learns afterwards, by the generation, whether they were good.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from mesh.simulation.violation import require
from nodes.simulation.plan import CALM
from nodes.transfer.causes import TEXTS, Cause, Ending, TransferRefused, Way
from nodes.transfer.handle import Handle
from nodes.transfer.moves import Ended
from nodes.transfer.pieces import Piece, pack, unpack

if TYPE_CHECKING:
    from mesh.simulation.process import Process

BROKEN_SHARE = 0.02  # of pulls
DEAD_S = 1.0  # at most, until a reader notices that the other process is gone
RETRY_S = 0.02  # between two looks at an owner that is frozen
TELL_S = 0.002  # until an owner hears that its offer was fetched
LINGER_S = 0.05  # at most, until a pull that was cancelled has ended
LEASE_S_MAX = 15.0  # of what an encoder has made: peace is waited for that long
ANY = 0  # number of pulls that an offer is for


class SimMemory:
    """Some bytes of a process."""

    def __init__(self, buffer: Any) -> None:
        self.view = memoryview(buffer).cast("B")


class SimOffer:
    """What others may pull."""

    def __init__(self, plane: "SimPlane", number: int, memory: SimMemory, pieces: Sequence[Piece], pulls: int) -> None:
        self.number = number
        self.memory = memory
        self.pieces = pieces
        self.pulls = pulls
        self.good = True  # its generation is still that of its handle
        self.freed: Callable[[Cause], None] | None = None
        self._plane = plane

    @property
    def size(self) -> int:
        return sum(length for _, length in self.pieces)

    def handle(self) -> Handle:
        """What a message carries."""
        node, number, size = self._plane.node, self.number, self.size
        return Handle(node, 1, number, number, number, size, size, 1000, "host", [], pack(self.pieces))

    def withdraw(self) -> None:
        """Take it back. Twice is once."""
        self._plane.free(self, Cause.WITHDRAWN)


class Pull:
    """What comes to us."""

    def __init__(
        self, number: int, wanted: Handle, into: SimMemory, start: int, ended: Callable[[Ended], None]
    ) -> None:
        self.number = number
        self.wanted = wanted
        self.into = into
        self.start = start
        self.ended = ended
        self.cancelled = False


class SimPlane:
    """One for each process."""

    def __init__(self, process: "Process") -> None:
        self.offers: dict[int, SimOffer] = {}
        self.pulls: dict[int, Pull] = {}
        self._process = process
        self._numbers = 0
        self._random = Random(f"{process.world.plan.seed}/plane/{process.label}")
        self._transfer_s = self._random.choice((0.0003, 0.003, 0.05))
        self._through_sockets = self._random.random() < 0.5  # then a frozen owner sends nothing
        self._stuck_share = self._random.choice((0.0, 0.0, 0.0, 0.15))

    @property
    def node(self) -> int:
        return self._process.node.settings.node

    def _unlucky(self, share: float) -> bool:
        plan = self._process.world.plan
        troubled = plan.profile != CALM and self._process.clock.now < plan.heal_s
        return troubled and self._random.random() < share

    def register(self, buffer: Any) -> SimMemory:
        """Memory of the caller."""
        return SimMemory(buffer)

    def release(self, known: SimMemory) -> None:
        """Nobody may write to it any more."""
        writes = any(pull.into is known for pull in self.pulls.values())
        require(not writes, "13 reuse", f"{self._process.label} gives memory back while a pull writes to it")

    # --- Who offers ------------------------------------------------------------------------------------------

    def offer(
        self,
        known: SimMemory,
        pieces: Sequence[Piece] | None = None,
        *,
        lease_s: float,
        pulls: int = 1,
        freed: Callable[[Cause], None] | None = None,
    ) -> SimOffer:
        """Until so many have fetched it, nobody came, or it is withdrawn; then `freed` is called, once."""
        if pulls != ANY and self._unlucky(BROKEN_SHARE):
            raise TransferRefused("too many offers are open: wait until some are fetched")
        self._numbers += 1
        whole = [(0, len(known.view))] if pieces is None else [*pieces]
        offer = self.offers[self._numbers] = SimOffer(self, self._numbers, known, whole, pulls)
        offer.freed = freed
        if pulls != ANY:
            self._process.after(min(lease_s, LEASE_S_MAX), self.free, offer, Cause.EXPIRED)
        return offer

    def free(self, offer: SimOffer, cause: Cause) -> None:
        """It has ended."""
        if self.offers.pop(offer.number, None) is not None:
            offer.good = False
            if offer.freed is not None:
                offer.freed(cause)

    def _fetched(self, offer: SimOffer) -> None:
        if offer.pulls != ANY:
            offer.pulls -= 1
            if not offer.pulls:
                self.free(offer, Cause.COMPLETE)

    # --- Who pulls -------------------------------------------------------------------------------------------

    def pull(
        self,
        wanted: Handle,
        into: SimMemory,
        pieces: Sequence[Piece] | None = None,
        *,
        timeout_s: float,
        ended: Callable[[Ended], None],
    ) -> int:
        """Bring the bytes of a handle. `ended` is called once, later."""
        self._numbers += 1
        start = pieces[0][0] if pieces else 0
        pull = self.pulls[self._numbers] = Pull(self._numbers, wanted, into, start, ended)
        self._process.after(timeout_s, self._end, pull, Cause.DEADLINE)
        if self._unlucky(self._stuck_share):
            self._process.world.trouble_count += 1  # its engine may have to wait for it, and look as if it hung
            self._process.held_up_until = self._process.clock.now + timeout_s
        else:
            self._process.after(self._random.uniform(0.0, 0.003), self._read, pull)
        return pull.number

    def cancel(self, number: int) -> None:
        """It ends soon, and not at once."""
        pull = self.pulls.get(number)
        if pull is not None and not pull.cancelled:
            pull.cancelled = True
            self._process.after(self._random.uniform(0.0, LINGER_S), self._end, pull, Cause.CANCELLED)

    def _read(self, pull: Pull) -> None:
        if pull.number not in self.pulls:
            return
        source: Any = self._process.world.process_with(pull.wanted.node)
        if source is None or self._unlucky(BROKEN_SHARE):
            self._process.after(self._random.uniform(0.0, DEAD_S), self._end, pull, Cause.LOST)
            return
        if source.frozen and self._through_sockets:
            self._process.after(RETRY_S, self._read, pull)
            return
        offer: SimOffer | None = source.plane.offers.get(pull.wanted.offer)
        if offer is None:
            self._end(pull, Cause.UNKNOWN_OFFER)
            return
        at = pull.start
        for start, length in unpack(pull.wanted.pieces):
            pull.into.view[at : at + length] = offer.memory.view[start : start + length]
            at += length
        self._process.after(self._transfer_s, self._came, pull, offer, source)

    def _came(self, pull: Pull, offer: SimOffer, source: Any) -> None:
        if pull.number not in self.pulls:
            return
        if offer.good and source.alive:
            source.after(TELL_S, source.plane._fetched, offer)
        self._end(pull, Cause.COMPLETE if offer.good else Cause.STALE)

    def _end(self, pull: Pull, cause: Cause) -> None:
        if self.pulls.pop(pull.number, None) is None:
            return
        ending = {Cause.COMPLETE: Ending.DONE, Cause.CANCELLED: Ending.CANCELLED}.get(cause, Ending.FAILED)
        position = pull.wanted.size if cause is Cause.COMPLETE else 0
        pull.ended(Ended(pull.number, ending, cause, TEXTS[cause], position, Way.BULK))

    def close(self) -> None:
        """The process ends: nothing is owed to anybody."""
        self.offers.clear()
        for pull in list(self.pulls.values()):
            self._end(pull, Cause.CLOSED)
