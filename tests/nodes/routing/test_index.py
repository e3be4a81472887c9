"""The table of holders against a dictionary of sets."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodes.routing.hashes import Hashes
from nodes.routing.index import RETIRED_MAX, Index
from tests.nodes.routing.trees import naive, prompts


class IndexMachine(RuleBasedStateMachine):
    """Holders come and go, and hold whole prefixes, as workers see to."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(shard_bits=3)
        self.held: dict[int, set[int]] = {}

    @rule()
    def open(self) -> None:
        if len(self.held) < 5:
            holder = self.index.open()
            assert holder not in self.held and not self.index.held(holder)
            self.held[holder] = set()

    @rule(data=st.data(), prompt=prompts)
    def store(self, data: Any, prompt: Hashes) -> None:
        if self.held:
            holder = data.draw(st.sampled_from(sorted(self.held)))
            self.index.store(holder, prompt)
            self.held[holder] |= set(prompt)

    @rule(data=st.data(), prompt=prompts)
    def remove(self, data: Any, prompt: Hashes) -> None:
        if self.held:
            holder = data.draw(st.sampled_from(sorted(self.held)))
            self.index.remove(holder, prompt)
            self.held[holder] -= set(prompt)

    @rule(data=st.data())
    def retire(self, data: Any) -> None:
        if self.held:
            holder = data.draw(st.sampled_from(sorted(self.held)))
            self.index.retire(holder)
            del self.held[holder]

    @rule()
    def sweep(self) -> None:
        self.index.sweep()

    @rule(prompt=prompts)
    def look(self, prompt: Hashes) -> None:
        for position, name in enumerate(prompt):
            live = sum(1 << holder for holder in self.held)
            expected = sum(1 << holder for holder, held in self.held.items() if name in held)
            assert self.index.at(name) & live == expected, position

    @invariant()
    def sound(self) -> None:
        self.index.check()
        for holder, held in self.held.items():
            assert self.index.held(holder) == len(held)

    def teardown(self) -> None:
        for holder in self.held:
            self.index.retire(holder)
        self.index.sweep(8)
        self.index.check()
        assert not self.index.blocks and not self.index.sweeping


IndexMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestIndex = IndexMachine.TestCase


def test_lookup_is_the_naive_one() -> None:
    index = Index(shard_bits=2)
    long = Hashes("Q", range(1 << 40, (1 << 40) + 100))
    held = {index.open(): set(long[:length]) for length in (0, 1, 50, 50, 99, 100)}
    for holder, names in held.items():
        index.store(holder, sorted(names))
    found = {holder: length for length, mask in index.lookup(long, 0b111111) for holder in held if mask >> holder & 1}
    assert found == {holder: naive(names, long) for holder, names in held.items() if names}


def test_a_number_is_used_again_once_it_is_swept() -> None:
    index = Index(shard_bits=8)
    first = index.open()
    index.store(first, range(1000))
    index.retire(first)
    assert (index.sweeping, index.open()) == (True, 1), "0 still has bits"
    index.sweep(256)
    assert (index.sweeping, index.blocks, index.open()) == (False, 0, 0)


def test_retiring_many_never_leaves_more_than_a_bound() -> None:
    """Each one that goes pays its share, whether anything is stored or not."""
    index = Index()
    for round in range(3 * RETIRED_MAX):
        holder = index.open()
        index.store(holder, range(round * 10, round * 10 + 10))
        index.retire(holder)
        assert holder <= RETIRED_MAX + 1
    assert index.blocks <= 10 * (RETIRED_MAX + 1)


def test_room_is_bounded_and_what_is_used_stays() -> None:
    index = Index(blocks_max=1 << 10, prune_ratio=0.5, shard_bits=2)
    holder = index.open()
    hot = Hashes("Q", range(32))
    index.store(holder, hot)
    for batch in range(100):
        if index.crowded:
            for _ in range(16):
                index.touch(hot)
        index.store(holder, range(1000 + 100 * batch, 1100 + 100 * batch))
        index.check()
    assert index.pruned and index.blocks <= 1 << 10
    assert index.lookup(hot, 1) == [(32, 1)]
    assert not index.at(1000), "the longest untouched goes"
