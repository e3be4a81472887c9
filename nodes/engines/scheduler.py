"""Pure. Continuous batching: which positions of which sequences the next step computes.

Each step, every sequence that decodes gets its one position first, because somebody watches it; what is left of the
step's tokens goes to prompts, in order, cut to what fits; then new sequences are admitted, with as much of their prompt
as the cache already holds. Order is (priority, arrival). When the blocks run out, the last in that order loses its own
and is computed again later (or is handed over to another worker). The first in order can always go on, because a job
that would not fit alone is refused, so everything ends.
"""

from bisect import insort
from collections.abc import Hashable, Sequence

from msgspec import Struct, field

from nodes.engines.blocks import NONE, Digest, Pool, chain, link, root
from nodes.engines.contract import FULL, BlockEvent, Ending, EngineLoad, Job, Logprobs, Output


class Limits(Struct, frozen=True):
    """What bounds the batch."""

    vocabulary: int
    context: int  # positions of one sequence
    slots: int = 64  # sequences running at once
    waiting_max: int = 1024
    step_tokens: int = 2048  # positions in one step
    block_tokens: int = 16
    blocks: int = 4096
    eos_tokens: tuple[int, ...] = ()
    caching: bool = True
    hand_over: bool = False  # end what is preempted, for the worker to migrate; else compute it again here
    spare: float = 0.01  # of the blocks: kept for those who run when somebody is admitted


class Running(Struct, eq=False):
    """One job inside the engine."""

    job: Job
    key: Hashable
    order: tuple[int, int]
    tokens: list[int]  # prompt and output
    length_max: int  # tokens in all
    stops: frozenset[int]
    stops_from: int  # the token after so many is the first that may stop it
    computed: int = 0  # positions in the cache, while it is filled; a decoding one has all but its last token
    quiet_until: int = 0  # up to this length a token neither fills a block nor is the last
    blocks: list[int] = field(default_factory=list)
    room: int = 0  # positions that the blocks have
    hashes: list[int] = field(default_factory=list)  # of its full blocks; the first `stored` of them are shared
    stored: int = 0
    parent: int = 0
    cached: int = 0  # positions of its prompt that were not computed when it was first admitted
    admitted: bool = False
    reported: bool = False
    state: int = 0  # for the engine

    @property
    def prompt(self) -> int:
        return len(self.job.prompt)


def order_of(running: Running) -> tuple[int, int]:
    return running.order


class Part(Struct, eq=False):
    """Positions of a prompt (or of what is computed again) to be computed in this step."""

    running: Running
    start: int
    count: int


class Plan(Struct, eq=False):
    """A step. Each of `heads` is to get a token: all of `decoding`, then the parts that complete their sequence."""

    decoding: list[Running]
    parts: list[Part]
    heads: list[Running]

    @property
    def computed(self) -> int:
        return len(self.decoding) + sum(part.count for part in self.parts)


