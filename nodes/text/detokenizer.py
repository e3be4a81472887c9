"""Pure. Tokens to text as they come, without ever splitting a character.

`ByteDetokenizer` is for vocabularies whose tokens are strings of bytes (byte-level BPE: nearly all of today's). A token
is then one table look-up, and the state is the at most three bytes of an unfinished character: it is rebuilt after a
migration from the tokens alone. Its whole output equals decoding all tokens at once, also for bytes that are no UTF-8.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"

# The beginning of a character at the end of bytes, by the table of well-formed UTF-8 (Unicode, 3-7).
_UNFINISHED = re.compile(
    rb"(?:[\xc2-\xdf]"
    rb"|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef][\x80-\xbf]?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf][\x80-\xbf]?)?|[\xf1-\xf3](?:[\x80-\xbf][\x80-\xbf]?)?|\xf4(?:[\x80-\x8f][\x80-\xbf]?)?)\Z"
)
UNFINISHED_BYTES_MAX = 3


class Detokenizer(Protocol):
    """Tokens of one stream to text."""

    @property
    def pending(self) -> bool:
        """Whether a character has begun and is not complete."""
        ...

    def feed(self, tokens: Sequence[int]) -> str:
        """More tokens; the text that is certain now."""
        ...

    def each(self, tokens: Sequence[int]) -> list[str]:
        """The same, and which token brought which text."""
        ...

    def finish(self) -> str:
        """No more tokens: what is left of an unfinished character, as replacement characters."""
        ...


def unfinished(data: bytes) -> int:
    """How many bytes at the end may still become a character."""
    found = _UNFINISHED.search(data, max(0, len(data) - UNFINISHED_BYTES_MAX))
    return len(data) - found.start() if found else 0


class Spellings(dict[int, str | None]):
    """The text of each token, or None for one that ends or begins within a character. Filled as tokens are seen, so
    that a vocabulary of 150,000 costs a frontend only what it meets."""

    def __init__(self, spell: Callable[[int], bytes]) -> None:
        super().__init__()
        self.spell = spell

    def __missing__(self, token: int) -> str | None:
        try:
            text: str | None = self.spell(token).decode()
        except UnicodeDecodeError:
            text = None
        self[token] = text
        return text


class ByteDetokenizer:
    """For tokens that are bytes."""

    __slots__ = ("_pending", "_spellings")

    def __init__(self, spellings: Spellings) -> None:
        self._spellings = spellings
        self._pending = b""

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def feed(self, tokens: Sequence[int]) -> str:
        if not self._pending:
            texts = [self._spellings[token] for token in tokens]
            if None not in texts:
                return texts[0] if len(texts) == 1 else "".join(texts)  # type: ignore[return-value, arg-type]
        spell = self._spellings.spell
        data = self._pending + b"".join([spell(token) for token in tokens])
        cut = len(data) - unfinished(data)
        self._pending = data[cut:]
        return data[:cut].decode("utf-8", "replace")

    def each(self, tokens: Sequence[int]) -> list[str]:
        if not self._pending:
            spellings = self._spellings
            texts = [spellings[token] for token in tokens]
            if None not in texts:
                return texts  # type: ignore[return-value]
        return [self.feed((token,)) for token in tokens]

    def finish(self) -> str:
        data, self._pending = self._pending, b""
        return data.decode("utf-8", "replace")
