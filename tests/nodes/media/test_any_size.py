"""Pictures that a model takes in about their own size: decoded as they were announced, and within its limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.contract.engine import MediaCard, lines_for
from nodes.contract.media import IMAGE, Media, Spot, lines_of
from nodes.media import limits
from nodes.media.content import MediaRefused, name_of
from nodes.media.shelf import Shelf
from tests.nodes.media.samples import picture
from tests.nodes.media.test_embedder import FEATURES, ROWS, House, run

EYE = MediaCard(9, FEATURES, step=28, pixels_min=56 * 56, pixels_max=1280 * 28 * 28)


def test_a_picture_of_any_size_is_decoded_in_the_lines_that_it_was_announced_with() -> None:
    async def test(there: House) -> None:
        towers, data = there.towers, picture(1, "PNG", 20, 30)
        assert towers is not None
        there.embedder._cards = {IMAGE: MediaCard(9, FEATURES, step=8, pixels_max=64 * ROWS)}
        for lines, columns in ((2, 2), (1, 4), (4, 1)):
            there.embedder.shelf = Shelf(limits.CACHE_BLOCK_BYTES, limits.CACHE_BLOCK_BYTES)
            await there.rows([Spot(IMAGE, 0, ROWS, name_of(IMAGE, data), columns)], there.media(data))
            assert towers.shapes[-1] == (8 * lines, 8 * columns, 3)
        there.embedder.shelf = Shelf(limits.CACHE_BLOCK_BYTES, limits.CACHE_BLOCK_BYTES)
        for count, across in ((ROWS + 1, 0), (2_000, 2_000)):
            with pytest.raises(MediaRefused, match="more than a picture has"):
                await there.rows([Spot(IMAGE, 0, count, name_of(IMAGE, data), across)], there.media(data))

    run(test)


@given(st.integers(1, 8_000), st.integers(1, 8_000))
def test_its_rows_are_within_the_limits_and_about_in_its_proportions(width: int, height: int) -> None:
    lines, columns = lines_for(EYE, width, height)
    area = lines * columns * EYE.step**2
    if min(lines, columns) > 1:
        assert EYE.pixels_min <= area <= EYE.pixels_max
        assert 1 / 3 < (lines / columns) / (height / width) < 3
    assert lines_for(EYE, height, width) == (columns, lines)


@given(st.integers(1, 2_000), st.integers(0, 2_000))
def test_lines_and_columns_are_all_rows_whatever_was_said(count: int, across: int) -> None:
    lines, columns = lines_of(Media(3, count, bytes(16), None, across))
    assert lines * columns == count
    if across and count % across == 0:
        assert columns == across
