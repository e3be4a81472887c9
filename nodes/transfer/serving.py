"""Pure. The owner's core: offers, their leases and generations, and who is being sent what.

An offer ends once: fetched as often as was wished, expired, or withdrawn. At that moment its word in the ledger
changes, so that whoever reads the memory from outside will notice, and everybody who pulls is told. Its memory is free
only when no frame with its bytes is queued any more: ZeroMQ sends them from where they are.

`pump` is asked once per turn for the next few pieces, one of each conversation in turn, so that a small one does not
wait behind a large one.
"""

from collections.abc import Callable

from msgspec import Struct

from mesh.timers import Timers
from nodes.transfer import limits
from nodes.transfer.causes import TEXTS, Cause
from nodes.transfer.lifecycle import OFFER, Offer, OfferVerb, after
from nodes.transfer.served import Key, Offering, Serve
from nodes.transfer.wire import Asked, Credit, Fetched, Message, Pull, Ready, Refused, Stop

# --- Events ---------------------------------------------------------------------------------------


class Offered(Struct):
    """Some bytes may be pulled from here on. `pulls` ends it after so many; 0: never."""

    offer: int
    size: int
    ready: int
    lease_s: float
    pulls: int


class Advanced(Struct, gc=False):
    """More of them are ready."""

    offer: int
    ready: int


class Withdrawn(Struct, gc=False):
    """The memory is needed; or, with CLOSED, this plane ends."""

    offer: int
    cause: Cause = Cause.WITHDRAWN


class Heard(Struct, gc=False):
    """A message of somebody who pulls. `peer` is a connection."""

    peer: bytes
    message: Asked


class PeerGone(Struct, gc=False):
    """The connection is dead, full, or was cut because it broke the protocol."""

    peer: bytes


class Drained(Struct, gc=False):
    """No frame with bytes of this offer is queued any more."""

    offer: int


class Tick(Struct, gc=False):
    """The deadline has come."""


Event = Offered | Advanced | Withdrawn | Heard | PeerGone | Drained | Tick

# --- Effects --------------------------------------------------------------------------------------


class Opened(Struct, gc=False):
    """Write this generation to this word of the ledger, now."""

    offer: int
    slot: int
    generation: int


class Sealed(Struct, gc=False):
    """Write this number to this word of the ledger, now: the generation is over. Then say when it has drained."""

    offer: int
    slot: int
    generation: int


class Freed(Struct, gc=False):
    """The memory may be reused."""

    offer: int
    cause: Cause


class Tell(Struct, gc=False):
    """Send a message."""

    peer: bytes
    message: Message


class Cut(Struct, gc=False):
    """This connection broke the protocol: hear it no more."""

    peer: bytes
    text: str


Effect = Opened | Sealed | Freed | Tell | Cut


class Send(Struct, gc=False):
    """A piece to be sent: bytes `start` to `stop` of an offer, or only word of them."""

    peer: bytes
    pull: int
    offer: int
    start: int
    stop: int
    payload: bool
    checksum: bool


