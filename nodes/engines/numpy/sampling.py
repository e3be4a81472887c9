"""Shell. From logits to a token: a function of the logits, the job and the position, and of nothing else.

Temperature, top-k, top-p and min-p make a set of candidates. Each gets its logit plus Gumbel noise, and the largest
wins: that draws from their softmax. The noise is a function of (seed, position, token), so what is drawn does not
depend on what was drawn before, nor on who else was a candidate; and a logit that is off by a rounding error changes
the winner only if two were that close, where a draw along the cumulated probabilities would amplify it.
"""

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from nodes.contract.engine import Job, Logprobs, Sampling

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
COLD = 1e-5  # a temperature below this is greedy
WORD = (1 << 64) - 1
GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64
NUCLEUS = 1024  # candidates that are enough for top-p, nearly always


def is_plain(job: Job) -> bool:
    """Whether the largest logit is all that this job wants."""
    given = job.sampling
    penalized = given.repetition_penalty != 1.0 or given.frequency_penalty or given.presence_penalty
    return given.temperature < COLD and not (penalized or given.logit_bias or job.min_tokens) and given.logprobs < 0


def choose(
    logits: Floats, job: Job, tokens: Sequence[int], banned: Sequence[int], allowed: Bools | None = None
) -> tuple[int, Logprobs | None]:
    """The next token after `tokens` (prompt and output), none of `banned`; and what was asked to be told of it.

    A guide has the last word: if all that it allows is banned, it is not.
    """
    given = job.sampling
    row = adjusted(logits, given, tokens, len(job.prompt))
    if allowed is not None:
        row[~allowed] = -np.inf
    if banned:
        kept = row[list(banned)]
        row[list(banned)] = -np.inf
        if allowed is not None and row.max() == -np.inf:
            row[list(banned)] = kept
    if given.temperature < COLD:
        token = int(row.argmax())
    else:
        token = drawn(row, given, len(tokens) - len(job.prompt))
    return token, logprobs_of(logits, token, given.logprobs) if given.logprobs >= 0 else None


def adjusted(logits: Floats, given: Sampling, tokens: Sequence[int], prompt: int) -> Floats:
    """A copy with penalties and biases."""
    row = logits.copy()
    if given.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(tokens))
        row[seen] = np.where(row[seen] > 0, row[seen] / given.repetition_penalty, row[seen] * given.repetition_penalty)
    if (given.frequency_penalty or given.presence_penalty) and len(tokens) > prompt:
        said, counts = np.unique(np.asarray(tokens[prompt:]), return_counts=True)
        row[said] -= (given.frequency_penalty * counts + given.presence_penalty).astype(np.float32)
    for token, bias in given.logit_bias.items():
        row[token] += np.float32(bias)
    return row


def drawn(row: Floats, given: Sampling, position: int) -> int:
    """One of the candidates, in proportion to their probabilities."""
    scaled = row.astype(np.float64) / given.temperature
    candidates = candidates_of(scaled, given)
    noisy = scaled[candidates] + gumbel(given.seed, position, candidates)
    return int(candidates[noisy.argmax()])


def candidates_of(scaled: Doubles, given: Sampling) -> Ints:
    """Whom top-k, top-p and min-p leave, each judged after the one before."""
    if 0 < given.top_k < len(scaled):
        candidates = np.argpartition(scaled, -given.top_k)[-given.top_k :]
    else:
        candidates = np.flatnonzero(scaled > -np.inf)
    if given.top_p < 1.0:
        candidates = nucleus(scaled, candidates, given.top_p)
    if given.min_p > 0.0:
        kept = scaled[candidates]
        candidates = candidates[kept >= kept.max() + log(given.min_p)]
    return candidates


def nucleus(scaled: Doubles, candidates: Ints, top_p: float) -> Ints:
    """The likeliest that together have at least `top_p`."""
    weights = np.exp(scaled[candidates] - scaled[candidates].max())
    wanted = top_p * weights.sum()
    if len(candidates) > NUCLEUS:
        best = np.argpartition(weights, -NUCLEUS)[-NUCLEUS:]
        if weights[best].sum() >= wanted:
            candidates, weights = candidates[best], weights[best]
    order = np.lexsort((candidates, -weights))
    before = np.cumsum(weights[order]) - weights[order]
    return candidates[order[: max(1, int((before < wanted).sum()))]]


def logprobs_of(logits: Floats, token: int, count: int) -> Logprobs:
    """Of the model itself: without penalties, biases and temperature."""
    row = logits.astype(np.float64)
    row -= row.max()
    row -= np.log(np.exp(row).sum())
    count = min(count, len(row))
    best = np.argpartition(row, -count)[-count:] if count else np.empty(0, np.int64)
    order = best[np.lexsort((best, -row[best]))]
    return Logprobs(float(row[token]), [(int(other), float(row[other])) for other in order])


def gumbel(seed: int, position: int, tokens: Ints) -> Doubles:
    """Noise, by a counter-based generator: splitmix64 of the token, from a start that seed and position give."""
    start = mixed(mixed((seed + GAMMA) & WORD) + (position + 1) * GAMMA & WORD)
    bits = tokens.astype(np.uint64) * np.uint64(GAMMA) + np.uint64(start)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(MIX_1)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(MIX_2)
    bits ^= bits >> np.uint64(31)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: Doubles = -np.log(-np.log(uniform))
    return noise


def mixed(bits: int) -> int:
    """The finalizer of splitmix64."""
    bits = (bits ^ (bits >> 30)) * MIX_1 & WORD
    bits = (bits ^ (bits >> 27)) * MIX_2 & WORD
    return bits ^ (bits >> 31)
