"""Staging memory: each block is one stretch's, and none is lost."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.bank import Bank


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(0, 2**32))
@settings(max_examples=100)
def test_the_bank_gives_each_block_to_one(counts: list[int], seed: int) -> None:
    random, bank = Random(seed), Bank(40)
    held: list[tuple[int, int]] = []
    for count in counts:
        first = bank.take(count)
        if first >= 0:
            assert not {*range(first, first + count)} & {
                block for one, size in held for block in range(one, one + size)
            }
            held.append((first, count))
        elif held:
            first, size = held.pop(random.randrange(len(held)))
            half = random.randint(0, size)
            bank.give(first + half, size - half)
            bank.give(first, half)
        bank.check()
    for first, size in held:
        bank.give(first, size)
    bank.check()
    assert bank.used == 0 and bank.take(40) == 0