class Serving:
    """All offers of one plane."""

    def __init__(self, plane: int) -> None:
        self.counts: dict[str, int] = {}
        self._plane = plane
        self._offers: dict[int, Offering] = {}
        self._serves: dict[Key, Serve] = {}
        self._sending: dict[Key, Serve] = {}  # those that may send now, the next first
        self._generations: dict[int, int] = {}  # of each slot ever used
        self._slots = list(range(limits.EXPORTS_MAX - 1, -1, -1))
        self._leases: Timers[int] = Timers()
        self._silences: Timers[Key] = Timers()
        self._out: list[Effect] = []
        self._handlers: dict[type, Callable[..., None]] = {
            Offered: self._open,
            Advanced: self._advance,
            Withdrawn: self._withdraw,
            Heard: self._hear,
            PeerGone: self._peer_gone,
            Drained: self._drained,
            Tick: self._tick,
        }

    # --- What the shell asks ---

    @property
    def full(self) -> bool:
        """Whether another offer has no room."""
        return not self._slots

    @property
    def offers(self) -> int:
        """How many are not freed yet."""
        return len(self._offers)

    def visited(self, offer: int) -> bool:
        """Whether somebody pulls from an offer."""
        return offer in self._offers and bool(self._offers[offer].serves)

    def lease_s(self, offer: int, now: float) -> float:
        """What is left of an offer's lease; 0 if it is over."""
        found = self._offers.get(offer)
        return max(0.0, found.until - now) if found is not None and found.state is Offer.OPEN else 0.0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """The only mutator, with `pump`."""
        self._handlers[type(event)](event, now)
        out, self._out = self._out, []
        return out

    def pump(self, pieces_max: int) -> list[Send]:
        """The next pieces, and whose turn it is after them."""
        sends: list[Send] = []
        while self._sending and len(sends) < pieces_max:
            key = next(iter(self._sending))
            serve = self._sending.pop(key)
            offer = self._offers[serve.offer]
            stop = min(serve.position + serve.piece_bytes, serve.limit, offer.ready)
            sends.append(Send(*key, serve.offer, serve.position, stop, serve.payload, serve.checksum))
            serve.position = stop
            self._may_send(serve, offer)
        return sends

    @property
    def busy(self) -> bool:
        """Whether `pump` has more."""
        return bool(self._sending)

    def deadline(self) -> float:
        """When the next Tick is wanted."""
        return min(self._leases.deadline(), self._silences.deadline())

    # --- Events ---

    def _open(self, event: Offered, now: float) -> None:
        assert self._slots and event.offer not in self._offers and 0 <= event.ready <= event.size
        slot = self._slots.pop()
        generation = self._generations.get(slot, 1) + 1  # even: open; odd: sealed
        self._generations[slot] = generation
        until = now + min(event.lease_s, limits.LEASE_S_MAX)
        last = now + min(event.lease_s * limits.STRETCH, limits.LEASE_S_MAX)
        self._offers[event.offer] = Offering(
            event.offer, slot, generation, event.size, event.ready, event.lease_s, until, last, event.pulls, {}
        )
        self._leases.set(event.offer, until)
        self._out.append(Opened(event.offer, slot, generation))

    def _advance(self, event: Advanced, now: float) -> None:
        offer = self._offers.get(event.offer)
        if offer is None or offer.state is not Offer.OPEN:
            return  # it has ended, and whoever still computes is told so another way
        offer.state = after(OFFER, offer.state, OfferVerb.ADVANCE)
        assert offer.ready <= event.ready <= offer.size, "ready bytes do not go away, and end with the offer"
        offer.ready = event.ready
        offer.until = max(offer.until, min(now + offer.lease_s, offer.last))
        for serve in offer.serves.values():
            self._say_ready(serve, offer, now)
            self._may_send(serve, offer)

    def _withdraw(self, event: Withdrawn, now: float) -> None:
        offer = self._offers.get(event.offer)
        if offer is not None:
            self._end(offer, event.cause)

    def _hear(self, event: Heard, now: float) -> None:
        message = event.message
        match message:
            case Pull():
                self._begin((event.peer, message.pull), message, now)
            case Credit():
                self._credit((event.peer, message.pull), message, now)
            case Stop():
                self._stop((event.peer, message.pull), message)
            case Fetched():
                self._fetched(message)

    def _peer_gone(self, event: PeerGone, now: float) -> None:
        for key in [key for key in self._serves if key[0] == event.peer]:
            self._drop(self._serves[key])

    def _drained(self, event: Drained, now: float) -> None:
        offer = self._offers.pop(event.offer)
        offer.state = after(OFFER, offer.state, OfferVerb.DRAINED)
        self._slots.insert(0, offer.slot)  # used again as late as can be
        self._count(f"offers.{offer.cause.label}")
        self._out.append(Freed(offer.number, offer.cause))

    def _tick(self, event: Tick, now: float) -> None:
        for number in self._leases.due(now):
            offer = self._offers[number]
            if offer.until > now:  # it was renewed
                self._leases.set(number, offer.until)
            else:
                self._end(offer, Cause.EXPIRED)
        for key in self._silences.due(now):
            self._count("serves.silent")
            self._drop(self._serves[key])

    # --- Conversations ---

    def _begin(self, key: Key, message: Pull, now: float) -> None:
        if key in self._serves:
            self._out.append(Cut(key[0], f"pull {key[1]} began twice"))
            return
        cause = self._objection(message)
        if cause is not None:
            self._refuse(key, cause)
            return
        offer = self._offers[message.offer]
        offer.state = after(OFFER, offer.state, OfferVerb.SERVE)
        start, limit = message.start, max(message.start, message.limit)
        serve = Serve(key, message.offer, start, start, limit, start, message.payload, message.checksum)
        self._serves[key] = offer.serves[key] = serve
        self._silences.set(key, now + limits.STALL_S)
        self._count("serves.begun")
        self._may_send(serve, offer)
        if key not in self._sending or offer.ready < offer.size:
            self._say_ready(serve, offer, now)

    def _objection(self, message: Pull) -> Cause | None:
        cause = self._not_open(message)
        if cause is None and message.start > self._offers[message.offer].size:
            return Cause.STALE
        return cause or (Cause.BUSY if len(self._serves) >= limits.SERVES_MAX else None)

    def _not_open(self, message: Pull | Fetched) -> Cause | None:
        offer = self._offers.get(message.offer)
        if message.plane != self._plane or offer is None:
            return Cause.UNKNOWN_OFFER
        return None if offer.state is Offer.OPEN and offer.generation == message.generation else Cause.STALE

    def _fetched(self, message: Fetched) -> None:
        """It was read where it lies. Who says so too late has read it in time: it looked at the generation."""
        if self._not_open(message) is None:
            self._count("offers.read")
            self._one_less(self._offers[message.offer])

    def _credit(self, key: Key, message: Credit, now: float) -> None:
        serve = self._serves.get(key)
        if serve is None:
            self._refuse(key, Cause.UNKNOWN_OFFER)  # it ended here; a puller that was frozen may not know
            return
        offer = self._offers[serve.offer]
        if message.done > serve.done:
            serve.done = message.done
            offer.until = max(offer.until, min(now + limits.RENEW_S, offer.last))
        serve.limit = max(serve.limit, min(message.limit, offer.size))
        self._silences.set(key, now + limits.STALL_S)
        if message.pulse:
            self._say_ready(serve, offer, now)
        self._may_send(serve, offer)

    def _stop(self, key: Key, message: Stop) -> None:
        serve = self._serves.get(key)
        if serve is None:
            return  # it crossed our end
        offer = self._offers[serve.offer]
        self._drop(serve)
        if message.complete:
            self._one_less(offer)

    # --- Leaves ---

    def _one_less(self, offer: Offering) -> None:
        """One of the pulls that it was offered for is complete."""
        if offer.pulls:
            offer.pulls -= 1
            if not offer.pulls:
                self._end(offer, Cause.COMPLETE)

    def _end(self, offer: Offering, cause: Cause) -> None:
        """The first end counts; from here on nobody gets a byte of it."""
        was, offer.state = offer.state, after(OFFER, offer.state, OfferVerb.END)
        if was is not Offer.OPEN:
            return
        offer.cause = cause
        self._generations[offer.slot] = offer.generation + 1
        self._leases.clear(offer.number)
        self._out.append(Sealed(offer.number, offer.slot, offer.generation + 1))
        for serve in list(offer.serves.values()):
            self._drop(serve)
            self._refuse(serve.key, Cause.STALE if cause is Cause.COMPLETE else cause)

    def _drop(self, serve: Serve) -> None:
        del self._serves[serve.key]
        del self._offers[serve.offer].serves[serve.key]
        self._sending.pop(serve.key, None)
        self._silences.clear(serve.key)

    def _refuse(self, key: Key, cause: Cause) -> None:
        self._count(f"serves.refused.{cause.label}")
        self._out.append(Tell(key[0], Refused(key[1], int(cause), TEXTS[cause])))

    def _say_ready(self, serve: Serve, offer: Offering, now: float) -> None:
        lease_ms = max(0, int((offer.until - now) * 1000))
        self._out.append(Tell(serve.key[0], Ready(serve.key[1], offer.ready, lease_ms)))

    def _may_send(self, serve: Serve, offer: Offering) -> None:
        speaks = serve.payload or serve.checksum
        if speaks and serve.position < min(serve.limit, offer.ready) and serve.key not in self._sending:
            self._sending[serve.key] = serve

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def check(self) -> None:
        """Assert every invariant."""
        slots = [offer.slot for offer in self._offers.values()]
        assert sorted([*slots, *self._slots]) == list(range(limits.EXPORTS_MAX)), "a slot is lost, or used twice"
        for offer in self._offers.values():
            assert offer.state is Offer.OPEN or not offer.serves, "an offer that has ended is served"
            assert (self._generations[offer.slot] == offer.generation) == (offer.state is Offer.OPEN)
            assert offer.until <= offer.last
        for key, serve in self._serves.items():
            offer = self._offers[serve.offer]
            assert offer.serves[key] is serve and serve.key == key
            assert serve.position <= serve.limit
            assert (key in self._sending) == (
                (serve.payload or serve.checksum) and serve.position < min(serve.limit, offer.ready)
            ), "who may send is not known"
        assert len(self._serves) == sum(len(offer.serves) for offer in self._offers.values()) == len(self._silences)
        assert all(key in self._serves for key in self._sending)
