"""Two planes in one process: memory of one is brought into memory of the other, over each way."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from mesh.security import KeyRefused, create_key
from nodes.transfer import (
    Cause,
    Ending,
    Layout,
    Memory,
    Plane,
    PlaneSettings,
    TransferRefused,
    Way,
    sockets,
    wire,
)
from nodes.transfer.addresses import bulk_address
from nodes.transfer.handle import decode, encode

PATIENCE_S = 20.0
MIB = 2**20


@pytest.fixture
def folder() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="wt")
    yield path
    assert list(Path(path).iterdir()) == [], "a socket was left behind"
    shutil.rmtree(path)


@asynccontextmanager
async def planes(folder: str, *ways: Way) -> AsyncIterator[tuple[Plane, Plane]]:
    """The owner, and who pulls with these ways alone."""
    ways = ways or (Way.SHARED, Way.BULK)
    owner = await Plane(PlaneSettings(1, "here", (bulk_address(folder, 1),))).start()
    puller = await Plane(PlaneSettings(2, "here", (bulk_address(folder, 2),), ways)).start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield owner, puller
    finally:
        await puller.close()
        await owner.close()


def filled(plane: Plane, size: int, seed: int = 1) -> Memory:
    memory = plane.allocate(size)
    memory.array[:] = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return memory


both = pytest.mark.parametrize("way", [Way.SHARED, Way.BULK])


@both
def test_a_pull_may_begin_beyond_what_is_ready(folder: str, way: Way) -> None:
    """Who has the beginning already asks for the rest before it is there."""

    async def main() -> None:
        async with planes(folder, way) as (owner, puller):
            size, start = 5 * MIB, 3 * MIB + 17
            source, target = filled(owner, size), puller.allocate(size)
            offer = owner.offer(source, ready=MIB)
            pulling = asyncio.ensure_future(puller.fetch(offer.handle(), target, start=start))
            for ready in (2 * MIB, 4 * MIB, size):
                await asyncio.sleep(0)
                offer.advance(ready)
            end = await pulling
            assert (end.ending, end.position) == (Ending.DONE, size)
            assert bytes(target.array[start:]) == bytes(source.array[start:]) and not target.array[:start].any()

    asyncio.run(main())


@both
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("size", [1, 300_000, 9 * MIB])
def test_all_bytes_arrive_and_the_memory_is_freed_at_once(folder: str, way: Way, checksum: bool, size: int) -> None:
    async def main() -> None:
        async with planes(folder, way) as (owner, puller):
            source, target = filled(owner, size), puller.allocate(size)
            freed: asyncio.Future[Cause] = asyncio.get_running_loop().create_future()
            offer = owner.offer(source, freed=freed.set_result)
            handle = decode(encode(offer.handle()))
            end = await puller.fetch(handle, target, checksum=checksum)
            assert (end.ending, end.way, end.position) == (Ending.DONE, way, size), end
            assert np.array_equal(source.array, target.array)
            assert await freed is Cause.COMPLETE
            again = await puller.fetch(handle, target)
            assert again.ending is Ending.FAILED and again.cause in (Cause.STALE, Cause.UNKNOWN_OFFER)

    asyncio.run(main())


def test_who_reads_all_tells_the_owner_afterwards(folder: str) -> None:
    async def main() -> None:
        async with planes(folder, Way.SHARED) as (owner, puller):
            source, target = filled(owner, 300_000), puller.allocate(300_000)
            freed: asyncio.Future[Cause] = asyncio.get_running_loop().create_future()
            end = await puller.fetch(owner.offer(source, freed=freed.set_result).handle(), target)
            assert end.ending is Ending.DONE and await freed is Cause.COMPLETE
            assert owner.figures()["offers.read"] == 1 and "serves.begun" not in owner.figures()

    asyncio.run(main())


def test_words_that_wait_are_said_before_the_links_are_closed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []

    async def main() -> None:
        async with planes(folder, Way.SHARED) as (owner, puller):
            sockets = puller._pulls._sockets
            close = sockets.close

            def closing() -> None:
                said.append(b"closed")
                close()

            monkeypatch.setattr(sockets, "send", lambda _link, frame: said.append(frame))
            monkeypatch.setattr(sockets, "close", closing)
            wanted = owner.offer(filled(owner, 300_000)).handle()
            await puller.fetch(wanted, puller.allocate(300_000))
            await puller.close()
            fetched = wire.Fetched(wanted.plane, wanted.offer, wanted.generation)
            assert said == [wire.encode(fetched), b"closed"]

    asyncio.run(main())


def test_who_closes_right_after_its_first_pull_is_heard_by_a_busy_owner(tmp_path: Path) -> None:
    """Its word is the first on a new link, and whether a link of this mesh may be is for the owner's loop to say."""

    async def main() -> None:
        key = create_key(tmp_path / "mesh.key", "here")
        owner = await Plane(PlaneSettings(1, "here", ("tcp://127.0.0.1:0",)), key).start()
        puller = await Plane(PlaneSettings(2, "here"), key).start()
        loop, gate = asyncio.get_running_loop(), owner._gatekeeper
        freed: asyncio.Future[Cause] = loop.create_future()
        assert gate is not None
        loop.remove_reader(gate._socket.FD)
        offer = owner.offer(filled(owner, 300_000), freed=freed.set_result)
        end = await puller.fetch(offer.handle(), puller.allocate(300_000))
        assert (end.ending, end.way) == (Ending.DONE, Way.SHARED)
        loop.call_later(2 * sockets.LINGER_MS / 1000, gate._drain)
        await puller.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await freed is Cause.COMPLETE
        await owner.close()

    asyncio.run(main())


