"""The small parts of the tiers."""

import os
import random
import time

from nodes.contract.engine import BlockEvent
from nodes.tiers.arena import AHEAD_BYTES, Arena
from nodes.tiers.changes import Changes
from nodes.tiers.files import HEADER_BYTES, checksum_in, header, names_in, path_of, shelf_of
from nodes.tiers.health import PAUSE_MAX_S, PAUSE_S, Health
from nodes.tiers.shelves import ABSENT_S, PRESENT_S, REMEMBERED_MAX, Disk, Store
from nodes.tiers.sketch import AGE, WIDTH_MIN, Sketch
from nodes.transfer.layout import Layout


def test_a_tier_that_fails_again_is_left_alone_for_longer() -> None:
    health, now = Health(), 0.0
    pauses: list[float] = []
    while len(pauses) < 8:
        if health.failed(now, "no room"):
            begun = now
            while health.is_marked(now):
                now += 0.5
            pauses.append(now - begun)
    assert pauses == [PAUSE_S, 2.0, 4.0, 8.0, 16.0, 32.0, PAUSE_MAX_S, PAUSE_MAX_S]
    assert health.failures == 3 + 7, "the first time three in a row, then one is enough"
    health.worked()
    assert not health.failed(now, "once") and not health.is_marked(now)
    assert health.failed(now, "full", surely=True)


def test_memory_is_touched_a_little_ahead_of_what_is_used() -> None:
    arena = Arena(4 * AHEAD_BYTES)
    arena.view[:5] = b"bytes"
    for used in (0, AHEAD_BYTES, 10 * AHEAD_BYTES):
        arena.reach(used)
        deadline = time.monotonic() + 20.0
        wanted = min(used + AHEAD_BYTES, 4 * AHEAD_BYTES)
        while arena.thread.is_alive() and arena._touched < wanted:
            assert time.monotonic() < deadline
            os.sched_yield()
        assert arena._touched == wanted or not arena.thread.is_alive()
    assert bytes(arena.view[:6]) == b"bytes\0", "what is in it stays"
    arena.close()
    arena.thread.join(20.0)
    assert not arena.thread.is_alive()


def test_neighbours_share_an_event() -> None:
    changes = Changes()
    changes.stored(1, 0)
    assert not changes, "nobody listens"
    changes.told = True
    for name, parent in ((1, 0), (2, 1), (9, 7), (3, 2)):
        changes.stored(name, parent)
    changes.removed(9)
    changes.removed(3)
    assert changes.take() == [
        BlockEvent("stored", [1, 2], 0),
        BlockEvent("stored", [9], 7),
        BlockEvent("stored", [3], 2),
        BlockEvent("removed", [9, 3]),
    ]
    assert changes.take() == []


def test_counts_are_never_too_low_and_fade() -> None:
    draw, sketch = random.Random(5), Sketch(100)
    names = [draw.getrandbits(64) for _ in range(300)]
    for times, name in enumerate(names):
        for _ in range(times % 5):
            sketch.add(name)
    assert all(sketch.count(name) >= times % 5 for times, name in enumerate(names))
    assert sum(sketch.count(name) == times % 5 for times, name in enumerate(names)) > 280
    for _ in range(1_000):
        sketch.add(names[0])
    assert sketch.count(names[0]) == 255
    for _ in range(AGE * WIDTH_MIN):
        sketch.add(names[1])
    assert sketch.count(names[0]) == 127


def test_what_was_read_last_stays_longest_on_a_disk() -> None:
    disk = Disk(3)
    for name in (1, 2, 3):
        assert disk.written(name, 0, 1, 0.0) == []
    disk.found(1, 0.0)
    assert disk.written(4, 0, 1, 0.0) == [(2, 0)]
    assert disk.scanned([(5, 0, 1)]) == [(5, 0)], "what is from an earlier life goes first"
    disk.written(4, 0, 1, 0.0)
    assert disk.bytes == 3
    disk.check()


def test_what_a_store_said_is_believed_for_a_while() -> None:
    store = Store()
    assert store.may_have(1, 0.0) and not store.has(1, 0.0)
    store.missed(1, 0.0)
    assert not store.may_have(1, 1.0) and store.may_have(1, ABSENT_S)
    store.found(1, 0.0)
    assert store.has(1, 1.0) and not store.has(1, PRESENT_S) and store.may_have(1, 2 * PRESENT_S)
    for name in range(REMEMBERED_MAX):
        store.missed(name + 2, 0.0)
    assert not store.has(1, 1.0), "it is bounded"


def test_files_say_what_they_are() -> None:
    layout = Layout(16, 2, 2, 8, "float32")
    shelf = shelf_of("model", "numpy exact", layout)
    others = [shelf_of("other", "numpy exact", layout), shelf_of("model", "numpy", layout)]
    others.append(shelf_of("model", "numpy exact", Layout(32, 2, 2, 8, "float32")))
    assert len({shelf, *others}) == 4
    head = header(shelf, 2**64 - 1, 5, 4096, 77)
    assert len(head) == HEADER_BYTES and checksum_in(head, shelf, 2**64 - 1, 4096) == 77
    assert checksum_in(head[:-1], shelf, 2**64 - 1, 4096) is None
    assert checksum_in(head, others[0], 2**64 - 1, 4096) is None
    for position in range(HEADER_BYTES - 4):  # zeros end it
        broken = bytearray(head)
        broken[position] ^= 1
        assert checksum_in(bytes(broken), shelf, 2**64 - 1, 4096) is None
    assert path_of(2**64 - 1, 5) == "ff/ffffffffffffffff-0000000000000005.kv"
    assert names_in("ffffffffffffffff-0000000000000005.kv") == (2**64 - 1, 5)
    assert names_in("notes.txt") is None and names_in("ff-05.kv") is None
