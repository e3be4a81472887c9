"""Pure. All caches that a router knows: who has how much of a prompt, how stale that is, and whom to ask for more."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from nodes.routing.hashes import Hashes
from nodes.routing.index import Index
from nodes.routing.seats import Seats, numbers_in
from nodes.routing.source import Source, Staleness
from proto.placing import RANKS_MAX, Blocks, Copy, Cut, Piece, Replay

Sends = list[tuple[int, Replay | Copy]]  # to which node what
Columns = list[list[int]]  # leading blocks by level (what is cached there or nearer) and seat


class Sources:
    """The index, and who feeds it."""

    def __init__(self, index: Index, seats: Seats) -> None:
        self.index = index
        self._seats = seats
        self._nodes: dict[int, list[Source]] = {}  # the place in the list is the rank
        self._wanted = 0  # the mask of all holders that lookups see
        self._places: list[tuple[int, int]] = []  # by holder: level and seat
        self._levels = 1
        self.exact: list[bool] = []  # by seat: whether what is known of a rank is what it holds

    def reserve(self, seat: int) -> None:
        """Give a seat its row, whether its rank will ever tell anything or not."""
        self.exact += [False] * (seat + 1 - len(self.exact))

    def up(self, node: int, now: float) -> Sends:
        """A worker is there."""
        return [] if node in self._nodes else self._grow(node, 1, now)

    def down(self, node: int) -> None:
        """It is not: what it had is nobody's. To be called before its seats are given up."""
        for source in self._nodes.pop(node, []):
            self._hide(source.holders)
            source.close()
            self._set_exact(source, False)

    def received(self, node: int, message: Blocks | Cut | Piece, now: float) -> Sends:
        """Word from a worker. From one that is not up it is ignored: it may come after its end."""
        if node not in self._nodes:
            return []
        grown = [] if isinstance(message, Piece) else self._grow(node, min(message.ranks, RANKS_MAX), now)
        if message.rank >= len(self._nodes[node]):
            return grown
        source = self._nodes[node][message.rank]
        before = tuple(source.holders)
        match message:
            case Blocks():
                asks = source.told(message, now)
            case Cut():
                asks = source.cut(message, now)
            case Piece():
                asks = source.copied(message, now)
        if before != tuple(source.holders):
            self._hide(before)
            self._show(source)
        self._set_exact(source, source.exact(now))
        return grown + [(node, ask) for ask in asks]

    def tick(self, now: float) -> Sends:
        """Ask again for what did not come, and tidy up a little."""
        self.index.sweep()
        for source in self._every():
            self._set_exact(source, source.exact(now))
        return [(source.node, ask) for source in self._every() for ask in source.tick(now)]

    # --- What is asked of it -----------------------------------------------------------------------------

    def overlaps(self, hashes: Hashes) -> Columns:
        """How many leading blocks of a prompt each rank holds. The levels after the first only if anybody has them."""
        found = self.index.lookup(hashes, self._wanted)
        columns = [[0] * len(self._seats.ranks) for _ in range(self._levels)]
        places = self._places
        for length, mask in found:
            for holder in numbers_in(mask):
                level, seat = places[holder]
                columns[level][seat] = length
        for nearer, farther in pairwise(columns):
            for seat, length in enumerate(nearer):
                if length > farther[seat]:
                    farther[seat] = length
        return columns

    def staleness(self, now: float) -> list[Staleness]:
        """How well each rank is known."""
        return [source.staleness(now) for source in self._every()]

    # --- Parts -------------------------------------------------------------------------------------------

    def _every(self) -> Iterator[Source]:
        return (source for sources in self._nodes.values() for source in sources)

    def _grow(self, node: int, ranks: int, now: float) -> Sends:
        """It has so many ranks: ask those that are new."""
        found = self._nodes.setdefault(node, [])
        sends: Sends = []
        while len(found) < ranks:
            source = Source(node, len(found), self.index, now)
            found.append(source)
            self._set_exact(source, False)
            sends += [(node, ask) for ask in source.begin(now)]
        return sends

    def _hide(self, holders: Iterable[int]) -> None:
        for holder in holders:
            self._wanted &= ~(1 << holder)

    def _show(self, source: Source) -> None:
        seat = self._seats.add((source.node, source.rank))
        for level, holder in enumerate(source.holders):
            self._places += [(0, 0)] * (holder + 1 - len(self._places))
            self._places[holder] = (level, seat)
            self._wanted |= 1 << holder
            self._levels = max(self._levels, level + 1)

    def _set_exact(self, source: Source, exact: bool) -> None:
        seat = self._seats.add((source.node, source.rank))
        self.reserve(seat)
        self.exact[seat] = exact
