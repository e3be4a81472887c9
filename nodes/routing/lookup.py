"""Pure. How many leading blocks of a prompt each holder has, without looking at each block.

What a holder has is closed under prefixes: a block is only told of while all blocks before it are held too
(`nodes.routing.closure` makes it so, on the worker). So the holders at one position are a subset of those at any
position before it. Where two positions have the same holders, so have all between, and are not looked at; else the
stretch is halved. That takes some log2(blocks) looks for each place where holders drop out, and never more looks than
there are blocks.

Where a holder's set has holes all the same (an index that had to forget), the answer is still a border: the holder has
the last block that it is credited for, and has not the next.
"""

from collections.abc import Callable

Found = list[tuple[int, int]]  # (leading blocks, mask of those who hold exactly so many); those with none are not in it


def holders(at: Callable[[int], int], length: int, wanted: int) -> Found:
    """Who holds how much of a prompt of `length` blocks. `at` gives the mask of holders of the block at a position."""
    first = at(0) & wanted if length else 0
    if not first:
        return []
    last = at(length - 1) & first if length > 1 else first
    found = [(length, last)] if last else []
    stretches = [(0, first, length - 1, last)] if last != first else []
    while stretches:
        low, here, high, there = stretches.pop()
        if high - low == 1:
            found.append((high, here & ~there))
            continue
        middle = (low + high) >> 1
        between = at(middle) & here | there
        if between != here:
            stretches.append((low, here, middle, between))
        if between != there:
            stretches.append((middle, between, high, there))
    return found


def walk(at: Callable[[int], int], length: int, wanted: int) -> Found:
    """The same by looking at every block: what `holders` must agree with."""
    found = []
    here = wanted
    for position in range(length):
        there = at(position) & here
        if position and there != here:
            found.append((position, here & ~there))
        here = there
        if not here:
            return found
    return [*found, (length, here)] if length and here else found
