"""The folded tree of prompts against a list of them."""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodes.routing.hashes import Hashes
from nodes.routing.paths import Paths
from nodes.routing.remembered import EXPIRED_PER_CALL_MAX, Remembered
from tests.nodes.routing.trees import blocks, naive, prompts


class PathsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.paths = Paths()
        self.added: list[tuple[int, Hashes]] = []

    @rule(seat=st.integers(0, 3), prompt=prompts)
    def add(self, seat: int, prompt: Hashes) -> None:
        self.paths.add(seat, prompt)
        self.added.append((seat, prompt))

    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        if self.added:
            self.paths.remove(*self.added.pop(data.draw(st.integers(0, len(self.added) - 1))))

    @rule(prompt=prompts)
    def shared(self, prompt: Hashes) -> None:
        expected = {}
        for seat in range(4):
            names = {name for other, added in self.added if other == seat for name in added}
            if length := naive(names, prompt):
                expected[seat] = length
        found = {seat: length for length, mask in self.paths.shared(prompt) for seat in range(4) if mask >> seat & 1}
        assert found == expected

    @invariant()
    def sound(self) -> None:
        self.paths.check()
        distinct = Counter(seat for seat, _ in {(seat, name) for seat, added in self.added for name in added})
        assert {seat: count for seat, count in self.paths.blocks.items() if count} == distinct


PathsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPaths = PathsMachine.TestCase


def test_a_long_prompt_is_one_stretch_and_folds_back_into_one() -> None:
    paths = Paths()
    long = Hashes("Q", range(10_000))
    paths.add(0, long)
    for cut in range(1, 100):
        paths.add(1, Hashes("Q", [*range(cut), 10**6 + cut]))
    for cut in range(1, 100):
        paths.remove(1, Hashes("Q", [*range(cut), 10**6 + cut]))
    paths.check()
    assert paths.shared(long) == [(10_000, 1)] and paths.blocks == {0: 10_000, 1: 0}


def test_what_was_sent_is_remembered_for_a_time() -> None:
    memory = Remembered(ttl_s=10.0, blocks_max=100)
    memory.add(3, blocks([0, 1]), 0.0)
    memory.add(4, blocks([0, 1, 1]), 5.0)
    assert memory.overlaps(blocks([0, 1, 1, 1]), 5.0) == [(2, 1 << 3), (3, 1 << 4)]
    assert memory.overlaps(blocks([0, 1, 1, 1]), 10.0) == [(3, 1 << 4)]
    memory.add(4, blocks([0, 1, 1]), 14.0)
    assert memory.overlaps(blocks([0]), 20.0) == [(1, 1 << 4)], "used again, it lives longer"
    assert memory.overlaps(blocks([0]), 24.0) == []
    memory.check()


def test_what_was_sent_is_bounded_and_the_unused_goes_first() -> None:
    memory = Remembered(ttl_s=0.0, blocks_max=20, prune_ratio=0.5)
    used = Hashes("Q", range(4))
    for turn in range(50):
        memory.add(0, used, float(turn))
        memory.add(1, Hashes("Q", range(1000 * turn + 100, 1000 * turn + 103)), float(turn))
        memory.check()
        assert memory.overlaps(used, float(turn)) == [(4, 1)], "just used"
    assert memory.overlaps(used, 1e9) == [(4, 1)], "least recently used, and no time limit"
    memory.add(0, Hashes("Q", range(500, 521)), 50.0)
    assert memory.overlaps(used, 50.0) == [(4, 1)], "what is larger than all the room is not taken"
    memory.forget(0)
    memory.check()
    assert memory.overlaps(used, 50.0) == []


def test_forgetting_is_spread_over_calls() -> None:
    memory = Remembered(ttl_s=1.0, blocks_max=10_000)
    for turn in range(3 * EXPIRED_PER_CALL_MAX):
        memory.add(0, Hashes("Q", [turn]), 0.0)
    memory.overlaps(Hashes("Q", [10**6]), 9.0)
    assert memory.blocks == 2 * EXPIRED_PER_CALL_MAX
