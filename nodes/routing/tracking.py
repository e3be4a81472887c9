"""Pure. How busy each rank is, from what was sent there: prompts still to be computed, and blocks in use.

What a router sent counts at once; the worker's own report comes later. A request counts until its owner says that it
is over. The report corrects what was missed: requests that the worker does not have any more are dropped, the oldest
first; load that nobody told us of (another router's, a caller's who asked none) is added.

Everything that is told twice, late or in another order gives the same: a request is what its highest attempt is, and an
attempt only goes from placed to prefilled to over.
"""

from collections import OrderedDict
from math import inf

from msgspec import Struct

from nodes.routing.hashes import Hashes
from nodes.routing.paths import Paths
from nodes.routing.progress import Progress
from nodes.routing.seats import Seats, numbers_in
from proto.placing import Rank, Report

UNDER_WAY_S = 0.25  # a report may be that much older than it seems: it does not know what was sent since
REPORT_S = 5.0  # a request is believed in for ten heartbeats after a report that covers it
EARLY_MAX = 65_536  # requests remembered whose news came before their placement, or that are over
PLACED, PREFILLED, OVER = range(3)


class Entry(Struct):
    """A request on a rank."""

    request: int
    attempt: int
    rank: Rank
    at: float
    prefill_tokens: int  # that it still adds to the rank's queue
    blocks: int
    hashes: Hashes | None  # None: its blocks are counted as its own
    checked: float = float("-inf")  # when a report last covered it
    due: float = 0.0  # when to look whether it is still there
    seat: int = -1


