"""Pure. The tiers below an engine's cache: what is kept, what is written down, and what is brought up for whom.

A block comes to host memory when the cache has no more room for it, or when many use it. There it competes by how often
it was asked for. What enough requests have used is written behind, to the disk and to the store; the queue is short,
and what does not fit is dropped. A queued job has a *ticket*: the leading blocks of its prompt that are pinned in host
memory or on their way. It is over when all have come, when one cannot come, or when a tier keeps it waiting; what came
is used, and the rest is computed. Nothing that goes wrong here is ever more than that.
"""

from collections.abc import Hashable, Sequence
from math import inf

from nodes.contract.engine import BlockEvent
from nodes.tiers.behind import Behind, failed
from nodes.tiers.counts import Count, hits
from nodes.tiers.shelves import DISK, HOST, STORE, Block, Disk, Host, Store
from nodes.tiers.sketch import Sketch
from nodes.tiers.work import Delete, Effect, Found, Lower, Read, Ticket

SETTLED_S = 60.0  # a long prompt that is asked for often is not looked through each time
SETTLED_MAX = 4096
COPIES_MAX = 64  # blocks copied down for one job between two steps
AHEAD_BLOCKS_MAX = 256  # of one ticket on their way
BATCH_BYTES = 4 << 20  # of one read: large enough that its overhead is nothing
BATCH_BLOCKS_MAX = 64
SURE_BLOCKS = 8  # found in a row in a store, before more are asked for than one knows of


