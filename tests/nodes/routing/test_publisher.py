"""The worker's half: numbering, replays, copies and levels."""

import pytest

from nodes.contract.engine import BlockEvent
from nodes.routing.hashes import unpack
from nodes.routing.publisher import Publisher
from proto import placing as wire
from proto.placing import Blocks, Copy, Cut, Kind
from tests.nodes.routing.trees import blocks, content


def stored(path: "list[int]", begin: int = 0) -> BlockEvent:
    hashes = list(blocks(path))
    return BlockEvent("stored", hashes[begin:], hashes[begin - 1] if begin else 0)


def test_changes_are_numbered_and_told_once() -> None:
    publisher = Publisher()
    publisher.feed([stored([0, 1]), BlockEvent("removed", [blocks([0, 1])[1]])])
    publisher.feed([BlockEvent("cleared")])
    (message,) = publisher.told()
    assert (message.first, message.newest) == (1, 3)
    assert [change.kind for change in message.changes] == [Kind.STORED, Kind.REMOVED, Kind.CLEARED]
    assert publisher.told() == []
    assert publisher.beat() == Blocks(0, 4, 3)
    assert publisher.replay(3) == [Blocks(0, 4, 3)]
    assert publisher.replay(1)[0].changes == message.changes[1:]  # type: ignore[index]


def test_what_the_ring_has_forgotten_is_copied() -> None:
    publisher = Publisher(ring_changes_max=2)
    for turn in range(4):
        publisher.feed([stored([turn])])
    assert publisher.replay(1) == Cut(0, 4, 1)
    assert isinstance(publisher.replay(2), list)
    assert content(publisher) == [{blocks([turn])[0] for turn in range(4)}]


def test_a_number_that_was_never_told() -> None:
    assert Publisher().replay(7) == Cut(0, 0, 1)


def test_the_ring_is_bounded_in_blocks_too() -> None:
    publisher = Publisher(ring_blocks_max=8)
    publisher.feed([stored([0] * 5)])
    publisher.feed([stored([1] * 5)])
    assert isinstance(publisher.replay(0), Cut) and isinstance(publisher.replay(1), list)


def test_a_large_cache_is_cut_into_pieces_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PIECE_BLOCKS_TARGET", 8)
    publisher = Publisher()
    publisher.feed([stored([turn, 0, 1]) for turn in range(100)])
    cut = publisher.replay(10**6)
    assert isinstance(cut, Cut) and cut.pieces == 64
    assert len(content(publisher)[0]) == 300
    assert publisher.copy(Copy(0, 0, 1)) == cut, "who asks for another cut is told"
    assert publisher.copy(Copy(0, 64, 64)) == cut
    publisher.check()


def test_long_changes_and_long_replays_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CHANGE_BLOCKS_MAX", 2)
    monkeypatch.setattr(wire, "BLOCKS_BYTES_TARGET", 40)
    publisher = Publisher()
    publisher.feed([stored([0] * 7)])
    messages = publisher.told()
    assert [(message.first, len(message.changes)) for message in messages] == [(1, 2), (3, 2)]
    assert all(message.newest == 4 for message in messages)
    names = [name for message in messages for change in message.changes for name in unpack(change.hashes)]
    assert names == list(blocks([0] * 7))


def test_levels() -> None:
    """A block that moves from the device to the host is still there for who looks that far."""
    publisher = Publisher(levels=3)
    path = list(blocks([0, 0, 0]))
    publisher.feed([stored([0, 0, 0])])
    publisher.feed([stored([0, 0, 0], begin=2)], medium=1)
    publisher.feed([BlockEvent("removed", [path[2]])])
    publisher.check()
    assert content(publisher) == [set(path[:2]), set(path), set(path)]
    publisher.feed([BlockEvent("stored", [path[0]], 0)], medium=2)
    publisher.feed([BlockEvent("cleared")])
    publisher.check()
    assert content(publisher) == [set(), set(), {path[0]}], "the host's third block has a hole before it"
    publisher.feed([stored([0, 0])], medium=1)
    assert content(publisher) == [set(), set(path), set(path)]


def test_more_than_the_ring_holds_at_once_is_told_by_the_beat() -> None:
    publisher = Publisher(ring_changes_max=1)
    publisher.feed([stored([0])])
    publisher.feed([stored([1])])
    assert publisher.told() == []
    assert publisher.beat().newest == 2


def test_who_begins_to_listen_copies_what_nobody_wrote_down() -> None:
    publisher = Publisher(blocks=64)
    publisher.feed([stored([0, 1])])
    assert [len(message.changes) for message in publisher.told()] == [1]
    publisher.listen(False)
    publisher.listen(True)
    assert isinstance(publisher.replay(1), list), "nothing was missed"
    publisher.listen(False)
    publisher.feed([stored([2, 0]), BlockEvent("removed", [blocks([0, 1])[0]])])
    publisher.check()
    assert publisher.told() == [] and content(publisher) == [set()]
    publisher.listen(True)
    publisher.check()
    assert publisher.replay(1) == Cut(0, 2, 1)
    assert content(publisher) == [set(blocks([2, 0]))], "what has a hole before it stays hidden"
    publisher.feed([stored([0])])
    assert content(publisher) == [set(blocks([2, 0])) | set(blocks([0, 1]))]
