"""Pure. Tokens of words that were seen before: most of a text is words that were in another text already.

A byte-level BPE cuts a text before it merges anything. The known patterns cut before a single space that stands between
a printable character of ASCII and a letter or digit, and behind a single line break that does, whatever is around them;
so the tokens of a text are those of its pieces between such places, one after the other. Whose pattern we do not know
is not cut. Tokens are kept as bytes: a text's are those of its pieces, joined.
"""

import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from string import ascii_letters, digits, punctuation
from typing import Any

WORDS_MAX = 65_536  # pieces remembered, 300 bytes each: the words of a language that are in use
FEW = 8  # one stretch in so many words may be unknown, or one, before pieces are looked for in all of a text
WORD_CHARS_MAX = 48  # longer pieces hardly come again
_FIRST = frozenset(ascii_letters + digits)  # of a piece, behind its space
_LAST = frozenset(ascii_letters + digits + punctuation)
_DIGITS = re.compile("[0-9]{5}")  # long numbers hardly come again
_PLACE = re.compile(r"(?<=[!-~])(?= [A-Za-z0-9])|(?<=[!-~]\n)(?=[A-Za-z0-9])")
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = (  # of Llama 3, and of Qwen 2 and 3; that of GPT-2 is the library's own
    _WORD + r"\p{N}{1,3}" + _REST,
    _WORD + r"\p{N}" + _REST,
)

Encode = Callable[[list[str]], Sequence[Sequence[int]]]


def separable(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json cuts at these places for sure."""
    model, normalizer = tokenizer.get("model") or {}, tokenizer.get("normalizer") or {}
    if model.get("type") != "BPE" or model.get("dropout") or normalizer.get("type", "NFC") != "NFC":
        return False
    odd = ("lstrip", "rstrip", "single_word")
    added = tokenizer.get("added_tokens") or []
    if any({" ", "\n"} & {*token.get("content", " ")} or any(token.get(name) for name in odd) for token in added):
        return False
    return _cuts(tokenizer.get("pre_tokenizer") or {})


def _cuts(step: Mapping[str, Any]) -> bool:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return bool(step.get("use_regex", True))
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"} as split,
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern in _PATTERNS and not split.get("invert")
    return False


class Words:
    """Encodes texts word by word. `encode` is the library: texts to tokens, without special ones at the ends."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: dict[str, bytes] = {}
        self._spaced: dict[str, bytes] = {}  # those of them that are a word between two places, without its space

    def encode(self, text: str) -> "array[int]":
        """The tokens of a text. Mostly its words are known, so what is common is done for all of them at once."""
        words = text.split(" ")
        found: list[bytes | None] = [*map(self._spaced.get, words)]
        found[0] = None  # no space stands before it
        known = self._fill(words, found)
        return array("i", b"".join(found) if known else self._pieces(text))  # type: ignore[arg-type]

    def _fill(self, words: Sequence[str], found: list[bytes | None]) -> bool:
        """Where words are not known, or are no words: each such stretch as a whole, from one place to another. Whether
        there are few."""
        end, stop, few = 0, len(found), len(found) // FEW + 1
        found.append(None)  # so that one more is found, at the end
        while (at := found.index(None, end)) < stop:
            if not few:
                return False
            start = at - (at > end and words[at][:1] not in _FIRST)
            end = self._until(at + 1, words, found)
            found[start] = self._pieces(" " * (start > 0) + " ".join(words[start:end]))
            found[start + 1 : end] = [b""] * (end - start - 1)
            few -= 1
        found.pop()
        return True

    def _until(self, end: int, words: Sequence[str], found: Sequence[bytes | None]) -> int:
        """The first word from `end` on that is known, and begins behind a place."""
        while end < len(words):
            if found[end] is not None and words[end - 1][-1:] in _LAST and words[end][:1] in _FIRST:
                break
            end += 1
        return end

    def _pieces(self, text: str) -> bytes:
        """The tokens of a stretch, piece by piece."""
        pieces = _PLACE.split(text)
        found = [*map(self._known.get, pieces)]
        if None in found:
            new = self._learn([piece for piece, tokens in zip(pieces, found, strict=True) if tokens is None])
            found = [new[piece] if tokens is None else tokens for piece, tokens in zip(pieces, found, strict=True)]
        return b"".join(found)  # type: ignore[arg-type]

    def _learn(self, missing: list[str]) -> dict[str, bytes]:
        new = {piece: array("i", ids).tobytes() for piece, ids in zip(missing, self._encode(missing), strict=True)}
        if len(self._known) + len(new) > WORDS_MAX:
            self._known, self._spaced = {}, {}
        for piece, tokens in new.items():
            if len(piece) <= WORD_CHARS_MAX and not _DIGITS.search(piece):
                self._remember(piece, tokens)
        return new

    def _remember(self, piece: str, tokens: bytes) -> None:
        word = piece[1:]
        self._known[piece] = tokens
        if piece[:1] == " " and " " not in word and word[:1] in _FIRST and word[-1:] in _LAST:
            self._spaced[word] = tokens
