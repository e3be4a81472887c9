"""Pure. The contract of an engine, in one page.

An engine is synchronous and single-threaded: `submit`, `cancel` and `step` are called from one thread, which the
worker chooses (its event loop for a simulated engine, a thread of its own for one that computes). Nothing but `start`
and `step` may take long. A job is named by a key that the engine does not look into. `step` does one forward pass for
whatever is admitted and returns what came of it; an idle engine returns an empty step at once. Sampling is keyed by
position: the draw for a position is a function of (seed, position) alone, so that a stream that moves goes on exactly.
"""

from collections.abc import Hashable, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

FULL = "the engine's queue is full"  # the answer of `submit` that a later try may not get


class Ending(StrEnum):
    """Why a job ended."""

    STOP = "stop"  # an end-of-sequence or stop token
    LENGTH = "length"  # max_tokens or the context is used up
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"  # its room was needed: the worker migrates it
    FAILED = "failed"


class Sampling(Struct, frozen=True):
    """How the next token is chosen. The defaults are OpenAI's; temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output
    frequency_penalty: float = 0.0  # over the output
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int = 0
    logprobs: int = -1  # how many alternatives per position; -1: none, 0: the chosen token's alone


class Job(Struct):
    """One sequence to be continued."""

    key: Hashable
    prompt: Sequence[int]
    generated: Sequence[int] = ()  # by earlier holders: apart from the prompt, because penalties tell them apart
    max_tokens: int = 16  # generated in all, earlier holders included
    min_tokens: int = 0  # generated before one that stops
    stop_tokens: Sequence[int] = ()  # besides the model's own end-of-sequence
    ignore_eos: bool = False
    sampling: Sampling = Sampling()
    cache_salt: str = ""
    priority: int = 0  # lower goes first, and is preempted last


class Logprobs(Struct, gc=False):
    """Of one position, before temperature, penalties and biases."""

    chosen: float
    top: Sequence[tuple[int, float]] = ()  # the likeliest first


class Output(Struct, gc=False):
    """What a step gave one job."""

    key: Hashable
    tokens: Sequence[int] = ()
    logprobs: Sequence[Logprobs] = ()  # as many as tokens, or none
    ending: Ending | None = None
    text: str = ""  # why it failed
    cached_tokens: int = 0  # of its prompt, found in the cache; known from its first output on


class BlockEvent(Struct):
    """A change of the prefix cache, for the routers' index."""

    kind: str  # stored, removed, cleared
    hashes: list[int] = []
    parent: int = 0
    tokens: list[int] = []


class Step(Struct):
    """One step of the engine."""

    outputs: list[Output] = []
    events: list[BlockEvent] = []
    computed_tokens: int = 0  # prefill and decode positions that this step computed
    wait_s: float = 0.0  # a simulated engine: how long the step takes


class Card(Struct, frozen=True):
    """What an engine is and can do."""

    engine: str
    model: str
    vocabulary: int
    context: int  # positions, prompt and output
    slots: int
    block_tokens: int
    blocks: int
    eos_tokens: tuple[int, ...] = ()
    resumes_sampling: bool = True
    cancels_prefill: bool = True
    exports_kv: bool = False


class EngineLoad(Struct, frozen=True):
    """How full an engine is."""

    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0


class Engine(Protocol):
    """What a worker needs."""

    def start(self) -> Card:
        """Load and be ready; may take long. Raises with one clear sentence if it cannot."""
        ...

    def submit(self, job: Job) -> str | None:
        """Take a job; or say in a sentence why it can never run (too long, a token that is none); or say `FULL`."""
        ...

    def cancel(self, key: Hashable) -> None:
        """Free a job's room; the next step reports its end. One that is not there is no error."""
        ...

    def step(self) -> Step:
        """One forward pass; an empty step at once when there is nothing to do."""
        ...

    def load(self) -> EngineLoad:
        """How full it is."""
        ...

    def idle(self) -> bool:
        """Whether `step` would do nothing."""
        ...

    def stop(self) -> None:
        """Free everything; twice is once."""
        ...
