"""Shell. The guides of one engine, and its jobs under them.

A guide is read once, in a thread of its own, and kept for who sends it again. A job has a copy, which is shown the
tokens that were made, by whomever, and says which may come next. So it does not matter where they were made.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.contract.guide import Guide
from nodes.guiding.deep import deeply
from nodes.guiding.library import GuideRefused, grammar_of, installed, library, limits, sentence

Bools = NDArray[np.bool_]
KEPT_MAX = 64  # guides that were read: some hundred kilobytes each


class Lost(Exception):
    """A job's guide says nothing of what may come. Its text is one sentence that says why."""


class Guides:
    """What was read of them, for one vocabulary."""

    def __init__(self, tokenizer: str, vocabulary: int, eos_tokens: Sequence[int]) -> None:
        """Takes a second for 100000 tokens, in which no other thread runs. Raises ValueError."""
        self.vocabulary = vocabulary
        self.eos_tokens = tuple(token for token in eos_tokens if token < vocabulary)
        self._words = _words(tokenizer, vocabulary, [*self.eos_tokens])
        self._read: OrderedDict[Guide, Future[Any]] = OrderedDict()

    def follow(self, guide: Guide, begins: int) -> "Following":
        """A job under a guide, whose output begins at this position of its sequence."""
        return Following(self, guide, self.read(guide), begins)

    def read(self, guide: Guide) -> "Future[Any]":
        """Begin to read it, if nobody has."""
        read = self._read.pop(guide, None)
        if read is None or (read.done() and isinstance(read.exception(), RuntimeError)):
            read = self._begun(guide)
        self._read[guide] = read
        while len(self._read) > KEPT_MAX:
            self._read.popitem(last=False)
        return read

    def _begun(self, guide: Guide) -> "Future[Any]":
        try:
            return deeply(lambda: self._matcher(guide))
        except RuntimeError as error:  # There can be no thread more, now.
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _matcher(self, guide: Guide) -> Any:
        """Raises GuideRefused."""
        matcher = library().LLMatcher(self._words, grammar_of(guide), limits=limits(), log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first takes longest, and what it has found is in every copy
        if matcher.is_error():
            raise GuideRefused(sentence(guide, matcher.get_error()))
        return matcher


class Following:
    """One job. What it knows is a function of the guide and of the tokens after `begins`."""

    def __init__(self, guides: Guides, guide: Guide, read: "Future[Any]", begins: int) -> None:
        self._guide = guide
        self._seen = begins
        self._matcher: Any = None
        self.vocabulary = guides.vocabulary
        self.read = read

    @property
    def ready(self) -> bool:
        """Whether its guide was read by now."""
        return self.read.done()

    def allowed(self, tokens: Sequence[int]) -> Bools:
        """Which may follow these, by their ids. Raises GuideRefused or Lost."""
        if self._matcher is None:
            self._matcher = self._copy()
        matcher = self._matcher
        if len(tokens) > self._seen:
            matcher.consume_tokens([*tokens[self._seen :]])
            self._seen = len(tokens)
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error():
            raise Lost(sentence(self._guide, matcher.get_error()))
        found = np.unpackbits(mask, count=self.vocabulary, bitorder="little").view(np.bool_)
        if not found.any():
            raise Lost(sentence(self._guide, "no token of the model fits here"))
        return found

    def _copy(self) -> Any:
        try:
            return self.read.result().deep_copy()
        except GuideRefused:
            raise
        except Exception as error:  # It could not even be read: there is no room for that now.
            raise Lost(sentence(self._guide, str(error))) from error


def _words(tokenizer: str, vocabulary: int, eos_tokens: list[int]) -> Any:
    """A model may have more tokens than its tokenizer, or, rarely, fewer."""
    make = library().LLTokenizer
    try:
        return make(tokenizer, n_vocab=vocabulary, eos_token=eos_tokens)
    except ValueError:
        return make(tokenizer, eos_token=eos_tokens)


def guides_of(tokenizer: Path | str, vocabulary: int, eos_tokens: Sequence[int]) -> Guides | None:
    """None where guides cannot be followed: without the library, a tokenizer that it knows, or an end of sequence."""
    if not (installed() and any(token < vocabulary for token in eos_tokens)):
        return None
    try:
        text = tokenizer if isinstance(tokenizer, str) else tokenizer.read_text()
        return Guides(text, vocabulary, eos_tokens)
    except (ValueError, OSError):
        return None
