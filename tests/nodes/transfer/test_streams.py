"""Pieces, layouts and handles: pure arithmetic, against the slow and obvious way."""

from contextlib import suppress
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.transfer import layout as layouts
from nodes.transfer.handle import Handle, HandleRefused, Shared, decode, encode, examine
from nodes.transfer.layout import Layout, LayoutRefused, blocks_needed, reorder
from nodes.transfer.pieces import PiecesRefused, compose, cut, distinct, pack, pair, stream, unpack
from nodes.transfer.wire import Piece, Pull, decode_answered, decode_asked
from nodes.transfer.wire import encode as encode_message
from proto.errors import RemoteError

pieces = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20)), max_size=12)


def spelled(some: list[tuple[int, int]]) -> list[int]:
    """Every byte's offset, one by one."""
    return [offset + index for offset, length in some for index in range(length)]


@given(some=pieces, data=st.data())
def test_a_cut_is_what_one_would_spell_out(some: list[tuple[int, int]], data: st.DataObject) -> None:
    whole = stream(some)
    every = spelled(some)
    assert whole.size == len(every) and whole.end == max((byte + 1 for byte in every), default=0)
    start = data.draw(st.integers(0, len(every)))
    stop = data.draw(st.integers(start, len(every)))
    assert spelled(cut(whole, start, stop)) == every[start:stop]
    assert distinct(whole) == (len(set(every)) == len(every))
    assert unpack(pack(whole.pieces)) == list(whole.pieces)


@given(theirs=pieces, seed=st.integers(0, 9), data=st.data())
def test_pairs_move_each_byte_to_its_place(theirs: list[tuple[int, int]], seed: int, data: st.DataObject) -> None:
    source, every = stream(theirs), spelled(theirs)
    random, ours, left, at = Random(seed), [], source.size, 1000
    while left:
        take = random.randint(1, left)
        ours.append((at, take))
        at, left = at + take + random.randint(0, 3), left - take
    random.shuffle(ours)
    target = stream(ours)
    start = data.draw(st.integers(0, source.size))
    stop = data.draw(st.integers(start, source.size))
    moved = [(a + index, b + index) for a, b, n in pair(source, target, start, stop) for index in range(n)]
    assert moved == list(zip(every[start:stop], spelled(ours)[start:stop], strict=True))


@pytest.mark.parametrize("wrong", [[(-1, 2)], [(0, -2)], [(index * 2, 1) for index in range(70_000)]])
def test_pieces_that_are_none_are_refused(wrong: list[tuple[int, int]]) -> None:
    with pytest.raises(PiecesRefused):
        stream(wrong)


@given(
    order=st.permutations(layouts.AXES),
    small=st.integers(1, 3),
    times=st.integers(1, 4),
    blocks=st.integers(1, 5),
    grow=st.booleans(),
)
def test_other_block_sizes_put_every_token_where_it_belongs(
    order: list[str], small: int, times: int, blocks: int, grow: bool
) -> None:
    """Against NumPy: take theirs apart by token, put ours together by token."""
    text = " ".join(order)
    sizes = (small, small * times) if grow else (small * times, small)
    theirs, ours = (Layout(tokens, 2, 2, 3, "uint8", 1, text) for tokens in sizes)
    assert theirs.block_bytes == theirs.block_tokens * 12
    needed = blocks_needed(theirs, ours, blocks)
    axis = 1 + order.index("token")
    shape = {"layer": 2, "part": 1, "head": 2, "width": 3}
    source = np.random.default_rng(1).integers(0, 256, blocks * theirs.block_bytes, np.uint8)

    def by_token(flat: np.ndarray, count: int, tokens: int) -> np.ndarray:
        cube = flat.reshape(count, *(tokens if name == "token" else shape[name] for name in order))
        return np.moveaxis(cube, axis, 1).reshape(count * tokens, 12)

    target = np.zeros(needed * ours.block_bytes, np.uint8)
    whole = compose(stream([(0, target.size)]), reorder(theirs, ours, blocks))
    for there, here, length in pair(stream([(0, source.size)]), whole, 0, source.size):
        target[here : here + length] = source[there : there + length]
    tokens = blocks * theirs.block_tokens
    assert np.array_equal(
        by_token(source, blocks, theirs.block_tokens), by_token(target, needed, ours.block_tokens)[:tokens]
    )


