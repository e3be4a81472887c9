"""Pure. The simulated engine: everything of a real one but the arithmetic.

Batching, chunked prefill, prefix cache, block events, preemption and limits are those of the numpy engine (it is the
same scheduler); a step takes no time but says in `Step.wait_s` how long it would. Any stream can be verified by who
knows the prompt, at any position and without the rest, because the next token is a function of the tokens so far:

    token = first + crc32(tokens as little-endian unsigned 32-bit integers) mod (last - first + 1)

where [first, last] is `Settings.tokens`. It does not depend on the sampling, and never is an end-of-sequence token
unless that lies in the range. Log-probabilities are made up of the same number.

What it hands over of a position is that crc32 of the tokens up to and with it, in 4 bytes. What lands is compared with
what belongs there: a block that got anything else makes all tokens that are made with it wrong, so that whoever
verifies a stream also verifies each byte that was moved for it.
"""

from array import array
from collections.abc import Hashable, Sequence
from functools import cache
from math import inf, log
from operator import xor
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from nodes.contract.below import Below
from nodes.contract.blocks import Digest
from nodes.contract.engine import ASLEEP, Card, EngineLoad, Job, Logprobs, Output, Step
from nodes.engines.scheduler import Limits, Plan, Running, Scheduler
from nodes.engines.timing import Timing, step_s
from nodes.faults import Fault
from nodes.transfer.layout import Layout


class Settings(Struct, frozen=True):
    """What is simulated."""

    limits: Limits = Limits(vocabulary=8192, context=32768, slots=256, step_tokens=8192, blocks=16384)
    timing: Timing = Timing()
    tokens: tuple[int, int] = (0, 8191)  # the first and the last that it ever says
    model: str = "sim"
    poison: int = -1  # a prompt with this token crashes the engine


class Crashed(Exception):
    """The simulated engine is dead: every further step raises this too."""


class SimEngine:
    """Keeps the contract of `nodes.contract.engine.Engine`."""

    def __init__(self, settings: Settings, digest: Digest) -> None:
        first, last = settings.tokens
        assert 0 <= first <= last < settings.limits.vocabulary
        self._settings = settings
        self._memory = Memory(settings.limits.block_tokens)
        self._scheduler = Scheduler(settings.limits, digest, self._memory)
        self._first = first
        self._span = last - first + 1
        self._fault = Fault.NONE
        self._factor = 1.0
        self._packed = packed(first, last)
        self._asleep = 0
        self._tells = False  # whether a job ever asked for log-probabilities

    def start(self) -> Card:
        limits = self._settings.limits
        return Card(
            engine="sim",
            model=self._settings.model,
            vocabulary=limits.vocabulary,
            context=min(limits.context, limits.blocks * limits.block_tokens),
            slots=limits.slots,
            block_tokens=limits.block_tokens,
            blocks=limits.blocks,
            eos_tokens=limits.eos_tokens,
            step_tokens=limits.step_tokens,
            layout=self._memory.layout,
            sleeps=True,
        )

    def submit(self, job: Job) -> str | None:
        if self._asleep:
            return ASLEEP
        self._tells |= job.sampling.logprobs >= 0
        return self._scheduler.submit(job)

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        return self._scheduler.cancel(key, out)

    def land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        self._scheduler.land(key, source, positions, tokens)

    def fault(self, fault: Fault, factor: float = 1.0) -> None:
        """From the next step on; `Fault.NONE` heals all but a crash that has happened."""
        self._fault = fault
        self._factor = factor

    def step(self) -> Step:
        if self._fault is Fault.HANG:
            return Step(wait_s=inf)
        if self._fault is Fault.CRASH:
            raise Crashed("crashed on command")
        scheduler = self._scheduler
        plan = scheduler.plan()
        self._feel(plan)
        tokens = self._tokens(plan)
        outputs = scheduler.apply(plan, tokens, self._logprobs(plan))
        computed = plan.computed
        prefilled = computed - len(plan.decoding)
        return Step(outputs, scheduler.events(), computed, prefilled, self._wait_s(plan, computed))

    def load(self) -> EngineLoad:
        load = self._scheduler.load()
        return load if not self._asleep else replace(load, asleep=self._asleep)

    def idle(self) -> bool:
        return self._scheduler.idle()

    def clear(self) -> list[Output]:
        """End all jobs and forget all prefixes."""
        return self._scheduler.clear()

    def sleep(self, level: int) -> None:
        if not self._asleep:
            self._scheduler.forget()
        self._asleep = level

    def wake(self) -> None:
        self._asleep = 0

    def attach(self, below: Below) -> None:
        self._scheduler.attach(below)

    def stir(self) -> None:
        self._scheduler.stir()

    def stop(self) -> None:
        self._scheduler.stop()

    def check(self) -> None:
        """Assert all invariants."""
        self._scheduler.check()

    def _feel(self, plan: Plan) -> None:
        """Begin what is new in this step, and die of poison."""
        self._memory.computed(plan)
        for part in plan.parts:
            running = part.running
            running.state = self._memory.state(running)
            if self._settings.poison in running.job.prompt:
                self._fault = Fault.CRASH
                raise Crashed("crashed by a poisonous prompt")

    def _tokens(self, plan: Plan) -> list[int]:
        first, span, packed_tokens = self._first, self._span, self._packed
        tokens = []
        for running in plan.heads:
            state = running.state
            index = state % span
            tokens.append(first + index)
            running.state = crc32(packed_tokens[index], state)
        return tokens

    def _logprobs(self, plan: Plan) -> Sequence[Logprobs | None]:
        if not self._tells:
            return ()
        return [self._row(running) if running.job.sampling.logprobs >= 0 else None for running in plan.heads]

    def _row(self, running: Running) -> Logprobs:
        """Made up, but plausible: the chosen token is the likeliest, the next ones half as likely each."""
        likely = 0.5 + running.state % 1000 / 2500
        token = self._first + state_of(running.tokens) % self._span
        top = [(token, log(likely))]
        for rank in range(1, min(running.job.sampling.logprobs, self._span)):
            top.append((self._first + (token - self._first + rank) % self._span, log((1 - likely) / 2**rank)))
        return Logprobs(log(likely), top[: running.job.sampling.logprobs])

    def _wait_s(self, plan: Plan, computed: int) -> float:
        timing, total = self._settings.timing, self._scheduler.pool.total * self._settings.limits.block_tokens
        if timing.speedup <= 0:
            return 0.0
        decodes = len(plan.decoding)
        read = sum([len(running.tokens) for running in plan.decoding])  # each reads its own, shared or not
        wait_s = step_s(timing, computed - decodes, decodes > 0, read, total)
        return wait_s * self._factor if self._fault is Fault.SLOW else wait_s


