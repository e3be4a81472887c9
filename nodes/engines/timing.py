"""Pure. How long a step of a simulated engine takes.

The formulas and their constants are those of Dynamo's mocker, so that runs of both can be compared: with n new prompt
tokens, prefill takes 4.21e-7 n² + 1.518e-2 n + 16.5 ms (0 ms for n = 0), and decode -25.74 p² + 54.01 p + 5.74 ms, at
least 1 ms. There p is what all sequences that decode have in the cache, as a share of it and at most 1; what several of
them share is read by each, and counts for each. A table of measured points can stand in for either.
"""

from bisect import bisect_right
from collections.abc import Sequence

from msgspec import Struct

PREFILL_MS = (4.209989e-07, 1.518344e-02, 16.50142)
DECODE_MS = (-25.74, 54.01, 5.74)
DECODE_MS_MIN = 1.0

Points = Sequence[tuple[float, float]]  # (tokens, milliseconds), tokens ascending


class Timing(Struct, frozen=True):
    """`speedup` divides everything; 0 is as fast as it can. An empty table means the formula."""

    speedup: float = 1.0
    prefill_ms: tuple[tuple[float, float], ...] = ()  # by new tokens in the step
    decode_ms: tuple[tuple[float, float], ...] = ()  # by tokens of all sequences that decode


def step_s(timing: Timing, new_tokens: int, decodes: bool, cached_tokens: int, cache_tokens: int) -> float:
    """Seconds for a step with `new_tokens` of prompts, and with a decode or none, of `cached_tokens` in all."""
    if timing.speedup <= 0:
        return 0.0
    milliseconds = 0.0
    if new_tokens:
        milliseconds += _prefill_ms(timing, new_tokens)
    if decodes:
        milliseconds += _decode_ms(timing, cached_tokens, cache_tokens)
    return milliseconds / 1000 / timing.speedup


def _prefill_ms(timing: Timing, tokens: int) -> float:
    if timing.prefill_ms:
        return interpolate(timing.prefill_ms, tokens)
    square, linear, constant = PREFILL_MS
    return square * tokens * tokens + linear * tokens + constant


def _decode_ms(timing: Timing, cached: int, total: int) -> float:
    if timing.decode_ms:
        return interpolate(timing.decode_ms, cached)
    share = min(cached / total, 1.0)
    square, linear, constant = DECODE_MS
    return max(DECODE_MS_MIN, square * share * share + linear * share + constant)


def interpolate(points: Points, x: float) -> float:
    """On the line between the two points around x; beyond the last, on the line through the last two."""
    if len(points) == 1 or x <= points[0][0]:
        return points[0][1]
    at = min(bisect_right(points, (x, float("inf"))), len(points) - 1)
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
