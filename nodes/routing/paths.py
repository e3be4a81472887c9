"""Pure. The prompts that ranks are known to work on or to have been given, folded together where they begin alike.

A tree in which a node is a stretch of blocks, not a block: to add a prompt of any length takes a look at each place
where prompts part, and a search by halves at the last (`hashes.parting`). A node counts, per rank, how many prompts
run through it. A rank's distinct blocks are the lengths of the nodes that it has a prompt in.
"""

from nodes.routing.hashes import Hashes, parting
from nodes.routing.lookup import Found


class Stretch:
    """The blocks hashes[begin:end] of all prompts that run through it."""

    __slots__ = ("begin", "children", "end", "hashes", "mask", "total", "users")

    def __init__(self, hashes: Hashes, begin: int, end: int) -> None:
        self.hashes = hashes
        self.begin = begin
        self.end = end
        self.children: dict[int, Stretch] = {}  # by their first block
        self.users: dict[int, int] = {}  # how many prompts of each rank, by its seat
        self.mask = 0  # of their seats
        self.total = 0


class Paths:
    """Prompts by rank: a multiset, as the same prompt may be worked on twice."""

    def __init__(self) -> None:
        self._root = Stretch(Hashes("Q"), 0, 0)
        self.blocks: dict[int, int] = {}  # distinct ones, by seat

    def add(self, seat: int, hashes: Hashes) -> None:
        """One more prompt. The hashes must not be changed any more."""
        node, position, length = self._root, 0, len(hashes)
        while position < length:
            child = node.children.get(hashes[position])
            if child is None:
                child = node.children[hashes[position]] = Stretch(hashes, position, length)
            else:
                match = parting(child.hashes, hashes, position, min(child.end, length))
                if match < child.end:
                    child = _split(node, child, match)
            self._join(child, seat)
            node, position = child, child.end

    def remove(self, seat: int, hashes: Hashes) -> None:
        """One prompt less; it must have been added."""
        node, position, length = self._root, 0, len(hashes)
        way = []
        while position < length:
            child = node.children[hashes[position]]
            self._leave(child, seat)
            way.append((node, child))
            node, position = child, child.end
        for parent, child in reversed(way):
            if not child.total:
                del parent.children[child.hashes[child.begin]]
            elif _folds(child):
                _fold(child)

    def shared(self, hashes: Hashes) -> Found:
        """How many leading blocks of a prompt each rank has, as masks of seats."""
        found: Found = []
        node, position, length, here = self._root, 0, len(hashes), 0
        while position < length:
            child = node.children.get(hashes[position])
            if child is None:
                break
            if child.mask != here and position:
                found.append((position, here & ~child.mask))
            here = child.mask
            position = parting(child.hashes, hashes, position, min(child.end, length))
            if position < child.end:
                break
            node = child
        if here:
            found.append((position, here))
        return found

    def forget(self, seat: int) -> None:
        """Nothing of this rank is left: to be called when all of its prompts were removed."""
        self.blocks.pop(seat, None)

    def _join(self, node: Stretch, seat: int) -> None:
        count = node.users.get(seat, 0)
        node.users[seat] = count + 1
        node.total += 1
        if not count:
            node.mask |= 1 << seat
            self.blocks[seat] = self.blocks.get(seat, 0) + node.end - node.begin

    def _leave(self, node: Stretch, seat: int) -> None:
        node.total -= 1
        node.users[seat] -= 1
        if not node.users[seat]:
            del node.users[seat]
            node.mask ^= 1 << seat
            self.blocks[seat] -= node.end - node.begin

    def check(self) -> None:
        """Assert all invariants."""
        blocks: dict[int, int] = {}
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            for first, child in node.children.items():
                assert child.begin == node.end < child.end <= len(child.hashes)
                assert child.hashes[child.begin] == first
                assert child.mask == sum(1 << seat for seat in child.users)
                assert child.total == sum(child.users.values()) > 0
                assert node is self._root or child.hashes[: node.end] == node.hashes[: node.end]
                assert len(node.children) > 1 or node is self._root or child.total < node.total, "not folded"
                for seat in child.users:
                    blocks[seat] = blocks.get(seat, 0) + child.end - child.begin
                waiting.append(child)
        assert blocks == {seat: count for seat, count in self.blocks.items() if count}


def _split(parent: Stretch, node: Stretch, at: int) -> Stretch:
    """Cut a stretch in two; returns the upper one."""
    upper = Stretch(node.hashes, node.begin, at)
    upper.users, upper.mask, upper.total = dict(node.users), node.mask, node.total
    upper.children[node.hashes[at]] = node
    parent.children[node.hashes[node.begin]] = upper
    node.begin = at
    return upper


def _folds(node: Stretch) -> bool:
    """Whether every prompt in it goes on into the one child it has."""
    return len(node.children) == 1 and next(iter(node.children.values())).total == node.total


def _fold(node: Stretch) -> None:
    """Make one stretch of it and the only way on from it."""
    (child,) = node.children.values()
    node.hashes, node.end, node.children = child.hashes, child.end, child.children
