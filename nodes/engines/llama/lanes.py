"""Pure. Which of llama.cpp's sequences names the cells of which of our blocks.

llama.cpp chooses a cell for each position itself, and frees it when no sequence names it any more. Our scheduler counts
blocks, shares and forgets them, and does not care which cells they are. So each job in a slot has a sequence of its
own, here called a lane, which also names what it shares. When it goes, its lane stays behind for as long as it keeps a
block that somebody may ask for. Who shared blocks with a lane that was left behind takes them over when it goes, so a
conversation has one lane, however many turns it had. Lanes are few: of those left behind the oldest goes first.
"""

from collections.abc import Iterable

from msgspec import Struct

from nodes.contract.blocks import NONE, Pool
from nodes.engines.running import Part, Running

SCRATCH = 0  # a lane for copies, empty between them
LANES_MAX = 256  # what llama.cpp was made for
BEHIND = 64  # lanes that may be left behind; each makes llama.cpp's memory for logits larger by one row
SLOTS_MAX = (LANES_MAX - 1 - BEHIND) // 2


class Move(Struct, frozen=True):
    """Positions from `start` up to before `stop` of one lane: named by another too, or, if that is NONE, no more."""

    lane: int
    to: int
    start: int
    stop: int


class _Bound(Struct, eq=False):
    """A job that has a lane."""

    running: Running
    blocks: list[int]  # the very list of `running`: when that has another, or none, these are no longer its own
    lane: int
    known: int = 0  # of its blocks
    reached: int = 0  # positions that were computed


def lanes_for(slots: int, caching: bool) -> int:
    """How many there must be: a job in each slot, the next one in each before the former was seen to go, and others."""
    return 1 + 2 * slots + (BEHIND if caching else 0)


class Lanes:
    """What is to be told to llama.cpp, so that it holds just what the scheduler believes that the cache holds."""

    def __init__(self, slots: int, block_tokens: int, caching: bool, pool: Pool) -> None:
        self._slots = slots
        self._size = block_tokens
        self._caching = caching
        self._pool = pool
        self.clear()

    def clear(self) -> None:
        """Nothing is there any more: llama.cpp knows that already."""
        self._holder = [NONE] * self._pool.total  # by block: the lane that keeps it
        self._place = [0] * self._pool.total  # by block: which of its sequence it is
        self._kept: list[dict[int, int]] = [
            {} for _ in range(lanes_for(self._slots, self._caching))
        ]  # by lane: place to block
        self._free = [*range(len(self._kept) - 1, SCRATCH, -1)]
        self._behind: dict[int, None] = {}  # the oldest first
        self._bound: dict[tuple[int, int], _Bound] = {}
        self._moves: list[Move] = []

    def taken(self) -> list[Move]:
        """What is to be done now, in this order; each is told once."""
        moves, self._moves = self._moves, []
        return moves

    def settle(self, admitted: Iterable[Running]) -> None:
        """All that have blocks get their lanes, those that have gone lose theirs, and some stay free for the next."""
        self._leave()
        for running in admitted:
            self.bind(running, running.computed // self._size)
        while len(self._free) < self._slots:
            self._evict(next(iter(self._behind)))

    def bind(self, running: Running, shared: int) -> int:
        """The lane of a job. If it has none yet, `shared` of its blocks were there before it."""
        bound = self._bound.get(running.order)
        if bound is None or bound.blocks is not running.blocks:
            self._leave()
            bound = _Bound(running, running.blocks, self._free.pop(), shared)
            self._bound[running.order] = bound
            for place in range(shared):
                self._move(self._holder[running.blocks[place]], bound.lane, place)
        for place in range(bound.known, len(bound.blocks)):
            block = bound.blocks[place]
            self._lose(block)
            self._keep(block, place, bound.lane)
        bound.known = len(bound.blocks)
        return bound.lane

    def begin(self, part: Part) -> int:
        """The lane of a job, some positions of which are computed now: some may be so once more."""
        lane = self.bind(part.running, 0)
        bound = self._bound[part.running.order]
        if part.start < bound.reached:
            self._moves.append(Move(lane, NONE, part.start, bound.reached))
        bound.reached = part.start + part.count
        return lane

    def where(self, block: int) -> tuple[int, int]:
        """Lane and first position of a block that is full."""
        return self._holder[block], self._place[block] * self._size

    def check(self) -> None:
        """Assert all invariants."""
        bound = {one.lane for one in self._bound.values()}
        lanes = [SCRATCH, *self._free, *self._behind, *bound]
        assert sorted(lanes) == list(range(len(self._kept))), "each lane is one thing"
        for lane, kept in enumerate(self._kept):
            assert all(self._holder[block] == lane and self._place[block] == place for place, block in kept.items())
            assert bool(kept) >= (lane in self._behind), "only what keeps something is left behind"
        assert sum(map(len, self._kept)) == sum(holder != NONE for holder in self._holder)

    def _leave(self) -> None:
        """Those whose blocks are no longer their own."""
        for order, bound in [*self._bound.items()]:
            if bound.running.blocks is not bound.blocks:
                del self._bound[order]
                self._left(bound)

    def _left(self, bound: _Bound) -> None:
        lane = bound.lane
        for block in [*self._kept[lane].values()]:
            if not self._pool.is_known(block):  # nobody will ask for it
                self._lose(block)
        for place, block in enumerate(bound.blocks[: bound.known]):
            holder = self._holder[block]
            if holder in self._behind:  # whoever used it last keeps it
                self._lose(block)
                self._keep(block, place, lane)
            elif holder != lane:
                self._move(lane, NONE, place)
        self._rest(lane)

    def _rest(self, lane: int) -> None:
        """It has no job: it is left behind with what it keeps, or free."""
        if self._kept[lane]:
            self._behind[lane] = None
            return
        self._moves.append(Move(lane, NONE, -1, -1))
        self._free.append(lane)

    def _evict(self, lane: int) -> None:
        """What it keeps goes to who uses it, or is lost."""
        users = {block: bound for bound in self._bound.values() for block in bound.blocks[: bound.known]}
        for place, block in [*self._kept[lane].items()]:
            if block not in users:
                self._pool.drop(block)
            del self._kept[lane][place]
            self._holder[block] = NONE
            if block in users:
                self._keep(block, place, users[block].lane)
        del self._behind[lane]
        self._rest(lane)

    def _keep(self, block: int, place: int, lane: int) -> None:
        self._holder[block], self._place[block] = lane, place
        self._kept[lane][place] = block

    def _lose(self, block: int) -> None:
        """Who keeps a block does so no longer."""
        lane, place = self._holder[block], self._place[block]
        if lane == NONE:
            return
        self._holder[block] = NONE
        del self._kept[lane][place]
        self._move(lane, NONE, place)
        if lane in self._behind and not self._kept[lane]:
            del self._behind[lane]
            self._rest(lane)

    def _move(self, lane: int, to: int, place: int) -> None:
        """One block; with the one before it, if that goes the same way."""
        start, stop = place * self._size, (place + 1) * self._size
        if self._moves:
            last = self._moves[-1]
            if (last.lane, last.to, last.stop) == (lane, to, start) and last.start >= 0:
                self._moves[-1] = Move(lane, to, last.start, stop)
                return
        self._moves.append(Move(lane, to, start, stop))
