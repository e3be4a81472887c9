"""Pure. Rooms: pieces of a worker's staging memory, for as long as somebody needs them.

A room is free when nobody reads it, writes it or may pull from it any more, and not before: `Room` knows all three.
"""

from collections.abc import Hashable
from itertools import pairwise
from math import inf
from typing import Protocol

from msgspec import Struct

from nodes.bank import Bank
from nodes.transfer.handle import Handle
from nodes.transfer.layout import Layout

UNFETCHED_S = 10.0  # while others find no room: who wants what is offered begins to pull within a second or two


class Room(Struct, eq=False):
    """Some staging memory, and who still needs it."""

    number: int
    leg: Hashable
    first: int
    count: int  # of blocks
    offered: bool = False  # others may pull from it
    pulling: bool = False  # we pull into it
    engaged: bool = False  # the engine has a view of it
    position: int = 0  # up to which it was pulled
    missed_at: float = inf  # when it first was in the way, and nobody had come for it
    start: int = 0  # the first byte that is pulled: what is before is in the engine's cache

    @property
    def idle(self) -> bool:
        return not (self.offered or self.pulling or self.engaged)


class Dock(Protocol):
    """The data plane under the staging memory. Nothing here raises, and nothing calls back at once."""

    def view(self, room: Room) -> memoryview:
        """Its bytes."""
        ...

    def offer(self, room: Room, ready: bool, lease_s: float) -> Handle | None:
        """Offer all of it, with all its bytes or none as yet. `Handing.freed` follows once. None: impossible."""
        ...

    def advance(self, room: Room, ready_bytes: int) -> None:
        """So much of an offer is there now. One that has ended, and was not freed yet, is no error."""
        ...

    def withdraw(self, room: Room) -> None:
        """Take an offer back; `freed` follows all the same."""
        ...

    def visited(self, room: Room) -> bool:
        """Whether somebody is known to pull from it now."""
        ...

    def pull(self, room: Room, wanted: Handle) -> bool:
        """Fill it. `Handing.progressed` follows often, `pulled` once. False: impossible."""
        ...

    def cancel(self, room: Room) -> None:
        """End a pull; `pulled` follows all the same."""
        ...

    def complain(self, text: str) -> None:
        """Something could not be handed over that somebody may want to mend."""
        ...


class Rooms:
    """All rooms of a worker. Without a dock, or an engine that hands over, there are none."""

    def __init__(self, layout: Layout | None) -> None:
        self.layout = layout
        self.dock: Dock | None = None
        self.bank = Bank(0)
        self.all: dict[int, Room] = {}
        self._numbers = 0
        self._missed = False  # somebody found no room

    def open(self, dock: Dock, blocks: int) -> None:
        """There is memory from now on."""
        if self.layout is not None:
            self.dock, self.bank = dock, Bank(blocks)

    def take(self, leg: Hashable, count: int) -> Room | None:
        """A room of so many blocks; None if there is none now."""
        first = self.bank.take(count)
        if first < 0:
            self._missed = True
            return None
        self._numbers += 1
        room = self.all[self._numbers] = Room(self._numbers, leg, first, count)
        return room

    def overdue(self, now: float) -> list[Room]:
        """If somebody has found no room: those that nobody has come for, although there was time since.

        Who was to fetch it was ended before it could, or has no staging memory, or a smaller one.
        """
        if not self._missed or self.dock is None:
            return []
        self._missed = False
        over = [room for room in self.all.values() if room.offered and not (room.pulling or room.engaged)]
        for room in over:
            room.missed_at = inf if self.dock.visited(room) else min(room.missed_at, now)
        return [room for room in over if now - room.missed_at >= UNFETCHED_S]

    def shrink(self, room: Room, count: int) -> None:
        """It needs no more than its first `count` blocks."""
        if count < room.count:
            self.bank.give(room.first + count, room.count - count)
            room.count = count

    def leave(self, room: Room) -> bool:
        """Give a room back if nobody needs it any more."""
        if not room.idle or self.all.pop(room.number, None) is None:
            return False
        self.bank.give(room.first, room.count)
        return True

    @property
    def leaked(self) -> int:
        """Blocks that are taken and belong to nobody: 0, or a mistake of ours."""
        return self.bank.used - sum(room.count for room in self.all.values() if not room.idle)

    def blocks(self) -> dict[str, float]:
        """How many blocks are used for what."""
        found = dict.fromkeys(("offered", "pulling", "engine"), 0.0)
        for room in self.all.values():
            found["offered" if room.offered else "pulling" if room.pulling else "engine"] += room.count
        return {**found, "free": float(self.bank.blocks - self.bank.used)}

    def check(self) -> None:
        """Assert every invariant: no room is lost, and none is shared."""
        self.bank.check()
        assert self.leaked == 0, f"{self.leaked} blocks are nobody's"
        taken = sorted((room.first, room.first + room.count) for room in self.all.values())
        assert all(one[1] <= other[0] for one, other in pairwise(taken)), "two rooms share a block"
