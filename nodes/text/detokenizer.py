"""Pure. Tokens to text as they come, without ever splitting a character.

`ByteDetokenizer` is for vocabularies whose tokens are strings of bytes (byte-level BPE: nearly all of today's). A token
is then one table look-up, and the state is the at most three bytes of an unfinished character: it is rebuilt after a
migration from the tokens alone. Its whole output equals decoding all tokens at once, also for bytes that are no UTF-8.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

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

    rest: bytes  # of an unfinished character; without it, what is `rendered` is what a token adds
    rendered: Mapping[int, bytes | None]  # as JSON; None for what depends on its neighbours

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
        self.rendered = Rendered(self)

    def __missing__(self, token: int) -> str | None:
        try:
            text: str | None = self.spell(token).decode()
        except UnicodeDecodeError:
            text = None
        self[token] = text
        return text


class Never(dict[int, bytes | None]):
    """Nothing is known of a token by itself."""

    def __missing__(self, token: int) -> None:
        return None


class Rendered(dict[int, bytes | None]):
    """The same as JSON, which most of them become; nothing for what has no text."""

    def __init__(self, spellings: Spellings) -> None:
        super().__init__()
        self._spellings = spellings

    def __missing__(self, token: int) -> bytes | None:
        text = self._spellings[token]
        self[token] = made = None if text is None else msgspec.json.encode(text) if text else b""
        return made


class ByteDetokenizer:
    """For tokens that are bytes."""

    __slots__ = ("_spellings", "rendered", "rest")

    def __init__(self, spellings: Spellings) -> None:
        self._spellings = spellings
        self.rendered: Mapping[int, bytes | None] = spellings.rendered
        self.rest = b""  # of an unfinished character

    @property
    def pending(self) -> bool:
        return bool(self.rest)

    def feed(self, tokens: Sequence[int]) -> str:
        if not self.rest:
            texts = [self._spellings[token] for token in tokens]
            if None not in texts:
                return texts[0] if len(texts) == 1 else "".join(texts)  # type: ignore[return-value, arg-type]
        spell = self._spellings.spell
        data = self.rest + b"".join([spell(token) for token in tokens])
        cut = len(data) - unfinished(data)
        self.rest = data[cut:]
        return data[:cut].decode("utf-8", "replace")

    def each(self, tokens: Sequence[int]) -> list[str]:
        if not self.rest:
            spellings = self._spellings
            texts = [spellings[token] for token in tokens]
            if None not in texts:
                return texts  # type: ignore[return-value]
        return [self.feed((token,)) for token in tokens]

    def finish(self) -> str:
        data, self.rest = self.rest, b""
        return data.decode("utf-8", "replace")
