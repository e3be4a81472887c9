"""Shell. A worker in front of an OpenAI-compatible URL.

This is also how to write an adapter: `Source` of `nodes.engines.outside` is all that there is. What an engine cannot do
is in its card: here, sampling that resumes, a cache that is handed over or told of, and whatever the server lacks.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from msgspec.structs import replace

from nodes.contract.engine import BlockEvent, Card, Ending, EngineLoad, Job, Logprobs
from nodes.engines.openai_url.client import answers, fetched
from nodes.engines.openai_url.finding import Settings, find
from nodes.engines.openai_url.guides import Otherwise, Skipping, guided, refusal
from nodes.engines.openai_url.http import Unreachable
from nodes.engines.openai_url.texts import Bytes, Writer
from nodes.engines.openai_url.wire import Dialect, Said, Way, asked
from nodes.engines.outside import JobLost, JobMoved, Piece, budget_of, sequence_of
from nodes.guiding.library import GuideRefused
from nodes.metrics import Family, counter, gauge
from nodes.text.tokenizer import Tokenizer

SLOTS = 64  # requests that the server gets at once: it has a queue of its own
OUTCOMES = ("complete", "refused", "lost", "cancelled")

log = logging.getLogger("wiremesh.url")


class UrlSource:
    """Keeps the contract of `nodes.engines.outside.Source`."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self._settings, self._place = settings, settings.place
        self._tokenizer = tokenizer
        self._single = Bytes(tokenizer)
        self._dialect = Dialect("")
        self._running = 0
        self._odd = 0
        self._outcomes = dict.fromkeys(OUTCOMES, 0)

    def start(self) -> Card:
        self._dialect = asyncio.run(find(self._settings, self._tokenizer))
        return Card(
            engine="openai",
            model=self._dialect.model,
            vocabulary=self._tokenizer.vocabulary,
            context=self._dialect.context,
            slots=self._settings.slots or SLOTS,
            block_tokens=1,
            blocks=0,
            eos_tokens=self._tokenizer.eos_tokens,
            resumes_sampling=False,
            resumes_exactly=False,
            tells_blocks=False,
            lacks=self._dialect.lacks,
            guides=bool(self._dialect.tongue),
            unseeded="" if self._dialect.seeds else "before a server that heeds it",
        )

    def refusal(self, job: Job) -> str | None:
        if job.media:
            return "a server behind a URL gets no pictures, sounds or clips"
        return refusal(self._dialect.tongue, job.guide)

    async def stream(self, job: Job) -> AsyncIterator[Piece]:
        outcome = "cancelled"
        self._running += 1
        try:
            async for piece in self._pieces(job):
                yield piece
            outcome = "complete"
        except Otherwise:
            outcome = "lost"
            raise JobLost("a stream has moved here, and the server says something else than was said before") from None
        except JobLost:
            outcome = "lost"
            raise
        except ValueError as error:
            outcome = "refused"
            raise error if job.guide is None else GuideRefused(str(error)) from None
        finally:
            self._running -= 1
            self._outcomes[outcome] += 1

    async def _pieces(self, job: Job) -> AsyncIterator[Piece]:
        skipping, begun = self._begun(job)
        sequence, made = sequence_of(begun), len(job.generated) - len(begun.generated)
        budget = min(budget_of(begun), self._dialect.context - len(sequence))
        writer = Writer(self._tokenizer, self._single, sequence_of(job))
        ending, usage, last = None, Said(), Piece()
        words = guided(self._dialect.tongue, job.guide)
        body = asked(self._dialect, begun, self._prompt(begun), budget, words)
        async for said in answers(self._place, self._dialect, body):
            one = skipping.rest(said)
            tokens = writer.tokens(one.text) if one.tokens is None else one.tokens
            made += len(tokens)
            ending = one.ending or ending
            usage = one if one.prompt_tokens >= 0 else usage
            if tokens:
                if last.tokens:
                    yield last
                last = Piece(tokens, _rows(one, job.sampling.logprobs))
            if last.tokens and made < budget:  # the last goes with what its server says at the end
                yield last
                last = Piece()
        if ending in (None, Ending.LOST):
            raise JobMoved("the server ended the stream before it was complete")
        if not skipping.over:
            raise Otherwise
        self._count(usage, len(sequence), made)
        yield replace(last, ending=ending, cached_tokens=usage.cached_tokens)

    def _begun(self, job: Job) -> tuple[Skipping, Job]:
        """What a server is asked for, and what of its answer was told before: where it counts from its own beginning,
        it begins anew."""
        if job.guide is None:
            return Skipping([], ""), job
        said = [*job.generated]
        return Skipping(said, self._tokenizer.decode(said) if said else ""), replace(job, generated=[])

    def _prompt(self, job: Job) -> str | list[int]:
        sequence = sequence_of(job)
        if self._dialect.takes_ids:
            return sequence
        # A server that makes tokens of a text puts the first one of every sequence there by itself.
        text = self._tokenizer.decode(sequence, skip_special=False)
        return text.removeprefix(self._tokenizer.specials.get("bos_token", ""))

    def _count(self, usage: Said, length: int, made: int) -> None:
        """Compare the server's usage with ours: if it counts otherwise, it does not see the prompt that we mean."""
        if usage.prompt_tokens < 0 or not self._dialect.takes_ids:
            return
        # A server may count a first token that it adds, and a last one that it does not give.
        odd = self._dialect.way is not Way.TEXT and usage.completion_tokens not in (-1, made, made + 1)
        if odd or usage.prompt_tokens not in (length, length + 1):
            self._odd += 1
            if self._odd == 1:
                theirs = f"{usage.prompt_tokens} and {usage.completion_tokens}"
                log.warning("the server counts %s tokens, we %d and %d: is --model its model?", theirs, length, made)

    def load(self) -> EngineLoad:
        return EngineLoad(running=self._running)

    def events(self) -> list[BlockEvent]:
        return []

    def families(self) -> list[Family]:
        outcomes: dict[str, float] = dict(self._outcomes)
        return [
            counter("openai_url_requests_total", "Requests to the server behind a URL.", outcomes, "outcome"),
            gauge("openai_url_active_requests", "Requests that the server has.", self._running),
            counter("openai_url_odd_usage_total", "Requests whose usage is not what we counted.", self._odd),
        ]

    async def well(self) -> bool:
        try:
            return (await fetched(self._place, "/models"))[0] < 500
        except Unreachable:
            return False

    async def stop(self) -> None:
        """Nothing of it is ours."""


def _rows(one: Said, alternatives: int) -> Sequence[Logprobs]:
    """As many alternatives as were asked for: servers show what was chosen besides."""
    return [Logprobs(row.chosen, row.top[:alternatives]) for row in one.logprobs] if alternatives >= 0 else ()
