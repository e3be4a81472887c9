"""Pure. What a router knows of one rank's cache, and how it comes to know the rest.

Changes are numbered. As long as each follows the last, the view is exact. A gap asks for a replay from the worker's
ring; what the ring has forgotten is copied piece by piece into a second view, which takes the first one's place when it
is whole. Until then the old view stays: it is out of date but mostly right, and `exact` says so.

A piece holds what was true at its number. Changes after that are applied on top, in order, so pieces of different
numbers make one whole. Only a piece older than what was applied already is refused, and asked for again.
"""

from collections.abc import Sequence

from msgspec import Struct

from nodes.routing.hashes import unpack
from nodes.routing.index import Index
from proto import placing as wire
from proto.placing import Blocks, Change, Copy, Cut, Kind, Piece, Replay

ANSWER_S = 1.0  # a worker answers within a step; after that the question or its answer is taken as lost
PATIENCE_S_MAX = 30.0  # a worker that does not publish is asked again and again, but ever more rarely
SILENT_S = 5.0  # ten heartbeats without a word: what it holds may be something else by now

Asks = list[Replay | Copy]


class Staleness(Struct):
    """How well a rank's cache is known, for metrics."""

    node: int
    rank: int
    exact: bool
    heard: bool  # it publishes at all
    behind: int  # changes that are known to exist and not known
    silent_s: float
    blocks: int
    gaps: int
    replays: int
    copies: int


class View:
    """Holders in the index for one rank: one for each level that was ever told of."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.holders: list[int] = []

    def store(self, level: int, packed: bytes) -> None:
        """More on this level."""
        while len(self.holders) <= level:
            self.holders.append(self._index.open())
        self._index.store(self.holders[level], unpack(packed))

    def apply(self, change: Change) -> None:
        """One change. One of a kind or level that we do not know, from a newer worker, changes nothing here."""
        if change.kind == Kind.STORED and change.level < wire.LEVELS_MAX:
            self.store(change.level, change.hashes)
        elif change.kind == Kind.REMOVED and change.level < len(self.holders):
            self._index.remove(self.holders[change.level], unpack(change.hashes))
        elif change.kind == Kind.CLEARED:
            self.close()

    def close(self) -> None:
        """Hold nothing."""
        for holder in self.holders:
            self._index.retire(holder)
        self.holders = []

    @property
    def blocks(self) -> int:
        """On the widest level."""
        return max((self._index.held(holder) for holder in self.holders), default=0)


class Source:
    """One rank of one worker."""

    def __init__(self, node: int, rank: int, index: Index, now: float) -> None:
        self.node = node
        self.rank = rank
        self._index = index
        self._view = View(index)  # what lookups see
        self._next: View | None = None  # what is being copied
        self._piece = 0  # the one that is copied now
        self._pieces = 0
        self._applied = 0
        self._newest = 0
        self._asked = now  # when it was last asked for something; inf when nothing is owed
        self._patience = ANSWER_S
        self._missing = False  # a replay is under way
        self._heard_at = now
        self._heard = False
        self._gaps = self._replays = self._copies = 0

    @property
    def holders(self) -> Sequence[int]:
        """Its holders in the index, by level."""
        return self._view.holders

    def exact(self, now: float) -> bool:
        """Whether the view is what the worker last told, and the worker still talks."""
        settled = self._heard and self._next is None and self._applied == self._newest
        return settled and now - self._heard_at < SILENT_S

    def staleness(self, now: float) -> Staleness:
        """The numbers."""
        return Staleness(
            node=self.node,
            rank=self.rank,
            exact=self.exact(now),
            heard=self._heard,
            behind=self._newest - self._applied,
            silent_s=now - self._heard_at,
            blocks=self._view.blocks,
            gaps=self._gaps,
            replays=self._replays,
            copies=self._copies,
        )

    # --- Messages ----------------------------------------------------------------------------------------

    def begin(self, now: float) -> Asks:
        """The worker is there: ask for all that it has."""
        self._missing = True
        return [self._ask_replay(now)]

    def told(self, message: Blocks, now: float) -> Asks:
        """Changes, or word that there are none."""
        self._hear(now)
        last = message.first + len(message.changes) - 1
        self._newest = max(self._newest, message.newest, last)
        if message.first <= self._applied + 1 and last > self._applied:
            view = self._next or self._view
            for change in message.changes[self._applied + 1 - message.first :]:
                view.apply(change)
            self._applied = last
            self._asked = now  # the answer is coming
        return self._settle(now)

    def cut(self, message: Cut, now: float) -> Asks:
        """The ring does not reach back so far: copy everything."""
        self._hear(now)
        self._drop_copy()
        self._copies += 1
        self._next = View(self._index)
        self._pieces = message.pieces
        self._piece = 0
        self._applied = message.newest
        self._newest = max(self._newest, message.newest)
        self._missing = False
        return [self._ask_copy(now), *self._settle(now)]

    def copied(self, message: Piece, now: float) -> Asks:
        """A piece of the copy."""
        self._hear(now)
        if self._next is None or (message.piece, message.pieces) != (self._piece, self._pieces):
            return []
        if message.sequence < self._applied:
            return [self._ask_copy(now)]
        for level, packed in enumerate(message.levels[: wire.LEVELS_MAX]):
            self._next.store(level, packed)
        self._newest = max(self._newest, message.sequence)
        self._piece += 1
        asks: Asks = [self._ask_copy(now)] if self._piece < self._pieces else []
        return asks + self._settle(now)

    def tick(self, now: float) -> Asks:
        """Ask again for what did not come."""
        if now < self.deadline():
            return []
        self._patience = min(PATIENCE_S_MAX, 2 * self._patience)
        asks: Asks = []
        if self._next is not None and self._piece < self._pieces:
            asks.append(self._ask_copy(now))
        if not asks or self._applied < self._newest:
            asks.append(self._ask_replay(now))
        return asks

    def deadline(self) -> float:
        """When `tick` has something to do."""
        return self._asked + self._patience

    def close(self) -> None:
        """The worker is gone."""
        self._drop_copy()
        self._view.close()

    # --- Parts -------------------------------------------------------------------------------------------

    def _hear(self, now: float) -> None:
        self._heard = True
        self._heard_at = now
        self._patience = ANSWER_S

    def _settle(self, now: float) -> Asks:
        """Take the copy over if it is whole; ask for what is missing, once."""
        copying = self._next is not None and self._piece < self._pieces
        if self._next is not None and not copying:
            self._view.close()
            self._view, self._next = self._next, None
        if self._applied < self._newest:
            if self._missing:
                return []
            self._gaps += 1
            self._missing = True
            return [self._ask_replay(now)]
        self._missing = False
        if not copying:
            self._asked = float("inf")
        return []

    def _ask_replay(self, now: float) -> Replay:
        self._asked = now
        self._replays += 1
        return Replay(self.rank, self._applied)

    def _ask_copy(self, now: float) -> Copy:
        self._asked = now
        return Copy(self.rank, self._piece, self._pieces)

    def _drop_copy(self) -> None:
        if self._next is not None:
            self._next.close()
            self._next = None
