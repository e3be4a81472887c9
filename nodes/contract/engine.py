"""Pure. The contract of an engine, in one page.

An engine is synchronous and single-threaded: `submit`, `cancel` and `step` are called from one thread, which the
worker chooses (its event loop for a simulated engine, a thread of its own for one that computes). Nothing but `start`
and `step` may take long. A job is named by a key that the engine does not look into. `step` does one forward pass for
whatever is admitted and returns what came of it; an idle engine returns an empty step at once. Sampling is keyed by
position: the draw for a position is a function of (seed, position) alone, so that a stream that moves goes on exactly.

An engine with a `Card.layout` hands its cache over. What leaves or comes is bytes of whole blocks in that layout, from
the first block of the sequence on; the last may be filled in part. A job with `out` has its blocks copied there while
they are computed; `cancel` copies on leaving what a job has; `land` is how another engine goes on with it.
"""

from collections.abc import Hashable, Sequence
from enum import StrEnum
from math import ceil, sqrt
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from nodes.contract.below import Below
from nodes.contract.guide import Guide
from nodes.contract.media import Media
from nodes.transfer.layout import Layout

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # cards come over the mesh, and are computed with
Seconds = Annotated[float, Meta(ge=0, le=86_400.0)]
FULL = "the engine's queue is full"  # the answer of `submit` that a later try may not get
ASLEEP = "the engine is asleep"  # likewise
UNGUIDED = "this engine follows no guide: no JSON schema, expression, choice or grammar"


class Ending(StrEnum):
    """Why a job ended."""

    STOP = "stop"  # an end-of-sequence or stop token
    LENGTH = "length"  # max_tokens or the context is used up
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"  # its room was needed: the worker migrates it. See `Output.kept`
    FAILED = "failed"
    REFUSED = "refused"  # it can run nowhere: what it asks for turned out to make no sense
    LOST = "lost"  # it can go on elsewhere: this engine, or what stands behind it, could not


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
    out: memoryview | None = None  # writable: blocks of the sequence go there as they are computed
    lands: bool = False  # take a slot and blocks, and compute nothing before `land`
    first: int = 0  # position that lands: those before it are in the cache, or else nothing that lands is of use
    media: Sequence[Media] = ()  # in the prompt, in the order of their positions
    feeds: bool = False  # its prompt is computed for another engine, which goes on
    native: bytes = b""  # where the cache of its prompt lies, as another engine of this kind said
    lora: str = ""  # an adapter of the model, by name
    embeds: bool = False  # no token is wanted, but one vector for the whole prompt; it ends with it, by STOP
    dimensions: int = 0  # numbers of that vector; 0: `Card.embeds`
    rank: int = -1  # the data-parallel rank that is to run it; -1, or one that there is not: whichever the engine likes
    guide: Guide | None = None  # what its output must be


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
    exported: int = 0  # positions of the sequence that are in `Job.out`
    kept: int = 0  # of a preempted job: positions that the engine has a copy of, until `cancel` takes it
    native: bytes = b""  # of a job that feeds: what the engine that goes on has to know
    vector: bytes = b""  # of a job that embeds: float32, little endian; comes with its end


class BlockEvent(Struct):
    """A change of the prefix cache, for the routers' index."""

    kind: str  # stored, removed, cleared
    hashes: list[int] = []
    parent: int = 0
    tokens: list[int] = []
    rank: int = 0  # whose cache it is


class Step(Struct):
    """One step of the engine."""

    outputs: list[Output] = []
    events: list[BlockEvent] = []
    computed_tokens: int = 0  # prefill and decode positions that this step computed
    prefilled_tokens: int = 0  # those of them that were no decode
    wait_s: float = 0.0  # a simulated engine: how long the step takes


class MediaCard(Struct, frozen=True):
    """What a model takes of one kind (image, audio, video), and how many positions of the prompt it fills.

    A picture comes as uint8 (height, width, 3), a clip as `frames` of them, a sound as float32 at `rate`.
    """

    token: Count  # the placeholder; kinds may share one
    features: Count  # numbers in one row: the width of the model
    tokens: Count = 0  # rows of a picture, or of one frame
    height: Count = 0
    width: Count = 0
    crop: bool = False  # keep the proportions and cut off what is over; else stretch
    frames: Count = 0  # of a clip: exactly so many
    rate: Count = 0  # of a sound: samples per second
    samples_per_token: Count = 0
    seconds_max: Seconds = 0.0  # of a sound: the model hears no more
    step: Count = 0  # pixels of a row's side, of pictures of any size: those above are the largest square
    pixels_min: Count = 0  # of such pictures: smaller ones are enlarged
    pixels_max: Count = 0  # and larger ones made smaller