GOOD = Layout(16, 2, 4, 64, "float16")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (Layout(16, 3, 4, 64, "float16"), "2 layers, ours 3 layers"),
        (Layout(16, 2, 8, 64, "float16"), "4 heads, ours 8 heads"),
        (Layout(16, 2, 4, 32, "float16"), "64 width, ours 32 width"),
        (Layout(16, 2, 4, 64, "float32"), "dtype float16, ours dtype float32"),
        (Layout(16, 2, 4, 64, "float16", 1), "2 parts, ours 1 parts"),
        (Layout(16, 2, 4, 64, "float16", 2, "token layer part head width"), "same model"),
        (Layout(24, 2, 4, 64, "float16"), "one is a multiple of the other"),
        (Layout(16, 2, 4, 64, "float12"), "'float12' is none of"),
        (Layout(16, 2, 4, 64, "float16", 2, "token token"), "name each of"),
    ],
)
def test_layouts_that_do_not_fit_are_refused_with_a_sentence(other: Layout, text: str) -> None:
    with pytest.raises(LayoutRefused, match=text):
        reorder(GOOD, other, 1)


def test_a_conversion_that_would_be_dear_is_refused() -> None:
    with pytest.raises(LayoutRefused, match="the same block size"):
        reorder(Layout(16, 64, 8, 64, "float16"), Layout(32, 64, 8, 64, "float16"), 1000)
    assert reorder(GOOD, GOOD, 10**6) == [(0, 10**6 * GOOD.block_bytes)]


def handle(**other: object) -> Handle:
    fields: dict[str, object] = {
        "node": 1,
        "plane": 2,
        "offer": 3,
        "slot": 4,
        "generation": 6,
        "size": 30,
        "ready": 10,
        "lease_ms": 5,
        "host": "h",
        "addresses": ["ipc:///x"],
        "pieces": pack([(0, 10), (50, 20)]),
        "shared": Shared("h", 1, 2, 3, 4),
        "layout": Layout(1, 1, 1, 5, "uint8", 2),
        **other,
    }
    return Handle(**fields)  # type: ignore[arg-type]


def test_a_handle_is_small_and_travels() -> None:
    assert decode(encode(handle())) == handle()
    assert len(encode(handle())) < 150
    assert examine(handle()).pieces == ((0, 10), (50, 20))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 31},
        {"ready": 31},
        {"pieces": b"123"},
        {"pieces": pack([(2**60, 30)])},
        {"layout": Layout(1, 1, 1, 7, "uint8", 2)},
        {"layout": Layout(1, 1, 1, 5, "text", 2)},
        {"lease_ms": -1},
        {"addresses": ["a"] * 100},
    ],
)
def test_a_handle_that_cannot_be_true_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(HandleRefused):
        decode(encode(handle(**wrong)))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_a_handle_or_a_refusal(frame: bytes) -> None:
    for read in (decode_asked, decode_answered, decode):
        with suppress(RemoteError, HandleRefused):
            read(frame)


def test_each_side_hears_only_what_the_other_may_say() -> None:
    assert decode_asked(encode_message(Pull(1, 2, 3, 4, 0, 9))) == Pull(1, 2, 3, 4, 0, 9)
    assert decode_answered(encode_message(Piece(1, 0, 9, 7))) == Piece(1, 0, 9, 7)
    with pytest.raises(RemoteError):
        decode_answered(encode_message(Pull(1, 2, 3, 4, 0, 9)))
    with pytest.raises(RemoteError):
        decode_asked(encode_message(Piece(1, 0, 9)))
