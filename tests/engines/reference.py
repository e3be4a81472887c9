"""What an engine should say: the demo model's tokens, one sequence alone, checked by computing it in one piece.

Every engine that computes in float32 says the same, whatever it caches, batches or cuts.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from xxhash import xxh3_64_intdigest

from nodes.engines.numpy.attention import Span
from nodes.engines.numpy.engine import configuration
from nodes.engines.numpy.model import Model, load
from nodes.engines.sim import continuation
from nodes.folder import folder_of

DEMO = folder_of("demo")
DIGEST = xxh3_64_intdigest
CONTEXT = 1024
_known: dict[tuple[int, ...], list[int]] = {}


def greedy(prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest continuation, past any end of sequence."""
    said = _known.get(tuple(prompt), [])
    if len(said) < count:
        tokens = [*prompt, int(logits(prompt)[-1].argmax())]
        while len(tokens) < len(prompt) + count:
            tokens.append(int(logits(tokens, len(tokens) - 1)[0].argmax()))
        said = _known[tuple(prompt)] = tokens[len(prompt) :]
        whole = logits(tokens)[len(prompt) - 1 : -1].argmax(axis=1)
        assert whole.tolist() == said, "in one piece it is the same"
    return said[:count]


def simulated(prompt: Sequence[int], count: int) -> list[int]:
    """What the simulated engine says, if it may say any token but the first ten."""
    return continuation(prompt, count, SAID)


SAID = (10, 1535)


def likelihoods(prompt: Sequence[int], said: Sequence[int]) -> np.ndarray:
    """For each of the tokens that were said, the logarithms of all probabilities."""
    rows = logits([*prompt, *said])[len(prompt) - 1 : -1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    found: np.ndarray = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return found


def logits(tokens: Sequence[int], start: int = 0) -> np.ndarray:
    """Of every position from `start` on; those before are what was asked for last."""
    places = np.arange(start, len(tokens))
    span = Span(0, len(places), start, [(0, len(tokens))])
    found: np.ndarray = _model().logits(np.asarray(tokens[start:]), places, places, [span], places - start)
    return found


@cache
def _model() -> Model:
    return load(configuration(DEMO)[0], DEMO, CONTEXT, CONTEXT, exact=False)
