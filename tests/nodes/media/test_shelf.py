"""The cache of embeddings: what is held stays, the least used goes, and what happens is told."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.media.shelf import Place, Shelf, hash_of

NAMES = [bytes([number]) * 16 for number in range(8)]


def told(shelf: Shelf) -> list[tuple[str, int]]:
    events, shelf.events = shelf.events, []
    return [(event.kind, event.hashes[0]) for event in events]


def test_the_least_used_go_first_and_what_is_held_stays() -> None:
    shelf = Shelf(30, 10)
    first, second = shelf.put(NAMES[0], 1, 10), shelf.put(NAMES[1], 2, 20)
    assert first and second and shelf.put(NAMES[2], 1, 10) is None  # both are held
    shelf.let_go(first)
    shelf.let_go(second)
    again = shelf.find(NAMES[0])  # used just now
    assert again is first
    shelf.let_go(first)
    third = shelf.put(NAMES[2], 1, 15)
    assert third and shelf.known() == [NAMES[0], NAMES[2]] and shelf.find(NAMES[1]) is None
    assert told(shelf) == [
        *(("stored", hash_of(NAMES[0])), ("stored", hash_of(NAMES[1]))),
        *(("removed", hash_of(NAMES[1])), ("stored", hash_of(NAMES[2]))),
    ]
    assert shelf.put(NAMES[3], 1, 31) is None, "more than there is"


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 45), st.booleans()), max_size=40))
@settings(max_examples=200, deadline=None)
def test_no_two_embeddings_share_a_byte(steps: list[tuple[bytes, int, bool]]) -> None:
    shelf = Shelf(100, 10)
    held: list[Place] = []
    known: dict[int, None] = {}
    for name, size, lets_go in steps:
        place = shelf.find(name) or shelf.put(name, 1, size)
        if place is not None:
            held.append(place)
            pieces = shelf.pieces(place)
            assert sum(length for _, length in pieces) == place.size
            assert all(one[0] + one[1] < other[0] or one[0] > other[0] for one, other in pairwise(pieces))
        if lets_go and held:
            shelf.let_go(held.pop(0))
        shelf.check()
        for kind, number in told(shelf):
            known.pop(number, None) if kind == "removed" else known.setdefault(number)
    assert sorted(known) == sorted(map(hash_of, shelf.known())), "routers know what is there"
    taken = [byte for place in {id(one): one for one in held}.values() for start, length in shelf.pieces(place)
             for byte in range(start, start + length)]  # fmt: skip
    assert len(taken) == len(set(taken))


def test_letting_go_twice_is_a_mistake() -> None:
    shelf = Shelf(10, 10)
    place = shelf.put(NAMES[0], 1, 5)
    assert place
    shelf.let_go(place)
    with pytest.raises(AssertionError):
        shelf.let_go(place)
