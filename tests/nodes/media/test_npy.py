"""Embeddings that a client computed."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.media import npy
from nodes.media.content import MediaRefused


def saved(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_are_read(kind: type[np.floating]) -> None:
    values = np.linspace(-2, 2, 12).reshape(3, 4).astype(kind)
    rows, raw = npy.rows_of(saved(values), 4)
    assert rows == 3 and np.array_equal(np.frombuffer(raw, np.float32).reshape(3, 4), values.astype(np.float32))


@pytest.mark.parametrize(
    "array",
    [
        *(np.zeros((2, 5), np.float32), np.zeros(4, np.float32), np.zeros((1, 2, 4), np.float32)),
        *(np.zeros((2, 4), np.int32), np.asfortranarray(np.zeros((2, 4), np.float32)), np.zeros((0, 4), np.float32)),
        *(np.array([[object()] * 4]), np.full((1, 4), np.nan, np.float32), np.full((1, 4), 1e300)),
        np.full((1, 4), np.inf, np.float32),
    ],
)
def test_what_is_no_rows_of_the_model_is_refused(array: object) -> None:
    with pytest.raises(MediaRefused):
        npy.rows_of(saved(array) if not isinstance(array, np.ndarray) or array.dtype != object else b"\x93NUMPY", 4)


@given(st.binary(max_size=64), st.integers(0, 150))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_rows_or_refused(data: bytes, cut: int) -> None:
    for candidate in (data, b"\x93NUMPY" + data, saved(np.zeros((2, 4), np.float32))[:cut]):
        with pytest.raises(MediaRefused):
            npy.rows_of(candidate, 4)
