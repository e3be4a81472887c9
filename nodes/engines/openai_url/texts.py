"""Pure. A text that came in pieces made into tokens, so that they are exactly that text again.

A model's own tokenizer finds nearly always the tokens that the server had made it of, because most pieces are one
token. Where its tokens would read differently (a space that a tokenizer adds, the spelling of a special token), the
text is written in tokens of single bytes.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

CONTEXT_TOKENS = 8  # of what came before, at least, so that a word's leading space is not lost at the border
ANCHOR = "\n"  # before a piece: what a tokenizer does to the beginning of a text, it does to this


class Language(Protocol):
    """What is needed of `nodes.text.tokenizer.Tokenizer`."""

    vocabulary: int

    def encode(self, text: str, add_special: bool = True) -> list[int]: ...

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str: ...

    def spell(self, token: int) -> bytes: ...

    def is_special(self, token: int) -> bool: ...


class Bytes:
    """The tokens that are single bytes."""

    def __init__(self, language: Language) -> None:
        self._language = language

    @cached_property
    def tokens(self) -> dict[int, int]:
        """By their byte; those of a vocabulary's byte fallback come first."""
        language, found = self._language, dict[int, int]()
        for token in range(language.vocabulary):
            spelling = language.spell(token)
            if len(spelling) == 1 and not language.is_special(token):
                found.setdefault(spelling[0], token)
        return found

    def of(self, text: str) -> list[int] | None:
        """A text in such tokens; None if one is missing."""
        found = [self.tokens.get(byte) for byte in text.encode()]
        return None if None in found else found  # type: ignore[return-value]


class Writer:
    """Tokens of one stream, from its text. `before`: the tokens that it follows."""

    def __init__(self, language: Language, single: Bytes, before: Sequence[int]) -> None:
        self._language = language
        self._single = single
        self._pieces = [list(before[-CONTEXT_TOKENS:])]  # whole ones: no character of ours is cut

    def tokens(self, text: str) -> list[int]:
        """The tokens of the next piece. Raises ValueError for a text that the vocabulary cannot write."""
        if not text:
            return []
        before = [token for piece in self._pieces for token in piece]
        wanted = self._language.decode(before) + text
        for tokens in self._candidates(text):
            if self._language.decode([*before, *tokens]) == wanted:
                self._pieces.append(tokens)
                while sum(map(len, self._pieces[1:])) >= CONTEXT_TOKENS:
                    del self._pieces[0]
                return tokens
        raise ValueError(f"{text[:20]!r} cannot be written in the model's tokens: is --model the server's model?")

    def _candidates(self, text: str) -> Iterator[list[int]]:
        yield self._language.encode(text, add_special=False)
        anchor = self._language.encode(ANCHOR, add_special=False)
        whole = self._language.encode(ANCHOR + text, add_special=False)
        if whole[: len(anchor)] == anchor:
            yield whole[len(anchor) :]
        single = self._single.of(text)
        if single is not None:
            yield single
