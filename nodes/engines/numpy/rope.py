"""Shell. Rotary positions, with the scalings that lengthen a context."""

from math import log, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.engines.numpy.config import Rope

Floats = NDArray[np.float32]


def turns(rope: Rope, head_width: int, positions: int) -> NDArray[np.complex64]:
    """(positions, head_width / 2): what each pair of a head is multiplied with, as a complex number."""
    frequencies, factor = FREQUENCIES[rope.kind](rope, plain(rope.theta, head_width))
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies.astype(np.float32))
    table = np.empty(angles.shape, np.complex64)
    table.real = np.cos(angles) * np.float32(factor)
    table.imag = np.sin(angles) * np.float32(factor)
    return table


def paired(rows: Floats, head_width: int) -> Floats:
    """Reorder the rows of a projection so that the two halves of each head become pairs, side by side.

    A pair is then one complex number, and turning it is one product. Scores do not change: they do not depend on the
    order within a head as long as queries and keys share it.
    """
    heads = rows.reshape(-1, 2, head_width // 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def plain(theta: float, head_width: int) -> Floats:
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    frequencies: Floats = (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)
    return frequencies


def default(rope: Rope, frequencies: Floats) -> tuple[Floats, float]:
    return frequencies, 1.0


def linear(rope: Rope, frequencies: Floats) -> tuple[Floats, float]:
    return frequencies / np.float32(rope.scaling["factor"]), 1.0


def llama3(rope: Rope, frequencies: Floats) -> tuple[Floats, float]:
    """Slow waves are slowed by the factor, fast ones are kept, those between are blended."""
    given = rope.scaling
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    length = given["original_max_position_embeddings"]
    waves = 2 * pi / frequencies
    blend = (length / waves - low) / (high - low)
    blended = (1 - blend) * frequencies / given["factor"] + blend * frequencies
    slowed = np.where(waves > length / low, frequencies / given["factor"], frequencies)
    between = (waves <= length / low) & (waves >= length / high)
    return np.where(between, blended, slowed).astype(np.float32), 1.0


def yarn(rope: Rope, frequencies: Floats) -> tuple[Floats, float]:
    """As llama3 by the number of turns within the original context, and louder attention."""
    given = rope.scaling
    half, length, factor = len(frequencies), given["original_max_position_embeddings"], given["factor"]

    def dimension(turns: float) -> float:
        """The pair that turns so often within the original context."""
        return half * log(length / (turns * 2 * pi)) / log(rope.theta)

    low, high = dimension(given.get("beta_fast") or 32), dimension(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = np.clip((np.arange(half, dtype=np.float32) - low) / max(high - low, 0.001), 0, 1)
    scaled = frequencies / factor * ramp + frequencies * (1 - ramp)
    return scaled.astype(np.float32), loudness(given, factor)


def loudness(given: dict[str, Any], factor: float) -> float:
    def of(scale: float) -> float:
        return 0.1 * scale * log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    if given.get("mscale") and given.get("mscale_all_dim"):
        return of(given["mscale"]) / of(given["mscale_all_dim"])
    return of(1.0)


FREQUENCIES = {"default": default, "linear": linear, "llama3": llama3, "yarn": yarn}
