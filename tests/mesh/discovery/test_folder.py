"""The shared directory, on a real file system."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from mesh.discovery import folder as module
from mesh.discovery.folder import Folder
from mesh.discovery.machine import sweep_sockets
from mesh.discovery.sightings import file_of
from proto.messages import Record


def record(node: int, mesh: str = "lab", tag: bytes = b"") -> Record:
    return Record(node, mesh, tag, f"node {node}", 7, "host", ["tcp://192.0.2.2:5"])


class Listener:
    """Collects what discovery says, and lets a test wait for something."""

    def __init__(self) -> None:
        self.found: list[Record] = []
        self.lost: list[int] = []
        self.remarks: list[str] = []
        self.changed = asyncio.Event()

    async def start(self, way: Folder, ours: Record) -> None:
        await way.start(ours, self._add(self.found), self._add(self.lost), print, lambda _, text: self._remark(text))

    def _add(self, to: list[object]) -> Callable[[object], None]:  # type: ignore[type-arg]
        def add(what: object) -> None:
            to.append(what)
            self.changed.set()

        return add

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_LOCAL_S", 0.01)
    monkeypatch.setattr(module, "POLL_SHARED_S", 0.01)
    monkeypatch.setattr(module, "BEAT_S", 0.05)


@pytest.mark.parametrize("local", [True, False])
def test_two_nodes_meet_change_and_part(tmp_path: Path, local: bool) -> None:
    async def scenario() -> None:
        ways = [Folder(str(tmp_path / "new" / "mesh"), (b"",), local=local) for _ in range(2)]
        ears = [Listener(), Listener()]
        for index in range(2):
            await ears[index].start(ways[index], record(index + 1))
        assert [each.node for each in ears[1].found] == [1], "the second finds the first at once"
        await ears[0].until(lambda: [each.node for each in ears[0].found] == [2])
        await ways[1].publish(replace(record(2), endpoints=["a.b.c"]))
        await ears[0].until(lambda: ears[0].found[-1].endpoints == ["a.b.c"])
        await ways[1].stop()
        await ears[0].until(lambda: ears[0].lost == [2])
        assert "1 other nodes" in ways[1].describe()
        await ways[0].stop()
        assert os.listdir(ways[0].path) == []

    asyncio.run(scenario())


def test_a_removed_file_and_a_removed_directory_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        way, watcher, ears = Folder(str(tmp_path / "mesh"), (b"",), local=True), Folder("", (b"",)), Listener()
        await ears.start(way, record(1))
        file = tmp_path / "mesh" / file_of(1)
        for _ in range(2):
            file.unlink()
            if not list((tmp_path / "mesh").iterdir()):
                (tmp_path / "mesh").rmdir()
            async with asyncio.timeout(20):
                while not file.exists():
                    await asyncio.sleep(0.01)
        await way.stop()
        await watcher.stop()

    asyncio.run(scenario())


def test_meshes_in_one_directory_stay_apart_and_say_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        records = [record(1), record(2, mesh="other"), record(3, tag=b"x" * 8)]
        ways = [Folder(str(tmp_path), (each.tag,), local=True) for each in records]
        ears = [Listener() for _ in records]
        for way, ear, ours in zip(ways, ears, records, strict=True):
            await ear.start(way, ours)
        for ear in ears:
            await ear.until(lambda ear=ear: len(ear.remarks) == 2 or (ear is ears[1] and ear.remarks))
        assert not any(ear.found for ear in ears)
        assert any("another key" in text for text in ears[0].remarks)
        assert any("'other'" in text for text in ears[0].remarks)
        for way in ways:
            await way.stop()

    asyncio.run(scenario())


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / file_of(2))
    (tmp_path / file_of(3)).symlink_to("/etc/passwd")
    (tmp_path / file_of(4)).mkdir()
    (tmp_path / file_of(5)).write_bytes(b"[" * 200_000)

    async def scenario() -> None:
        way, ears = Folder(str(tmp_path), (b"",), local=True), Listener()
        await ears.start(way, record(1))
        await way.stop()
        assert (ears.found, ears.lost, ears.remarks) == ([], [], [])

    asyncio.run(scenario())
    assert len(os.listdir(tmp_path)) == 4


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".{file_of(1)}.new").symlink_to(victim)

    async def scenario() -> None:
        way, ears = Folder(str(tmp_path), (b"",), local=True), Listener()
        with pytest.raises(OSError):
            await ears.start(way, record(1))

    asyncio.run(scenario())
    assert victim.read_text() == "mine"


def test_a_directory_that_cannot_be_used_is_an_error_at_start_and_a_remark_later(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def scenario() -> None:
        with pytest.raises(OSError):
            await Listener().start(Folder(str(tmp_path / "file" / "mesh"), (b"",)), record(1))
        way, ears = Folder(str(tmp_path / "mesh"), (b"",), local=True), Listener()
        await ears.start(way, record(1))
        (tmp_path / "mesh" / file_of(1)).unlink()
        (tmp_path / "mesh").rmdir()
        (tmp_path / "mesh").write_text("in the way")
        await ears.until(lambda: ears.remarks)
        await way.stop()

    asyncio.run(scenario())


def test_a_file_server_that_hangs_stops_neither_the_loop_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.05)

    async def scenario() -> None:
        way, ears = Folder(str(tmp_path), (b"",)), Listener()
        await ears.start(way, record(1))
        reading, writing = os.pipe()
        monkeypatch.setattr(way, "_list", lambda: os.read(reading, 1) and {})
        await asyncio.sleep(0.05)
        started = asyncio.get_running_loop().time()
        await way.stop()
        assert asyncio.get_running_loop().time() - started < 5
        os.write(writing, b"x")
        os.close(writing)
        async with asyncio.timeout(20):
            while any(thread.name == "discovery folder" for thread in module.threading.enumerate()):
                await asyncio.sleep(0.01)
        os.close(reading)

    asyncio.run(scenario())


def test_sockets_of_dead_nodes_are_swept_those_of_living_ones_are_not(tmp_path: Path) -> None:
    names = {node: tmp_path / f"{node:016x}.ipc" for node in (1, 2, 3)}
    sockets = {node: socket.socket(socket.AF_UNIX) for node in names}
    for node, path in names.items():
        sockets[node].bind(str(path))
    sockets[1].listen()
    for node in (2, 3):
        sockets[node].close()  # dead: the file stays behind
    (tmp_path / file_of(3)).write_text("its record has not vanished yet")
    suspects = sweep_sockets(str(tmp_path), frozenset())
    assert suspects == {names[2].name} and names[2].exists(), "the first look only suspects"
    assert sweep_sockets(str(tmp_path), suspects) == frozenset()
    assert [path.exists() for path in names.values()] == [True, False, True]
    sockets[1].close()
    assert sweep_sockets(str(tmp_path / "gone"), suspects) == frozenset()
