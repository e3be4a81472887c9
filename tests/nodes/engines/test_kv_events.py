"""Shell. The cache events of vLLM and SGLang: their names to ours, and no batch lost that can be had."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from xxhash import xxh3_64_intdigest as digest

from nodes.contract import blocks
from nodes.contract.engine import BlockEvent
from nodes.contract.media import Media, called, hashed_tokens
from nodes.engines.kv_events import Following, Translation
from nodes.engines.kv_feed import ASKED_MAX, OVER, KvFeed

TOKENS = list(range(10, 22))
OURS = blocks.chain(TOKENS, 4, 0, digest)


def _batch(*events: Any) -> bytes:
    return msgspec.msgpack.encode([1.5, list(events), 0])


def _stored(names: list[Any], tokens: list[int], parent: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored", "block_hashes": names, "parent_block_hash": parent, "token_ids": tokens,
        "block_size": 4, "lora_id": None, "medium": "GPU", **more,
    }  # fmt: skip


def test_their_names_become_ours_signed_unsigned_or_bytes() -> None:
    translation = Translation(digest, rank=2)
    found = translation.batch(_batch(_stored([-5], TOKENS[:4]), _stored([2**64 - 1, b"x"], TOKENS[4:], -5)))
    assert found == [
        BlockEvent("stored", OURS[:1], 0, TOKENS[:4], 2),
        BlockEvent("stored", OURS[1:], OURS[0], TOKENS[4:], 2),
    ]
    removed = {"type": "BlockRemoved", "block_hashes": [b"x", 99], "medium": "GPU"}
    assert translation.batch(_batch(removed)) == [BlockEvent("removed", [OURS[2]], rank=2)]
    assert translation.batch(_batch({"type": "AllBlocksCleared"})) == [BlockEvent("cleared", rank=2)]
    assert translation.batch(_batch(_stored([7], TOKENS[4:8], -5))) == [], "its parent is not known any more"
    assert translation.left_out == 1


def test_older_versions_write_arrays() -> None:
    translation = Translation(digest)
    events = ["BlockStored", [7], None, TOKENS[:4], 4, None, "GPU"], ["BlockRemoved", [7]], ["AllBlocksCleared"]
    kinds = [event.kind for event in translation.batch(_batch(*events))]
    assert kinds == ["stored", "removed", "cleared"]


def test_salts_are_in_our_names() -> None:
    salted = blocks.chain(TOKENS[:4], 4, blocks.root("s", digest), digest)
    for more in ({"cache_salt": "s"}, {"extra_keys": [["s"]]}):
        (event,) = Translation(digest).batch(_batch(_stored([7], TOKENS[:4], **more)))
        assert event.hashes == salted and event.parent == blocks.root("s", digest)


def test_pictures_are_in_our_names() -> None:
    """One over the edge of two blocks, one more behind it, and a salt."""
    media = [Media(2, 4, b"one" + bytes(13)), Media(6, 3, b"two" + bytes(13))]
    one, two = map(called, media)
    keys: list[Any] = [[[one, 2], "s"], [[one, -2], [two, 2]], [[two, -2]]]
    first = blocks.root("s", digest)
    shown = hashed_tokens(TOKENS, media)
    (event,) = Translation(digest).batch(_batch(_stored([1, 2, 3], TOKENS, extra_keys=keys)))
    assert event == BlockEvent("stored", blocks.chain(shown, 4, first, digest), first, shown)
    translation = Translation(digest)
    parts = [_stored([1, 2], TOKENS[:8], extra_keys=keys[:2]), _stored([3], TOKENS[8:], 2, extra_keys=keys[2:])]
    assert [name for part in translation.batch(_batch(*parts)) for name in part.hashes] == event.hashes


@pytest.mark.parametrize(
    "event",
    [
        _stored([7], TOKENS[:4], lora_id=1),
        _stored([7], TOKENS[:4], lora_name="one"),
        _stored([7, 8], TOKENS[:8], extra_keys=[["s"], ["picture"]]),
        _stored([7], TOKENS[:4], extra_keys=[["s", "picture"]]),
        _stored([7], TOKENS[:4], extra_keys=[[["a picture of others", 0]]]),
        _stored([7], TOKENS[:4], extra_keys=[[[5, "0"]]]),
        _stored([7], TOKENS[:4], extra_keys=[None, None]),
        _stored([7, 8], TOKENS[:8], extra_keys=[["s"]]),
        _stored([7], TOKENS[:3]),
        _stored([7], [-1, 2, 3, 4]),
        _stored([7], ["a", 2, 3, 4]),
        {**_stored([7], TOKENS[:4]), "block_size": 0},
        {"type": "Something"},
        ["BlockStored"],
        [],
        5,
    ],
)
def test_what_our_names_cannot_tell_is_left_out(event: Any) -> None:
    translation = Translation(digest)
    assert translation.batch(_batch(event)) == []
    assert translation.left_out == 1


def test_blocks_elsewhere_are_not_on_the_device() -> None:
    translation = Translation(digest)
    assert translation.batch(_batch({**_stored([7], TOKENS[:4]), "medium": "CPU_PINNED"})) == []
    translation.batch(_batch(_stored([7], TOKENS[:4])))
    assert translation.batch(_batch({"type": "BlockRemoved", "block_hashes": [7], "medium": "DISK"})) == []
    assert translation.batch(b"\xc1") == [] and translation.left_out == 1


def test_batches_are_read_in_order_and_once() -> None:
    following = Following()
    assert following.heard(2, b"2") == [] and following.gapped
    assert following.heard(0, b"0") == [b"0"]
    assert following.heard(1, b"1") == [b"1", b"2"] and not following.gapped
    assert following.heard(1, b"1") == [] and following.next == 3
    assert following.heard(5, b"5") == [] and following.skip() == [b"5"] and following.next == 6
    assert following.gaps == 2 and following.skip() == []


class Publisher:
    """An engine's two sockets, and what it published."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self.names = f"ipc://{folder}/stream", f"ipc://{folder}/replay"
        self.kept: dict[int, bytes] = {}
        self.asked: list[int] = []
        self.stream, self.replay = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
        self.stream.bind(self.names[0])
        self.replay.bind(self.names[1])
        self.number = 0

    def say(self, payload: bytes, keep: bool = True, send: bool = True) -> None:
        number, self.number = self.number, self.number + 1
        if keep:
            self.kept[number] = payload
        if send:
            self.stream.send_multipart([b"kv", number.to_bytes(8, "big"), payload])

    def serve(self) -> None:
        while self.replay.poll(0):
            who, empty, start = self.replay.recv_multipart()
            self.asked.append(int.from_bytes(start, "big"))
            for number, payload in self.kept.items():
                if number >= self.asked[-1]:
                    self.replay.send_multipart([who, empty, b"kv", number.to_bytes(8, "big"), payload])
            self.replay.send_multipart([who, empty, b"", OVER, b""])


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield Publisher(context, tmp_path)
    context.destroy(0)


