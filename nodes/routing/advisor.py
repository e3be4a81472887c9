"""Pure. KV-aware placing in one object: what a router knows of caches and loads, and what it makes of a request.

Its owner (the router's core) tells it who is there, hands it what workers, owners and other routers say, and asks it
to place. All answers are values: what to send to whom. One advisor serves one model: caches of different models have
nothing in common.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from random import Random

from msgspec import Struct, structs

from nodes.routing import replicas
from nodes.routing.cost import Prompt, Snapshot
from nodes.routing.explain import Decision
from nodes.routing.hashes import Hashes, unpack
from nodes.routing.index import Index
from nodes.routing.knobs import Knobs, overridden
from nodes.routing.parking import Parking
from nodes.routing.policy import all_queued, choose
from nodes.routing.remembered import Remembered
from nodes.routing.replicas import Outbox
from nodes.routing.seats import Seats, numbers_in
from nodes.routing.sessions import Sessions
from nodes.routing.sources import Sends, Sources
from nodes.routing.tracking import Tracking
from proto.placing import Blocks, Cut, Parked, Piece, Placement, Rank, Report, Routed, Settled, Wish

TICK_S = 1.0  # nothing here is urgent: what is owed is asked for again, what is old is dropped
DECISIONS_MAX = 1_024  # kept to be explained: some 6 KiB each at 64 workers


class Asked(Struct, gc=False):
    """A request to place, as it came."""

    request: int
    attempt: int
    wish: Wish


def anywhere(asked: Asked) -> Asked:
    """Of a prefill worker: a rank that was wished for is one of the worker that decodes."""
    return Asked(asked.request, asked.attempt, structs.replace(asked.wish, rank=-1)) if asked.wish.rank >= 0 else asked


IsFed = Callable[[Decision], bool]


def _never(decision: Decision) -> bool:
    return False


class Advisor:
    """See above. `capacity` may tell a rank's blocks and the tokens that it computes in a step; (0, 0): unknown."""

    def __init__(
        self, knobs: Knobs, random: Random, capacity: Callable[[Rank], tuple[int, int]] = lambda rank: (0, 0)
    ) -> None:
        self._knobs = knobs
        self._random = random
        self._capacity = capacity
        self._seats = Seats()
        self.sources = Sources(Index(knobs.index_blocks_max, knobs.prune_ratio), self._seats)
        self.tracking = Tracking(self._seats, knobs.active_expiry_s)
        lifetime_s = knobs.approximate_ttl_s if knobs.approximate_policy == "ttl" else 0.0
        self._approximate = Remembered(lifetime_s, knobs.approximate_blocks_max, knobs.prune_ratio)
        self._sessions = Sessions(knobs.session_ttl_s, knobs.sessions_max)
        self._parking: Parking[Asked] = Parking(knobs.queue_policy, knobs.queue_requests_max)
        self._decisions: OrderedDict[int, Decision] = OrderedDict()  # by request, the oldest first
        self.outbox = Outbox()
        self._ticked = 0.0

    # --- Who is there, and what they say -----------------------------------------------------------------

    def up(self, node: int, now: float) -> Sends:
        """A worker of our model is there; what to ask it."""
        self.tracking.reserve((node, 0))
        self.sources.reserve(self._seats.find((node, 0)))
        return self.sources.up(node, now) if self._knobs.events else []

    def down(self, node: int) -> None:
        """A worker is gone."""
        self.sources.down(node)
        self.tracking.gone(node)
        for seat in self._seats.drop(node):
            self._approximate.forget(seat)

    def heard(self, node: int, message: Blocks | Cut | Piece, now: float) -> Sends:
        """A worker's word on its cache; what to ask it."""
        sends = self.sources.received(node, message, now)
        for number in range(len(self._seats.of(node))):
            self.tracking.reserve((node, number))
        return sends

    def reported(self, rank: Rank, report: Report, now: float) -> None:
        """A worker's word on its load."""
        if self._seats.find(rank) >= 0:
            self.tracking.report(rank, report, now)

    def settled(self, message: Settled, now: float) -> None:
        """An owner's word on what became of requests."""
        replicas.merge(self.tracking, message, now)
        for leg in message.freed:
            self._parking.drop(leg.request)
        if self._knobs.replica_sync:
            self.outbox.settled(message)

    def replicated(self, message: Routed | Settled, now: float) -> None:
        """Another router's word on requests. Of workers that we do not see it says nothing that we could use."""
        if isinstance(message, Routed):
            known = [one for one in message.placements if self._seats.find((one.node, one.rank)) >= 0]
            message = Routed(known)
            for placement in known:
                hashes = replicas.hashes_of(placement)
                if hashes is not None:
                    self._remember((placement.node, placement.rank), hashes, now)
        replicas.merge(self.tracking, message, now)

    def tick(self, now: float) -> Sends:
        """Ask again for what did not come, and forget what is too old."""
        self._ticked = now
        self.tracking.expire(now)
        return self.sources.tick(now)

    def deadline(self) -> float:
        """When the next `tick` is wanted."""
        return self._ticked + TICK_S

    # --- Placing -----------------------------------------------------------------------------------------

    def place(self, asked: Asked, nodes: Iterable[int], now: float, is_fed: IsFed = _never) -> Decision | Parked:
        """Where a request should go, of the workers that may take it; or that it has to wait for an answer.

        `is_fed` says of a decision whether somebody else computes the prompt. Raises ValueError with a sentence if the
        request's wishes make no sense.
        """
        hashes = unpack(asked.wish.hashes)
        decision = self._decide(asked, hashes, nodes, now)
        decision.fed = decision.choice.row >= 0 and is_fed(decision)
        if decision.choice.row >= 0 and not decision.fed and all_queued(decision.snapshot, decision.knobs):
            return self._park(asked, decision, now)
        self._commit(asked, decision, hashes, now)
        return decision

    def best(self, asked: Asked, nodes: Iterable[int], now: float) -> Decision:
        """The same as advice only: nothing is counted, and nobody waits."""
        return self._decide(asked, unpack(asked.wish.hashes), nodes, now)

    def next_parked(
        self, nodes: Callable[[Asked], Iterable[int]], now: float, is_fed: IsFed = _never
    ) -> tuple[Asked, Decision] | None:
        """The next waiting request that can be placed by now, if any; to be called until there is none."""
        asked = self._parking.first()
        if asked is None:
            return None
        hashes = unpack(asked.wish.hashes)
        decision = self._decide(asked, hashes, nodes(asked), now)
        decision.fed = decision.choice.row >= 0 and is_fed(decision)
        if decision.choice.row >= 0 and not decision.fed and all_queued(decision.snapshot, decision.knobs):
            return None
        self._parking.drop(asked.request)
        self._commit(asked, decision, hashes, now)
        return asked, decision

    def drop(self, request: int) -> None:
        """Its owner waits no longer for an answer."""
        self._parking.drop(request)

    def decision(self, request: int) -> Decision | None:
        """The last decision about a request, if it is not too long ago."""
        return self._decisions.get(request)

    def holding(self, names: Hashes) -> dict[int, int]:
        """How many of these blocks, each by itself, a node holds; those that hold none are left out."""
        found: dict[int, int] = {}
        for name in names:
            for rank, blocks in zip(self._seats.ranks, self.sources.overlaps(Hashes("Q", [name]))[-1], strict=True):
                if rank is not None and blocks:
                    found[rank[0]] = found.get(rank[0], 0) + 1
        return found

    def queued(self, nodes: Iterable[int]) -> list[tuple[Rank, int]]:
        """The prefill tokens that wait on each rank of these nodes."""
        pick = self._seats.rows(tuple(nodes))
        return list(zip(pick(self._seats.ranks), pick(self.tracking.prefill_tokens), strict=True))

    @property
    def parked(self) -> int:
        """How many requests wait here."""
        return len(self._parking)

    # --- Parts -------------------------------------------------------------------------------------------

    def _decide(self, asked: Asked, hashes: Hashes, nodes: Iterable[int], now: float) -> Decision:
        wish = asked.wish
        knobs = overridden(self._knobs, wish.overrides)
        tokens = max(wish.tokens, len(hashes) * wish.block_tokens)
        prompt = Prompt(tokens, wish.block_tokens)
        snapshot = self._snapshot(hashes, wish, nodes, now)
        choice = choose(snapshot, prompt, knobs, self._random)
        return Decision(asked.request, asked.attempt, now, prompt, snapshot, choice, knobs)

    def _snapshot(self, hashes: Hashes, wish: Wish, nodes: Iterable[int], now: float) -> Snapshot:
        pick = self._seats.rows(tuple(nodes), wish.rank)
        tracking = self.tracking
        ranks = pick(self._seats.ranks)
        common = tracking.common(hashes)
        device, host, disk = map(pick, self._cached(hashes, common, now))
        capacities = [self._capacity(rank) for rank in ranks] if self._limited() else []
        last = self._sessions.get(wish.session, now) if wish.session else None
        return Snapshot(
            ranks=ranks,
            device=device,
            host=device if host == device else host,
            disk=device if disk == device else disk,
            prefill_tokens=pick(tracking.prefill_tokens),
            since=pick(tracking.since),
            blocks=pick(tracking.blocks),
            common=pick(common),
            requests=pick(tracking.requests),
            exact=pick(self.sources.exact),
            blocks_total=[blocks for blocks, _ in capacities],
            step_tokens=[tokens for _, tokens in capacities],
            session=ranks.index(last) if last in ranks else -1,
        )

    def _cached(self, hashes: Hashes, common: list[int], now: float) -> tuple[list[int], list[int], list[int]]:
        """Leading blocks by seat, on each level: as workers told, or if that is more, as we guess from what we sent.

        What runs on a rank is there, or is there soon: `common`. A longer memory serves for ranks that tell nothing.
        """
        columns = self.sources.overlaps(hashes)
        if self._knobs.predict and any(common):
            columns = [list(map(max, column, common)) for column in columns]
        exact = self.sources.exact
        for blocks, mask in self._approximate.overlaps(hashes, now):
            for seat in numbers_in(mask):
                if not exact[seat]:
                    for column in columns:
                        column[seat] = max(column[seat], blocks)
        return columns[0], columns[min(1, len(columns) - 1)], columns[-1]

    def _limited(self) -> bool:
        knobs = self._knobs
        limits = (knobs.busy_decode_blocks, knobs.busy_prefill_fraction, knobs.queue_threshold)
        return any(limit is not None for limit in limits)

    def _park(self, asked: Asked, decision: Decision, now: float) -> Decision | Parked:
        wish = asked.wish
        uncached = decision.prompt.tokens - max(decision.snapshot.disk) * wish.block_tokens
        before = self._parking.put(asked.request, asked, now, wish.strict_priority, wish.priority, uncached)
        if before < 0:
            decision.choice.row = -1
            decision.choice.refused = f"every worker is busy, and {len(self._parking)} requests wait already"
            self._keep(decision)
            return decision
        return Parked(asked.request, asked.attempt, before)

    def _commit(self, asked: Asked, decision: Decision, hashes: Hashes, now: float) -> None:
        """Count it."""
        self._keep(decision)
        rank = decision.rank
        if rank is None:
            return
        prompt, wish = decision.prompt, asked.wish
        placement = Placement(
            request=asked.request,
            attempt=asked.attempt,
            node=rank[0],
            rank=rank[1],
            tokens=prompt.tokens,
            prefill_tokens=0 if decision.fed else max(0, prompt.tokens - decision.cached * prompt.block_tokens),
            blocks=prompt.blocks,
            block_tokens=prompt.block_tokens,
            hashes=wish.hashes,
            expected_tokens=wish.expected_tokens,
        )
        self.tracking.placed(replicas.entry(placement, now, hashes if decision.knobs.assume_reuse else None))
        self._remember(rank, hashes, now)
        self._sessions.put(wish.session, rank, now)
        if self._knobs.replica_sync:
            self.outbox.placed(placement)

    def _remember(self, rank: Rank, hashes: Hashes, now: float) -> None:
        seat = self._seats.find(rank)
        if not self.sources.exact[seat]:
            self._approximate.add(seat, hashes, now)
        if self.sources.index.crowded:
            self.sources.index.touch(hashes)

    def _keep(self, decision: Decision) -> None:
        self._decisions[decision.request] = decision
        self._decisions.move_to_end(decision.request)
        if len(self._decisions) > DECISIONS_MAX:
            self._decisions.popitem(last=False)
