"""Pure. One choice's tokens to what its client reads: text, log-probabilities, and whether a stop string ended it.

Positions are counted in characters of the choice's text. A token's log-probabilities travel with the last of its text,
never before: so a chunk's entries and its text belong together, and those of tokens behind a stop string never leave.
"""

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from nodes.contract.engine import Logprobs
from nodes.text.detokenizer import Detokenizer
from nodes.text.stop import Scanner


class Entry(Struct):
    """The log-probabilities of one token, spelled."""

    token: int
    spelling: bytes
    logprob: float | None  # none for the first token of a prompt
    offset: int  # where its text begins
    top: list[tuple[int, bytes, float]] = []


class TextStream:
    """Feeds tokens in, hands text out. The same tokens give the same text, however they are cut into chunks."""

    __slots__ = (
        *("_counted", "_detokenizer", "_entries", "_min_tokens", "_offset"),
        *("_scanner", "_sent", "_spell", "_told"),
    )

    def __init__(
        self,
        detokenizer: Detokenizer,
        scanner: Scanner | None = None,
        spell: Callable[[int], bytes] | None = None,  # given: log-probabilities are wanted
        min_tokens: int = 0,
        offset: int = 0,  # of the first character: an echoed prompt stands before it
    ) -> None:
        self._detokenizer = detokenizer
        self._scanner = scanner
        self._spell = spell
        self._min_tokens = min_tokens
        self._offset = offset
        self._told = 0  # characters that the tokens so far spell
        self._sent = 0  # characters that were handed out
        self._counted = 0
        self._entries: deque[tuple[int, Entry]] = deque()  # (where its text ends, entry), not handed out yet

    @property
    def tokens(self) -> int:
        """How many tokens were taken: those that came after the stop string do not count."""
        return self._counted

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._scanner is not None and self._scanner.matched >= 0

    def feed(self, tokens: Sequence[int], logprobs: Sequence[Logprobs] = ()) -> str:
        """More tokens; returns the text that may be shown now."""
        if self._scanner is None and self._spell is None:
            self._counted += len(tokens)
            return self._detokenizer.feed(tokens)
        shown = []
        for index, token in enumerate(tokens):
            if self.stopped:
                break
            shown.append(self._one(token, logprobs[index] if index < len(logprobs) else None))
        return "".join(shown)

    def each(self, tokens: Sequence[int]) -> list[str]:
        """More tokens, without log-probabilities; returns the text that may be shown after each."""
        if self._scanner is None and self._spell is None:
            self._counted += len(tokens)
            return self._detokenizer.each(tokens)
        return [self.feed((token,)) for token in tokens]

    def skip(self, tokens: int = 1) -> None:
        """Tokens that count and are no text here: the one that ended the sequence, or those that a caller shows."""
        self._counted += tokens

    @property
    def detokenizer(self) -> Detokenizer:
        """For who shows every token at once and tells by `skip`."""
        return self._detokenizer

    def ends_here(self) -> bool:
        """Whether a token that ends the sequence would do so now."""
        return self._counted >= self._min_tokens

    def _one(self, token: int, logprobs: Logprobs | None) -> str:
        self._counted += 1
        begin = self._told
        text = self._detokenizer.feed((token,))
        self._told += len(text)
        if self._spell is not None and logprobs is not None:
            self._entries.append((-1, self._entry(token, logprobs, begin)))
        if self._entries and not self._detokenizer.pending:
            self._settle()
        return self._show(text, self._counted >= self._min_tokens)

    def _entry(self, token: int, logprobs: Logprobs, begin: int) -> Entry:
        assert self._spell is not None
        top = [(other, self._spell(other), logprob) for other, logprob in logprobs.top]
        return Entry(token, self._spell(token), logprobs.chosen, begin + self._offset, top)

    def _settle(self) -> None:
        """The text of all tokens so far is complete: those that waited for it end here."""
        waiting = []
        while self._entries and self._entries[-1][0] < 0:
            waiting.append((self._told, self._entries.pop()[1]))
        self._entries.extend(reversed(waiting))

    def _show(self, text: str, armed: bool) -> str:
        if self._scanner is not None:
            text = self._scanner.feed(text, armed)
            if self.stopped:
                self._end(self._sent + len(text))
        self._sent += len(text)
        return text

    def _end(self, length: int) -> None:
        """The text ends here: entries that begin behind it are dropped, the others are due."""
        kept = [(0, entry) for _, entry in self._entries if entry.offset - self._offset < length]
        self._entries = deque(kept)

    def take_entries(self) -> list[Entry]:
        """The log-probabilities whose text has been shown, once each."""
        taken = []
        while self._entries and 0 <= self._entries[0][0] <= self._sent:
            taken.append(self._entries.popleft()[1])
        return taken

    def finish(self) -> str:
        """No more tokens: the rest of the text, and with it the rest of the entries."""
        if self.stopped:
            return ""
        text = self._detokenizer.finish()
        self._told += len(text)
        if self._scanner is not None:
            text = self._scanner.feed(text) + ("" if self.stopped else self._scanner.finish())
        self._sent += len(text)
        self._end(self._sent + 1)
        return text
