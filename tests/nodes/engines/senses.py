"""Models that see or hear, for tests: the golden ones, and a tiny one."""

from functools import cache
from pathlib import Path

import numpy as np

from nodes.engines.numpy import towers
from nodes.engines.numpy.safetensors import Tensors

GOLDEN_MEDIA = Path(__file__).parent / "golden_media"
TOLERANCE = 1e-5  # of embeddings up to 7


@cache
def towers_of(name: str) -> towers.Towers:
    found = towers.load(GOLDEN_MEDIA / name)
    assert found is not None
    return found


@cache
def expected(name: str) -> dict[str, np.ndarray]:
    """What `transformers` computed."""
    tensors = Tensors([GOLDEN_MEDIA / name / "expected.safetensors"])
    found = {key: tensors[key] for key in tensors.names()}
    tensors.close()
    return found


def random_picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (height, width, 3), np.uint8)


def random_sound(seed: int, samples: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(samples, np.float32) * np.float32(0.1)
