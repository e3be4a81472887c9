"""Pure. The jobs that an engine of its own runs, and what came of them since somebody asked: the next step's outputs.

Such an engine has its own batch, and says what came of each job as soon as it comes. What comes of all jobs in one turn
of the event loop is one `Step`, so that it leaves this node in one message. No job gets a token over its budget, or an
end twice, whatever the engine says.
"""

from collections.abc import Hashable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from nodes.contract.engine import FULL, BlockEvent, Card, Ending, EngineLoad, Job, Logprobs, Output, Step, unmet
from nodes.engines.running import Limits, are_tokens, ending_of, refusal_of, running_of

WAITING_MIN = 1_024  # as for our own engines: all that a node starts at once may come together
SILENT = "the engine ended it without saying why"


class Piece(Struct):
    """What came of one job at once."""

    tokens: Sequence[int] = ()
    logprobs: Sequence[Logprobs] = ()  # as many as tokens, or none
    ending: Ending | None = None
    text: str = ""  # why it failed
    cached_tokens: int = 0  # of its prompt, found in the engine's cache
    native: bytes = b""  # a prefill: what the engine of who goes on needs to fetch its cache
    vector: bytes = b""  # of a job that embeds


class Going(Struct, eq=False):
    """A job that the engine has, or that waits to land."""

    job: Job
    left: int  # tokens that it may still get
    output: Output | None = None  # what came, and was not told
    told: bool = False  # something of it was
    cached: bool = False  # and how much of it was in the engine's cache


