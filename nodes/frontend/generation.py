"""Pure. What one HTTP request makes of the mesh: its choices, their events in one stream or one answer, and its end.

It is over when every choice has ended, when one has failed, or when nobody wants it any more: each exactly once. What
it wants of the mesh meanwhile stands in `orders`, for the shell to post.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

from msgspec import Struct

from mesh.core import Abandon, Consumed
from nodes.frontend.choice import Choice
from nodes.frontend.tally import Tally
from nodes.openai import errors
from nodes.openai.chunks import DONE
from nodes.openai.demand import best
from nodes.openai.errors import Problem
from nodes.openai.responses import Answer, Outcome, Usage, usage_of, whole
from proto.messages import Strength

Order = Abandon | Consumed
CANCELLED = Problem(499, "The client has gone.", errors.INVALID, None, "request_cancelled")


class Generation(Struct, eq=False):
    """The choices of one request."""

    name: str  # what `/v1/streams/` finds it by
    answer: Answer
    prompts: Sequence[int]  # the tokens of each
    step: int  # so many tokens are taken before the mesh hears of it
    began: float
    tally: Tally
    choices: list[Choice] = []
    orders: list[Order] = []
    waiting: dict[int, list[Callable[[], None]]] = {}  # by prompt: candidates that are not asked for yet
    problem: Problem | None = None
    done: bool = False
    body: bytes = b""  # the whole answer, if it is not streamed
    first_s: float = -1.0  # until the first token, or before it -1
    unfinished: int = 0  # choices

    def add(self, choice: Choice) -> None:
        """One more choice, before the first turn."""
        self.choices.append(choice)
        self.unfinished += 1

    def later(self, prompt: int, ask: Callable[[], None]) -> None:
        """Ask once another candidate of this prompt has a token: then the prompt was computed, and its cache is found
        where this one goes, or is on its way there."""
        self.waiting.setdefault(prompt, []).append(ask)

    @property
    def streams(self) -> bool:
        """Whether its answer comes in events."""
        return self.answer.demand.stream

    @property
    def ended(self) -> bool:
        """Whether every choice has ended, and only `complete` is left to do."""
        return not self.unfinished and not self.done

    # --- A turn ------------------------------------------------------------------------------------------

    def turn(self, touched: Sequence[Choice], now: float) -> list[bytes]:
        """What is to be sent of the choices that have something. Afterwards `orders` may be filled."""
        events: list[bytes] = []
        if self.done:
            return events
        if self.first_s < 0 and [choice for choice in touched if choice.arrived]:
            self._first(events, now)
        for choice in touched:
            choice.show(events, now, self.tally.token_gap)
            if choice.taken - choice.told >= self.step or choice.outcome or choice.problem is not None:
                self._notice(choice, events)
        if self.waiting:
            self._follow(touched)
        return events

    def _follow(self, touched: Sequence[Choice]) -> None:
        """Ask for those who waited for these."""
        for choice in touched:
            for ask in self.waiting.pop(choice.prompt, ()):
                ask()

    def _first(self, events: list[bytes], now: float) -> None:
        """The first token. Some clients know choices by the order in which they come, so all are opened in order."""
        self.first_s = now - self.began
        demand = self.answer.demand
        self.tally.first_token(demand.model, self.first_s)
        if demand.chat is not None and len(self.choices) > 1:
            events += [choice.chunks.opening() for choice in self.choices if choice.chunks is not None]

    def _notice(self, choice: Choice, events: list[bytes]) -> None:
        """A choice has ended, or has read a good part of its window."""
        if choice.problem is not None:
            events += self.fail(choice.problem)
        elif choice.outcome and not choice.closed:
            choice.closed = True
            self.unfinished -= 1
            if choice.finish is None:  # a stop string: the mesh knows nothing of them
                self.orders.append(Abandon(choice.request, Strength.KILL))
        elif choice.finish is None and not choice.outcome:
            self.read_on(choice)

    def read_on(self, choice: Choice) -> None:
        """A choice has taken a good part of its window: let the mesh send more."""
        choice.told = choice.taken
        self.orders.append(Consumed(choice.request, choice.taken))

    # --- The end -----------------------------------------------------------------------------------------

    def fail(self, problem: Problem) -> list[bytes]:
        """It ends here, unanswered or half answered."""
        if self.done:
            return []
        self.done = True
        self.problem = problem
        self.waiting.clear()
        self.orders += [Abandon(choice.request, Strength.KILL) for choice in self.choices if choice.finish is None]
        self.body = errors.body(problem)
        return [errors.event(problem)] if self.streams else []

    def complete(self) -> list[bytes]:
        """The end of the stream, or the whole answer. The orders were posted: what the mesh knows by now counts."""
        self.done = True
        if not self.streams:
            self.body = whole(self.answer, self._outcomes(), self.usage())
            return []
        if not self.answer.demand.usage:
            return [DONE]
        chunks = self.choices[0].chunks
        assert chunks is not None, "an answer that is streamed has chunks"
        return [chunks.tally(self.usage()), DONE]

    def _outcomes(self) -> list[Outcome]:
        """The choices that are shown: of each prompt's candidates the best."""
        demand = self.answer.demand
        shown = []
        for _, group in groupby(self.choices, lambda choice: choice.prompt):
            candidates = list(group)
            if demand.candidates > demand.choices:
                ranks = best([(choice.logprob, choice.tokens) for choice in candidates], demand.choices)
                candidates = [candidates[rank] for rank in ranks]
            shown += candidates
        return [
            Outcome(index, "".join(choice.texts), choice.outcome, choice.entries) for index, choice in enumerate(shown)
        ]

    def usage(self) -> Usage:
        """Tokens so far, of all candidates; each prompt counts once."""
        prompt_tokens, completion_tokens, cached_tokens = self.counts()
        moved = [
            (choice.index, position)
            for choice in self.choices
            if choice.finish is not None
            for position in choice.finish.moved_at
        ]
        return usage_of(prompt_tokens, completion_tokens, cached_tokens, moved)

    def counts(self) -> tuple[int, int, int]:
        """Tokens of the prompts, generated ones, and those of the prompts that were found in a cache."""
        if len(self.choices) == 1 and self.choices[0].finish is not None:  # asked for three times of each answer
            return self.prompts[0], self.choices[0].stream.tokens, self.choices[0].finish.cached
        cached = [0] * len(self.prompts)
        for choice in self.choices:
            if choice.finish is not None:
                cached[choice.prompt] = max(cached[choice.prompt], choice.finish.cached)
        generated = sum([choice.tokens for choice in self.choices])
        return sum(self.prompts), generated, sum(cached)

    def nodes(self) -> list[int]:
        """The nodes that had a part in it."""
        found = [node for choice in self.choices if choice.finish is not None for node in choice.finish.nodes]
        return list(dict.fromkeys(found))

    def attempts(self) -> int:
        """Legs of all its requests."""
        return sum([choice.finish.attempts for choice in self.choices if choice.finish is not None])