@both
def test_scattered_pieces_of_other_cuts(folder: str, way: Way) -> None:
    async def main() -> None:
        async with planes(folder, way) as (owner, puller):
            source, target = filled(owner, 2 * MIB), puller.allocate(2 * MIB)
            theirs = [(block * 8192, 4096) for block in range(255, 55, -1)]
            ours = [(block * 5000, 2048) for block in range(400)]
            end = await puller.fetch(owner.offer(source, theirs).handle(), target, ours)
            assert end.ending is Ending.DONE
            whole = np.concatenate([source.array[offset : offset + length] for offset, length in theirs])
            got = np.concatenate([target.array[offset : offset + length] for offset, length in ours])
            assert np.array_equal(whole, got)
            untouched = np.ones(2 * MIB, bool)
            for offset, length in ours:
                untouched[offset : offset + length] = False
            assert not target.array[untouched].any(), "written beside the pieces"

    asyncio.run(main())


@both
def test_blocks_are_pulled_as_they_become_ready(folder: str, way: Way) -> None:
    async def main() -> None:
        async with planes(folder, way) as (owner, puller):
            source, target = filled(owner, MIB), puller.allocate(MIB)
            offer = owner.offer(source, ready=0)
            seen: asyncio.Queue[int] = asyncio.Queue()
            over: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            puller.pull(offer.handle(), target, ended=over.set_result, progressed=seen.put_nowait)
            for ready in (1000, 500_000, MIB):
                offer.advance(ready)
                while await seen.get() < ready:
                    pass
                assert np.array_equal(source.array[:ready], target.array[:ready])
                assert not target.array[ready:].any(), "what was not ready came too"
            await over

    asyncio.run(main())


