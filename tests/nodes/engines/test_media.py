"""Where media stand in a prompt: what block hashes see there, and which rows a step needs."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import chain
from nodes.contract.engine import MediaCard, rows_of
from nodes.contract.media import Media, called, hashed_tokens, known_as, misplaced, numbers_of, pieces

CONTENTS = st.binary(min_size=16, max_size=16)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[int], list[Media]]:
    """Text with media between, in order, all placeholders alike."""
    tokens: list[int] = []
    media = []
    for content in draw(st.lists(CONTENTS, max_size=4)):
        tokens += draw(st.lists(st.integers(0, 99), max_size=6))
        count = draw(st.integers(1, 9))
        media.append(Media(len(tokens), count, content))
        tokens += [100] * count
    return tokens + draw(st.lists(st.integers(0, 99), min_size=1, max_size=6)), media


@given(prompts())
def test_only_placeholders_are_replaced(case: tuple[list[int], list[Media]]) -> None:
    tokens, media = case
    found = hashed_tokens(tokens, media)
    inside = {position for one in media for position in range(one.first, one.end)}
    assert len(found) == len(tokens)
    for position, (token, number) in enumerate(zip(tokens, found, strict=True)):
        if position in inside:
            assert 2**31 <= number < 2**32
        else:
            assert number == token
    assert not misplaced(media, len(tokens), 8)


@given(prompts(), st.integers(1, 7))
def test_a_block_alone_is_hashed_as_in_its_prompt(case: tuple[list[int], list[Media]], size: int) -> None:
    """Where parts begin before it too."""
    tokens, media = case
    found = []
    for start in range(0, len(tokens), size):
        here = [Media(one.first - start, one.count, one.content) for one in media if one.end > start]
        found += hashed_tokens(tokens[start : start + size], here)
    assert found == hashed_tokens(tokens, media)


@given(CONTENTS, st.integers(1, 10**6), st.integers(-99, 99))
def test_what_a_part_is_called_says_all(content: bytes, count: int, first: int) -> None:
    found = known_as(called(Media(0, count, content)), first)
    assert found is not None and (found.first, found.count, found.content) == (first, count, content)


@pytest.mark.parametrize("name", ["", "a", "00.5", f"{'0' * 32}", f"{'0' * 32}.", f"{'0' * 32}.-5", f"{'g' * 32}.5"])
def test_what_others_call_a_part_says_nothing(name: str) -> None:
    assert known_as(name, 0) is None


@given(prompts(), st.integers(0, 40))
def test_a_prefix_is_hashed_alike(case: tuple[list[int], list[Media]], length: int) -> None:
    tokens, media = case
    assert hashed_tokens(tokens[:length], media) == hashed_tokens(tokens, media)[:length]


@given(CONTENTS, CONTENTS, st.integers(4, 9), st.sampled_from([1, 4, 16]))
def test_another_picture_has_other_blocks(one: bytes, other: bytes, count: int, block_tokens: int) -> None:
    tokens = [1, 2, *[9] * count, *range(3, 30)]
    hashes = [
        chain(hashed_tokens(tokens, [Media(2, count, content)]), block_tokens, 0, xxh3_64_intdigest)
        for content in (one, other)
    ]
    same = bytes(byte & 0x7F if at % 4 == 3 else byte for at, byte in enumerate(one)) == bytes(
        byte & 0x7F if at % 4 == 3 else byte for at, byte in enumerate(other)
    )
    assert (hashes[0][-1] == hashes[1][-1]) == same


def test_numbers_do_not_repeat() -> None:
    assert len(set(numbers_of(bytes(16), 4_096))) >= 1_024
    assert numbers_of(b"0123456789abcdef", 3) == numbers_of(b"0123456789abcdef", 9)[:3]
    assert numbers_of(b"", 2) == [2**31, 2**31]


@given(prompts(), st.integers(0, 60), st.integers(0, 60))
def test_pieces_are_what_a_step_needs(case: tuple[list[int], list[Media]], start: int, stop: int) -> None:
    _, media = case
    for one in media:
        one.embedding = np.arange(one.first, one.end)[:, None]
    rows = np.full(max(0, stop - start), -1)
    for piece in pieces(media, start, stop):
        at = piece.position - start
        rows[at : at + piece.last - piece.first] = piece.media.embedding[piece.first : piece.last, 0]
    inside = {position for one in media for position in range(one.first, one.end)}
    assert rows.tolist() == [position if position in inside else -1 for position in range(start, max(start, stop))]


def test_misplaced() -> None:
    rows = np.zeros((2, 8), np.float32)
    assert not misplaced([Media(0, 2, b"", rows), Media(2, 3, b"")], 5, 8)
    assert "overlap" in misplaced([Media(0, 2, b""), Media(1, 2, b"")], 5, 8)
    assert "positions 3 to 6" in misplaced([Media(3, 3, b"")], 5, 8)
    assert "positions -1" in misplaced([Media(-1, 3, b"")], 5, 8)
    assert "do not fit" in misplaced([Media(3, 0, b"")], 5, 8)
    assert "shape (2, 8)" in misplaced([Media(0, 2, b"", rows)], 5, 9)


@pytest.mark.parametrize(
    "fields",
    [{"token": -1}, {"features": 2**31}, {"seconds_max": float("nan")}, {"seconds_max": 1e300}, {"frames": 1.5}],
)
def test_a_card_that_nobody_can_compute_with_is_refused(fields: dict[str, float]) -> None:
    packed = msgspec.msgpack.encode({"token": 1, "features": 8, **fields})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(packed, type=MediaCard)


CARDS = st.builds(
    MediaCard,
    tokens=st.integers(0, 9),
    frames=st.integers(0, 9),
    rate=st.sampled_from([0, 1, 16_000]),
    samples_per_token=st.integers(0, 2_000),
    seconds_max=st.floats(0, 100),
)


@given(CARDS, st.integers(0, 2**40))
def test_a_part_fills_at_least_one_position(card: MediaCard, samples: int) -> None:
    assert rows_of(card, samples) >= 1
