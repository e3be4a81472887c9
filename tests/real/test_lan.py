"""mDNS for real, on loopback alone."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from mesh.discovery import lan as module
from mesh.discovery import text
from mesh.discovery.interfaces import Interface
from mesh.discovery.lan import Lan
from proto.messages import Record

LOOPBACK = ("127.0.0.1",)
WITHIN_S = 30.0


def record(node: int, mesh: str = "lab", tag: bytes = b"tag") -> Record:
    return Record(node, mesh, tag, f"node {node}", 7, "host", ["tcp://127.0.0.1:5"], ["demo.hello.generate"])


class Ears:
    """Collects what discovery says."""

    def __init__(self) -> None:
        self.found: list[Record] = []
        self.lost: list[int] = []
        self.remarks: list[str] = []

    async def start(self, ours: Record) -> Lan:
        lan = Lan((ours.tag,), LOOPBACK)
        await lan.start(ours, self.found.append, self.lost.append, print, lambda _, words: self.remarks.append(words))
        return lan


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_two_nodes_meet_change_and_part() -> None:
    async def scenario() -> None:
        ears = [Ears(), Ears()]
        ways = [await ears[0].start(record(1)), await ears[1].start(record(2))]
        await until(lambda: ears[0].found and ears[1].found)
        assert ears[0].found == [record(2)] and ears[1].found == [record(1)]
        changed = replace(record(2), endpoints=[])
        await ways[1].publish(changed)
        await until(lambda: ears[0].found[-1] == changed)
        assert ways[0].describe() == "LAN (mDNS) on lo (127.0.0.1) (1 other nodes)"
        await ways[1].stop()
        await until(lambda: ears[0].lost == [2])
        assert ears[0].remarks == []
        await ways[0].stop()
        await ways[0].stop()

    asyncio.run(scenario())


def test_other_meshes_are_seen_and_kept_apart() -> None:
    async def scenario() -> None:
        records = [record(1), record(2, mesh="other"), record(3, tag=b"else")]
        ears = [Ears() for _ in records]
        ways = [await ear.start(ours) for ear, ours in zip(ears, records, strict=True)]
        await until(lambda: len(ears[0].remarks) == 2)
        assert any("'other'" in words for words in ears[0].remarks)
        assert any("another key" in words for words in ears[0].remarks)
        assert not any(ear.found for ear in ears)
        await asyncio.gather(*(way.stop() for way in ways))

    asyncio.run(scenario())


def test_junk_and_other_versions_on_the_lan_are_survived() -> None:
    def service(name: str, entries: dict[bytes, bytes]) -> ServiceInfo:
        address = [b"\x7f\0\0\1"]
        return ServiceInfo(text.SERVICE, name, port=9, addresses=address, server="junk.local.", properties=entries)

    async def scenario() -> None:
        shouting = AsyncZeroconf(interfaces=list(LOOPBACK))
        entries = text.encode(record(5), (1, 1))
        junk = [
            service(f"my printer.{text.SERVICE}", {}),
            service(text.instance_of(3), {b"v": b"\xff\xfe", b"m": bytes(200)}),
            service(text.instance_of(4), entries | {b"v": b"8-9"}),
            service(text.instance_of(5), entries),
        ]
        for info in junk:
            await shouting.async_register_service(info, cooperating_responders=True)
        ears = Ears()
        lan = await ears.start(record(1))
        await until(lambda: ears.found and ears.remarks)
        assert [each.node for each in ears.found] == [5]
        assert "versions 8 to 9" in ears.remarks[0]
        await lan.stop()
        await shouting.async_close()

    asyncio.run(scenario())


def test_the_machines_interfaces_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    present = [Interface("lo", "127.0.0.1")]
    monkeypatch.setattr(module, "read_interfaces", lambda: tuple(present))
    monkeypatch.setattr(module, "RESCAN_S", 0.05)

    async def scenario() -> None:
        ears = Ears()
        way = Lan((b"tag",), ("lo",))
        await way.start(record(1), print, print, print, lambda _, words: ears.remarks.append(words))
        present.append(Interface("lo", "127.0.0.2"))
        await until(lambda: ears.remarks)
        assert "127.0.0.2" in ears.remarks[0] and "127.0.0.2" in way.describe()
        present.clear()
        await way._rescan()
        assert "127.0.0.2" in way.describe(), "an interface list that cannot be used changes nothing"
        await way.stop()

    asyncio.run(scenario())


def test_a_start_that_fails_half_way_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError("no route")

    async def scenario() -> None:
        monkeypatch.setattr(AsyncZeroconf, "async_register_service", fail)
        way = Lan((b"tag",), LOOPBACK)
        with pytest.raises(OSError, match="no route"):
            await way.start(record(1), print, print, print, print)
        await way.stop()

    asyncio.run(scenario())


def test_a_network_that_swallows_multicast_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ECHO_S", 0.05)
    monkeypatch.setattr(module, "RESCAN_S", 0.05)
    monkeypatch.setattr(Lan, "_changed", lambda *_, **__: None)

    async def scenario() -> None:
        ears = Ears()
        way = await ears.start(record(1))
        await until(lambda: ears.remarks)
        assert "did not come back on lo (127.0.0.1)" in ears.remarks[0]
        await way.stop()

    asyncio.run(scenario())
