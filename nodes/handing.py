"""Pure. Handing over: how the cache of a sequence leaves one engine and comes to another, through staging memory.

Who feeds offers a room as soon as its leg begins, says how far the engine has filled it, and keeps it until it was
fetched or nobody came. Who is fed pulls while the other still computes. It lets its engine go on when the pull has
ended and, if other legs still make units, when it was told what they made (Go); what did not come is computed here.
Who finds no room goes on without. Whoever drives this is the `Dock`: it moves the bytes, and says how that went.
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf

from msgspec import Struct

from nodes import parcels
from nodes.parcels import Parcel
from nodes.rooms import Dock, Room, Rooms
from nodes.transfer.layout import Layout, LayoutRefused, agree, blocks_needed

FED_LEASE_S = 60.0  # of who feeds, anew with each block: prompts may wait that long for their turn
KEPT_LEASE_S = 10.0  # of who leaves, and stays for this: its request moves within milliseconds, if it moves
PATIENCE_S = 2.0  # without a byte, once nothing else is waited for: to compute a prompt again takes about as long

Landing = Callable[[Hashable, memoryview | None, int, Sequence[int]], None]  # leg, source, positions, tokens
COUNTS = (
    "offered",
    "fetched",
    "expired",
    "withdrawn",
    "pulled",
    "partial",
    "empty",
    "no_room",
    "foreign",
    "mismatched",
)


class Side(Struct, eq=False):
    """What a leg that is held here has to do with all this."""

    length: int  # positions of its sequence, when it began
    room: Room | None = None
    feeds: bool = False
    told: int = 0  # bytes of its offer that are ready
    parcel: Parcel | None = None  # what it is fed
    first: int = 0  # position that is pulled: what is before is in the engine's cache
    awaits: bool = False  # Go has not come
    arrived: int = 0  # positions
    landing: bool = False  # the engine was told
    abandoned: bool = False  # it is being cancelled
    tokens: Sequence[int] = ()
    look_at: float = inf  # when its pull must have moved
    seen: int = 0  # where it was at the last look


class Handing:
    """The legs of a worker that feed, are fed, or leave. `land` is called once for each that `receive` took."""

    def __init__(self, layout: Layout | None = None, digest: str = "") -> None:
        self.rooms = Rooms(layout)
        self.digest = digest
        self.sides: dict[Hashable, Side] = {}
        self.counts = dict.fromkeys(COUNTS, 0)
        self.landed_positions = 0
        self.spared_positions = 0  # that need not be pulled
        self.land: Landing = _nowhere
        self._kept: dict[Hashable, Room] = {}  # the engine is about to write there what it has of a leg
        self._waiting: dict[Hashable, None] = {}  # legs that are to pull, for want of room
        self._watched: dict[Hashable, None] = {}  # legs that wait for nothing but their pull, or their room

    @property
    def offers(self) -> int:
        """How many rooms others may still pull from."""
        return sum(room.offered for room in self.rooms.all.values())

    # --- Who feeds -------------------------------------------------------------------------------------------

    def reclaim(self, now: float) -> None:
        """A leg comes that feeds. If others found no room: take back what nobody has come for since."""
        for room in self.rooms.overdue(now):
            self._dock.withdraw(room)

    def prepare(self, leg: Hashable, length: int) -> tuple[memoryview | None, bytes]:
        """A room for a leg that is only to fill it, and the parcel that says so; None and nothing without one."""
        room = self._room(leg, length)
        packed = b"" if room is None else self._offer(room, length, ready=False)
        if room is None or not packed:
            return None, b""
        room.engaged = True
        self.sides[leg] = Side(length, room, feeds=True)
        return self._view(room), packed

    def exported(self, leg: Hashable, positions: int) -> None:
        """The engine has filled its room so far. Of a block only the whole is ready, unless it is the last."""
        side = self.sides.get(leg)
        if side is None or not side.feeds or side.room is None or not side.room.offered or side.abandoned:
            return
        layout = self._layout
        blocks = side.room.count if positions >= side.length else positions // layout.block_tokens
        if blocks * layout.block_bytes > side.told:
            side.told = blocks * layout.block_bytes
            self._dock.advance(side.room, side.told)

    # --- Who is fed ------------------------------------------------------------------------------------------

    def receive(
        self, leg: Hashable, handles: Sequence[bytes], length: int, awaits: bool, now: float, here: int = 0
    ) -> bool:
        """Whether a leg is to land: `land` is called once, later, unless it is over before.

        `here`: positions that the engine's cache has of it, and that need not come.
        """
        parcel = self._usable(handles)
        side = Side(length, parcel=parcel, awaits=awaits, first=parcels.spared(parcel, here))
        begins = parcel is not None and self._begin(leg, side)
        if begins or awaits:
            self.sides[leg] = side
            self._watch(leg, side, now)
        return begins or awaits

    def first(self, leg: Hashable) -> int:
        """The first position that comes for it."""
        side = self.sides.get(leg)
        return side.first if side is not None and side.parcel is not None else 0

    def fed(self, leg: Hashable) -> bool:
        """Whether something is on its way to it, or there."""
        side = self.sides.get(leg)
        return side is not None and side.parcel is not None

    def held_up(self, leg: Hashable) -> bool:
        """Whether it has not landed yet: its engine waits, and is well."""
        side = self.sides.get(leg)
        return side is not None and not (side.feeds or side.landing)

    def go(self, leg: Hashable, tokens: Sequence[int], now: float) -> None:
        """Nobody else makes units for it any more; these were made."""
        side = self.sides.get(leg)
        if side is not None and side.awaits:
            side.awaits, side.tokens = False, tokens
            self._watch(leg, side, now)
            self._settle(leg, side)

    def landed(self, leg: Hashable) -> None:
        """The engine has read what came for it."""
        side = self.sides.get(leg)
        if side is not None and side.landing:
            self._forget(leg)

    # --- Who leaves ------------------------------------------------------------------------------------------

    def save(self, leg: Hashable, length: int) -> memoryview | None:
        """A room for what an engine has of a leg that goes on elsewhere; it has up to `length` positions."""
        room = None if leg in self.sides or leg in self._kept else self._room(leg, length)
        if room is None:
            return None
        room.engaged = True
        self._kept[leg] = room
        return self._view(room)

    def saved(self, leg: Hashable, positions: int) -> bytes:
        """The engine has written so many positions: the parcel to go on with, if there is anything in it."""
        room = self._kept.pop(leg, None)
        if room is None:
            return b""
        blocks = -(-positions // self._layout.block_tokens)
        self.rooms.shrink(room, blocks)
        room.engaged = False
        packed = self._offer(room, positions, ready=True) if blocks else b""
        self._leave(room)
        return packed

    # --- The end of a leg ------------------------------------------------------------------------------------

    def abandon(self, leg: Hashable) -> None:
        """It is being cancelled: what it has is for nobody, and what comes for it is not wanted."""
        side = self.sides.get(leg)
        if side is not None:
            side.abandoned = True
            self._ignore(leg)
            self._part(side)

    def over(self, leg: Hashable) -> None:
        """The engine has let go of it. What it has filled to the end stays for who comes."""
        if leg in self.sides:
            self._forget(leg)

    def _forget(self, leg: Hashable) -> None:
        side = self.sides.pop(leg)
        self._ignore(leg)
        if side.room is not None:
            side.room.engaged = False
            if not side.abandoned and side.told < side.room.count * self._layout.block_bytes:
                self._part(side)
            self._leave(side.room)

    def _ignore(self, leg: Hashable) -> None:
        self._waiting.pop(leg, None)
        self._watched.pop(leg, None)

    def _part(self, side: Side) -> None:
        room = side.room
        if room is not None and room.offered:
            self._dock.withdraw(room)
        if room is not None and room.pulling:
            self._dock.cancel(room)

    # --- From the dock ---------------------------------------------------------------------------------------

    def freed(self, number: int, outcome: str) -> None:
        """Nobody pulls from this room any more: it was fetched, expired or withdrawn."""
        room = self.rooms.all[number]
        assert room.offered
        room.offered = False
        self.counts[outcome] += 1
        self._leave(room)

    def progressed(self, number: int, position: int) -> None:
        """So many bytes have been pulled."""
        room = self.rooms.all.get(number)
        if room is not None:
            room.position = position

    def pulled(self, number: int, position: int, complete: bool) -> None:
        """A pull has ended, with so many bytes of the owner's; nobody writes to the room any more."""
        room = self.rooms.all[number]
        assert room.pulling
        room.pulling = False
        side = self.sides.get(room.leg)
        if side is None or side.abandoned:
            if side is not None:
                side.room = None
            self._leave(room)
            return
        assert side.room is room
        self._watched.pop(room.leg, None)
        side.arrived = parcels.positions(side.parcel, position, complete)
        if side.arrived <= side.first:
            side.arrived = 0
        else:
            self.spared_positions += side.first
        self.counts["pulled" if complete else "partial" if side.arrived else "empty"] += 1
        room.engaged = side.arrived > 0  # the engine will read it
        if not room.engaged:
            side.room = None
            self._leave(room)
        self._settle(room.leg, side)

    # --- Time ------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is wanted; inf if never."""
        return min([self.sides[leg].look_at for leg in self._watched], default=inf)

    def tick(self, now: float) -> None:
        """End pulls that hold up their leg and do not move."""
        for leg in [leg for leg in self._watched if self.sides[leg].look_at <= now]:
            side = self.sides[leg]
            if side.room is not None and side.room.position > side.seen:
                side.seen, side.look_at = side.room.position, now + PATIENCE_S
                continue
            self._ignore(leg)
            if side.room is not None:
                self._dock.cancel(side.room)
            else:
                self.counts["no_room"] += 1
                self._settle(leg, side)

    def check(self) -> None:
        """Assert every invariant."""
        self.rooms.check()
        assert self._watched.keys() | self._waiting.keys() <= self.sides.keys()
        for leg, side in self.sides.items():
            room = side.room
            assert room is None or self.rooms.all.get(room.number) is room, "a room of somebody else"
            assert room is None or leg not in self._waiting
            pulls = room is not None and room.pulling
            waits = side.feeds or side.awaits or side.landing or side.abandoned or pulls
            assert waits or leg in self._watched, "nothing will ever wake it"

    # --- Within ----------------------------------------------------------------------------------------------

    @property
    def _layout(self) -> Layout:
        assert self.rooms.layout is not None
        return self.rooms.layout

    @property
    def _dock(self) -> Dock:
        assert self.rooms.dock is not None
        return self.rooms.dock

    def _view(self, room: Room) -> memoryview:
        return self._dock.view(room)

    def _usable(self, handles: Sequence[bytes]) -> Parcel | None:
        """The blocks among what came: the last ones, which are the most."""
        if self.rooms.dock is None:
            return None
        for packed in reversed(handles):
            try:
                parcel = parcels.decode(packed)
            except ValueError as error:
                self._complain("foreign", str(error))
                continue
            if parcel.kind == parcels.BLOCKS and self._is_ours(parcel):
                return parcel
        return None

    def _is_ours(self, parcel: Parcel) -> bool:
        theirs = parcel.handle.layout
        if parcel.digest != self.digest or parcel.first or theirs is None:
            self._complain("foreign", "blocks of another model were handed to this worker: it computes them itself")
            return False
        try:
            agree(theirs, self._layout)
        except LayoutRefused as refused:
            self._complain("mismatched", f"{refused} (until then this worker computes what it was handed)")
            return False
        return True

    def _begin(self, leg: Hashable, side: Side) -> bool:
        """Pull, or wait for room. False: neither is possible."""
        assert side.parcel is not None
        handle = side.parcel.handle
        assert handle.layout is not None
        count = blocks_needed(handle.layout, self._layout, handle.size // handle.layout.block_bytes)
        if not 0 < count <= self.rooms.bank.blocks:
            self.counts["no_room"] += 1
            side.parcel = None
            return False
        room = self.rooms.take(leg, count)
        if room is None:
            self._waiting[leg] = None
            return True
        self._waiting.pop(leg, None)
        room.start = side.first // handle.layout.block_tokens * handle.layout.block_bytes
        room.pulling = self._dock.pull(room, handle)
        if not room.pulling:
            self.counts["empty"] += 1
            side.parcel = None
            self.rooms.leave(room)
            return False
        side.room = room
        return True

    def _watch(self, leg: Hashable, side: Side, now: float) -> None:
        """From now on nothing else holds it up."""
        pulls = side.room is not None and side.room.pulling
        if not side.awaits and (pulls or leg in self._waiting):
            side.look_at = now + PATIENCE_S
            self._watched[leg] = None

    def _settle(self, leg: Hashable, side: Side) -> None:
        """Let the engine go on, if nothing is waited for."""
        room = side.room
        if side.awaits or side.landing or leg in self._waiting or (room is not None and room.pulling):
            return
        side.landing = True
        source = None if room is None else self._view(room)
        positions = min(side.arrived, side.length + len(side.tokens) - 1)  # the step of the last gives the next token
        self.landed_positions += max(0, positions - side.first)
        self.land(leg, source, positions, side.tokens)

    def _room(self, leg: Hashable, length: int) -> Room | None:
        if self.rooms.dock is None:
            return None
        room = self.rooms.take(leg, -(-length // self._layout.block_tokens))
        if room is None:
            self.counts["no_room"] += 1
        return room

    def _offer(self, room: Room, positions: int, ready: bool) -> bytes:
        """The parcel of a room that others may pull from now; nothing if they cannot."""
        handle = self._dock.offer(room, ready, KEPT_LEASE_S if ready else FED_LEASE_S)
        if handle is None:
            self._leave(room)
            return b""
        room.offered = True
        self.counts["offered"] += 1
        return parcels.encode(Parcel(parcels.BLOCKS, handle, self.digest, 0, positions))

    def _leave(self, room: Room) -> None:
        """Give a room back if nobody needs it; who waits for one may have it."""
        if self.rooms.leave(room):
            for leg in list(self._waiting):
                side = self.sides[leg]
                if not self._begin(leg, side):
                    self._ignore(leg)
                    self._settle(leg, side)

    def _complain(self, what: str, text: str) -> None:
        self.counts[what] += 1
        self._dock.complain(text)


def _nowhere(leg: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
    raise AssertionError("nobody has said where legs land")