@pytest.fixture
def feed(publisher: Publisher) -> Iterator[KvFeed]:
    found = KvFeed(publisher.stream.context, *publisher.names, digest, topic="kv")
    yield found
    found.close()


def _until(feed: KvFeed, publisher: Publisher, done: Callable[[list[BlockEvent]], bool]) -> list[BlockEvent]:
    found: list[BlockEvent] = []
    deadline = time.monotonic() + 20.0
    while not done(found):
        assert time.monotonic() < deadline, found
        publisher.serve()
        found.extend(feed.events())
        feed._stream.poll(5)
    return found


def test_who_comes_late_asks_for_the_beginning(publisher: Publisher, feed: KvFeed) -> None:
    """Also when nothing is published any more."""
    publisher.say(_batch(_stored([1], TOKENS[:4])), send=False)
    publisher.say(_batch(_stored([2], TOKENS[4:8], 1)), send=False)
    found = _until(feed, publisher, lambda found: len(found) == 2)
    assert [event.hashes for event in found] == [OURS[:1], OURS[1:2]]


def _hear(feed: KvFeed, publisher: Publisher) -> None:
    """Until it hears the stream."""

    def heard(found: list[BlockEvent]) -> bool:
        publisher.say(_batch())
        return feed._heard and not feed.following.gapped

    _until(feed, publisher, heard)


def test_a_gap_is_filled_before_what_came_after_it(publisher: Publisher, feed: KvFeed) -> None:
    _hear(feed, publisher)
    publisher.say(_batch(_stored([1], TOKENS[:4])), send=False)
    publisher.say(_batch(_stored([2], TOKENS[4:8], 1)))
    found = _until(feed, publisher, lambda found: len(found) == 2)
    assert [event.kind for event in found] == ["stored", "stored"] and found[0].hashes == OURS[:1]


def test_what_cannot_be_had_any_more_makes_all_void(publisher: Publisher, feed: KvFeed) -> None:
    _hear(feed, publisher)
    publisher.say(_batch(_stored([1], TOKENS[:4])), keep=False, send=False)
    publisher.say(_batch(_stored([2], TOKENS[:4])))
    found = _until(feed, publisher, lambda found: len(found) == 2)
    assert [event.kind for event in found] == ["cleared", "stored"]


def test_an_engine_that_does_not_answer_is_not_waited_for(publisher: Publisher) -> None:
    now = [0.0]
    feed = KvFeed(publisher.stream.context, *publisher.names, digest, topic="kv", clock=lambda: now[0])
    found: list[BlockEvent] = []
    deadline = time.monotonic() + 20.0
    while not feed._heard:  # the subscription takes a moment
        assert time.monotonic() < deadline
        publisher.say(_batch(_stored([publisher.number], TOKENS[:4])), keep=False)
        found.extend(feed.events())
        feed._stream.poll(5)
    publisher.say(_batch(), send=False)
    publisher.say(_batch(_stored([9], TOKENS[:4])))
    while not any(event.kind == "cleared" for event in found):
        assert time.monotonic() < deadline
        now[0] += 2.0
        found.extend(feed.events())
        feed._stream.poll(5)
    assert feed._asked <= ASKED_MAX
    feed.close()
