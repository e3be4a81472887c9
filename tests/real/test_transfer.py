"""The data plane between real processes that are killed and frozen, and over CURVE."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from zmq.utils.garbage import gc

from mesh.security import Key, create_key, load_key
from nodes.transfer import Cause, Ending, Handle, Plane, PlaneSettings, Way, addresses, limits, owning
from nodes.transfer.addresses import bulk_address
from nodes.transfer.handle import decode, encode
from nodes.transfer.nixl_agent import PACKAGES
from tests.real.processes import PATIENCE_S, Child

SIZE = 32 * 2**20
HOST = "here"


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="wt") as path:
        yield path


@pytest.fixture(autouse=True)
def payloads_let_go() -> Iterator[None]:
    """ZeroMQ's own thread for payloads lives as long as the process."""
    yield
    gc.stop()


def contents() -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    return np.random.default_rng(7).integers(0, 256, SIZE, np.uint8)


@asynccontextmanager
async def puller(folder: str, *ways: Way, host: str = HOST, key: Key | None = None) -> AsyncIterator[Plane]:
    plane = await Plane(PlaneSettings(2, host, (bulk_address(folder, 2),), ways), key).start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield plane
    finally:
        await plane.close()


def owner(folder: str, lease_s: float = 60.0, key: str = "") -> Child:
    return Child(__file__, folder, lease_s, key)


def handle_of(child: Child) -> Handle:
    return decode(bytes.fromhex(child.line("handle").split()[1]))


def shared_files() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "wiremesh" in name}


@pytest.mark.parametrize("way", [Way.SHARED, Way.BULK])
def test_bytes_of_another_process(folder: str, way: Way) -> None:
    async def main(child: Child) -> None:
        async with puller(folder, way) as plane:
            target = plane.allocate(SIZE)
            end = await plane.fetch(handle_of(child), target)
            assert (end.ending, end.way) == (Ending.DONE, way)
            assert np.array_equal(target.array, contents())
        child.line("freed complete")

    before = shared_files()
    with owner(folder) as child:
        asyncio.run(main(child))
    assert shared_files() == before, "shared memory has no name, so it cannot be left behind"