class Gathering:
    """All jobs of one engine."""

    def __init__(self, card: Card) -> None:
        self.going: dict[Hashable, Going] = {}
        self._card = card
        blocks = card.blocks if card.blocks * card.block_tokens > 0 else card.context
        self._limits = Limits(
            card.vocabulary,
            card.context,
            card.slots,
            max(WAITING_MIN, 2 * card.slots),
            block_tokens=max(1, card.block_tokens),
            blocks=blocks,
            eos_tokens=card.eos_tokens,
            guides=card.guides,
        )
        self._outputs: list[Output] = []
        self._events: list[BlockEvent] = []
        self._computed = 0
        self._prefilled = 0

    # --- From the host ---------------------------------------------------------------------------------------

    def submit(self, job: Job) -> str | Going | None:
        """Take a job; or why not; or None, where it ends as it begins."""
        if job.key in self.going:
            return "a job of this key is already here"
        if refusal := unmet(job, self._card) or self._refusal(job):
            return refusal
        if len(self.going) >= self._limits.waiting_max:
            return FULL
        if (ending := self._ending(job)) is not None:
            self._outputs.append(Output(job.key, ending=ending))
            return None
        going = self.going[job.key] = Going(job, self._left(job))
        return going

    def land(self, key: Hashable, tokens: Sequence[int]) -> Going | None:
        """Let a job with `lands` go on after tokens that were made elsewhere: what is to be given to the engine."""
        going = self.going.get(key)
        if going is None or not going.job.lands:
            return None
        job = replace(going.job, lands=False, generated=[*going.job.generated, *tokens])
        going.job, going.left = job, self._left(job)
        if not are_tokens(tokens, self._limits.vocabulary):
            self.end(going, Ending.FAILED, f"a token outside the vocabulary of {self._limits.vocabulary} came with it")
        elif (ending := self._ending(job)) is not None:
            self.end(going, ending)
        else:
            return going
        return None

    def cancel(self, key: Hashable) -> Going | None:
        """It is over, whatever the engine still says of it."""
        going = self.going.get(key)
        if going is not None:
            self._discard(going)
            self.end(going, Ending.CANCELLED)
        return going

    # --- From the engine -------------------------------------------------------------------------------------

    def add(self, going: Going, piece: Piece) -> bool:
        """Something has come of a job; whether it is over."""
        if self.going.get(going.job.key) is not going:
            return True
        tokens, ending, text = piece.tokens, piece.ending, piece.text
        if not are_tokens(tokens, self._limits.vocabulary):
            tokens, ending, text = (), Ending.FAILED, "the engine made a token that its model does not have"
        elif piece.logprobs and len(piece.logprobs) != len(tokens):
            tokens, ending = (), Ending.FAILED
            text = f"the engine gave {len(piece.logprobs)} log-probabilities for {len(piece.tokens)} tokens"
        if tokens and len(tokens) >= going.left and ending is not Ending.STOP:
            ending = ending or Ending.LENGTH
        self._put(going, tokens[: going.left], piece)
        if ending is not None:
            self.end(going, ending, text)
        return ending is not None

    def end(self, going: Going, ending: Ending, text: str = "") -> None:
        """A job is over; one that was over before is no error."""
        if self.going.get(going.job.key) is not going:
            return
        del self.going[going.job.key]
        output = self._output(going)
        output.ending, output.text = ending, text

    def feed(self, events: Sequence[BlockEvent]) -> None:
        """Its cache has changed."""
        self._events += events

    def _put(self, going: Going, tokens: Sequence[int], piece: Piece) -> None:
        if not (tokens or piece.native or piece.vector or piece.cached_tokens):
            return
        output = self._output(going)
        going.left -= len(tokens)
        self._computed += len(tokens)
        if not going.told:
            going.told = True
            length = len(going.job.prompt) + len(going.job.generated)
            self._prefilled += max(0, length - piece.cached_tokens)
            self._computed += max(0, length - piece.cached_tokens)
        if piece.cached_tokens and not going.cached:
            going.cached = True
            output.cached_tokens = min(piece.cached_tokens, len(going.job.prompt))
        output.native, output.vector = piece.native or output.native, piece.vector or output.vector
        output.tokens = [*output.tokens, *tokens] if output.tokens else tokens
        if piece.logprobs:
            rows = piece.logprobs[: len(tokens)]
            output.logprobs = [*output.logprobs, *rows] if output.logprobs else rows

    def _output(self, going: Going) -> Output:
        if going.output is None:
            going.output = Output(going.job.key)
            self._outputs.append(going.output)
        return going.output

    def _discard(self, going: Going) -> None:
        """What came of a job and was not told."""
        if going.output is not None:
            self._outputs = [output for output in self._outputs if output is not going.output]
            going.output = None

    def _refusal(self, job: Job) -> str | None:
        if job.embeds and not self._card.embeds:
            return "this model makes no embeddings"
        if not job.embeds and not self._card.generates:
            return "this model makes embeddings: it generates no text"
        max_tokens = 1 if job.embeds else job.max_tokens
        return refusal_of(replace(job, embeds=False, lora="", max_tokens=max_tokens), self._limits)

    def _left(self, job: Job) -> int:
        return min(job.max_tokens - len(job.generated), self._limits.context - len(job.prompt) - len(job.generated))

    def _ending(self, job: Job) -> Ending | None:
        """Of one that needs no token more."""
        if job.embeds:
            return None
        if not job.generated:
            return Ending.LENGTH if self._left(job) <= 0 and not job.lands else None
        return ending_of(running_of(job, self._limits, 0, 0), job.generated[-1])

    # --- To the host -----------------------------------------------------------------------------------------

    def idle(self) -> bool:
        """Whether there is nothing to tell."""
        return not self._outputs and not self._events

    def step(self) -> Step:
        """All that has come since the last one."""
        step = Step(self._outputs, self._events, self._computed, self._prefilled)
        self._outputs, self._events, self._computed, self._prefilled = [], [], 0, 0
        for output in step.outputs:
            if (going := self.going.get(output.key)) is not None:
                going.output = None
        return step

    def load(self, said: EngineLoad) -> EngineLoad:
        """What the engine says of itself, and what it cannot know yet: figures of engines are some moments old."""
        new = [going for going in self.going.values() if not going.told and not going.job.lands]
        unseen = max(0, len(self.going) - said.running - said.waiting)
        prefill = sum(len(going.job.prompt) + len(going.job.generated) for going in new)
        return replace(said, waiting=said.waiting + unseen, prefill_tokens=said.prefill_tokens or prefill)

    def stop(self) -> None:
        """End all jobs, and forget what came of them."""
        self.going.clear()
        self._outputs, self._events = [], []
