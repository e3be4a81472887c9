"""Two ranges agree on the highest version that both hold."""

from hypothesis import given
from hypothesis import strategies as st

from proto.version import FEATURES, MAGIC, VERSION, VERSION_MIN, negotiate

RANGES = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair)))


@given(RANGES, RANGES)
def test_it_is_the_highest_common_one(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    common = set(range(ours[0], ours[1] + 1)) & set(range(theirs[0], theirs[1] + 1))
    assert negotiate(ours, theirs) == negotiate(theirs, ours) == max(common, default=None)


def test_a_node_and_the_one_before_it_agree_on_the_older() -> None:
    assert negotiate((VERSION, VERSION + 1), (VERSION_MIN, VERSION)) == VERSION


def test_ranges_apart_do_not_agree() -> None:
    assert negotiate((VERSION, VERSION), (VERSION + 1, VERSION + 2)) is None


def test_what_we_say_of_ourselves() -> None:
    assert VERSION_MIN <= VERSION
    assert VERSION - VERSION_MIN <= 1, "we serve N and N-1"
    assert MAGIC == "MESH"
    assert len(set(FEATURES)) == len(FEATURES)
