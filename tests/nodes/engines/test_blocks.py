"""The pool of blocks: what it holds, what it tells, and whom it turns out first."""

from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import NONE, Pool, chain, link, root


def tokens(index: int) -> list[int]:
    return [index, index + 1]


def full(pool: Pool, name: int, after: int = NONE) -> int:
    """A block in use that holds a known prefix."""
    block = pool.take(after)
    pool.store(block, name, 0, tokens(name))
    return block


def test_a_chain_is_its_links() -> None:
    found = chain(range(11), 4, 7, xxh3_64_intdigest)
    first = link([0, 1, 2, 3], 7, xxh3_64_intdigest)
    assert found == [first, link([4, 5, 6, 7], first, xxh3_64_intdigest)]


def test_hashes_never_change() -> None:
    """Routers compute them too: another version of us must agree."""
    assert root("", xxh3_64_intdigest) == 0
    assert root("salt", xxh3_64_intdigest) == 11229228473275659907
    assert chain(range(4), 2, 0, xxh3_64_intdigest) == [16857249404865963457, 4162812006300430580]


def test_a_sequence_gets_neighbours_and_another_begins_elsewhere() -> None:
    pool = Pool(64)
    first, other = pool.take(), pool.take()
    assert abs(first - other) > 8
    assert [pool.take(first), pool.take(first + 1)] == [first + 1, first + 2]


def test_the_longest_idle_goes_first_and_the_end_of_a_sequence_before_its_start() -> None:
    pool = Pool(4)
    old, new = [full(pool, 1), full(pool, 2)], [full(pool, 3), full(pool, 4)]
    pool.release(old)
    pool.release(new)
    pool.events.clear()
    for _ in range(4):
        pool.take()
    assert [event.hashes for event in pool.events] == [[2, 1, 4, 3]]
    assert pool.take() == NONE
    pool.check()


def test_what_is_shared_is_not_turned_out() -> None:
    pool = Pool(2)
    block = full(pool, 1)
    pool.release([block])
    assert pool.idle_among([1, 2]) == (1, 1)
    assert pool.share([1]) == [block]
    assert pool.idle_among([1]) == (1, 0)
    assert pool.take() != NONE
    assert pool.take() == NONE


def test_a_second_copy_stays_private() -> None:
    pool = Pool(2)
    first, second = full(pool, 1), full(pool, 1)
    pool.release([second])
    assert len(pool.events) == 1
    assert pool.share([1]) == [first]
    pool.check()


def test_neighbours_are_told_together() -> None:
    pool = Pool(4)
    for name, parent in ((5, 0), (6, 5), (9, 0)):
        pool.store(pool.take(), name, parent, tokens(name))
    assert [(event.hashes, event.parent, event.tokens) for event in pool.events] == [
        ([5, 6], 0, [5, 6, 6, 7]),
        ([9], 0, [9, 10]),
    ]


def test_clear_forgets_everything() -> None:
    pool = Pool(3)
    used, idle = full(pool, 1), full(pool, 2)
    pool.release([idle])
    pool.clear()
    assert pool.idle_among([1]) == pool.idle_among([2]) == (0, 0)
    pool.check()
    pool.release([used])
    assert pool.free == 3
    pool.check()


@given(st.lists(st.tuples(st.sampled_from(["take", "share", "release", "store", "clear"]), st.integers(0, 9))))
def test_invariants_hold_and_the_events_tell_all(moves: list[tuple[str, int]]) -> None:
    pool, held, known = Pool(6), [], set[int]()
    for move, number in moves:
        if move == "take" and (block := pool.take(held[-1] if held else NONE)) != NONE:
            held.append(block)
        elif move == "share" and pool.idle_among([number])[0]:
            held += pool.share([number])
        elif move == "release" and held:
            pool.release([held.pop(number % len(held))])
        elif move == "store" and held and pool._hashes[held[number % len(held)]] is None:
            pool.store(held[number % len(held)], number, 0, tokens(number))
        elif move == "clear":
            pool.clear()
        pool.check()
        for event in pool.events:
            match event.kind:
                case "stored":
                    assert not known & {*event.hashes}
                    known |= {*event.hashes}
                case "removed":
                    assert known >= {*event.hashes}
                    known -= {*event.hashes}
                case "cleared":
                    known.clear()
        pool.events.clear()
        assert known == pool._by_hash.keys()
