"""Tiers with real threads and real files: what comes back is right or does not come, whatever happens to the files."""

import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes.metrics import is_sound
from nodes.tiers import folder, options, work
from nodes.tiers.counts import Count
from nodes.tiers.files import HEADER_BYTES
from nodes.tiers.options import TierRefused
from nodes.tiers.shelves import DISK, HOST, STORE
from nodes.tiers.tiers import open_tiers
from nodes.tiers.weights import mark_of
from tests.nodes.tiers.stage import BYTES, LAYOUT, PATIENCE_S, Stage, files, names

Open = Callable[..., Stage]


@pytest.fixture
def stage() -> Iterator[Open]:
    stages: list[Stage] = []

    def open_stage(*arguments: object, **more: object) -> Stage:
        stages.append(Stage(*arguments, **more))  # type: ignore[arg-type]
        return stages[-1]

    yield open_stage
    for one in stages:
        one.close()


def count(stage: Stage, tier: int) -> Count:
    found = stage.count(tier)
    assert isinstance(found, Count)
    return found


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        os.sched_yield()


def test_host_memory(stage: Open) -> None:
    one = stage(8)
    one.spill(names(0, 6))
    assert one.restored(names(0, 6)) == 6
    assert one.restored(names(1, 6)) == 0
    one.spill(names(1, 6))
    assert one.restored(names(1, 6)) == 6
    assert one.restored(names(0, 6)) == 2, "its start is what is left of it"
    assert one.tiers.levels == 2


def test_a_disk_outlives_its_worker(stage: Open, tmp_path: Path) -> None:
    first = stage(16, disk=f"{tmp_path}:1M")
    first.keep(names(0, 10))
    assert len(files(tmp_path)) == 10
    first.close()
    second = stage(16, disk=f"{tmp_path}:1M")
    until(lambda: len(second.tiers._core.lower[0].index.files) == 10)  # type: ignore[attr-defined]
    assert second.restored(names(0, 10)) == 10
    told = dict(second.tiers.events())
    assert sum(len(event.hashes) for event in told[2]) == 10 and told[1], "routers hear what was there"
    second.tiers.check()


def test_two_workers_never_share_a_disk_directory(stage: Open, tmp_path: Path) -> None:
    one, other = stage(8, disk=f"{tmp_path}:1M"), stage(8, disk=f"{tmp_path}:1M")
    one.keep(names(0, 4))
    other.keep(names(1, 4))
    assert {path.parent.parent.name for path in files(tmp_path)} == {"0", "1"}
    one.close()
    assert stage(8, disk=f"{tmp_path}:1M").tiers._places[DISK].place.path.name == "0"  # type: ignore[attr-defined]


def test_a_disk_is_bounded_also_by_what_it_finds(stage: Open, tmp_path: Path) -> None:
    size = 8192  # a block with its header
    first = stage(16, disk=f"{tmp_path}:{8 * size}")
    first.keep(names(0, 12))
    until(lambda: len(files(tmp_path)) == 8)
    first.close()
    second = stage(16, disk=f"{tmp_path}:{3 * size}")
    until(lambda: len(files(tmp_path)) == 3)
    second.tiers.check()


def test_a_store_is_for_all(stage: Open, tmp_path: Path) -> None:
    one, other = stage(64, store=f"dir:{tmp_path}"), stage(64, store=f"dir:{tmp_path}")
    one.keep(names(0, 40))
    assert other.restored(names(0, 40)) == 40
    assert count(other, STORE).hit == 40
    stranger = stage(64, store=f"dir:{tmp_path}", model="another")
    assert stranger.restored(names(0, 40)) == 0, "blocks of another model are not ours"


def test_a_store_is_not_written_twice(stage: Open, tmp_path: Path) -> None:
    one, other = stage(16, store=f"dir:{tmp_path}"), stage(16, store=f"dir:{tmp_path}")
    one.keep(names(0, 4))
    before = [path.stat().st_ino for path in files(tmp_path)]
    other.keep(names(0, 4))
    assert [path.stat().st_ino for path in files(tmp_path)] == before


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 100] ^= 1
    path.write_bytes(content)


