"""Pure. The worker's half of the index: from an engine's block events to numbered changes, replays and copies.

One for each data-parallel rank. It keeps no list of who listens: the shell sends what `told` gives to every router, and
answers each Replay and Copy with what comes back here. Nothing here grows with the number of routers.
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile

from nodes.contract.engine import BlockEvent
from nodes.routing.closure import Closure
from nodes.routing.hashes import HASH_BYTES, pack
from nodes.routing.ring import BLOCKS_MAX, CHANGES_MAX, Ring
from proto import placing as wire
from proto.placing import Blocks, Change, Copy, Cut, Kind, Piece


class Publisher:
    """What routers are told of one rank's cache. `levels`: 1 for a cache in one memory, more where blocks move down."""

    def __init__(
        self,
        rank: int = 0,
        ranks: int = 1,
        levels: int = 1,
        blocks: int = 0,
        ring_changes_max: int = CHANGES_MAX,
        ring_blocks_max: int = BLOCKS_MAX,
    ) -> None:
        self._rank = rank
        self._ranks = ranks
        self._closures = [Closure(remembered_max=blocks) for _ in range(levels)]
        self._media: dict[int, int] = {}  # where each block is, a bit for each medium; kept where there are several
        self._ring = Ring(ring_changes_max, ring_blocks_max)
        self._told = 0  # the last change that `told` gave out
        self._heard = True  # somebody listens; else nothing is written down
        self._missed = False  # and something should have been

    @property
    def newest(self) -> int:
        """The number of the last change."""
        return self._ring.newest

    def listen(self, heard: bool) -> None:
        """Whether anybody listens. Who begins to after a time without has to copy."""
        if heard == self._heard:
            return
        self._heard = heard
        for closure in self._closures:
            if heard:
                closure.wake()
            else:
                closure.sleep()
        if self._missed:
            self._missed = False
            self._ring.skip()
            self._recut()
        self._told = self.newest

    def leading(self, hashes: Iterable[int]) -> int:
        """How many leading blocks of a prompt are on the device, as far as it was told."""
        holds = self._closures[0].holds
        return sum(1 for _ in takewhile(holds, hashes))

    # --- From the engine ---------------------------------------------------------------------------------

    def feed(self, events: Iterable[BlockEvent], medium: int = 0) -> None:
        """What an engine step did to the cache in this medium: 0 the device, 1 the host, 2 the disk.

        What many sequences stored in a row is one change: a decoding engine fills a block here and there at each step.
        """
        found: list[list[int]] = [[] for _ in self._closures]
        self._missed = not self._heard
        for event in events:
            if event.kind == "stored":
                self._stored(event, medium, found)
                continue
            self._changed(Kind.STORED, found)
            found = [[] for _ in self._closures]
            if event.kind == "removed":
                self._removed(event.hashes, medium)
            elif event.kind == "cleared":
                self._cleared(medium)
        self._changed(Kind.STORED, found)
        self._recut()

    def _stored(self, event: BlockEvent, medium: int, found: list[list[int]]) -> None:
        parent = event.parent
        for name in event.hashes:
            for level in self._gained(name, medium):
                found[level] += self._closures[level].store(name, parent)
            parent = name

    def _removed(self, hashes: Iterable[int], medium: int) -> None:
        lost: list[list[int]] = [[] for _ in self._closures]
        for name in hashes:
            for level in self._lost(name, medium):
                lost[level] += self._closures[level].remove(name)
        self._changed(Kind.REMOVED, lost)

    def _cleared(self, medium: int) -> None:
        if len(self._closures) > 1:
            self._removed([name for name, media in self._media.items() if media >> medium & 1], medium)
            return
        self._closures[0].clear()
        if self._heard:
            self._ring.add(Change(Kind.CLEARED))

    def _gained(self, name: int, medium: int) -> Sequence[int]:
        """The levels that have a block, now that this medium has it, and had it not."""
        if len(self._closures) == 1:
            return (0,)
        before = self._media.get(name, 0)
        self._media[name] = before | 1 << medium
        return range(medium, min(_nearest(before), len(self._closures)))

    def _lost(self, name: int, medium: int) -> Sequence[int]:
        if len(self._closures) == 1:
            return (0,)
        before = self._media.pop(name, 0)
        after = before & ~(1 << medium)
        if after:
            self._media[name] = after
        return range(_nearest(before), min(_nearest(after), len(self._closures))) if before else ()

    def _changed(self, kind: Kind, by_level: list[list[int]]) -> None:
        for level, hashes in enumerate(by_level):
            for start in range(0, len(hashes), wire.CHANGE_BLOCKS_MAX):
                self._ring.add(Change(kind, pack(hashes[start : start + wire.CHANGE_BLOCKS_MAX]), level))

    def _recut(self) -> None:
        pieces = self._closures[0].pieces
        most = max(closure.found for closure in self._closures)
        while most > 2 * pieces * wire.PIECE_BLOCKS_TARGET and pieces < wire.PIECES_MAX:
            pieces *= 4
        if pieces != self._closures[0].pieces:
            for closure in self._closures:
                closure.recut(pieces)

    # --- To routers --------------------------------------------------------------------------------------

    def told(self) -> list[Blocks]:
        """What every router is to be told now: all changes since the last time."""
        messages = self._since(self._told) if self._told < self.newest else []
        self._told = self.newest
        return messages or []

    def beat(self) -> Blocks:
        """What a router is told when nothing changes, so that it notices what it missed."""
        return Blocks(self._rank, self._told + 1, self._told, [], self._ranks)

    def replay(self, after: int) -> list[Blocks] | Cut:
        """The answer to a Replay. It goes before whatever `told` gives next."""
        messages = self._since(after)
        if messages is None:
            return Cut(self._rank, self._ring.newest, self._closures[0].pieces, self._ranks)
        return messages or [Blocks(self._rank, after + 1, self.newest, [], self._ranks)]

    def copy(self, wanted: Copy) -> Piece | Cut:
        """The answer to a Copy; a Cut if the cache is cut otherwise by now."""
        pieces = self._closures[0].pieces
        if wanted.pieces != pieces or wanted.piece >= pieces:
            return Cut(self._rank, self._ring.newest, pieces, self._ranks)
        levels = [pack(closure.piece(wanted.piece)) for closure in self._closures]
        return Piece(self._rank, wanted.piece, pieces, self.newest, levels)

    def _since(self, after: int) -> list[Blocks] | None:
        changes = self._ring.after(after)
        if changes is None:
            return None
        messages: list[Blocks] = []
        size = wire.BLOCKS_BYTES_TARGET
        for change in changes:
            if size >= wire.BLOCKS_BYTES_TARGET or len(messages[-1].changes) >= wire.CHANGES_MAX:
                messages.append(Blocks(self._rank, after + 1, self.newest, [], self._ranks))
                size = 0
            messages[-1].changes.append(change)
            size += len(change.hashes) + HASH_BYTES
            after += 1
        return messages

    def check(self) -> None:
        """Assert all invariants."""
        for closure in self._closures:
            closure.check()
        for name, media in self._media.items():
            for level, closure in enumerate(self._closures):
                assert closure.holds(name) == (_nearest(media) <= level), (name, level)


def _nearest(media: int) -> int:
    """The nearest medium of these; beyond all if there is none."""
    return (media & -media).bit_length() - 1 if media else wire.LEVELS_MAX
