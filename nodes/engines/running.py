"""Pure. What a scheduler is told, what it knows of each job, and what it plans."""

from collections.abc import Hashable, Sequence
from typing import Any

from msgspec import Struct, field

from nodes.contract.engine import UNGUIDED, Ending, Job
from nodes.contract.media import hashed_tokens
from nodes.transfer.layout import Layout

WAITING_MIN = 1_024  # of an engine's own queue


class Limits(Struct, frozen=True):
    """What bounds the batch."""

    vocabulary: int
    context: int  # positions of one sequence
    slots: int = 64  # sequences running at once
    waiting_max: int = WAITING_MIN
    step_tokens: int = 2048  # positions in one step
    block_tokens: int = 16
    blocks: int = 4096
    eos_tokens: tuple[int, ...] = ()
    caching: bool = True
    hand_over: bool = False  # end what is preempted, for the worker to migrate; else compute it again here
    guides: bool = False  # whether the engine keeps to a job's guide
    spare: float = 0.01  # of the blocks: kept for those who run when somebody is admitted


def waiting_max(slots: int) -> int:
    """All that the node starts at once may come between two steps, while those before are still in their slots."""
    return max(WAITING_MIN, 2 * slots)


class Brought(Struct, eq=False):
    """The start of a sequence, computed elsewhere."""

    content: bytes | bytearray
    positions: int

    def save(self, out: memoryview, layout: Layout) -> int:
        """Copy it, as far as it fits; how many positions are there."""
        blocks = min(len(out), len(self.content)) // layout.block_bytes
        out[: blocks * layout.block_bytes] = memoryview(self.content)[: blocks * layout.block_bytes]
        return min(self.positions, blocks * layout.block_tokens)


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
    exported: int = 0  # positions in `Job.out`
    lands: bool = False  # it computes nothing before it is told what came of its sequence
    brought: Brought | None = None  # what came before it had blocks to land in
    admitted: bool = False
    reported: bool = False
    state: int = 0  # for the engine
    guided: Any = None  # likewise: what its guide allows

    @property
    def prompt(self) -> int:
        return len(self.job.prompt)


def order_of(running: Running) -> tuple[int, int]:
    return running.order


def refusal_of(job: Job, limits: Limits) -> str | None:
    """Why a job can never run; None if it can."""
    if job.embeds:
        return "this model generates text: it makes no embeddings"
    if not job.prompt:
        return "the prompt is empty"
    if job.guide is not None and not limits.guides:
        return UNGUIDED
    if job.lora:
        return f"there is no LoRA adapter {job.lora!r} here: this engine has none"
    if not all(are_tokens(tokens, limits.vocabulary) for tokens in (job.prompt, job.generated)):
        return f"the prompt has a token outside the vocabulary of {limits.vocabulary}"
    length = len(job.prompt) + max(job.max_tokens, len(job.generated))
    if len(job.prompt) + len(job.generated) > limits.context or len(job.prompt) == limits.context:
        return f"{len(job.prompt) + len(job.generated)} tokens leave no room in a context of {limits.context}"
    if min(length, limits.context) > limits.blocks * limits.block_tokens:
        return f"{length} tokens do not fit into a cache of {limits.blocks * limits.block_tokens}"
    return None


def are_tokens(tokens: Sequence[int], vocabulary: int) -> bool:
    return not tokens or (min(tokens) >= 0 and max(tokens) < vocabulary)


def running_of(job: Job, limits: Limits, arrival: int, parent: int) -> Running:
    eos = () if job.ignore_eos else limits.eos_tokens
    return Running(
        job,
        job.key,
        (job.priority, arrival),
        [*job.prompt, *job.generated],
        min(len(job.prompt) + job.max_tokens, limits.context),
        frozenset((*eos, *job.stop_tokens)),
        len(job.prompt) + job.min_tokens,
        parent=parent,
        lands=job.lands,
    )


def ending_of(running: Running, token: int) -> Ending | None:
    """Why the sequence ends with `token`, its last; None if it goes on."""
    if token in running.stops and len(running.tokens) > running.stops_from:
        return Ending.STOP
    return Ending.LENGTH if len(running.tokens) >= running.length_max else None


def named(running: Running) -> list[int]:
    """What the hashes of its blocks are made of."""
    return hashed_tokens(running.tokens, running.job.media) if running.job.media else running.tokens


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