class Scheduler:
    """The queue, the running and their blocks."""

    def __init__(self, limits: Limits, digest: Digest) -> None:
        assert limits.step_tokens >= limits.slots
        self.limits = limits
        self.pool = Pool(limits.blocks, limits.caching)
        self.decoding: list[Running] = []
        self.filling: list[Running] = []
        self.waiting: list[Running] = []  # by order
        self._digest = digest
        self._all: dict[Hashable, Running] = {}
        self._arrivals = 0
        self._reports: list[Output] = []  # ends that the next step tells

    # --- Coming and going -------------------------------------------------------------------------------

    def submit(self, job: Job) -> str | None:
        """Queue a job; or why not."""
        refusal = self._refusal(job)
        if refusal is not None:
            return refusal
        running = self._new(job)
        if job.generated and (ending := self._ending(running, running.tokens[-1])):
            self._reports.append(Output(job.key, ending=ending))
        elif len(running.tokens) >= running.length_max:
            self._reports.append(Output(job.key, ending=Ending.LENGTH))
        elif len(self.waiting) >= self.limits.waiting_max:
            return FULL
        else:
            self._all[job.key] = running
            insort(self.waiting, running, key=order_of)
        return None

    def cancel(self, key: Hashable) -> None:
        running = self._all.get(key)
        if running is not None:
            self._end(running, Ending.CANCELLED)

    def fail(self, running: Running, text: str) -> None:
        """Give one job up; the others go on."""
        self._end(running, Ending.FAILED, text)

    def clear(self) -> list[Output]:
        """End all jobs and forget all prefixes; the reports that nobody has got."""
        for running in [*self._all.values()]:
            self._end(running, Ending.CANCELLED)
        self.pool.clear()
        return self.reports()

    # --- One step ---------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Decide what the next step computes, and take the blocks for it."""
        preempted = False
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
        return Plan(decoding, parts, heads)

    def apply(self, plan: Plan, tokens: Sequence[int], logprobs: Sequence[Logprobs | None] = ()) -> list[Output]:
        """The step is done, and each of the plan's heads got a token: what to tell."""
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
        for running in ended:
            self._remove(running)
        return outputs

    def reports(self) -> list[Output]:
        """Ends that came from elsewhere than a step; each is told once."""
        reports, self._reports = self._reports, []
        return reports

    def events(self) -> list[BlockEvent]:
        events, self.pool.events = self.pool.events, []
        return events

    # --- What others ask --------------------------------------------------------------------------------

    def idle(self) -> bool:
        return not self._all and not self._reports and not self.pool.events

    def load(self) -> EngineLoad:
        count = len(self.decoding) + len(self.filling)
        return EngineLoad(count, len(self.waiting), self.pool.used, self.pool.total)

    def check(self) -> None:
        """Assert all invariants."""
        self.pool.check()
        running = self.decoding + self.filling
        assert len(running) <= self.limits.slots
        assert sorted(map(order_of, running + self.waiting)) == sorted(map(order_of, self._all.values()))
        for one in running:
            assert one.room == len(one.blocks) * self.limits.block_tokens >= one.computed
            assert one.computed <= len(one.tokens) < one.length_max
        assert not any(one.blocks for one in self.waiting)
        assert len({block for one in running for block in one.blocks}) == self.pool.used

    # --- Inside -----------------------------------------------------------------------------------------

    def _refusal(self, job: Job) -> str | None:
        limits = self.limits
        if job.key in self._all:
            return "a job of this key is already here"
        if not job.prompt:
            return "the prompt is empty"
        for tokens in (job.prompt, job.generated):
            if tokens and (min(tokens) < 0 or max(tokens) >= limits.vocabulary):
                return f"the prompt has a token outside the vocabulary of {limits.vocabulary}"
        length = len(job.prompt) + max(job.max_tokens, len(job.generated))
        if len(job.prompt) + len(job.generated) > limits.context or len(job.prompt) == limits.context:
            return f"{len(job.prompt) + len(job.generated)} tokens leave no room in a context of {limits.context}"
        if min(length, limits.context) > limits.blocks * limits.block_tokens:
            return f"{length} tokens do not fit into a cache of {limits.blocks * limits.block_tokens}"
        return None

    def _new(self, job: Job) -> Running:
        self._arrivals += 1
        eos = () if job.ignore_eos else self.limits.eos_tokens
        return Running(
            job,
            job.key,
            (job.priority, self._arrivals),
            [*job.prompt, *job.generated],
            min(len(job.prompt) + job.max_tokens, self.limits.context),
            frozenset((*eos, *job.stop_tokens)),
            len(job.prompt) + job.min_tokens,
            parent=root(job.cache_salt, self._digest),
        )

    def _look(self, running: Running, token: int) -> Ending | None:
        """Something may have come with this token: a full block, the end, or nothing."""
        size, computed = self.limits.block_tokens, len(running.tokens) - 1
        self._store(running, computed)
        running.quiet_until = min(computed // size * size + size, running.length_max - 1)
        return self._ending(running, token)

    def _ending(self, running: Running, token: int) -> Ending | None:
        """Why the sequence ends with `token`, its last."""
        if token in running.stops and len(running.tokens) > running.stops_from:
            return Ending.STOP
        return Ending.LENGTH if len(running.tokens) >= running.length_max else None

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
        while self.waiting and budget > 0 and len(self.decoding) + len(self.filling) < limits.slots:
            running = self.waiting[0]
            found = self._found(running)
            here, idle = self.pool.idle_among(found)
            spare = int(limits.spare * limits.blocks) if self.decoding or self.filling else 0
            needed = -(-len(running.tokens) // limits.block_tokens) - here
            if needed + idle + spare > self.pool.free:
                return
            del self.waiting[0]
            self._start(running, found[:here])
            self._grow(running, min(len(running.tokens), running.computed + budget))
            budget -= self._part(parts, running, len(running.tokens) - running.computed, budget)

    def _found(self, running: Running) -> list[int]:
        """The hashes that the cache is asked for: never of the last token, whose step gives the next."""
        size = self.limits.block_tokens
        if not self.limits.caching:
            return []
        if not running.hashes:
            running.hashes = chain(running.tokens, size, running.parent, self._digest)
        return running.hashes[: (len(running.tokens) - 1) // size]

    def _start(self, running: Running, shared: list[int]) -> None:
        running.blocks = self.pool.share(shared)
        running.stored = len(shared)
        running.computed = running.room = len(shared) * self.limits.block_tokens
        if not running.admitted:
            running.admitted = True
            running.cached = min(running.computed, running.prompt)
        self.filling.append(running)

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
        if self.limits.hand_over:
            self._end(running, Ending.PREEMPTED)
            return
        self._withdraw(running)
        insort(self.waiting, running, key=order_of)

    def _computed(self, part: Part) -> None:
        running = part.running
        running.computed = part.start + part.count
        self._store(running, running.computed)
        if running.computed == len(running.tokens):
            self.filling.remove(running)
            self.decoding.append(running)

    def _store(self, running: Running, computed: int) -> None:
        """Share the blocks that have become full."""
        size, hashes = self.limits.block_tokens, running.hashes
        last = computed // size if self.limits.caching else 0
        for index in range(running.stored, last):
            tokens = running.tokens[index * size : index * size + size]
            parent = hashes[index - 1] if index else running.parent
            if index == len(hashes):
                hashes.append(link(tokens, parent, self._digest))
            self.pool.store(running.blocks[index], hashes[index], parent, tokens)
        running.stored = max(running.stored, last)

    def _withdraw(self, running: Running) -> None:
        """Take it out of the batch; its blocks are free."""
        for group in (self.decoding, self.filling, self.waiting):
            if running in group:
                group.remove(running)
                break
        self.pool.release(running.blocks)
        running.blocks = []
        running.room = running.quiet_until = 0

    def _remove(self, running: Running) -> None:
        self._withdraw(running)
        del self._all[running.job.key]

    def _end(self, running: Running, ending: Ending, text: str = "") -> None:
        self._remove(running)
        self._reports.append(Output(running.job.key, ending=ending, text=text))
