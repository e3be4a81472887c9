"""Prompts for the routing tests: paths in a small tree, so that they share beginnings and part everywhere."""

from collections.abc import Sequence

from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import chain, root
from nodes.routing.hashes import Hashes, unpack
from nodes.routing.publisher import Publisher
from proto.placing import Copy, Piece

BLOCK = 2
SALTS = ("", "a", "b")


def blocks(turns: Sequence[int], salt: str = "") -> Hashes:
    """The hashes of a prompt: one block for each turn taken in the tree."""
    tokens = [token for turn in turns for token in (turn, 7)]
    return Hashes("Q", chain(tokens, BLOCK, root(salt, xxh3_64_intdigest), xxh3_64_intdigest))


turns = st.lists(st.integers(0, 1), max_size=9)
prompts = st.builds(blocks, turns, st.sampled_from(SALTS[:2]))


def naive(held: "set[int]", hashes: Sequence[int]) -> int:
    """Leading blocks that are held, by looking at each."""
    for position, name in enumerate(hashes):
        if name not in held:
            return position
    return len(hashes)


def content(publisher: Publisher) -> "list[set[int]]":
    """All pieces, by level."""
    levels: list[set[int]] = []
    pieces = publisher.replay(10**6).pieces  # type: ignore[union-attr]
    for number in range(pieces):
        piece = publisher.copy(Copy(0, number, pieces))
        assert isinstance(piece, Piece)
        levels = levels or [set() for _ in piece.levels]
        for level, packed in zip(levels, piece.levels, strict=True):
            level.update(unpack(packed))
    return levels
