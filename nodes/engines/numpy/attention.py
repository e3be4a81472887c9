"""Shell. Attention over a paged cache, and where a sequence's keys and values lie in it.

One layer's values are (key heads, slots, head width), its keys (key heads, head width, slots): so both products run
along the memory. Blocks that are neighbours in a sequence mostly are neighbours in the cache too, so a sequence lies
there in a few runs, and attention reads these where they are.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Run = tuple[int, int]  # first slot, and the one after the last
RUNS_MAX = 8  # more are copied together first
SCORES_MAX = 200_000  # in one go: they are walked over several times, and this many stay near the processor


class Span(Struct, eq=False):
    """Neighbouring rows of a step that are neighbouring positions of one sequence."""

    first: int  # row
    last: int  # the row after
    position: int  # of the first row
    runs: list[Run]  # where the sequence lies, from its start to the last of these positions


def runs_of(blocks: Sequence[int], block_tokens: int, length: int) -> list[Run]:
    """The first `length` positions of a sequence, whose blocks these are, as runs of slots."""
    runs: list[Run] = []
    first = last = 0
    for block in blocks:
        start = block * block_tokens
        if start != last or not runs:
            runs.append((start, start))
            first = start
        last = start + block_tokens
        runs[-1] = (first, last)
    return clipped(runs, 0, length)


def clipped(runs: Sequence[Run], start: int, stop: int) -> list[Run]:
    """The runs of positions from `start` up to before `stop`."""
    found, position = [], 0
    for first, last in runs:
        low, high = max(start, position), min(stop, position + last - first)
        if low < high:
            found.append((first + low - position, first + high - position))
        position += last - first
    return found


def attend(queries: Floats, keys: Floats, values: Floats, span: Span, window: int, exact: bool) -> Floats:
    """(n, heads, head width) of queries, already scaled, to (n, heads * head width).

    Exact: row by row, because then all shapes depend on the row's position only.
    """
    count, heads, _ = queries.shape
    limit = 1 if exact else RUNS_MAX
    if count == 1 and not window:
        return one(queries[0], *pieces(keys, values, span.runs, limit))
    rows_max = 1 if exact else max(1, SCORES_MAX // (heads * (span.position + count)))
    parts = []
    for row in range(0, count, rows_max):
        part, position = queries[row : row + rows_max], span.position + row
        start = max(0, position + 1 - window) if window else 0
        found = pieces(keys, values, clipped(span.runs, start, position + len(part)), limit)
        parts.append(one(part[0], *found) if len(part) == 1 else several(part, *found, position - start, window))
    return np.concatenate(parts)


def pieces(keys: Floats, values: Floats, runs: Sequence[Run], limit: int) -> tuple[list[Floats], list[Floats]]:
    """The keys and values of some runs, where they lie; or copied together, if there are more than `limit`."""
    some_keys = [keys[:, :, first:last] for first, last in runs]
    some_values = [values[:, first:last] for first, last in runs]
    if len(runs) > limit:
        return [np.concatenate(some_keys, axis=2)], [np.concatenate(some_values, axis=1)]
    return some_keys, some_values


def one(query: Floats, keys: list[Floats], values: list[Floats]) -> Floats:
    """(heads, head width), which sees all keys, to (1, heads * head width)."""
    heads, width = query.shape
    return mixed(query.reshape(len(keys[0]), -1, width), keys, values, None).reshape(1, heads * width)


def several(queries: Floats, keys: list[Floats], values: list[Floats], before: int, window: int) -> Floats:
    """(n, heads, head width) to (n, heads * head width); `before` is how many keys come before the first query."""
    count, heads, width = queries.shape
    groups, length = len(keys[0]), sum(piece.shape[2] for piece in keys)
    grouped = queries.reshape(count, groups, -1, width).transpose(1, 2, 0, 3).reshape(groups, -1, width)
    found = mixed(grouped, keys, values, hidden(count, length, before, window))
    return found.reshape(groups, -1, count, width).transpose(2, 0, 1, 3).reshape(count, heads * width)


def mixed(queries: Floats, keys: list[Floats], values: list[Floats], mask: Floats | None) -> Floats:
    """(groups, rows, head width) of queries to the values they see, mixed."""
    found = [np.matmul(queries, piece) for piece in keys]
    scores = found[0] if len(found) == 1 else np.concatenate(found, axis=2)
    if mask is not None:
        scores.reshape(len(scores), -1, *mask.shape)[...] += mask
    scores -= np.maximum.reduce(scores, axis=2, keepdims=True)
    np.exp(scores, out=scores)
    at = values[0].shape[1]
    mixture: Floats = np.matmul(scores[..., :at], values[0])
    for piece in values[1:]:
        mixture += np.matmul(scores[..., at : at + piece.shape[1]], piece)
        at += piece.shape[1]
    mixture /= np.add.reduce(scores, axis=2, keepdims=True)
    return mixture


def hidden(count: int, length: int, before: int, window: int) -> Floats:
    """(queries, keys): minus infinity where a query must not see a key."""
    distance = before + np.arange(count)[:, None] - np.arange(length)[None, :]
    seen = distance >= 0
    if window:
        seen &= distance < window
    return np.where(seen, np.float32(0), np.float32(-np.inf))