def rows_of(card: MediaCard, samples: int = 0) -> int:
    """How many positions a part fills; of a sound by its samples."""
    if not card.samples_per_token:
        return max(1, card.tokens * max(1, card.frames))
    # Two stages halve a sound: one rounds up, one down.
    samples = min(samples, int(card.seconds_max * card.rate))
    return max(1, -(-samples // max(1, card.samples_per_token // 2)) // 2)


def lines_for(card: MediaCard, width: int, height: int) -> tuple[int, int]:
    """Lines and columns of rows that a picture of so many pixels becomes: about in its proportions, within the limits.

    As the Qwen models count them (`smart_resize`).
    """
    step, area = card.step, width * height
    lines, columns = max(1, round(height / step)), max(1, round(width / step))
    if lines * columns * step**2 > card.pixels_max:
        shrunk = sqrt(area / card.pixels_max)
        lines, columns = max(1, int(height / shrunk / step)), max(1, int(width / shrunk / step))
    elif lines * columns * step**2 < card.pixels_min:
        grown = sqrt(card.pixels_min / area)
        lines, columns = ceil(height * grown / step), ceil(width * grown / step)
        if lines * columns * step**2 > card.pixels_max:  # the two are close to each other
            lines, columns = max(1, int(height * grown / step)), max(1, int(width * grown / step))
    return lines, columns


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
    resumes_sampling: bool = True  # what is drawn is a function of (seed, position): a moved stream goes on as it was
    resumes_exactly: bool = True  # in numbers so fine that a moved stream gets the tokens that it would have got
    cancels_prefill: bool = True
    tells_blocks: bool = True  # what its cache holds, in `Step.events`
    sleeps: bool = False  # it keeps `Sleeper` too
    loras: tuple[str, ...] = ()  # adapters that a job can name
    lacks: tuple[str, ...] = ()  # fields of Job and Sampling that it cannot do: a job that uses one is refused
    step_tokens: int = 0  # positions that one step computes at most; 0: it does not say
    layout: Layout | None = None  # of the blocks that it hands over; None: it cannot
    media: dict[str, MediaCard] = {}  # by kind: image, audio, video
    native: str = ""  # it hands over by itself: "after" its prefill, or "beside" it; see nodes.native
    fed_only: bool = False  # it computes no prompts: it goes on with what a prefill worker hands over
    embeds: Count = 0  # numbers in the vector of a job that embeds; 0: it makes none
    generates: bool = True  # whether a job may want tokens
    shortens: bool = False  # its vectors may be cut to `dimensions` (Matryoshka), and are then made unit vectors
    dimensions: tuple[Count, ...] = ()  # of `shortens`: these alone; none: any
    guides: bool = False  # it keeps to `Job.guide`, from whatever position on
    unseeded: str = ""  # it heeds no seed: how its workers have to be started so that it does; a seed is refused
    ranks: int = 1  # data-parallel ones: each has slots and a cache of its own; the figures above are of all together

    @property
    def exports_kv(self) -> bool:
        return self.layout is not None


class EngineLoad(Struct, frozen=True):
    """How full an engine is."""

    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    prefill_tokens: int = 0  # positions to be computed before all jobs here decode; not of those that land
    ranks: tuple["EngineLoad", ...] = ()  # of each rank, where there are several
    asleep: int = 0  # how deep: see `Sleeper`


def unmet(job: Job, card: Card) -> str | None:
    """What a job asks for and an engine cannot do, by its card; None if it can."""
    for name in card.lacks:
        given, usual = (job, _JOB) if name in Job.__struct_fields__ else (job.sampling, Sampling())
        value = getattr(given, name)
        if value not in (getattr(usual, name), [], (), {}):
            return f"the {card.engine} engine cannot do {name}"
    if job.guide is not None and not card.guides:
        return UNGUIDED
    if job.lora and job.lora not in card.loras:
        return f"there is no LoRA adapter {job.lora!r} here: there are {', '.join(card.loras) or 'none'}"
    return None


_JOB = Job(None, ())  # what a job asks for that asks for nothing


class Engine(Protocol):
    """What a worker needs."""

    def start(self) -> Card:
        """Load and be ready; may take long. Raises with one clear sentence if it cannot."""
        ...

    def submit(self, job: Job) -> str | None:
        """Take a job; or say in a sentence why it can never run (too long, a token that is none); or say `FULL`."""
        ...

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        """Free a job's room; the next step reports its end. One that is not there is no error.

        With `out`, what is computed of it is copied there first, as far as it fits. Returns how many positions are.
        A job that was preempted is cancelled once more, with `out` or without, if its end said that some are `kept`.
        """
        ...

    def land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        """Let a job with `lands` go on: the first `positions` positions of its sequence are in `source`.

        `tokens` were generated meanwhile elsewhere and continue its `generated`. What did not come is computed here.
        `source` is free again on return. A job that has gone, or has landed before, is no error.
        """
        ...

    def attach(self, below: Below) -> None:
        """From now on, blocks that the cache has no room for go there, and come back. Once, after `start`."""
        ...

    def stir(self) -> None:
        """Look again, even if it is idle: something came up from below, or will not come."""
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


class Sleeper(Protocol):
    """What an engine whose card `sleeps` can do besides. It is told so only while it has no job."""

    def sleep(self, level: int) -> None:
        """Give memory back: 1 the cache, 2 the weights too. `submit` says `ASLEEP`, and `load` how deep it sleeps.

        One that takes long begins here and goes on by itself. Twice is once.
        """
        ...

    def wake(self) -> None:
        """Be as after `start`, with an empty cache. One that is awake is no error."""
        ...