class Core:
    """The tiers of one engine. `uses`: by so many requests a block is used before it is written down."""

    def __init__(self, slots: int, block_bytes: int, uses: int = 2, lower: Sequence[Lower] = ()) -> None:
        self.host = Host(slots)
        self.lower = lower
        self.counts = {HOST: Count(), **{tier.number: Count() for tier in lower}}
        self.is_news = False  # a ticket is over: whoever tells the engine resets it
        self.waits_over = 0
        self._tiers = {tier.number: tier for tier in lower}
        self._block_bytes = block_bytes
        self._batch = max(1, min(BATCH_BLOCKS_MAX, BATCH_BYTES // block_bytes))
        self._sketch = Sketch(slots)
        self.behind = Behind(self.host, lower, self.counts, self._sketch, uses, block_bytes)
        self._tickets: dict[Hashable, Ticket] = {}
        self._settled: dict[
            int, float
        ] = {}  # the ends of prompts that are all written down: until when that is believed
        self._open: dict[Hashable, Ticket] = {}  # those that are not over

    # --- From the engine -------------------------------------------------------------------------------------

    def seek(self, key: Hashable, parent: int, hashes: Sequence[int], here: int, now: float) -> None:
        """A job was queued: count what it uses, and bring up what the cache lacks."""
        for name in hashes:
            self._sketch.add(name)
        self.leave(key)
        if here < len(hashes):
            names = hashes[here:]
            ticket = Ticket(names, hashes[here - 1] if here else parent, now, now, len(names))
            self._tickets[key] = self._open[key] = ticket
            self._advance(ticket, now)
            self._close()

    def waits(self, key: Hashable) -> bool:
        return key in self._open

    def ready(self, key: Hashable, hashes: Sequence[int], now: float) -> list[Block]:
        """The leading ones of these blocks that can be copied now, pinned until `leave`."""
        blocks: list[Block] = []
        for name in hashes:
            block = self.host.blocks.get(name)
            if block is None or not block.is_filled:
                break
            self.host.pin(block)
            blocks.append(block)
        hits(self.counts, len(hashes), [block.origin for block in blocks])
        for block in blocks:
            block.origin = HOST
            self.behind.write_down(block, now)
        self.leave(key)
        if blocks:
            self._tickets[key] = Ticket(hashes, 0, now, now, len(blocks), blocks, len(blocks), is_over=True)
        return blocks

    def leave(self, key: Hashable) -> None:
        ticket = self._tickets.pop(key, None)
        self._open.pop(key, None)
        for block in reversed(ticket.pins if ticket is not None else ()):  # of a prompt the end goes before the start
            self.host.unpin(block)

    def used(self, parent: int, hashes: Sequence[int], now: float) -> list[tuple[int, Block]]:
        """Found in the cache once more: those to be copied down now, by position; each is then `kept`."""
        wanted: list[tuple[int, Block]] = []
        if not (self.lower and hashes) or now < self._settled.get(hashes[-1], -inf):
            return wanted
        for position, name in enumerate(hashes):
            if not self.behind.is_popular(name):
                break  # those after it are used by no more
            held = self.host.blocks.get(name)
            if held is not None:
                if held.is_filled:
                    self.behind.write_down(held, now)
                continue
            if not any(self.behind.wants(tier, name, now) for tier in self.lower):
                continue
            block = self.host.reserve(name, hashes[position - 1] if position else parent)
            if block is None:
                break
            wanted.append((position, block))
            if len(wanted) == COPIES_MAX:
                break
        if not wanted and all(tier.index.has(hashes[-1], now) for tier in self.lower):
            self._settled[hashes[-1]] = now + SETTLED_S
            if len(self._settled) > SETTLED_MAX:
                del self._settled[next(iter(self._settled))]
        return wanted

    def spill(self, name: int, parent: int) -> Block | None:
        """The cache has no more room for it: where to copy it, and then it is `kept`; None: nowhere."""
        host = self.host
        held = host.blocks.get(name)
        if held is not None:
            return None
        if not host.makes_room(name, self._sketch.count):
            self.counts[HOST].declined += 1
            return None
        block = host.reserve(name, parent)
        if block is None:
            self.counts[HOST].dropped += 1
        return block

    def kept(self, block: Block, now: float) -> None:
        """Its bytes are copied."""
        self.host.fill(block)
        self.counts[HOST].written += 1
        self.counts[HOST].written_bytes += self._block_bytes
        self.behind.write_down(block, now)
        self.host.unpin(block)

    def lost(self, block: Block) -> None:
        """Its bytes could not be copied."""
        self.host.lose(block)
        self.host.unpin(block)

    # --- From those who read and write ---------------------------------------------------------------------

    def read(self, work: Read, found: Sequence[Found], now: float, trouble: str = "") -> None:
        """What came of a Read, block by block."""
        tier, count = self._tiers[work.tier], self.counts[work.tier]
        tier.reads -= 1
        for block, outcome in zip(work.blocks, found, strict=True):
            if outcome is Found.HERE:
                self.host.fill(block)
                count.read_bytes += self._block_bytes
                tier.reading.worked()
            else:
                self.host.lose(block)
                self._not_read(tier, block.name, outcome, now, trouble)
            self.host.unpin(block)
        for block in reversed(work.blocks):
            if block.is_filled:
                tier.index.found(block.name, now)
        for ticket in self._open.values():
            self._advance(ticket, now)
        self._close()

    def scanned(self, tier: int, files: list[tuple[int, int, int]]) -> None:
        """Files of an earlier life: (name, parent, bytes), the youngest first."""
        index = self._tiers[tier].index
        assert isinstance(index, Disk)
        gone = index.scanned(files)
        if gone:
            self.behind.effects.append(Delete(tier, gone))

    # --- What is told ---------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Somebody listens from here on: all that is there is news."""
        self.host.changes.told = True
        for block in self.host.blocks.values():
            if block.is_filled:
                self.host.changes.stored(block.name, block.parent)
        for tier in self.lower:
            if isinstance(tier.index, Disk):
                tier.index.tell()

    @property
    def has_events(self) -> bool:
        """Whether there are events to be taken."""
        return bool(self.host.changes) or any(
            isinstance(tier.index, Disk) and bool(tier.index.changes) for tier in self.lower
        )

    def events(self) -> list[tuple[int, list[BlockEvent]]]:
        """What the tiers of this worker have gained and lost since the last time, by tier."""
        found = [(HOST, self.host.changes.take())]
        found += [(DISK, tier.index.changes.take()) for tier in self.lower if isinstance(tier.index, Disk)]
        return [(number, events) for number, events in found if events]

    def take_effects(self) -> list[Effect]:
        """What is to be done; each is told once."""
        effects, self.behind.effects = self.behind.effects, []
        return effects

    # --- Time -------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is wanted; inf: never."""
        waits = min((ticket.deadline for ticket in self._open.values()), default=inf)
        return min(waits, self.behind.deadline())

    def tick(self, now: float) -> None:
        """Nobody waits too long."""
        for ticket in self._open.values():
            if now >= ticket.deadline:
                self._give_up(ticket, now)
        self._close()
        self.behind.tick(now)

    # --- Inside -----------------------------------------------------------------------------------------------

    def _advance(self, ticket: Ticket, now: float) -> None:
        """See what has come, and ask for more."""
        before = ticket.arrived
        while ticket.arrived < len(ticket.pins) and ticket.pins[ticket.arrived].is_filled:
            ticket.arrived += 1
        if ticket.arrived > before:
            ticket.quiet_since = now
        if any(block.is_lost for block in ticket.pins[ticket.arrived :]):
            lost = next(at for at, block in enumerate(ticket.pins) if block.is_lost)
            ticket.ends = lost
            self._unpin_from(ticket, lost)
        while len(ticket.pins) < ticket.ends and len(ticket.pins) - ticket.arrived < AHEAD_BLOCKS_MAX:
            block = self.host.blocks.get(ticket.names[len(ticket.pins)])
            if block is not None:
                self.host.pin(block)
                ticket.pins.append(block)
                ticket.arrived += block.is_filled and ticket.arrived == len(ticket.pins) - 1
            elif not self._ask(ticket, now):
                break
        ticket.is_over = ticket.arrived == ticket.ends

    def _close(self) -> None:
        """Whoever waited for these need not any more."""
        for key in [key for key, ticket in self._open.items() if ticket.is_over]:
            del self._open[key]
            self.is_news = True

    def _ask(self, ticket: Ticket, now: float) -> bool:
        """Have the next blocks of a ticket read. False: not now, or (`ends` says so) never."""
        first = len(ticket.pins)
        tier = self._source(ticket.names[first], now)
        if tier is None:
            ticket.ends = first
            return False
        count = self._batch
        if tier.number == STORE:
            if ticket.trust < SURE_BLOCKS and ticket.arrived < first:
                return False  # it may not have the ones that it is being asked for
            count = min(ticket.trust, count)
        if tier.reads >= 2 * tier.readers:
            return False
        blocks: list[Block] = []
        for name in ticket.names[first : min(first + count, ticket.ends)]:
            if name in self.host.blocks or self._source(name, now) is not tier:
                break
            block = self.host.reserve(name, self._parent(ticket, len(ticket.pins)), tier.number)
            if block is None:
                break
            self.host.pin(block)  # one pin is the ticket's, one the reader's
            ticket.pins.append(block)
            blocks.append(block)
        if not blocks:
            ticket.ends = first
            return False
        ticket.trust = min(2 * ticket.trust, self._batch)
        tier.reads += 1
        self.behind.effects.append(Read(tier.number, blocks))
        return True

    def _source(self, name: int, now: float) -> Lower | None:
        """The nearest tier that may have it."""
        for tier in self.lower:
            if not tier.reading.is_marked(now) and tier.index.may_have(name, now):
                return tier
        return None

    @staticmethod
    def _parent(ticket: Ticket, position: int) -> int:
        return ticket.names[position - 1] if position else ticket.parent

    def _give_up(self, ticket: Ticket, now: float) -> None:
        self.waits_over += 1
        origins = {block.origin: None for block in ticket.pins[ticket.arrived :] if not block.is_filled}
        for number in origins:
            if number != HOST:
                tier = self._tiers[number]
                failed(tier, tier.reading, self.counts, "slow", now, "reading takes too long", surely=True)
        self._unpin_from(ticket, ticket.arrived)
        ticket.ends = ticket.arrived
        ticket.is_over = True

    def _unpin_from(self, ticket: Ticket, first: int) -> None:
        for block in ticket.pins[first:]:
            self.host.unpin(block)
        del ticket.pins[first:]

    def _not_read(self, tier: Lower, name: int, outcome: Found, now: float, trouble: str) -> None:
        if outcome is Found.UNTRIED:
            return
        if outcome is Found.FAILED:
            failed(tier, tier.reading, self.counts, "failed", now, trouble)
            return
        if outcome is Found.CORRUPT:
            failed(tier, tier.reading, self.counts, "corrupt", now, trouble)
        elif tier.number == DISK:
            failed(tier, tier.reading, self.counts, "missing", now, "files have vanished")
        else:
            tier.reading.worked()  # it said that it has none: an answer as good as any
        tier.index.missed(name, now)

    def check(self) -> None:
        """Assert all invariants."""
        self.host.check()
        self.behind.check()
        pins: dict[int, int] = {}
        for key, ticket in self._tickets.items():
            assert (key in self._open) != ticket.is_over
            assert len(ticket.pins) <= ticket.ends
            assert all(block.is_filled for block in ticket.pins[: ticket.arrived])
            for block in ticket.pins:
                pins[block.slot] = pins.get(block.slot, 0) + 1
        for block in self.host.blocks.values():
            assert block.pins >= pins.get(block.slot, 0), "a ticket's block stays"
        for tier in self.lower:
            if isinstance(tier.index, Disk):
                tier.index.check()
            else:
                assert isinstance(tier.index, Store)