def _another(path: Path) -> None:
    """The file of another block under this one's name."""
    shutil.copy(next(one for one in path.parent.parent.glob("*/*.kv") if one != path), path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": _flip,
    "its end": lambda path: os.truncate(path, HEADER_BYTES + 7),
    "its header": lambda path: os.truncate(path, 5),
    "all of it": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(HEADER_BYTES + BYTES)),
    "another": _another,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["disk", "store"])
def test_a_damaged_block_is_computed_again(stage: Open, tmp_path: Path, damage: str, kind: str) -> None:
    where = {"disk": f"{tmp_path}:1M"} if kind == "disk" else {"store": f"dir:{tmp_path}"}
    one, blocks = stage(8, **where), names(0, 8)
    one.keep(blocks)
    one.keep(names(1, 8))  # nothing of the first is in host memory any more
    (path,) = [path for path in files(tmp_path) if path.name.startswith(f"{blocks[3]:016x}")]
    DAMAGES[damage](path)
    assert one.restored(blocks) == 3
    tier = DISK if kind == "disk" else STORE
    assert count(one, tier).failures["corrupt"] == 1 and not path.exists()
    assert count(one, tier).marked == 0


def test_a_full_disk(stage: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, blocks = stage(16, disk=f"{tmp_path}:1M"), names(0, 8)
    one.keep(blocks)

    def no_room(descriptor: int, buffers: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder.os, "writev", no_room)  # type: ignore[attr-defined]
    one.keep(names(1, 8))
    assert count(one, DISK).failures["full"] == 1 and count(one, DISK).marked == 1
    assert count(one, DISK).dropped == 7
    assert one.restored(names(1, 8)) == 8, "host memory has it"
    assert one.restored(blocks) == 8, "what was written before can be read"
    assert not list(tmp_path.glob("**/unfinished/*")), "nothing is left of what was begun"
    assert one.tiers.facts()["disk"]["marked"]
    assert "No space left" in one.tiers.facts()["disk"]["trouble"]


def test_a_directory_that_vanishes(stage: Open, tmp_path: Path) -> None:
    one, blocks = stage(8, disk=f"{tmp_path / 'kv'}:1M"), names(0, 8)
    one.keep(blocks)
    one.keep(names(1, 8))
    shutil.rmtree(tmp_path / "kv")
    for _ in range(4):
        one.restored(blocks)
    assert count(one, DISK).failures["missing"] >= 1
    one.keep(names(2, 8))
    assert len(files(tmp_path)) == 8, "it is made again"


def test_a_directory_that_cannot_be_made_again(stage: Open, tmp_path: Path) -> None:
    one = stage(16, disk=f"{tmp_path / 'kv'}:1M")
    one.keep(names(0, 4))
    shutil.rmtree(tmp_path / "kv")
    (tmp_path / "kv").write_text("a file")
    one.keep(names(1, 8))
    assert count(one, DISK).failures["failed"] == 3 and count(one, DISK).marked == 1
    assert one.restored(names(1, 8)) == 8


def test_a_file_that_hangs(stage: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "QUIET_S", 0.2)
    one, blocks = stage(8, store=f"dir:{tmp_path}"), names(0, 8)
    one.keep(blocks)
    one.keep(names(1, 8))
    (path,) = [path for path in files(tmp_path) if path.name.startswith(f"{blocks[3]:016x}")]
    path.unlink()
    os.mkfifo(path)  # to open it is to wait for somebody who writes
    try:
        assert 1 <= one.restored(blocks) <= 3
        assert count(one, STORE).failures["slow"] == 1 and count(one, STORE).marked == 1
        assert one.restored(names(2, 4), "next") == 0, "nobody waits for it again"
        one.tiers.seek("others", 0, names(3, 8), 8)
        one.keep(names(3, 8))
        assert one.restored(names(3, 8)[:4], "others") == 4, "the rest of host memory is in use meanwhile"
    finally:
        os.close(os.open(path, os.O_WRONLY))  # it lets go


def test_what_was_never_finished_is_removed(stage: Open, tmp_path: Path) -> None:
    first = stage(8, disk=f"{tmp_path}:1M")
    first.keep(names(0, 2))
    first.close()
    (left,) = tmp_path.glob("**/unfinished")
    (left / "host-1-1").write_bytes(b"half")
    stage(8, disk=f"{tmp_path}:1M")
    assert not list(left.iterdir())


def test_a_leaving_worker_writes_down_what_is_popular(stage: Open, tmp_path: Path) -> None:
    one, blocks = stage(8, disk=f"{tmp_path}:1M", uses=2), names(0, 30)
    for _ in range(2):
        one.tiers.seek("job", 0, blocks, len(blocks))
    one._cache = dict(enumerate(blocks))
    rare = names(1, 2)
    one.tiers.flush([(name, 0, at) for at, name in enumerate(blocks)] + [(name, 0, 99) for name in rare])
    one.close()
    assert len(files(tmp_path)) == 30


def test_what_is_used_twice_is_written_while_it_is_in_the_cache(stage: Open, tmp_path: Path) -> None:
    one, blocks = stage(32, store=f"dir:{tmp_path}", uses=2), names(0, 6)
    one._cache = dict(enumerate(blocks))
    one.tiers.seek("first", 0, blocks, 6)
    one.tiers.used(0, blocks, range(6))
    one.wait_written()
    assert not files(tmp_path)
    one.tiers.seek("second", 0, blocks, 6)
    one.tiers.used(0, blocks, range(6))
    one.wait_written()
    assert len(files(tmp_path)) == 6
    assert stage(16, store=f"dir:{tmp_path}").restored(blocks) == 6


def test_metrics_and_facts(stage: Open, tmp_path: Path) -> None:
    one = stage(8, disk=f"{tmp_path}:1M", store=f"dir:{tmp_path / 'store'}")
    one.keep(names(0, 4))
    one.restored(names(0, 8))
    found = {family.name: family for family in one.tiers.families()}
    assert all(is_sound(family) for family in found.values())
    rates = {sample.labels["tier"]: sample.value for sample in found["wiremesh_tier_hit_rate"].samples}
    assert rates == {"host": 0.5, "disk": 0.0, "store": 0.0}
    assert one.tiers.facts()["disk"] == {"marked": False, "trouble": "", "unwritten": 0, "blocks": 4}
    assert count(one, HOST).written == 4


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for disk, store in ((f"{tmp_path}/file:1M", ""), ("", f"dir:{tmp_path}/file")):
        asked = options.read(1 << 20, disk, store)
        assert asked is not None
        with pytest.raises(TierRefused, match="cannot be used"):
            open_tiers(asked, LAYOUT, "model", "")
    asked = options.read(BYTES - 1)
    assert asked is not None
    with pytest.raises(TierRefused, match="less than one block"):
        open_tiers(asked, LAYOUT, "model", "")
    asked = options.read(1 << 56)
    assert asked is not None
    with pytest.raises(TierRefused, match="cannot be had"):
        open_tiers(asked, LAYOUT, "model", "")


def test_other_weights_have_another_mark(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    content = random.Random(1).randbytes(3_000_000)
    for path in (one, other):
        path.mkdir()
        (path / "model.safetensors").write_bytes(content)
    assert mark_of(one) == mark_of(other)
    (other / "model.safetensors").write_bytes(content[:1_500_000] + random.Random(2).randbytes(1_500_000))
    assert mark_of(one) != mark_of(other)
    (one / "more.safetensors").write_bytes(b"")
    assert mark_of(one) != mark_of(other)


def test_closing_twice_is_closing_once(stage: Open) -> None:
    one = stage(8)
    one.close()
    one.close()