@both
def test_other_block_sizes_and_refused_layouts(folder: str, way: Way) -> None:
    async def main() -> None:
        async with planes(folder, way) as (owner, puller):
            small, large = (Layout(tokens, 2, 3, 4, "float32") for tokens in (4, 16))
            cache = owner.allocate(8 * small.block_bytes)
            numbers = np.arange(cache.size // 4, dtype=np.float32)
            cache.array.view(np.float32)[:] = numbers
            target = puller.allocate(2 * large.block_bytes)
            end = await puller.fetch(owner.offer(cache, layout=small).handle(), target, layout=large)
            assert end.ending is Ending.DONE
            blocks = numbers.reshape(2, 4, 2, 2, 3, 4, 4)  # large, small of it, layer, part, head, token, width
            wanted = np.moveaxis(blocks, 1, 4).reshape(2, 2, 2, 3, 16, 4)
            assert np.array_equal(target.array.view(np.float32), wanted.reshape(-1))
            with pytest.raises(TransferRefused, match="3 heads, ours 4 heads"):
                await puller.fetch(
                    owner.offer(cache, layout=small).handle(), target, layout=Layout(16, 2, 4, 4, "float32")
                )

    asyncio.run(main())


@both
def test_a_cancelled_pull_writes_no_more(folder: str, way: Way) -> None:
    async def main() -> None:
        async with planes(folder, way) as (owner, puller):
            source, target = filled(owner, 64 * MIB), puller.allocate(64 * MIB)
            begun = asyncio.Event()
            handle = owner.offer(source).handle()
            task = asyncio.create_task(puller.fetch(handle, target, progressed=lambda _: begun.set()))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            target.array[:] = 0
            end = await puller.fetch(owner.offer(source, [(0, 1)]).handle(), target, [(0, 1)])  # behind what was queued
            assert end.ending is Ending.DONE
            assert not target.array[1:].any()

    asyncio.run(main())


@both
def test_an_offer_that_is_withdrawn_or_expires_ends_its_pulls(folder: str, way: Way) -> None:
    async def main() -> None:
        async with planes(folder, way) as (owner, puller):
            source, target = filled(owner, MIB), puller.allocate(MIB)
            causes: list[Cause] = []
            offer = owner.offer(source, ready=10, freed=causes.append)
            task = asyncio.create_task(puller.fetch(offer.handle(), target))
            await asyncio.sleep(0.05)
            offer.withdraw()
            offer.withdraw()
            assert (await task).cause is Cause.WITHDRAWN
            short = owner.offer(source, ready=10, lease_s=0.05, freed=causes.append)
            assert (await puller.fetch(short.handle(), target)).cause in (Cause.EXPIRED, Cause.UNKNOWN_OFFER)
            assert causes == [Cause.WITHDRAWN, Cause.EXPIRED]

    asyncio.run(main())


def test_many_small_pulls_at_once_wait_for_their_turn(folder: str) -> None:
    async def main() -> None:
        async with planes(folder, Way.BULK) as (owner, puller):
            source, target = filled(owner, 200_000), puller.allocate(200_000)
            pieces = [(number * 1000, 1000) for number in range(200)]
            offers = [owner.offer(source, [piece]) for piece in pieces]
            ends = await asyncio.gather(
                *(puller.fetch(offer.handle(), target, [piece]) for offer, piece in zip(offers, pieces, strict=True))
            )
            assert {end.ending for end in ends} == {Ending.DONE}
            assert np.array_equal(source.array, target.array)

    asyncio.run(main())


def test_memory_of_the_caller_goes_over_bulk(folder: str) -> None:
    async def main() -> None:
        async with planes(folder) as (owner, puller):
            numbers = np.arange(100_000, dtype=np.float64)
            arrived = np.zeros_like(numbers)
            end = await puller.fetch(owner.offer(owner.register(numbers)).handle(), puller.register(arrived))
            assert end.way is Way.BULK and np.array_equal(numbers, arrived)
            with pytest.raises(TransferRefused, match="not in one piece"):
                owner.register(numbers[::2])
            with pytest.raises(TransferRefused, match="read-only"):
                puller.pull(owner.offer(owner.register(numbers)).handle(), puller.register(bytes(800_000)), ended=print)

    asyncio.run(main())


def test_where_memory_cannot_be_opened_the_next_way_is_taken(folder: str) -> None:
    async def main() -> None:
        async with planes(folder) as (owner, puller):
            source, target = filled(owner, MIB), puller.allocate(MIB)
            handle = owner.offer(source).handle()
            assert handle.shared is not None
            wrong = replace(handle, shared=replace(handle.shared, memory=handle.shared.ledger))
            end = await puller.fetch(wrong, target)
            assert (end.ending, end.way) == (Ending.DONE, Way.BULK)
            assert np.array_equal(source.array, target.array)
            assert puller.figures()["ways.failed.shared"] == 1

    asyncio.run(main())


def test_pulls_go_on_where_they_were_when_all_connections_are_dropped(folder: str) -> None:
    async def main() -> None:
        async with planes(folder, Way.BULK) as (owner, puller):
            source, target = filled(owner, 32 * MIB), puller.allocate(32 * MIB)
            dropped: list[int] = []

            def progressed(position: int) -> None:
                if position > 8 * MIB * (len(dropped) + 1) and len(dropped) < 2:
                    dropped.append(position)
                    owner._owning._socket.reopen()

            end = await puller.fetch(owner.offer(source).handle(), target, progressed=progressed)
            assert end.ending is Ending.DONE and len(dropped) == 2
            assert np.array_equal(source.array, target.array)
            assert puller.figures()["pulls.broken.lost"] >= 2

    asyncio.run(main())


def test_a_plane_that_cannot_listen_says_so_and_leaves_nothing_open() -> None:
    async def main() -> None:
        for address, text in (("ipc:///nowhere/at/all", "cannot listen at"), ("tcp://127.0.0.1:0", "without a key")):
            with pytest.raises(ValueError if "ipc" in address else KeyRefused, match=text):
                await Plane(PlaneSettings(1, "here", (address,))).start()

    asyncio.run(main())


def test_closing_ends_everything_and_memory_in_use_is_kept(folder: str) -> None:
    async def main() -> None:
        causes: list[Cause] = []
        ends: list[Ending] = []
        async with planes(folder, Way.BULK) as (owner, puller):
            source, target = filled(owner, MIB), puller.allocate(MIB)
            offer = owner.offer(source, ready=1, freed=causes.append)
            puller.pull(offer.handle(), target, ended=lambda end: ends.append(end.ending))
            for plane, memory in ((owner, source), (puller, target)):
                with pytest.raises(TransferRefused, match="in use"):
                    plane.release(memory)
            idle = owner.allocate(10)
            owner.release(idle)
            with pytest.raises(TransferRefused, match="released"):
                owner.offer(idle)
        assert (causes, ends) == ([Cause.CLOSED], [Ending.CANCELLED])

    asyncio.run(main())
