"""What llama.cpp says of its cache, as rows and back, and its parameters as words. Without llama.cpp itself."""

from random import Random

import numpy as np
import pytest

from nodes.engines.llama.exchange import (
    HEAD,
    MIDDLE,
    ORDER,
    PART,
    PLACES,
    TURNED,
    Rows,
    Strange,
    heard,
    layout_of,
    told,
)
from nodes.engines.llama.flags import settings_of

LAYERS, HEADS, WIDTH, MAGIC = 3, 2, 4, 77


def said(places: list[int], numbers: np.ndarray, turned: bool) -> bytes:
    """A state as llama.cpp writes it: (part, layer, position, number), in the order of its cells."""
    kind, item = (0, 4) if numbers.dtype == np.float32 else (1, 2)
    row = numbers.shape[-1]
    made = HEAD.pack(MAGIC, 5, 1, len(places))
    made += np.array([(place, 1, 5) for place in places], PLACES).tobytes() + MIDDLE.pack(turned, LAYERS)
    for part in range(2):
        for layer in range(LAYERS):
            if part and turned:
                made += TURNED.pack(kind, item, row) + numbers[part, layer].T.tobytes()
            else:
                made += PART.pack(kind, row * item) + numbers[part, layer].tobytes()
    return made


def numbers_of(count: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(2, LAYERS, count, HEADS * WIDTH)).astype(dtype)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_come_in_the_order_of_their_positions(dtype: type, turned: bool) -> None:
    numbers = numbers_of(4, dtype)
    rows = heard(said([9, 7, 8, 6], numbers, turned))
    found: np.ndarray = np.ascontiguousarray(rows.content).view(dtype)
    assert (found == numbers.transpose(1, 0, 2, 3)[:, :, [3, 1, 2, 0]]).all()
    again = heard(told(rows.content, 6, rows))
    assert (again.content == rows.content).all() and again.turned == turned
    assert told(numbers_as_bytes(numbers), 6, rows)[12:] == relaned(said([6, 7, 8, 9], numbers, turned))[12:]


def numbers_as_bytes(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers.transpose(1, 0, 2, 3)).view(np.uint8)


def relaned(state: bytes) -> bytes:
    """The same, said of the lane that copies are made in."""
    places = np.frombuffer(state, PLACES, 4, HEAD.size).copy()
    places["lane"] = 0
    return state[: HEAD.size] + places.tobytes() + state[HEAD.size + places.nbytes :]


def test_a_layout_is_what_one_position_is_like() -> None:
    layout, sample = layout_of(said([0], numbers_of(1, np.float16), False), 16, HEADS)
    assert layout is not None and sample is not None
    assert (layout.layers, layout.heads, layout.width, layout.dtype) == (LAYERS, HEADS, WIDTH, "float16")
    assert layout.order == ORDER and layout.block_bytes == 16 * sample.content.size
    assert layout_of(b"", 16, HEADS) == (None, None)


def test_what_is_of_another_form_is_refused() -> None:
    """Whatever is cut off or longer; and no byte that says how it is built may be another."""
    whole = said([0, 1], numbers_of(2, np.float32), True)
    random = Random(1)
    for stop in (0, 3, 20, 40, 60, *(random.randrange(len(whole)) for _ in range(40))):
        with pytest.raises(Strange):
            heard(whole[:stop])
    with pytest.raises(Strange):
        heard(whole + b"0")
    start = HEAD.size + 2 * PLACES.itemsize
    for at in (8, HEAD.size + 4, start, start + 4, start + MIDDLE.size, start + MIDDLE.size + 4):
        broken = bytearray(whole)
        broken[at] ^= 0x40
        with pytest.raises(Strange):
            heard(bytes(broken))


def test_rows_are_only_told_in_a_form_that_was_heard() -> None:
    with pytest.raises(AssertionError):
        told(Rows(0, 0, 0, np.zeros((1, 2, 1, 4), np.uint8)).content, 0, None)


def test_parameters_are_words() -> None:
    words = ["--n-gpu-layers", "20", "--rope-freq-base=5e5", "--offload-kqv", "false", "--n-threads=-1"]
    assert settings_of(words) == {"n_gpu_layers": 20, "rope_freq_base": 5e5, "offload_kqv": 0, "n_threads": -1}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--n-ctx", "5"], "'--n-ctx' is none of llama.cpp's parameters that can be set here: --n-threads, "),
        (["n_threads", "5"], "'n_threads' is none of"),
        (["--n-threads"], "--n-threads is '': it must be a whole number"),
        (["--op-offload", "maybe"], "--op-offload is 'maybe': it must be true or false"),
        (["--rope-freq-base", "x"], "--rope-freq-base is 'x': it must be a number"),
    ],
)
def test_other_words_are_refused(words: list[str], text: str) -> None:
    with pytest.raises(ValueError) as raised:
        settings_of(words)
    assert str(raised.value).startswith(text)
