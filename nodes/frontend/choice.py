"""Pure. One candidate of one prompt: a request of the mesh, its tokens as they come, and what its client reads of it.

The hot path is `deliver`, which only keeps the tokens, and `show`, once for all that came since the last turn. A choice
is plain if there is nothing to show but the text of its tokens: no stop strings, no log-probabilities.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from mesh.core import Finish
from nodes.contract.engine import Logprobs
from nodes.generation import decode_logprobs
from nodes.openai.chunks import Chunks
from nodes.openai.errors import Problem, of_reason
from nodes.openai.responses import Usage
from nodes.text.detokenizer import Detokenizer
from nodes.text.stream import Entry, TextStream
from proto.errors import Reason

ROUTERS = (Reason.BUSY, Reason.UNAVAILABLE)  # routers refuse for these
REASONS = {Reason.COMPLETE: "stop", Reason.STOPPED: "stop", Reason.LENGTH: "length"}


def nobody(choice: "Choice") -> None:
    """Nobody has to know."""


class Choice(Struct, eq=False):
    """The feed of one request of the mesh. `touched` is told, once, that there is something to show."""

    request: int
    index: int
    prompt: int  # which of the prompts it continues
    stream: TextStream
    detokenizer: Detokenizer  # of this stream
    touched: Callable[["Choice"], None]
    chunks: Chunks | None = None  # none: the answer comes in one piece
    silent: frozenset[int] = frozenset()  # tokens that end the text and are not part of it
    usage: Callable[[], Usage] | None = None  # of all choices so far; given where every event shows it
    prefix: str = ""  # the prompt's text, where it is echoed, until it was shown
    plain: bool = False  # streamed, with none of those three
    arrived: list[int] = []
    items: list[bytes] = []
    dirty: bool = False
    closed: bool = False  # whether the generation has taken notice of its end
    finish: Finish | None = None
    outcome: str = ""  # `finish_reason`, once it is over
    problem: Problem | None = None
    taken: int = 0  # tokens that were shown, or stand behind the end of the text
    told: int = 0  # of them, those that the mesh knows of
    texts: list[str] = []
    entries: list[Entry] = []
    logprob: float = 0.0
    last: float = 0.0  # when it was shown last; 0.0 before its first token
    longest_s: float = 0.0

    @property
    def position(self) -> int:
        """Tokens that were taken."""
        return self.taken

    # --- The feed ----------------------------------------------------------------------------------------

    def deliver(self, position: int, items: Sequence[bytes], tokens: Sequence[int]) -> None:
        """More tokens, and an item for each of them or none."""
        self.arrived += tokens
        if items:
            self.items += items
        if not self.dirty:
            self.dirty = True
            self.touched(self)

    def end(self, finish: Finish) -> None:
        """No more tokens."""
        self.finish = finish
        if not self.dirty:
            self.dirty = True
            self.touched(self)

    # --- Showing -----------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """How many tokens were generated: what came behind a stop string does not count."""
        return self.stream.tokens

    def show(self, events: list[bytes], now: float, gap: Callable[[float], None]) -> None:
        """Make of all that came what the client is to read; at the end its last event. `gap` is told how long the
        tokens took, each."""
        self.dirty = False
        tokens = self.arrived
        if tokens:
            self.arrived = []
            count = len(tokens)
            self.taken += count
            if self.prefix:
                self._echo(events)
            if self.plain:
                self.stream.skip(count)
                events += self.chunks.texts(self.detokenizer.each(tokens))  # type: ignore[union-attr]
            elif not self.outcome:
                self._take(tokens, events)
            if self.last:
                gap_s = now - self.last
                gap(gap_s / count)
                if gap_s > self.longest_s:
                    self.longest_s = gap_s
            self.last = now
        if self.finish is not None and not self.outcome and self.problem is None:
            self._end(self.finish, events)

    def quick(self, now: float, gap: Callable[[float], None]) -> bytes:
        """`show` for a plain choice between its first and its last token: all that came, in one piece."""
        self.dirty = False
        tokens, self.arrived = self.arrived, []
        count = len(tokens)
        self.taken += count
        self.stream.skip(count)
        gap_s = now - self.last
        gap(gap_s / count)
        if gap_s > self.longest_s:
            self.longest_s = gap_s
        self.last = now
        chunks, detokenizer = self.chunks, self.detokenizer
        assert chunks is not None
        if not detokenizer.rest:
            before, after, rendered = chunks.before, chunks.after, detokenizer.rendered
            if count == 1:  # a step's: once for each token that is served
                text = rendered[tokens[0]]
                if text is not None:
                    return before + text + after if text else b""
            elif None not in (found := [rendered[token] for token in tokens]):
                return b"".join([before + text + after for text in found if text])
        return chunks.joined(self.detokenizer.each(tokens))

    def _echo(self, events: list[bytes]) -> None:
        """The prompt itself stands before its continuation."""
        if self.chunks is not None:
            events.append(self.chunks.event(self.prefix))
        else:
            self.texts.append(self.prefix)
        self.prefix = ""

    def _take(self, tokens: list[int], events: list[bytes]) -> None:
        if self.silent or self.items or self.usage is not None:
            self._slowly(tokens, events)
        elif self.chunks is not None:
            events += self.chunks.texts(self.stream.each(tokens))
        else:
            self.texts.append(self.stream.feed(tokens))
        if self.stream.stopped and not self.outcome:
            self._close("stop", "", events)

    def _slowly(self, tokens: list[int], events: list[bytes]) -> None:
        """Token by token: with log-probabilities, a usage in every event, or tokens that are not shown."""
        items, self.items = self.items, []
        for place, token in enumerate(tokens):
            row = decode_logprobs(items[place]) if place < len(items) else None
            if token in self.silent and self.stream.ends_here():
                self.stream.skip()
                continue
            if row is not None:
                self.logprob += row.chosen
            self._one(token, row, events)
            if self.stream.stopped:
                return

    def _one(self, token: int, row: Logprobs | None, events: list[bytes]) -> None:
        text = self.stream.feed((token,), () if row is None else (row,))
        entries = self.stream.take_entries()
        if self.chunks is None:
            self.texts.append(text)
            self.entries += entries
        elif text or entries:
            self._tell(text, entries, None if self.usage is None else self.usage(), events)

    def _tell(self, text: str, entries: list[Entry], usage: Usage | None, events: list[bytes]) -> None:
        """An event. Some clients add up the log-probabilities of a first one twice, so that one has none."""
        assert self.chunks is not None
        if entries and not self.chunks.opened:
            events.append(self.chunks.opening())
        events.append(self.chunks.event(text, entries or None, usage=usage))

    def _end(self, finish: Finish, events: list[bytes]) -> None:
        outcome = REASONS.get(finish.reason)
        if outcome is None:
            retry_s = finish.retry_ms / 1000 if finish.retry_ms else None
            said = finish.why if finish.why == finish.text and finish.reason in ROUTERS else ""
            self.problem = of_reason(finish.reason, finish.text, retry_s, said)
            return
        if self.prefix:
            self._echo(events)
        if self.plain:
            self._last(self.detokenizer.finish(), outcome, events)
            return
        text = self.stream.finish()
        self._close("stop" if self.stream.stopped else outcome, text, events)

    def _last(self, text: str, outcome: str, events: list[bytes]) -> None:
        """The end of a plain choice."""
        assert self.chunks is not None
        self.outcome = outcome
        if text:
            events.append(self.chunks.event(text))
        events.append(self.chunks.event("", reason=outcome))

    def _close(self, outcome: str, text: str, events: list[bytes]) -> None:
        self.outcome = outcome
        entries = self.stream.take_entries()
        if self.chunks is None:
            self.texts.append(text)
            self.entries += entries
            return
        usage = None if self.usage is None else self.usage()
        if text or entries:
            self._tell(text, entries, usage, events)
        events.append(self.chunks.event("", None, outcome, usage))

    def let_go(self) -> None:
        """Its generation is over. What names each other would wait for a collection, with all that the others name: for
        each request a tenth of what a frontend does, and a pause for all of its streams."""
        self.touched, self.usage = nobody, None

    def moved(self) -> bool:
        """Whether it was on more than one node."""
        return self.finish is not None and len(self.finish.nodes) > 1
