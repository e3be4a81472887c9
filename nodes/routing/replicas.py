"""Pure. What routers tell each other: what they placed, and what became of it. Best effort, bounded, in any order.

Nothing here is needed to be right: who misses a message believes a rank less busy than it is, until the worker reports.
`Tracking` takes every message twice or late without harm. So a router that cannot keep up drops, and counts it: first
the hashes (a prompt's blocks then count as its own), then whole placements, the oldest first.
"""

from collections import deque

from nodes.routing.hashes import HASH_BYTES, Hashes, unpack
from nodes.routing.tracking import Entry, Tracking
from proto import placing as wire
from proto.basics import LegName
from proto.placing import Placement, Routed, Settled

PLACEMENTS_MAX = 8_192  # that wait to be told: a second of the busiest router
EXPECTED_TOKENS_MAX = 131_072  # a client that promises more would keep others from its worker
HASH_BYTES_MAX = 4 * 1024 * 1024  # of their hashes


class Outbox:
    """What is to be told to the other routers with the next turn."""

    def __init__(self) -> None:
        self._placements: deque[Placement] = deque(maxlen=PLACEMENTS_MAX)
        self._prefilled: deque[LegName] = deque(maxlen=PLACEMENTS_MAX)
        self._freed: deque[LegName] = deque(maxlen=PLACEMENTS_MAX)
        self._bytes = 0
        self.dropped = 0
        self.bared = 0  # told without their hashes

    def placed(self, placement: Placement) -> None:
        """We placed a request."""
        if len(placement.hashes) > wire.ROUTED_BYTES_TARGET or self._bytes + len(placement.hashes) > HASH_BYTES_MAX:
            placement.hashes = b""
            self.bared += 1
        if len(self._placements) == PLACEMENTS_MAX:
            self._bytes -= len(self._placements.popleft().hashes)
            self.dropped += 1
        self._placements.append(placement)
        self._bytes += len(placement.hashes)

    def settled(self, message: Settled) -> None:
        """An owner told us what became of requests. What another router told is not passed on again."""
        for kept, more in ((self._prefilled, message.prefilled), (self._freed, message.freed)):
            self.dropped += max(0, len(kept) + len(more) - PLACEMENTS_MAX)
            kept.extend(more)

    def flush(self) -> list[Routed | Settled]:
        """All of it, in messages of bounded size; placements first."""
        messages: list[Routed | Settled] = []
        while self._placements:
            messages.append(Routed(self._batch()))
        while self._prefilled or self._freed:
            messages.append(Settled(_take(self._prefilled), _take(self._freed)))
        return messages

    def _batch(self) -> list[Placement]:
        """As many placements as go into one message."""
        batch: list[Placement] = []
        room = wire.ROUTED_BYTES_TARGET
        while self._placements and len(batch) < wire.ENTRIES_MAX:
            room -= len(self._placements[0].hashes)
            if room < 0 and batch:
                break
            batch.append(self._placements.popleft())
            self._bytes -= len(batch[-1].hashes)
        return batch


def merge(tracking: Tracking, message: Routed | Settled, now: float) -> None:
    """What another router, or an owner, told."""
    if isinstance(message, Routed):
        for placement in message.placements:
            tracking.placed(entry(placement, now, hashes_of(placement)))
        return
    for leg in message.prefilled:
        tracking.prefilled(leg.request, leg.attempt, now)
    for leg in message.freed:
        tracking.freed(leg.request, leg.attempt)


def hashes_of(placement: Placement) -> Hashes | None:
    """The prompt's blocks, if they were told and make sense."""
    whole = placement.hashes and len(placement.hashes) % HASH_BYTES == 0
    return unpack(placement.hashes) if whole else None


def entry(placement: Placement, now: float, hashes: Hashes | None) -> Entry:
    """A placement as it is tracked. Without hashes its blocks are its own.

    Workers say in each heartbeat how many blocks they use. To be told of outputs one by one as well made no difference
    to any step or answer (four simulated workers, answers of 20 to 3,000 tokens); to know beforehand makes the fullest
    worker's peak an eighth lower at half load.
    """
    expected = min(placement.expected_tokens, EXPECTED_TOKENS_MAX)
    return Entry(
        request=placement.request,
        attempt=placement.attempt,
        rank=(placement.node, placement.rank),
        at=now,
        prefill_tokens=placement.prefill_tokens,
        blocks=max(placement.blocks, len(hashes or ())) + expected // 2 // placement.block_tokens,
        hashes=hashes,
    )


def _take(waiting: deque[LegName]) -> list[LegName]:
    return [waiting.popleft() for _ in range(min(len(waiting), wire.ENTRIES_MAX))]