class Memory:
    """The cache of a simulated engine: each block holds what it should, unless something else has landed there."""

    def __init__(self, block_tokens: int) -> None:
        self.layout = Layout(block_tokens, layers=1, heads=1, width=1, dtype="float32", parts=1)
        self._wrong: dict[int, int] = {}  # block: what is wrong with it
        self._noted: dict[int, bytes] = {}  # block: what it holds, if that may be saved

    def gather(self, running: Running, start: int, stop: int, out: memoryview) -> None:
        out[4 * start : 4 * stop] = self._content(running, start, stop)

    def scatter(self, running: Running, start: int, stop: int, source: memoryview) -> None:
        content = states_of(running.tokens, start, stop).tobytes()
        size = self.layout.block_tokens
        for index in range(start // size, -(-stop // size)):
            first, last = max(start, index * size), min(stop, index * size + size)
            came = source[4 * first : 4 * last]
            self._wrong.pop(running.blocks[index], None)
            if came != content[4 * (first - start) : 4 * (last - start)]:
                self._wrong[running.blocks[index]] = crc32(came)

    def save(self, block: int, out: memoryview) -> None:
        out[: self.layout.block_bytes] = self._noted[block]

    def restore(self, running: Running, index: int, sources: Sequence[memoryview]) -> None:
        size, count = self.layout.block_tokens, self.layout.block_bytes
        whole = b"".join((bytes(index * count), *(source[:count] for source in sources)))
        self.scatter(running, index * size, (index + len(sources)) * size, memoryview(whole))

    def note(self, running: Running, start: int, stop: int) -> None:
        content, count = self._content(running, start, stop), self.layout.block_bytes
        for index, block in enumerate(
            running.blocks[start // self.layout.block_tokens : stop // self.layout.block_tokens]
        ):
            self._noted[block] = content[index * count : index * count + count]

    def resume(self, running: Running) -> None:
        running.state = self.state(running)

    def state(self, running: Running) -> int:
        """What its next token depends on, if what its blocks hold is looked at too."""
        found = state_of(running.tokens)
        return found ^ self._damage(running.blocks) if self._wrong else found

    def computed(self, plan: Plan) -> None:
        """What is written anew is right, if it is written from the start of a block."""
        if not self._wrong:
            return
        size = self.layout.block_tokens
        steps = [(running, len(running.tokens) - 1, 1) for running in plan.decoding]
        for running, start, count in steps + [(part.running, part.start, part.count) for part in plan.parts]:
            for block in running.blocks[-(-start // size) : -(-(start + count) // size)]:
                self._wrong.pop(block, None)

    def _content(self, running: Running, start: int, stop: int) -> bytes:
        """What its blocks hold of these positions."""
        assert stop <= running.room, "only what has a block is handed over"
        states = states_of(running.tokens, start, stop)
        if self._wrong:
            size = self.layout.block_tokens
            damages = [self._damage(running.blocks[: at // size + 1]) for at in range(start, stop)]
            states = array("I", map(xor, states, damages))
        return states.tobytes()

    def _damage(self, blocks: Sequence[int]) -> int:
        """0 if all are right."""
        damage = 0
        for block in blocks:
            if block in self._wrong:
                damage = crc32(self._wrong[block].to_bytes(4, "little"), damage) | 1
        return damage


@cache
def packed(first: int, last: int) -> list[bytes]:
    return [token.to_bytes(4, "little") for token in range(first, last + 1)]


def state_of(tokens: Sequence[int]) -> int:
    """What the next token depends on. `crc32` of one more token goes on from it."""
    return crc32(array("I", tokens).tobytes())


def states_of(tokens: Sequence[int], start: int, stop: int) -> "array[int]":
    """The states after each of the positions from `start` up to before `stop`."""
    state, packed_tokens = state_of(tokens[:start]), array("I", tokens[start:stop]).tobytes()
    states = array("I", [0]) * (stop - start)
    for index in range(stop - start):
        states[index] = state = crc32(packed_tokens[4 * index : 4 * index + 4], state)
    return states


def continuation(sequence: Sequence[int], count: int, tokens: tuple[int, int]) -> list[int]:
    """The next `count` tokens after `sequence` of an engine whose `Settings.tokens` are these."""
    first, last = tokens
    state, said = state_of(sequence), []
    for _ in range(count):
        said.append(first + state % (last - first + 1))
        state = crc32(said[-1].to_bytes(4, "little"), state)
    return said
