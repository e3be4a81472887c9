"""Pure. Tokens of words that were seen before: most of a text is words that were in another text already.

A byte-level BPE cuts a text before it merges anything. Where a letter, a space and a letter of ASCII follow each other
the known patterns cut before the space, whatever stands around them; so the tokens of a text are those of its pieces
between such places, one after the other. Whose pattern we do not know is not cut.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WORDS_MAX = 65_536  # pieces remembered, 200 bytes each: the words of a language that are in use
WORD_CHARS_MAX = 48  # longer pieces hardly come again
_PLACE = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")
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
    if any(" " in token.get("content", " ") or any(token.get(name) for name in odd) for token in added):
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
        self._known: dict[str, Sequence[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        known = self._known
        pieces = _PLACE.split(text)
        found = [known.get(piece) for piece in pieces]
        if None in found:
            self._learn([piece for piece, tokens in zip(pieces, found, strict=True) if tokens is None], pieces, found)
        made: list[int] = []
        for tokens in found:
            made += tokens  # type: ignore[arg-type]
        return made

    def _learn(self, missing: list[str], pieces: Sequence[str], found: list[Sequence[int] | None]) -> None:
        new = dict(zip(missing, self._encode(missing), strict=True))
        for index, tokens in enumerate(found):
            if tokens is None:
                found[index] = new[pieces[index]]
        if len(self._known) + len(new) > WORDS_MAX:
            self._known = {}
        self._known |= {piece: tokens for piece, tokens in new.items() if len(piece) <= WORD_CHARS_MAX}