class Tracking:
    """All loads, as columns by seat. `expiry_s`: how long a request counts that nobody ended and no report covers."""

    def __init__(self, seats: Seats, expiry_s: float = 300.0) -> None:
        self._seats = seats
        self._expiry_s = expiry_s
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # by request, the first that is due first
        self._here: list[dict[int, Entry]] = []  # by seat, then by request, the oldest first
        self._own: list[float] = []  # blocks counted one by one: output, and prompts without hashes
        self._told: list[tuple[int, int, float]] = []  # what the report adds: prefill tokens, requests, blocks
        self._early: OrderedDict[int, tuple[int, int]] = OrderedDict()  # request -> attempt and stage
        self._paths = Paths()
        self._progress = Progress()
        self.prefill_tokens: list[int] = []  # queued, by seat
        self.requests: list[int] = []  # running and waiting
        self.blocks: list[float] = []  # in use
        self.blocks_total: list[int] = []  # of the cache, as reported; 0: unknown

    # --- What happens to requests ------------------------------------------------------------------------

    def placed(self, entry: Entry) -> bool:
        """A request was sent to a rank; whether that was news."""
        old = self._entries.get(entry.request)
        attempt, stage = self._early.get(entry.request, (0, PLACED))
        if attempt > entry.attempt or (attempt == entry.attempt and stage == OVER):
            return False
        if old is not None and (
            old.attempt > entry.attempt or (old.attempt == entry.attempt and old.rank <= entry.rank)
        ):
            return False  # of two routers that placed the same attempt, all believe the same one
        if old is not None:
            self._free(old)
        if attempt == entry.attempt and stage == PREFILLED:
            entry.prefill_tokens = 0
        self._add(entry)
        return True

    def prefilled(self, request: int, attempt: int, now: float = 0.0) -> None:
        """It has had its first token: its prompt is computed, since now if that is known."""
        entry = self._entries.get(request)
        if entry is not None and entry.attempt < attempt:
            self._free(entry)
        elif entry is not None and entry.attempt == attempt:
            self._computed(entry, now)
        self._remember(request, attempt, PREFILLED)

    def freed(self, request: int, attempt: int) -> None:
        """It is over, or it is elsewhere by now."""
        entry = self._entries.get(request)
        if entry is not None and entry.attempt <= attempt:
            self._free(entry)
        self._remember(request, attempt, OVER)

    # --- What workers say --------------------------------------------------------------------------------

    def report(self, rank: Rank, report: Report, now: float) -> None:
        """A worker's own word on a rank's load.

        What it may not know yet is not taken for ended; what it may know already is not taken for somebody else's.
        """
        seat = self._seat(rank)
        there = report.running + report.waiting
        settled = [entry for entry in self._here[seat].values() if entry.at <= now - UNDER_WAY_S]
        ended = max(0, len(settled) - there)
        for entry in settled[:ended]:
            self.freed(entry.request, entry.attempt)
        settled = settled[ended:]
        for entry in settled:
            entry.checked = now
        prefill, blocks = 0, 0.0
        if report.blocks_total:  # it says more than how many requests there are
            prefill = self._correct_prefill(seat, settled, report.prefill_tokens)
            blocks = max(0.0, report.blocks_used - (self._paths.blocks.get(seat, 0) + self._own[seat]))
        others = max(0, there - len(self._here[seat]))
        self.prefill_tokens[seat] += prefill - self._told[seat][0]
        self.requests[seat] += others - self._told[seat][1]
        self._told[seat] = (prefill, others, blocks)
        self.blocks_total[seat] = report.blocks_total
        self._sum_blocks(seat)

    def _correct_prefill(self, seat: int, settled: list[Entry], told: int) -> int:
        """Believe the worker on what is computed already; returns what it has queued that we do not know."""
        known = sum(entry.prefill_tokens for entry in settled)
        for entry in settled:
            if known <= told:
                break
            known -= entry.prefill_tokens
            self._computed(entry)
        return max(0, told - sum(entry.prefill_tokens for entry in self._here[seat].values()))

    def gone(self, node: int) -> None:
        """A worker is gone, and all that ran there. To be called before its seats are given up."""
        for seat in self._seats.of(node):
            if seat >= len(self._here):
                continue
            for entry in list(self._here[seat].values()):
                self.freed(entry.request, entry.attempt)
            self._paths.forget(seat)
            self._told[seat], self._own[seat] = (0, 0, 0.0), 0.0
            self.prefill_tokens[seat] = self.requests[seat] = self.blocks_total[seat] = 0
            self.blocks[seat] = 0.0

    def expire(self, now: float) -> None:
        """Drop requests that nobody ended; one that its worker's report still covers is kept."""
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.due > now:
                return
            if now - entry.checked < REPORT_S:
                entry.due = now + self._expiry_s
                self._entries.move_to_end(entry.request)
            else:
                self.freed(entry.request, entry.attempt)

    # --- What is asked of it -----------------------------------------------------------------------------

    def common(self, hashes: Hashes) -> list[int]:
        """How many leading blocks of a prompt are in use on each seat by running requests."""
        column = [0] * len(self._seats.ranks)
        for blocks, mask in self._paths.shared(hashes):
            for seat in numbers_in(mask):
                column[seat] = blocks
        return column

    @property
    def since(self) -> list[float]:
        """By seat, when the prompt that is computed there now was begun; -inf: there is none."""
        return self._progress.since

    def reserve(self, rank: Rank) -> None:
        """Give a rank its row in all columns."""
        self._seat(rank)

    def rank_of(self, request: int) -> Rank | None:
        """Where a request is."""
        entry = self._entries.get(request)
        return entry.rank if entry else None

    def __len__(self) -> int:
        return len(self._entries)

    # --- Parts -------------------------------------------------------------------------------------------

    def _seat(self, rank: Rank) -> int:
        seat = self._seats.add(rank)
        while len(self._here) < len(self._seats.ranks):
            self._here.append({})
            self._own.append(0.0)
            self._told.append((0, 0, 0.0))
            self.prefill_tokens.append(0)
            self._progress.since.append(-inf)
            self.requests.append(0)
            self.blocks.append(0.0)
            self.blocks_total.append(0)
        return seat

    def _add(self, entry: Entry) -> None:
        seat = entry.seat = self._seat(entry.rank)
        entry.due = entry.at + self._expiry_s
        self._entries[entry.request] = entry
        self._here[seat][entry.request] = entry
        self.requests[seat] += 1
        self.prefill_tokens[seat] += entry.prefill_tokens
        if entry.prefill_tokens:
            self._progress.begin(seat, entry.request, entry.at)
        self._own[seat] += entry.blocks - len(entry.hashes or ())  # the last block is not full, and has no hash
        if entry.hashes is not None:
            self._paths.add(seat, entry.hashes)
        self._sum_blocks(seat)

    def _computed(self, entry: Entry, now: float = 0.0) -> None:
        self._progress.end(entry.seat, entry.request, now)
        self.prefill_tokens[entry.seat] -= entry.prefill_tokens
        entry.prefill_tokens = 0

    def _free(self, entry: Entry) -> None:
        seat = entry.seat
        del self._entries[entry.request]
        del self._here[seat][entry.request]
        self.requests[seat] -= 1
        self._computed(entry)
        self._own[seat] -= entry.blocks - len(entry.hashes or ())
        if entry.hashes is not None:
            self._paths.remove(seat, entry.hashes)
        self._sum_blocks(seat)

    def _sum_blocks(self, seat: int) -> None:
        self.blocks[seat] = self._paths.blocks.get(seat, 0) + self._own[seat] + self._told[seat][2]

    def _remember(self, request: int, attempt: int, stage: int) -> None:
        self._early[request] = max(self._early.pop(request, (0, PLACED)), (attempt, stage))
        if len(self._early) > EARLY_MAX:
            self._early.popitem(last=False)

    def check(self) -> None:
        """Assert all invariants."""
        self._paths.check()
        self._progress.check()
        for seat, here in enumerate(self._here):
            entries = here.values()
            told_prefill, told_requests, told_blocks = self._told[seat]
            assert all(self._seats.find(entry.rank) == entry.seat == seat for entry in entries)
            assert self.requests[seat] == len(here) + told_requests
            assert self.prefill_tokens[seat] == sum(entry.prefill_tokens for entry in entries) + told_prefill
            own = sum(entry.blocks - len(entry.hashes or ()) for entry in entries)
            assert abs(self.blocks[seat] - self._paths.blocks.get(seat, 0) - own - told_blocks) < 1e-6
        assert len(self._entries) == sum(map(len, self._here))
