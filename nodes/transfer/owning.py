"""Shell. The owner's end: runs `serving`, writes the ledger, sends pieces, and knows when ZeroMQ has let go of them."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import xxhash
import zmq

from nodes.transfer import limits, serving, wire
from nodes.transfer.causes import Cause
from nodes.transfer.handle import Handle
from nodes.transfer.layout import Layout
from nodes.transfer.memory import Memory
from nodes.transfer.pieces import Stream, cut, pack
from nodes.transfer.sockets import Context, OwnerSocket
from proto.errors import RemoteError

if TYPE_CHECKING:
    from mesh.security import Key

DRAIN_S = 5.0  # a second more than ZeroMQ's heartbeat takes, when it works
DRAIN_POLL_S = 0.005  # a frame that is queued when its offer ends leaves within milliseconds, or with its connection
MUTED_MAX = 1_000  # connections that broke the protocol; the oldest is heard again, and muted again
REST_POLL_S = 0.005


class Offer:
    """Some bytes that others may pull. Made by `Plane.offer`."""

    def __init__(
        self,
        owning: "Owning",
        known: Memory,
        stream: Stream,
        layout: Layout | None,
        freed: Callable[[Cause], None] | None,
        describe: "Callable[[Offer], Handle]",
    ) -> None:
        self.number = owning.next_number()
        self.memory = known
        self.stream = stream
        self.layout = layout
        self.packed = pack(stream.pieces)
        self.slot = self.generation = 0
        self.ready = 0
        self.freed = freed
        self.patience = inf  # until then these may leave by themselves
        self.queued: deque[zmq.MessageTracker] = deque()  # frames that ZeroMQ sends from this memory
        self._owning = owning
        self._describe = describe

    @property
    def lease_s(self) -> float:
        """What is left; 0 when it has ended."""
        return self._owning.lease_s(self)

    @property
    def visited(self) -> bool:
        """Whether somebody pulls from it in a conversation now; who reads it directly is done in a moment."""
        return self._owning.visited(self)

    def handle(self) -> Handle:
        """What a message carries, as things stand now."""
        return self._describe(self)

    def advance(self, ready: int) -> None:
        """The first `ready` bytes are there to be pulled; they do not change any more."""
        if not self.ready <= ready <= self.stream.size:
            raise ValueError(f"{ready} bytes cannot be ready after {self.ready} of {self.stream.size}")
        self.ready = ready
        self._owning.post(serving.Advanced(self.number, ready))

    def withdraw(self) -> None:
        """Take it back: nobody gets a byte more. `freed` is called when the memory may be reused. Twice is once."""
        self._owning.post(serving.Withdrawn(self.number))


class Owning:
    """All offers of a plane."""

    def __init__(self, plane: int, context: Context, loop: asyncio.AbstractEventLoop, ledger: Memory) -> None:
        self._core = serving.Serving(plane)
        self._loop = loop
        self._ledger = ledger.array.view(np.uint64)
        self._socket = OwnerSocket(context, loop, self._take, self._garbled)
        self._numbers = count(1)
        self._offers: dict[int, Offer] = {}
        self._draining: dict[int, Offer] = {}
        self._muted: dict[bytes, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._drain_timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._reopened = 0
        self.sent_bytes = 0

    # --- What the plane asks ---

    def bind(self, addresses: Iterable[str], key: "Key | None") -> tuple[str, ...]:
        """Listen."""
        return self._socket.bind(addresses, key)

    @property
    def full(self) -> bool:
        """Whether there is no room for another offer."""
        return self._core.full

    def next_number(self) -> int:
        """Of an offer."""
        return next(self._numbers)

    def uses(self, known: Memory) -> bool:
        """Whether bytes of a memory are on offer, or on their way."""
        return any(offer.memory is known for offer in self._offers.values())

    def lease_s(self, offer: Offer) -> float:
        """What is left of a lease."""
        return self._core.lease_s(offer.number, self._loop.time())

    def visited(self, offer: Offer) -> bool:
        """Whether somebody pulls from it."""
        return self._core.visited(offer.number)

    def open(self, offer: Offer, event: serving.Offered) -> None:
        """A new offer."""
        self._offers[offer.number] = offer
        offer.ready = event.ready
        self.post(event)

    def post(self, event: serving.Event) -> None:
        """Something happened."""
        for effect in self._core.handle(event, self._loop.time()):
            self._do(effect)
        self._arm()
        if self._core.busy and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def figures(self) -> dict[str, int]:
        """For metrics."""
        return {
            **self._core.counts,
            "offers.open": self._core.offers,
            "sent.bytes": self.sent_bytes,
            "links.reopened": self._reopened,
        }

    def close(self) -> None:
        """Take back every offer."""
        for offer in list(self._offers.values()):
            self.post(serving.Withdrawn(offer.number, Cause.CLOSED))

    async def at_rest(self) -> None:
        """Until every offer is freed."""
        while self._offers:
            await asyncio.sleep(REST_POLL_S)

    def hang_up(self) -> None:
        """Close the socket."""
        for timer in (self._timer, self._drain_timer):
            if timer is not None:
                timer.cancel()
        self._socket.close()

    def settle(self) -> None:
        """The context has ended: no frame is left."""
        for number in list(self._draining):
            self._drained(number)

    # --- Frames ---

    def _take(self, peer: bytes, frame: bytes) -> None:
        if peer in self._muted:
            return
        try:
            message = wire.decode_asked(frame)
        except RemoteError:
            self._garbled(peer)
            return
        self.post(serving.Heard(peer, message))

    def _garbled(self, peer: bytes) -> None:
        """Not one of us, or broken: its serves end, and nothing of it is read."""
        self._muted[peer] = None
        if len(self._muted) > MUTED_MAX:
            del self._muted[next(iter(self._muted))]
        self.post(serving.PeerGone(peer))

    def _pump(self) -> None:
        """A few pieces, then the loop has its turn."""
        sent, pieces = 0, 0
        while self._core.busy and sent < limits.PIECE_BYTES and pieces < limits.PIECES_PER_TURN:
            (send,) = self._core.pump(1)
            sent, pieces = sent + send.stop - send.start, pieces + 1
            try:
                self._send_piece(send)
            except BrokenPipeError:
                self._loop.call_soon(self.post, serving.PeerGone(send.peer))
        self._socket.look()
        self._pumping = self._core.busy
        if self._pumping:
            self._loop.call_soon(self._pump)

    def _send_piece(self, send: serving.Send) -> None:
        offer = self._offers[send.offer]
        parts = cut(offer.stream, send.start, send.stop)
        arrays = [offer.memory.array[offset : offset + length] for offset, length in parts]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        checksum = xxhash.xxh3_64_intdigest(whole.data) if send.checksum else None
        message = wire.encode(wire.Piece(send.pull, send.start, send.stop - send.start, checksum))
        if not send.payload:
            self._socket.send(send.peer, message)
            return
        tracker = self._socket.send(send.peer, message, whole.data)
        self.sent_bytes += send.stop - send.start
        queued = offer.queued
        while queued and queued[0].done:
            queued.popleft()
        if len(arrays) == 1 and tracker is not None:  # a copy is nobody's memory
            queued.append(tracker)

    # --- Effects ---

    def _do(self, effect: serving.Effect) -> None:
        match effect:
            case serving.Tell():
                with suppress(BrokenPipeError):  # what is left of it ends by its silence
                    self._socket.send(effect.peer, wire.encode(effect.message))
                    self._socket.look()
            case serving.Opened():
                offer = self._offers[effect.offer]
                offer.slot, offer.generation = effect.slot, effect.generation
                self._ledger[effect.slot] = effect.generation
            case serving.Sealed():
                self._ledger[effect.slot] = effect.generation
                offer = self._draining[effect.offer] = self._offers[effect.offer]
                offer.patience = self._loop.time() + DRAIN_S
                self._loop.call_soon(self._drain)
            case serving.Freed():
                freed = self._offers.pop(effect.offer).freed
                if freed is not None:
                    freed(effect.cause)
            case serving.Cut():
                self._loop.call_soon(self._garbled, effect.peer)

    def _drain(self) -> None:
        """See which frames have left; look again soon, while there are some."""
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
        for number, offer in list(self._draining.items()):
            while offer.queued and offer.queued[0].done:
                offer.queued.popleft()
            if not offer.queued:
                self._drained(number)
        now = self._loop.time()
        if any(offer.patience <= now for offer in self._draining.values()):
            for offer in self._draining.values():
                offer.patience = now + DRAIN_S
            self._reopened += 1
            self._socket.reopen()
        if self._draining:
            self._drain_timer = self._loop.call_later(DRAIN_POLL_S, self._drain)

    def _drained(self, number: int) -> None:
        if self._draining.pop(number, None) is not None:
            self.post(serving.Drained(number))

    def _arm(self) -> None:
        """Wake up in time; too early does no harm."""
        deadline = self._core.deadline()
        if deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer_at = inf
        self._timer = None
        self.post(serving.Tick())
