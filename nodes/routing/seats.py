"""Pure. A small number for each rank that is known: its place in every column of facts.

Placing looks at all ranks at once, so facts are kept as columns (lists by seat), and the rows of the candidates are
picked out of them in one call.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any

from proto.placing import Rank

Pick = Callable[[Sequence[Any]], Sequence[Any]]


class Seats:
    """Who sits where. A seat that is given up is used again."""

    def __init__(self) -> None:
        self.ranks: list[Rank | None] = []  # by seat; None: empty
        self._by_node: dict[int, list[int]] = {}
        self._free: list[int] = []
        self._last: tuple[tuple[int, ...], int, Pick] = ((), -1, _none)

    def add(self, rank: Rank) -> int:
        """The seat of a rank; a node's ranks come in order."""
        seats = self._by_node.setdefault(rank[0], [])
        while len(seats) <= rank[1]:
            seat = heappop(self._free) if self._free else len(self.ranks)
            if seat == len(self.ranks):
                self.ranks.append(None)
            self.ranks[seat] = (rank[0], len(seats))
            seats.append(seat)
            self._forget_pick()
        return seats[rank[1]]

    def find(self, rank: Rank) -> int:
        """The seat of a rank; -1 if it has none."""
        seats = self._by_node.get(rank[0], ())
        return seats[rank[1]] if rank[1] < len(seats) else -1

    def drop(self, node: int) -> Sequence[int]:
        """A node is gone; the seats that it had."""
        seats = self._by_node.pop(node, [])
        for seat in seats:
            self.ranks[seat] = None
            heappush(self._free, seat)
        self._forget_pick()
        return seats

    def of(self, node: int) -> Sequence[int]:
        """The seats of a node, by rank."""
        return self._by_node.get(node, ())

    def rows(self, nodes: tuple[int, ...], number: int = -1) -> Pick:
        """What picks the seats of these nodes out of a column; with `number` only that rank of each.

        The same nodes are asked for again and again, so the last answer is kept.
        """
        if self._last[:2] == (nodes, number):
            return self._last[2]
        seats = [seat for node in nodes for seat in self._by_node.get(node, ())]
        if number >= 0:
            seats = [seat for seat in seats if (rank := self.ranks[seat]) is not None and rank[1] == number]
        if len(seats) > 1:
            pick: Pick = itemgetter(*seats)
        elif seats:
            pick = _one(seats[0])
        else:
            pick = _none
        self._last = (nodes, number, pick)
        return pick

    def _forget_pick(self) -> None:
        self._last = ((), -1, _none)


def numbers_in(mask: int) -> list[int]:
    """The numbers of the bits that are set."""
    if mask.bit_count() < 6:
        found = []
        while mask:
            bit = mask & -mask
            found.append(bit.bit_length() - 1)
            mask ^= bit
        return found
    return [number for number, digit in enumerate(bin(mask)[:1:-1]) if digit == "1"]


def _one(seat: int) -> Pick:
    return lambda column: (column[seat],)


def _none(column: Sequence[Any]) -> Sequence[Any]:
    return ()
