"""Shell. What is asked of a model in a benchmark, and what the simulated engine must answer, to the character.

The prompts are words that are one token each, so that their length is what was asked for, and each begins with a number
of its own, so that no cache has seen it. The truth needs no server: the simulated engine's next token is a function of
the tokens so far, so the answer follows from the prompt, the chat template and the tokenizer.
"""

import random
from itertools import count
from pathlib import Path

import msgspec

from nodes.engines.sim import continuation
from nodes.folder import contents_of
from nodes.loading import spoken
from nodes.text.template import ChatTemplate
from nodes.text.tokenizer import ModelFiles, Tokenizer

RESTS = 512  # different ends of prompts; the numbers before them make the prompts different
WORD_CHARS = range(2, 9)


class Truth:
    """A model's texts, without a model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = Tokenizer(ModelFiles(**contents_of(folder)))
        self.template = ChatTemplate(self.tokenizer.template, self.tokenizer.specials)
        self.span = spoken(self.tokenizer)

    def prompt(self, text: str) -> list[int]:
        """The tokens of a chat whose only message this is."""
        rendered = self.template.render([{"role": "user", "content": text}])
        return self.tokenizer.encode(rendered, add_special=False)

    def tokens(self, prompt: str, count: int) -> list[int]:
        """The first `count` tokens of the answer."""
        return continuation(self.prompt(prompt), count, self.span)

    def text(self, prompt: str, count: int) -> str:
        """Their text."""
        return self.tokenizer.decode(self.tokens(prompt, count))


class Prompts:
    """Prompts of about `tokens` tokens (the template's included), no two alike."""

    def __init__(self, truth: Truth, tokens: int, seed: int) -> None:
        draw = random.Random(seed)
        words = sorted(vocabulary(truth))
        first = f"{draw.getrandbits(32)}"
        fixed = len(truth.prompt(first + "-100000"))
        self._rests = [" ".join(["", *draw.choices(words, k=max(1, tokens - fixed))]) for _ in range(RESTS)]
        self._prefix = first
        self._numbers = count(100_000)

    def next(self) -> str:
        """One more."""
        number = next(self._numbers)
        return f"{self._prefix}-{number}{self._rests[number % RESTS]}"


def vocabulary(truth: Truth) -> list[str]:
    """Words that are one token each, with the space before them."""
    words = []
    for token in range(truth.tokenizer.vocabulary):
        spelling = truth.tokenizer.spell(token)
        word = spelling[1:].decode("ascii", "ignore")
        if spelling.startswith(b" ") and word.isalpha() and word.islower() and len(word) in WORD_CHARS:
            words.append(word)
    return words


def body(model: str, prompt: str, tokens: int, stream: bool, temperature: float = -1.0) -> bytes:
    """A chat request for so many tokens and no fewer."""
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
    }
    if temperature >= 0.0:
        asked["temperature"] = temperature
    if stream:
        asked["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(asked)
