"""Pure. Continuous batching: which positions of which sequences the next step computes.

Each step, every sequence that decodes gets its one position first, because somebody watches it; what is left of the
step's tokens goes to prompts, in order, cut to what fits; then new sequences are admitted, with as much of their prompt
as the cache already holds. Order is (priority, arrival). When the blocks run out, the last in that order loses its own
and is computed again later (or is handed over to another worker). The first in order can always go on, because a job
that would not fit alone is refused, so everything ends.
"""

from bisect import insort
from collections.abc import Hashable, Sequence

from nodes.contract.below import Below
from nodes.contract.blocks import NONE, Digest, Pool
from nodes.contract.engine import FULL, BlockEvent, Ending, EngineLoad, Job, Logprobs, Output
from nodes.engines.exporting import Exchange, copy_of, export, keep, positions_in, save, tell_exported
from nodes.engines.prefixes import Prefixes
from nodes.engines.running import (
    Brought,
    Limits,
    Part,
    Plan,
    Running,
    are_tokens,
    ending_of,
    order_of,
    refusal_of,
    running_of,
)

__all__ = ["Limits", "Part", "Plan", "Running", "Scheduler"]


class Scheduler:
    """The queue, the running and their blocks."""

    def __init__(self, limits: Limits, digest: Digest, exchange: Exchange) -> None:
        assert limits.step_tokens >= limits.slots
        self.limits = limits
        self.pool = Pool(limits.blocks, limits.caching)
        self.decoding: list[Running] = []
        self.filling: list[Running] = []
        self.landing: list[Running] = []  # they have their blocks, and wait for what belongs there
        self.waiting: list[Running] = []  # by order
        self._prefixes = Prefixes(limits, self.pool, digest, exchange)
        self._exchange = exchange
        self._all: dict[Hashable, Running] = {}
        self._arrivals = 0
        self._reports: list[Output] = []  # what the next step tells and did not make
        self._exporting = 0  # jobs with `out`
        self._kept: dict[Hashable, Brought] = {}  # what preempted jobs had, until somebody takes it
        self._stuck = False  # nothing can be done before a job comes, lands or goes

    # --- Coming and going -------------------------------------------------------------------------------

    def submit(self, job: Job) -> str | None:
        """Queue a job; or why not."""
        refusal = "a job of this key is already here" if job.key in self._all else refusal_of(job, self.limits)
        if refusal is not None:
            return refusal
        self._arrivals += 1
        running = running_of(job, self.limits, self._arrivals, self._prefixes.root(job.cache_salt))
        if job.generated and (ending := ending_of(running, running.tokens[-1])):
            self._reports.append(Output(job.key, ending=ending))
        elif len(running.tokens) >= running.length_max:
            self._reports.append(Output(job.key, ending=Ending.LENGTH))
        elif len(self.waiting) >= self.limits.waiting_max:
            return FULL
        else:
            self._all[job.key] = running
            self._exporting += job.out is not None
            self._stuck = False
            insort(self.waiting, running, key=order_of)
            if not job.lands:
                self._prefixes.seek(running)
        return None

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        """End a job; how many positions of it are in `out`."""
        running = self._all.get(key)
        if running is None:
            kept = self._kept.pop(key, None)
            return 0 if kept is None or out is None else kept.save(out, self._exchange.layout)
        saved = 0 if out is None else save(running, running in self.decoding, out, self._exchange)
        self._end(running, Ending.CANCELLED)
        return saved

    def land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        """A job that waits for this goes on."""
        running = self._all.get(key)
        if running is None or not running.lands:
            return
        running.lands = self._stuck = False
        positions = max(0, positions)
        running.tokens += tokens
        if not are_tokens(tokens, self.limits.vocabulary):
            self._end(
                running, Ending.FAILED, f"a token outside the vocabulary of {self.limits.vocabulary} came with it"
            )
        elif tokens and (ending := ending_of(running, tokens[-1])):
            self._end(running, ending)
        elif running in self.landing:
            self.landing.remove(running)
            self._settle(running, source, positions)
        elif source is not None:
            running.brought = copy_of(source, min(positions, len(running.tokens) - 1), self._exchange.layout)

    def fail(self, running: Running, text: str, ending: Ending = Ending.FAILED) -> None:
        """Give one job up; the others go on."""
        self._end(running, ending, text)

    def clear(self) -> list[Output]:
        """End all jobs and forget all prefixes; the reports that nobody has got."""
        self._end_all()
        self.pool.clear()
        return self.reports()

    def forget(self) -> None:
        """Nobody is here, and what the cache knows is about to be lost."""
        assert not self._all, "it is told so only while it has no job"
        self.pool.clear()

    def attach(self, below: Below) -> None:
        self._prefixes.attach(below)

    def stir(self) -> None:
        self._stuck = False

    def stop(self) -> list[Output]:
        """As `clear`; but what is known goes below first."""
        self._end_all()
        self._prefixes.flush()
        return self.clear()

    # --- One step ---------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Decide what the next step computes, and take the blocks for it."""
        preempted, waited = False, len(self.waiting)
        self._stuck = False
        decoding = [running for running in self.decoding if len(running.tokens) <= running.room]
        if len(decoding) < len(self.decoding):
            preempted = self._make_room()
            decoding = [running for running in self.decoding if len(running.tokens) <= running.room]
        parts: list[Part] = []
        budget = self.limits.step_tokens - len(decoding)
        if self.filling or self.waiting:
            preempted |= self._fill(parts, budget)
            decoding = [running for running in decoding if running.room]  # a prompt may have preempted one
            if not preempted:
                self._admit(parts, budget - sum(part.count for part in parts))
        heads = decoding
        if parts:
            whole = [part.running for part in parts if part.start + part.count == len(part.running.tokens)]
            heads = decoding + whole
        elif not decoding:
            runs = len(self.waiting) != waited and (self.decoding or self.filling)
            self._stuck = not preempted and not runs
        return Plan(decoding, parts, heads)

    def apply(self, plan: Plan, tokens: Sequence[int], logprobs: Sequence[Logprobs | None] = ()) -> list[Output]:
        """The step is done, and each of the plan's heads got a token: what to tell."""
        if self._exporting:
            export(plan, self._exchange)
        for part in plan.parts:
            self._computed(part)
        outputs = self.reports()
        first, ended = len(outputs), []
        for running, token in zip(plan.heads, tokens, strict=True):
            before = running.tokens
            before.append(token)
            output = Output(running.key, [token])
            outputs.append(output)
            if len(before) > running.quiet_until or token in running.stops:
                output.ending = self._look(running, token)
                if output.ending is not None:
                    ended.append(running)
        for output, row in zip(outputs[first:], logprobs, strict=False):
            output.logprobs = () if row is None else (row,)
        for output, running in zip(
            outputs[first + len(plan.decoding) :], plan.heads[len(plan.decoding) :], strict=True
        ):
            output.cached_tokens = 0 if running.reported else running.cached
            running.reported = True
        if self._exporting:
            tell_exported(plan, outputs, first)
        for running in ended:
            self._remove(running)
        return outputs

    def reports(self) -> list[Output]:
        """What came from elsewhere than a step; each is told once."""
        reports, self._reports = self._reports, []
        return reports

    def events(self) -> list[BlockEvent]:
        events, self.pool.events = self.pool.events, []
        return events

    # --- What others ask --------------------------------------------------------------------------------

    def idle(self) -> bool:
        return (self._stuck or not self._all) and not self._reports and not self.pool.events

    def load(self) -> EngineLoad:
        missing = sum(len(running.tokens) - running.computed for running in self.filling)
        missing += sum(len(running.tokens) for running in self.waiting if not (running.lands or running.brought))
        return EngineLoad(self._count(), len(self.waiting), self.pool.used, self.pool.total, missing)

    def check(self) -> None:
        """Assert all invariants."""
        self.pool.check()
        running = self.decoding + self.filling + self.landing
        assert len(running) <= self.limits.slots
        assert sorted(map(order_of, running + self.waiting)) == sorted(map(order_of, self._all.values()))
        for one in running:
            assert one.room == len(one.blocks) * self.limits.block_tokens >= one.computed
            assert one.computed <= len(one.tokens) < one.length_max
            assert one.lands == (one in self.landing) and one.brought is None
        assert not any(one.blocks for one in self.waiting)
        assert self._exporting == sum(one.job.out is not None for one in self._all.values())
        assert len({block for one in running for block in one.blocks}) == self.pool.used

    # --- Inside -----------------------------------------------------------------------------------------

    def _count(self) -> int:
        return len(self.decoding) + len(self.filling) + len(self.landing)

    def _settle(self, running: Running, source: memoryview | None, positions: int) -> None:
        """Put what came into its blocks, but for what the cache had already, and let it go on."""
        here = 0
        if source is not None:
            last = len(running.tokens) - 1  # whose step gives the next token
            here = min(positions, last, running.room, positions_in(source, self._exchange.layout))
        if source is not None and here > running.computed >= running.job.first:
            self._exchange.scatter(running, running.computed, here, source)
            running.computed = here
            self._prefixes.store(running, here)
        if running.computed < len(running.tokens) - 1:
            self.filling.append(running)
            return
        self.decoding.append(running)
        self._exchange.resume(running)
        if running.cached and not running.reported:
            self._reports.append(Output(running.key, cached_tokens=running.cached))
        running.reported = True

    def _look(self, running: Running, token: int) -> Ending | None:
        """Something may have come with this token: a full block, the end, or nothing."""
        size, computed = self.limits.block_tokens, len(running.tokens) - 1
        self._prefixes.store(running, computed)
        running.quiet_until = min(computed // size * size + size, running.length_max - 1)
        return ending_of(running, token)

    def _make_room(self) -> bool:
        """A block for each decoding sequence that has filled its last; whether somebody lost theirs for it."""
        preempted = False
        for running in [running for running in self.decoding if len(running.tokens) > running.room]:
            if running.room:  # not preempted meanwhile
                preempted |= self._grow(running, len(running.tokens))
        return preempted

    def _fill(self, parts: list[Part], budget: int) -> bool:
        preempted = False
        for running in [*self.filling]:
            if not running.room or budget <= 0:
                continue
            length = len(running.tokens)
            preempted |= self._grow(running, min(length, running.computed + budget))
            budget -= self._part(parts, running, min(length, running.room) - running.computed, budget)
        parts[:] = [part for part in parts if part.running.room]
        return preempted

    def _part(self, parts: list[Part], running: Running, count: int, budget: int) -> int:
        count = min(count, budget)
        if count > 0:
            parts.append(Part(running, running.computed, count))
        return max(count, 0)

    def _admit(self, parts: list[Part], budget: int) -> None:
        limits = self.limits
        while self.waiting and budget > 0 and self._count() < limits.slots:
            running = self._prefixes.next(self.waiting, [*self.landing, *self.filling])
            if running is None:
                return
            found = self._prefixes.found(running)
            here, idle = self.pool.idle_among(found)
            spare = int(limits.spare * limits.blocks) if self._count() else 0
            needed = -(-len(running.tokens) // limits.block_tokens) - here
            if needed + idle + spare > self.pool.free:
                return
            self.waiting.remove(running)
            self._start(running, found, here, budget)
            if running in self.filling:
                budget -= self._part(parts, running, min(len(running.tokens), running.room) - running.computed, budget)

    def _start(self, running: Running, found: Sequence[int], here: int, budget: int) -> None:
        """Give it blocks: those that are here of what it could find, and those that it needs first."""
        running.blocks = self.pool.share(found[:here])
        running.stored = here
        running.computed = running.room = here * self.limits.block_tokens
        if self._prefixes.below is not None and not running.lands and running.brought is None:
            self._restore(self._prefixes.below, running, found, here)
        if not running.admitted:
            running.admitted = True
            running.cached = min(running.computed, running.prompt)
        if running.lands:
            self._grow(running, len(running.tokens))
            self.landing.append(running)
        elif running.brought is not None:
            brought, running.brought = running.brought, None
            self._grow(running, len(running.tokens))
            self._settle(running, memoryview(brought.content), brought.positions)
        else:
            self.filling.append(running)
            self._grow(running, min(len(running.tokens), running.computed + budget))

    def _restore(self, below: Below, running: Running, found: Sequence[int], here: int) -> None:
        """Blocks that follow those which are here come from below."""
        below.used(running.parent, found[:here], running.blocks)
        sources = below.ready(running.key, found[here:])
        self._grow(running, (here + len(sources)) * self.limits.block_tokens)
        if sources := sources[: len(running.blocks) - here]:
            self._exchange.restore(running, here, sources)
            running.computed = running.room
            self._prefixes.store(running, running.computed)
        below.leave(running.key)

    def _grow(self, running: Running, length: int) -> bool:
        """Blocks for `length` positions, if need be from those who come later; whether somebody lost theirs."""
        preempted = False
        while running.room < length:
            block = self.pool.take(running.blocks[-1] if running.blocks else NONE)
            if block != NONE:
                running.blocks.append(block)
                running.room += self.limits.block_tokens
                continue
            last = max(self.decoding + self.filling, key=order_of)
            if last is running and not self.limits.hand_over:
                return preempted  # it waits: the others end, or take its room
            self._preempt(last)
            preempted = True
            if last is running:
                return preempted
        return preempted

    def _preempt(self, running: Running) -> None:
        unseen = any(media.embedding is None for media in running.job.media)  # it came as blocks: they are gone then
        if self.limits.hand_over or unseen:
            kept = keep(running, running in self.decoding, self._exchange)
            if kept is not None:
                self._kept[running.key] = kept
            self._end(running, Ending.PREEMPTED, kept=0 if kept is None else kept.positions)
            return
        self._withdraw(running)
        insort(self.waiting, running, key=order_of)

    def _computed(self, part: Part) -> None:
        running = part.running
        running.computed = part.start + part.count
        self._prefixes.store(running, running.computed)
        if running.computed == len(running.tokens):
            self.filling.remove(running)
            self.decoding.append(running)

    def _withdraw(self, running: Running) -> None:
        """Take it out of the batch; its blocks are free."""
        for group in (self.decoding, self.filling, self.landing, self.waiting):
            if running in group:
                group.remove(running)
                break
        self.pool.release(running.blocks)
        running.blocks = []
        running.room = running.quiet_until = 0

    def _remove(self, running: Running) -> None:
        self._withdraw(running)
        self._stuck = False
        self._exporting -= running.job.out is not None
        self._prefixes.leave(running)
        del self._all[running.job.key]

    def _end(self, running: Running, ending: Ending, text: str = "", kept: int = 0) -> None:
        self._remove(running)
        self._reports.append(Output(running.key, ending=ending, text=text, exported=running.exported, kept=kept))

    def _end_all(self) -> None:
        self._kept.clear()
        for running in [*self._all.values()]:
            self._end(running, Ending.CANCELLED)
