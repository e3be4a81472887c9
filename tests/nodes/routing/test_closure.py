"""What can be found, against a walk of all that is held."""

from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import NONE, Pool, chain
from nodes.routing.closure import Closure
from tests.nodes.routing.trees import BLOCK, blocks, naive, prompts, turns

ROOTS = {0, xxh3_64_intdigest(b"a")}


def links(hashes: "list[int]", salt: str = "") -> list[tuple[int, int]]:
    start = xxh3_64_intdigest(salt.encode()) if salt else 0
    return list(zip(hashes, [start, *hashes], strict=False))


steps = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "remove", "clear", "sleep"]),
        turns,
        st.sampled_from(["", "a"]),
        st.integers(),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_what_is_told_is_what_can_be_found(steps: "list[tuple[str, list[int], str, int]]") -> None:
    """Blocks are stored behind those that were stored before, as an engine does; any of them is removed at any time."""
    closure = Closure()
    parents: dict[int, int] = {}
    told: set[int] = set()
    for what, path, salt, pick in steps:
        hashes = list(blocks(path, salt))
        if what == "store":
            for name, parent in links(hashes, salt):
                parents.setdefault(name, parent)
                told.update(closure.store(name, parent))
        elif what == "remove" and parents:
            name = sorted(parents)[pick % len(parents)]
            del parents[name]
            gone = closure.remove(name)
            assert told.issuperset(gone)
            told.difference_update(gone)
        elif what == "clear" and pick % 5 == 0:
            parents.clear()
            told.clear()
            closure.clear()
        elif what == "sleep":
            closure.sleep()
            closure.check()
            if pick % 2 and parents:  # meanwhile something happens that nobody hears of
                name = sorted(parents)[pick % len(parents)]
                del parents[name]
                assert not closure.remove(name)
            closure.wake()
            told = {name for name in parents if whole(name, parents)}
        closure.check()
        assert told == {name for name in parents if whole(name, parents)}
        assert told == {name for piece in range(closure.pieces) for name in closure.piece(piece)}


def whole(name: int, parents: dict[int, int]) -> bool:
    while name in parents:
        name = parents[name]
    return name in ROOTS


def test_a_hole_hides_what_comes_after_it_and_filling_it_brings_it_back() -> None:
    closure = Closure()
    hashes = list(blocks([0, 1, 0, 1]))
    for name, parent in links(hashes):
        assert [*closure.store(name, parent)] == [name]
    assert closure.remove(hashes[1]) == hashes[1:]
    assert not closure.remove(hashes[1])
    assert not closure.remove(hashes[3]), "it was hidden already"
    assert closure.store(hashes[1], hashes[0]) == hashes[1:3]


def test_a_block_that_runs_on_after_a_clearing_is_not_found() -> None:
    closure = Closure()
    hashes = list(blocks([0, 1, 0]))
    closure.store(hashes[0], 0)
    closure.clear()
    assert not closure.store(hashes[1], hashes[0])
    assert closure.store(hashes[0], 0) == hashes[:2]


def test_cut_into_pieces() -> None:
    closure = Closure()
    for path in range(64):
        for name, parent in links(list(blocks([path, path]))):
            closure.store(name, parent)
    before = set(closure.piece(0))
    closure.recut(8)
    closure.check()
    assert {name for piece in range(8) for name in closure.piece(piece)} == before
    assert len(closure.remove(blocks([3])[0])) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(turns, st.booleans()), max_size=30), prompts)
def test_an_engines_own_pool(asks: "list[tuple[list[int], bool]]", prompt: "list[int]") -> None:
    """The pool that our engines use may turn out a block in the middle. Routers must see what its own lookup sees."""
    pool, closure = Pool(12), Closure()
    told: set[int] = set()
    running: list[list[int]] = []
    for path, clears in asks:
        tokens = [token for turn in path for token in (turn, 7)]
        names = chain(tokens, BLOCK, 0, xxh3_64_intdigest)
        if len(running) > 1:
            pool.release(running.pop(0))
        if clears:
            pool.clear()
        here = pool.idle_among(names)[0]
        taken = pool.share(names[:here])
        for name, parent in links(names)[here:]:
            block = pool.take()
            if block == NONE:
                break
            taken.append(block)
            pool.store(block, name, parent, [])
        running.append(taken)
        for event in pool.events:
            if event.kind == "cleared":
                closure.clear()
                told.clear()
            for at, name in enumerate(event.hashes):
                if event.kind == "stored":
                    told.update(closure.store(name, event.hashes[at - 1] if at else event.parent))
                else:
                    told.difference_update(closure.remove(name))
        pool.events.clear()
        closure.check()
        for asked in (names, list(prompt)):
            assert naive(told, asked) == pool.idle_among(asked)[0]
