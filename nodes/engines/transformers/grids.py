"""Shell. Places of a sequence's positions in three dimensions (M-RoPE), as Qwen2-VL and Qwen2.5-VL want them.

A text's position has one place in all three. The rows of a picture share the first, and have a line and a column; what
follows goes on behind the larger of the two. So each picture takes fewer places than it has rows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nodes.contract.media import Media, lines_of

Ints = NDArray[np.int64]


def places(media: Sequence[Media], start: int, stop: int) -> Ints:
    """(3, positions) for positions [start, stop)."""
    found = np.broadcast_to(np.arange(start, stop), (3, stop - start)).copy()
    saved = 0  # places that the pictures before took less than they have rows
    for one in media:
        lines, across = lines_of(one)
        low, high = max(start, one.first), min(stop, one.end)
        if low < high:
            rows = np.arange(low, high) - one.first
            corner = one.first - saved
            found[:, low - start : high - start] = corner + np.stack([0 * rows, rows // across, rows % across])
        saved += one.count - max(lines, across)
        if one.end < stop:
            later = max(one.end, start)
            found[:, later - start :] = np.arange(later, stop) - saved
    return found
