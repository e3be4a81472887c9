"""The search by halves against the walk over every block."""

from hypothesis import given
from hypothesis import strategies as st

from nodes.routing.lookup import Found, holders, walk

HOLDERS = 6
lengths = st.lists(st.integers(0, 40), min_size=HOLDERS, max_size=HOLDERS)


def by_holder(found: Found) -> list[int]:
    result = [0] * HOLDERS
    for length, mask in found:
        for holder in range(HOLDERS):
            if mask >> holder & 1:
                assert not result[holder], "named twice"
                result[holder] = length
    return result


@given(lengths, st.integers(0, 40), st.integers(0, 2**HOLDERS - 1))
def test_exact_where_prefixes_are_whole(held: list[int], length: int, wanted: int) -> None:
    def at(position: int) -> int:
        return sum(1 << holder for holder, much in enumerate(held) if much > position)

    expected = [min(much, length) if wanted >> holder & 1 else 0 for holder, much in enumerate(held)]
    assert by_holder(holders(at, length, wanted)) == by_holder(walk(at, length, wanted)) == expected


@given(st.lists(st.integers(0, 2**HOLDERS - 1), max_size=40))
def test_a_border_where_they_have_holes(masks: list[int]) -> None:
    for holder, length in enumerate(by_holder(holders(masks.__getitem__, len(masks), 2**HOLDERS - 1))):
        assert not length or masks[length - 1] >> holder & 1, "credited for a block that it does not have"
        assert length == len(masks) or not masks[length] >> holder & 1, "not credited for the next one"


@given(st.lists(st.integers(0, 8192), min_size=1, max_size=HOLDERS))
def test_few_looks(held: list[int]) -> None:
    looks: list[int] = []

    def at(position: int) -> int:
        looks.append(position)
        return sum(1 << holder for holder, much in enumerate(held) if much > position)

    holders(at, 8192, 2 ** len(held) - 1)
    assert len(looks) <= 2 + 13 * len(set(held))
    assert len(looks) == len(set(looks)), "looked twice"
