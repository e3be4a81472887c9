"""Packing, and where two prompts part."""

import pytest
from hypothesis import given

from nodes.routing.hashes import pack, parting, unpack
from tests.nodes.routing.trees import blocks, turns


@given(turns)
def test_what_is_packed_comes_back(given: list[int]) -> None:
    assert unpack(pack(blocks(given))) == blocks(given)


def test_bytes_that_are_no_hashes() -> None:
    with pytest.raises(ValueError):
        unpack(b"1234567")


@given(turns, turns)
def test_parting_is_the_first_difference(one: list[int], other: list[int]) -> None:
    both = list(zip(one, other, strict=False))
    expected = next((at for at, (a, b) in enumerate(both) if a != b), len(both))
    for begin in range(expected + 1):
        assert parting(blocks(one), blocks(other), begin, len(both)) == expected
