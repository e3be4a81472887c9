"""The transformer computes what `transformers` computes, however the positions are cut and wherever they lie."""

import numpy as np
import pytest

from nodes.engines.numpy.safetensors import Tensors
from tests.nodes.engines.models import GOLDEN, NAMES, logits_of, model_of

KEPT = 8  # as in make_golden.py
IN_ORDER = list(range(16))
SCATTERED = [9, 3, 4, 5, 30, 2, 1, 0, 60, 61, 62, 7, 40, 20, 22, 24]  # more runs than are read in place


def expected(name: str) -> tuple[list[int], np.ndarray]:
    tensors = Tensors([GOLDEN / name / "expected.safetensors"])
    tokens, logits = tensors["tokens"], tensors["logits"]
    tensors.close()
    return [int(token) for token in tokens], logits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("cuts", "blocks"), [([], IN_ORDER), ([5, 6, 7, 20, 21], SCATTERED), (list(range(1, 48)), IN_ORDER)]
)
def test_logits_are_those_of_transformers(name: str, exact: bool, cuts: list[int], blocks: list[int]) -> None:
    tokens, logits = expected(name)
    found = logits_of(model_of(name, exact), tokens, cuts, blocks)
    np.testing.assert_allclose(found[::KEPT], logits, atol=1e-4, rtol=0)