@pytest.mark.parametrize("way", [Way.SHARED, Way.BULK])
def test_an_owner_that_is_killed_in_the_midst(folder: str, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link breaks at once; memory that is mapped stays true. Never a wrong byte, never a hang."""

    async def main(child: Child) -> None:
        async with puller(folder, way) as plane:
            target = plane.allocate(SIZE)
            handle, there = handle_of(child), asyncio.Event()
            task = asyncio.create_task(plane.fetch(handle, target, progressed=lambda _: there.set()))
            await there.wait()
            child.kill()
            begun = time.monotonic()
            end = await task
            assert time.monotonic() - begun < limits.STALL_S
            assert np.array_equal(target.array[: end.position], contents()[: end.position])
            assert end.ending is Ending.DONE or end.cause is Cause.LOST, end
            again = await plane.fetch(handle, target)
            assert again.ending is Ending.FAILED or way is Way.SHARED
        sockets = [path.name for path in Path(folder).iterdir()]
        assert sockets == ["0000000000000001.bulk"]
        monkeypatch.setattr(addresses, "NEW_S", 0.0)
        async with puller(folder, way):
            assert [path.name for path in Path(folder).iterdir()] == ["0000000000000002.bulk"], "swept"

    with owner(folder) as child:
        asyncio.run(main(child))


def test_an_owner_that_is_frozen(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory can be read all the same; a bulk link to it is given up."""
    monkeypatch.setattr(limits, "STALL_S", 1.0)
    monkeypatch.setattr(limits, "PULSE_S", 0.2)

    async def main(child: Child) -> None:
        async with puller(folder, Way.SHARED) as near, puller(folder, Way.BULK) as far:
            handle = handle_of(child)
            child.signal(signal.SIGSTOP)
            target, other = near.allocate(SIZE), far.allocate(SIZE)
            end = await near.fetch(handle, target)
            assert end.ending is Ending.DONE and np.array_equal(target.array, contents())
            end = await far.fetch(handle, other)
            assert end.cause is Cause.STALLED and end.position == 0
            child.signal(signal.SIGCONT)

    with owner(folder) as child:
        asyncio.run(main(child))


def test_a_puller_that_is_frozen_keeps_no_memory(folder: str) -> None:
    """What is queued for it is dropped, if need be with every connection; only then is the memory free."""
    paper = Path(folder) / "handle"
    with Child(__file__, folder, paper) as reader:
        reader.line("waiting")
        with owner(folder, lease_s=2.5) as child:  # time for both to begin
            paper.with_suffix(".new").write_text(child.line("handle").split()[1])
            paper.with_suffix(".new").rename(paper)
            reader.line("moving")
            reader.signal(signal.SIGSTOP)
            child.line("freed expired")
            child.line("frames 0")


def test_curve_between_hosts_and_no_stranger(folder: str) -> None:
    path = Path(folder) / "mesh.key"
    key = create_key(path, "lab")
    stranger = create_key(Path(folder) / "other.key", "lab")

    async def main(child: Child) -> None:
        handle = handle_of(child)
        async with puller(folder, Way.BULK, host="elsewhere", key=stranger) as plane:
            end = await plane.fetch(handle, plane.allocate(SIZE), timeout_s=1.0)
            assert end.ending is Ending.FAILED and end.position == 0
        async with puller(folder, Way.BULK, host="elsewhere", key=key) as plane:
            target = plane.allocate(SIZE)
            end = await plane.fetch(handle, target, checksum=True)
            assert end.ending is Ending.DONE and np.array_equal(target.array, contents())

    with owner(folder, key=str(path)) as child:
        asyncio.run(main(child))


@pytest.mark.skipif(not any(map(find_spec, PACKAGES)), reason="NIXL is not installed")
def test_nixl_where_it_is_installed(folder: str) -> None:
    async def main(child: Child) -> None:
        async with puller(folder, Way.NIXL) as plane:
            handle, target = handle_of(child), plane.allocate(SIZE)
            assert handle.remote is not None
            end = await plane.fetch(handle, target)
            assert (end.ending, end.way) == (Ending.DONE, Way.NIXL)
            assert np.array_equal(target.array, contents())
            await asyncio.to_thread(child.line, "freed complete")  # the word that it was read is said by our loop
            child.kill()
            assert (await plane.fetch(handle, target)).ending is Ending.FAILED

    with owner(folder) as child:
        asyncio.run(main(child))


# --- The other process ---------------------------------------------------------------------------------


async def own(folder: str, lease_s: float, key_path: str) -> None:
    limits.RENEW_S = 1.0
    owning.DRAIN_S = 2.0  # less than ZeroMQ's heartbeat takes
    key = load_key(key_path) if key_path else None
    listen = (bulk_address(folder, 1), *(("tcp://127.0.0.1:0",) if key else ()))
    plane = await Plane(PlaneSettings(1, HOST, listen, (Way.SHARED, Way.NIXL, Way.BULK)), key).start()
    memory = plane.allocate(SIZE)
    memory.array[:] = contents()

    def freed(cause: Cause) -> None:
        print(f"freed {cause.label}", flush=True)
        print(f"frames {len(offer.queued)}", flush=True)

    offer = plane.offer(memory, lease_s=lease_s, freed=freed)
    print(f"handle {encode(offer.handle()).hex()}", flush=True)
    await asyncio.Event().wait()


async def read(folder: str, paper: str) -> None:
    plane = await Plane(PlaneSettings(3, HOST, (), (Way.BULK,))).start()
    target = plane.allocate(SIZE)
    print("waiting", flush=True)
    while not Path(paper).exists():
        await asyncio.sleep(0.005)
    handle = decode(bytes.fromhex(Path(paper).read_text()))
    await plane.fetch(handle, target, progressed=lambda _: print("moving", flush=True))
    await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        asyncio.run(own(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
    asyncio.run(read(*sys.argv[1:]))
