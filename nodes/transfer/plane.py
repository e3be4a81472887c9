"""Shell. The data plane of one process: memory, offers and pulls. The one door that engines and roles use.

    plane = Plane(PlaneSettings(node, host, listen=(bulk_address(directory, node),)))
    await plane.start()
    cache = plane.allocate(size)                        # or plane.register(array)
    offer = plane.offer(cache, pieces, freed=...)       # the owner: its handle travels in a message
    plane.pull(handle, cache, pieces, ended=...)        # elsewhere; or `await plane.fetch(...)`

Everything but the copying happens in the event loop, and so do all callbacks; from another thread use
`loop.call_soon_threadsafe`. What may follow what is decided by `serving` and `pulling`.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import zmq
from msgspec import Struct

from mesh.links import terminate
from nodes.transfer import choice, handle, limits, memory, moves, serving
from nodes.transfer.addresses import sweep
from nodes.transfer.causes import Cause, TransferRefused, Way
from nodes.transfer.handle import Handle, HandleRefused
from nodes.transfer.layout import Layout, LayoutRefused, blocks_needed, reorder
from nodes.transfer.memory import LEDGER, Memory, MemoryRefused
from nodes.transfer.mover import NICE, Carrier, Mover, SharedCarrier
from nodes.transfer.moves import Ended
from nodes.transfer.owning import Offer, Owning
from nodes.transfer.pieces import Piece, PiecesRefused, Stream, compose, distinct, stream
from nodes.transfer.pulls import Pulls
from nodes.transfer.sockets import Context, new_context
from proto.limits import ADDRESS_CHARS_MAX

if TYPE_CHECKING:
    from mesh.security import Gatekeeper, Key
    from nodes.transfer.nixl_agent import NixlAgent

CLOSE_S = 2.0  # for pulls to let go and frames to leave
Refusals = (HandleRefused, LayoutRefused, MemoryRefused, PiecesRefused)


class PlaneSettings(Struct, frozen=True):
    """How a process takes part. `ways` are what it uses, the best first.

    NIXL is used only where it is named: its sockets know no mesh key. Who listens can be pulled from over bulk.
    """

    node: int
    host: str = ""  # of the mesh: who has an equal one can use our ipc addresses
    listen: tuple[str, ...] = ()  # of the bulk link; without one we can pull, but be pulled from on this host only
    ways: tuple[Way, ...] = (Way.SHARED, Way.BULK)
    nice: int = NICE


class Plane:
    """Made once per process, started in its event loop, closed at its end."""

    def __init__(self, settings: PlaneSettings, key: "Key | None" = None) -> None:
        self.settings = settings
        self.name = secrets.randbits(63) + 1
        self.addresses: tuple[str, ...] = ()
        self._key = key
        self._memories: dict[int, Memory] = {}
        self._numbers = LEDGER
        self._context: Context | None = None
        self._gatekeeper: Gatekeeper | None = None
        self._agent: NixlAgent | None = None

    async def start(self) -> "Plane":
        """Listen. Raises KeyRefused where a stranger could come in."""
        from mesh.discovery.ladder import addresses_of  # Both are heavy, and only a plane that starts needs them.
        from mesh.security import refuse_listen

        self._loop = loop = asyncio.get_running_loop()
        for address in self.settings.listen:
            refuse_listen(address, self._key)
            if len(address) > ADDRESS_CHARS_MAX:
                raise TransferRefused(f"the address {address} is too long: at most {ADDRESS_CHARS_MAX} characters")
        self._host = memory.host()
        self._context = new_context(self.settings.nice, self._key is not None)
        await self._guard(self._context)
        self._ledger = memory.allocate(self.name, LEDGER, limits.EXPORTS_MAX * 8)
        self._agent = self._new_agent()
        carriers: dict[Way, Carrier] = {Way.SHARED: SharedCarrier()}
        if self._agent is not None:
            carriers[Way.NIXL] = self._agent
            self._agent.register(self._ledger)
        self._mover = Mover(carriers, self._report, self.settings.nice)
        self._owning = Owning(self.name, self._context, loop, self._ledger)
        self._pulls = Pulls(self._context, loop, self._key, self._mover)
        sweep(self.settings.listen)
        try:
            self.addresses = addresses_of(self._owning.bind(self.settings.listen, self._key))
        except zmq.ZMQError as error:
            await self.close()
            listen = " and ".join(self.settings.listen)
            raise TransferRefused(f"cannot listen at {listen}: {error.strerror}") from None
        return self

    async def _guard(self, context: Context) -> None:
        """ZeroMQ asks each context's own gatekeeper who may come in."""
        if self._key is not None:
            from mesh.security import Gatekeeper, self_test  # Only who has a key has a gate.

            self._gatekeeper = Gatekeeper(context, self._key)
            self._gatekeeper.start(self._loop)
            await self_test(context, self._key)

    def _new_agent(self) -> "NixlAgent | None":
        if Way.NIXL not in self.settings.ways:
            return None
        from nodes.transfer.nixl_agent import find  # Its import takes half a second.

        return find(self.name)

    # --- Memory ---

    def allocate(self, size: int) -> Memory:
        """New memory that every way can read. Raises TransferRefused."""
        return self._known(lambda number: memory.allocate(self.name, number, size))

    def register(self, buffer: Any) -> Memory:
        """Memory of the caller, which lives as long as it is registered; shared memory cannot reach it."""
        return self._known(lambda number: Memory(number, memory.wrap(buffer)))

    def _known(self, make: Callable[[int], Memory]) -> Memory:
        if len(self._memories) >= limits.MEMORIES_MAX:
            raise TransferRefused(f"{limits.MEMORIES_MAX} memories are registered: offer pieces of fewer, larger ones")
        try:
            made = make(self._numbers + 1)
        except MemoryRefused as error:
            raise TransferRefused(str(error)) from None
        self._numbers += 1
        self._memories[made.number] = made
        if self._agent is not None:
            self._agent.register(made)
        return made

    def release(self, known: Memory) -> None:
        """The memory goes; nothing of it may be offered or pulled into."""
        if self._memories.pop(known.number, None) is None:
            return
        if self._owning.uses(known) or self._pulls.uses(known):
            self._memories[known.number] = known
            raise TransferRefused("this memory is in use: end its offers and pulls first")
        if self._agent is not None:
            self._agent.deregister(known)
        known.close()

    # --- The owner's side ---

    def offer(
        self,
        known: Memory,
        pieces: Sequence[Piece] | None = None,
        *,
        lease_s: float = limits.LEASE_S,
        pulls: int = 1,
        ready: int | None = None,
        layout: Layout | None = None,
        freed: Callable[[Cause], None] | None = None,
    ) -> Offer:
        """Offer pieces of a memory, or all of it, until `pulls` were complete (0: any number) or the lease is over.

        `freed` is called once, when the memory may be reused, and not before. Raises TransferRefused.
        """
        whole = self._stream(known, pieces)
        ready = whole.size if ready is None else ready
        if self._owning.full:
            raise TransferRefused(f"{limits.EXPORTS_MAX} offers are open: wait until some are fetched")
        if not 0 < lease_s <= limits.LEASE_S_MAX:
            raise TransferRefused(f"a lease of {lease_s} s is none: between 0 and {limits.LEASE_S_MAX:.0f}")
        if not 0 <= ready <= whole.size or pulls < 0:
            raise TransferRefused(f"{ready} of {whole.size} bytes cannot be ready for {pulls} pulls")
        offer = Offer(self._owning, known, whole, layout, freed, self._describe)
        self._owning.open(offer, serving.Offered(offer.number, whole.size, ready, lease_s, pulls))
        try:
            handle.examine(offer.handle())
        except HandleRefused as error:
            offer.withdraw()
            raise TransferRefused(str(error)) from None
        return offer

    def _describe(self, offer: Offer) -> Handle:
        known = offer.memory
        shared = remote = None
        if known.descriptor >= 0 and self._host and Way.SHARED in self.settings.ways:
            descriptors = (self._ledger.descriptor, known.descriptor)
            shared = handle.Shared(self._host, memory.process(), *descriptors, known.number)
        if self._agent is not None:
            remote = self._agent.describe(known, self._ledger, offer.slot)
        return Handle(
            *(self.settings.node, self.name, offer.number, offer.slot, offer.generation),
            *(offer.stream.size, offer.ready, int(offer.lease_s * 1000), self.settings.host, list(self.addresses)),
            *(offer.packed, shared, remote, offer.layout),
        )

    # --- The puller's side ---

    def pull(
        self,
        wanted: Handle,
        into: Memory,
        pieces: Sequence[Piece] | None = None,
        *,
        layout: Layout | None = None,
        start: int = 0,
        checksum: bool = False,
        timeout_s: float = inf,
        age_s: float = 0.0,
        ended: Callable[[Ended], None],
        progressed: Callable[[int], None] | None = None,
    ) -> int:
        """Bring the bytes of a handle into pieces of a memory of ours. Returns a number to cancel it by.

        `ended` is called once, later, when nobody writes to the memory any more. `progressed` is told how much of the
        owner's stream is there. The handle came here `age_s` ago. Raises TransferRefused.
        """
        if self._pulls.full:
            raise TransferRefused(f"{limits.PULLS_WAITING_MAX} transfers are waiting: place the request elsewhere")
        try:
            source = handle.examine(wanted)
            target = self._target(wanted, self._stream(into, pieces), layout)
        except Refusals as error:
            raise TransferRefused(str(error)) from None
        if not into.array.flags.writeable:
            raise TransferRefused("this memory is read-only: pull into another one")
        if not 0 <= start <= wanted.size:
            raise TransferRefused(f"cannot start at byte {start} of {wanted.size}")
        addresses = choice.reachable(
            wanted.addresses, bool(wanted.host) and wanted.host == self.settings.host, self._key is not None
        )
        ways = choice.ways(wanted, self._host, self.settings.ways, self._registered(into), bool(addresses))
        if not ways:
            raise TransferRefused(f"no way leads to {wanted.name}: {_why_not(wanted, self.settings)}")
        lease_s = max(0.0, wanted.lease_ms / 1000 - age_s)
        number = self._pulls.next_number()
        begin = moves.Begin(
            *(number, wanted.plane, addresses, wanted.offer, wanted.generation, wanted.size, wanted.ready),
            *(lease_s, timeout_s, ways, start, checksum),
        )
        self._pulls.begin(begin, wanted, source, into, target, ended, progressed)
        return number

    def cancel(self, pull: int) -> None:
        """End a pull; its `ended` is called when nobody writes any more. One that has ended is no error."""
        self._pulls.cancel(pull)

    async def fetch(self, wanted: Handle, into: Memory, pieces: Sequence[Piece] | None = None, **how: Any) -> Ended:
        """Pull, and wait for its end. Who is cancelled meanwhile cancels it, and still waits until nobody writes."""
        ends: list[Ended] = []
        over: asyncio.Future[None] = self._loop.create_future()

        def ended(end: Ended) -> None:
            ends.append(end)
            if not over.done():
                over.set_result(None)

        pull = self.pull(wanted, into, pieces, ended=ended, **how)
        try:
            await over
        except asyncio.CancelledError:
            self.cancel(pull)
            while not ends:
                over = self._loop.create_future()
                with suppress(asyncio.CancelledError):
                    await over
            raise
        return ends[0]

    def _registered(self, known: Memory) -> bool:
        return self._agent is not None and known.registration is not None

    def _target(self, wanted: Handle, ours: Stream, layout: Layout | None) -> Stream:
        """Our pieces in the order of the owner's stream."""
        if not distinct(ours):
            raise PiecesRefused("two of these pieces overlap: each byte can be pulled once")
        needed = wanted.size
        theirs = wanted.layout
        if (theirs is None) != (layout is None):
            silent = "the owner" if theirs is None else "this node"
            raise LayoutRefused(f"{silent} says nothing about the layout of its blocks: upgrade it, or compute here")
        if theirs is not None and layout is not None:
            blocks = wanted.size // theirs.block_bytes
            order = reorder(theirs, layout, blocks)
            needed = blocks_needed(theirs, layout, blocks) * layout.block_bytes
        if ours.size != needed:
            raise PiecesRefused(f"{wanted.name} needs room for {needed} bytes, these pieces have {ours.size}")
        return compose(ours, order) if theirs is not None else ours

    def _stream(self, known: Memory, pieces: Sequence[Piece] | None) -> Stream:
        if self._memories.get(known.number) is not known:
            raise TransferRefused("this memory is not of this plane, or was released")
        try:
            whole = stream([(0, known.size)] if pieces is None else pieces)
        except PiecesRefused as error:
            raise TransferRefused(str(error)) from None
        if whole.end > known.size:
            raise TransferRefused(f"a piece ends at byte {whole.end} of a memory of {known.size}")
        return whole

    def _report(self, moved: moves.Moved) -> None:
        """In the copying thread."""
        self._loop.call_soon_threadsafe(self._pulls.moved, moved)

    # --- The end, and figures ---

    def figures(self) -> dict[str, int]:
        """What happened so far, by name; for metrics."""
        return {**self._owning.figures(), **self._pulls.figures()}

    async def close(self) -> None:
        """End every pull and every offer, tell everybody, and give everything back."""
        if self._context is None:
            return
        self._pulls.close()
        self._owning.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._pulls.at_rest()
                await self._owning.at_rest()
        except TimeoutError:
            pass  # ZeroMQ lets go of the rest when its context ends
        self._pulls.hang_up()
        self._owning.hang_up()
        self._mover.close()
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        await terminate(self._context)
        self._context = None
        self._owning.settle()
        for known in (*self._memories.values(), self._ledger):
            known.close()
        if self._agent is not None:
            self._agent.close()


def _why_not(wanted: Handle, settings: PlaneSettings) -> str:
    if not wanted.addresses:
        return "it has no bulk address, and its memory cannot be read from here"
    if not settings.host or wanted.host != settings.host:
        return "it is on another host, and this node has no key: give both the mesh key"
    return f"this node may only use {', '.join(settings.ways)}"
