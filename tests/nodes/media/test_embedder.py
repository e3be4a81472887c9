"""From a request's parts to their embeddings, through parcels, planes and the process that decodes."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mesh.core import Event, Failed, Finished, Halt, Leg, Prepared, Progressed, Start, Yielded
from nodes import generation, parcels
from nodes.contract.engine import BlockEvent, MediaCard
from nodes.contract.media import IMAGE, Media, Spot
from nodes.encoder import TOWER_S_MAX, EncoderHost
from nodes.generation import Generation
from nodes.host import PULSE_S
from nodes.media import limits
from nodes.media.content import MediaRefused, name_of, pack
from nodes.media.desk import Desk
from nodes.media.embedder import Embedder, Unreachable
from nodes.media.ground import Ground, laid_apart
from nodes.transfer import Ending, Plane, PlaneSettings, TransferRefused
from nodes.transfer.addresses import bulk_address
from proto.errors import Reason
from tests.nodes.media.samples import picture, png_that_says

FEATURES, ROWS = 6, 4
CARDS = {IMAGE: MediaCard(token=9, features=FEATURES, tokens=ROWS, height=8, width=8)}
DIGEST = "d" * 32


class Towers:
    """Rows that are a function of the pixels."""

    def __init__(self) -> None:
        self.calls = 0
        self.shapes: list[tuple[int, ...]] = []
        self.fails = False

    def encode(self, kind: str, array: NDArray[Any]) -> NDArray[np.float32]:
        self.calls += 1
        self.shapes.append(array.shape)
        if self.fails:
            raise RuntimeError("broken")
        return np.full((ROWS, FEATURES), array.astype(np.float32).sum(), np.float32) + np.arange(FEATURES)


class House:
    """The client's plane, and an embedder on another one."""

    def __init__(self, client: Plane, ours: Plane, towers: Towers | None, cache_bytes: int) -> None:
        self.client, self.ours, self.towers = client, ours, towers
        self.memory = ours.allocate(cache_bytes)
        self.embedder = Embedder(ours, self.memory.array, CARDS, DIGEST, towers, cache_bytes)
        self.closers: list[Callable[[], None]] = []

    def media(self, *parts: bytes, names: Sequence[bytes] = ()) -> bytes:
        """A parcel of the client's."""
        content = b"".join(names or [name_of(IMAGE, part) for part in parts])
        handle, close = laid_apart(self.client, pack(parts), 60.0)
        self.closers.append(close)
        return parcels.encode(parcels.Parcel(parcels.MEDIA, handle, "", 0, len(parts), content))

    def embeddings(self, rows: NDArray[np.float32], *names: bytes, digest: str = DIGEST) -> bytes:
        handle, close = laid_apart(self.client, rows.tobytes(), 60.0)
        self.closers.append(close)
        return parcels.encode(parcels.Parcel(parcels.EMBEDDING, handle, digest, 0, len(rows), b"".join(names)))

    async def rows(self, spots: Sequence[Spot], *handles: bytes) -> list[NDArray[np.float32]]:
        held = await self.embedder.hold(spots, handles)
        self.embedder.let_go(held)
        return [held[spot.content].rows for spot in spots]


def spot(data: bytes, first: int = 0, count: int = ROWS) -> Spot:
    return Spot(IMAGE, first, count, name_of(IMAGE, data))


@asynccontextmanager
async def house(towers: Towers | None, cache_bytes: int) -> AsyncIterator[House]:
    folder = tempfile.mkdtemp(prefix="wm")
    client = await Plane(PlaneSettings(1, "here", (bulk_address(folder, 1),))).start()
    ours = await Plane(PlaneSettings(2, "here", (bulk_address(folder, 2),))).start()
    there = House(client, ours, towers, cache_bytes)
    try:
        async with asyncio.timeout(20):
            yield there
    finally:
        there.embedder.close()
        for close in there.closers:
            close()
        await ours.close()
        await client.close()
        shutil.rmtree(folder)


def run(
    test: Callable[[House], Awaitable[None]], blind: bool = False, cache_bytes: int = 16 * limits.CACHE_BLOCK_BYTES
) -> None:
    async def main() -> None:
        async with house(None if blind else Towers(), cache_bytes) as there:
            await test(there)

    asyncio.run(main())


def test_a_picture_is_fetched_decoded_and_encoded_once() -> None:
    async def test(there: House) -> None:
        one, other = picture(1), picture(2)
        spots = [spot(one), spot(other, 10), spot(one, 20)]
        parcel = there.media(one, other)
        first = await there.rows(spots, parcel)
        assert np.array_equal(first[0], first[2]) and not np.array_equal(first[0], first[1])
        both = await asyncio.gather(there.rows(spots[:1], parcel), there.rows(spots[1:2], parcel))
        assert np.array_equal(both[0][0], first[0]) and np.array_equal(both[1][0], first[1])
        assert there.towers and there.towers.calls == 2, "what is known is not made again"
        assert (await there.rows(spots))[1].tolist() == first[1].tolist(), "nor fetched again"
        there.embedder.shelf.check()

    run(test)


def test_equal_pictures_that_come_at_once_are_worked_on_once() -> None:
    async def test(there: House) -> None:
        data = picture(3)
        asked = [there.rows([spot(data)], there.media(data)) for _ in range(5)]
        found = await asyncio.gather(*asked)
        assert all(np.array_equal(rows[0], found[0][0]) for rows in found)
        assert there.towers and there.towers.calls == 1

    run(test)


def test_what_an_encoder_made_is_taken_and_without_it_we_look_ourselves() -> None:
    async def test(there: House) -> None:
        data, made = picture(1), np.arange(ROWS * FEATURES, dtype=np.float32).reshape(ROWS, FEATURES)
        name = name_of(IMAGE, data)
        (rows,) = await there.rows([spot(data)], there.media(data), there.embeddings(made, name))
        assert np.array_equal(rows, made) and there.towers and there.towers.calls == 0
        other = picture(2)
        stale = there.embeddings(made, name_of(IMAGE, other))
        there.closers.pop()()  # its owner has taken it back
        await there.rows([spot(other)], stale, there.media(other))
        assert there.towers.calls == 1
        third = picture(4)
        foreign = there.embeddings(made, name_of(IMAGE, third), digest="e" * 32)
        await there.rows([spot(third)], foreign, there.media(third))
        assert there.towers.calls == 2, "another model's embedding is none of ours"

    run(test)


def test_planes_count_their_offers_alike() -> None:
    async def test(there: House) -> None:
        data, other = picture(1), picture(2)
        rows = np.arange(ROWS * FEATURES, dtype=np.float32)
        handle, close = laid_apart(there.ours, rows.tobytes(), 60.0)
        there.closers.append(close)
        media = there.media(data)
        assert parcels.decode(media).handle.offer == handle.offer, "the first of each"
        made = parcels.encode(parcels.Parcel(parcels.EMBEDDING, handle, DIGEST, 0, ROWS, name_of(IMAGE, other)))
        found = await there.rows([spot(other), spot(data, 9)], media, made)
        assert np.array_equal(found[0].reshape(-1), rows) and there.towers and there.towers.calls == 1

    run(test)


def test_who_has_no_towers_needs_an_encoder() -> None:
    async def test(there: House) -> None:
        data = picture(1)
        with pytest.raises(Unreachable, match="no encoder"):
            await there.rows([spot(data)], there.media(data))
        made = np.ones((ROWS, FEATURES), np.float32)
        (rows,) = await there.rows([spot(data)], there.embeddings(made, name_of(IMAGE, data)))
        assert np.array_equal(rows, made)

    run(test, blind=True)


def test_what_is_wrong_with_a_part_is_told_and_leaves_nothing_behind() -> None:
    async def test(there: House) -> None:
        good, bad = picture(1), png_that_says(40, 40)
        with pytest.raises(MediaRefused, match="image 2 cannot be used"):
            await there.rows([spot(good), spot(bad, 9)], there.media(good, bad))
        lie = picture(5)
        with pytest.raises(MediaRefused, match="announced"):
            await there.rows([spot(lie)], there.media(picture(6), names=[name_of(IMAGE, lie)]))
        with pytest.raises(MediaRefused, match="room for 3"):
            await there.rows([spot(picture(7), count=3)], there.media(picture(7)))
        with pytest.raises(Unreachable, match="did not come"):
            await there.rows([spot(picture(8))])
        with pytest.raises(Unreachable):
            await there.rows([spot(picture(8))], b"no parcel")
        for place in there.embedder.shelf._places.values():
            assert place.holders == 0

    run(test)


def test_a_cache_that_is_too_small_costs_work_and_no_request() -> None:
    async def test(there: House) -> None:
        parts = [picture(seed) for seed in range(1, 4)]
        parcel = there.media(*parts)
        spots = [spot(part, 10 * index) for index, part in enumerate(parts)]
        first, again = await there.rows(spots, parcel), await there.rows(spots, parcel)
        assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
        assert there.towers and there.towers.calls > 3
        there.embedder.shelf.check()

    run(test, cache_bytes=limits.CACHE_BLOCK_BYTES)


# --- The encoder's host, and the desk ---------------------------------------------------------------------


def start(leg: Leg, spots: Sequence[Spot], *handles: bytes) -> Start:
    payload = generation.encode(Generation(media=tuple(spots)))
    return Start(leg, "encode/m", payload, b"", 0, b"", b"", float("inf"), "", {}, handles)


class Hosted:
    """An encoder's host, and what it says."""

    def __init__(self, there: House) -> None:
        self.events: list[Event] = []
        self.told: list[BlockEvent] = []
        self.host = EncoderHost("m", self.told.extend)
        self.beats = 0
        self.host.attach(self._post, asyncio.get_running_loop())
        self.host.begin(there.embedder, there.memory)

    def _post(self, event: Event) -> None:
        if isinstance(event, Progressed):
            self.beats += 1
        else:
            self.events.append(event)

    async def end(self, leg: Leg) -> list[Event]:
        while self.host.holds(leg):
            await asyncio.sleep(0.001)
        return self.events


def test_an_encoder_hands_over_what_it_made_and_ends() -> None:
    async def test(there: House) -> None:
        hosted, leg, data = Hosted(there), Leg(1, 2, 3), picture(1)
        hosted.host.start(start(leg, [spot(data), spot(data, 9)], there.media(data)))
        prepared, finished = await hosted.end(leg)
        assert isinstance(prepared, Prepared) and finished == Finished(leg)
        parcel = parcels.decode(prepared.handle)
        assert (parcel.kind, parcel.digest, parcel.count) == (parcels.EMBEDDING, DIGEST, ROWS)
        assert parcel.content == name_of(IMAGE, data) and hosted.host.offered_bytes == ROWS * FEATURES * 4
        assert [event.kind for event in hosted.told] == ["stored"]
        room = there.client.allocate(parcel.handle.size)
        await there.client.fetch(parcel.handle, room)
        expected = (await there.rows([spot(data)]))[0]
        assert np.array_equal(room.array.view(np.float32).reshape(ROWS, FEATURES), expected)
        while hosted.host.offered_bytes:
            await asyncio.sleep(0.001)
        assert all(not place.holders for place in there.embedder.shelf._places.values()), "it may go now"

    run(test)


def test_every_leg_of_an_encoder_has_one_end() -> None:
    async def test(there: House) -> None:
        hosted = Hosted(there)
        good, bad = picture(1), png_that_says(5, 5)
        legs = [Leg(1, number, 1) for number in range(5)]
        hosted.host.start(start(legs[0], [spot(bad)], there.media(bad)))
        hosted.host.start(start(legs[1], [spot(good)]))
        hosted.host.start(start(legs[2], []))
        hosted.host.start(Start(legs[3], "encode/m", b"?", b"", 0, b"", b"", float("inf"), "", {}))
        hosted.host.start(start(legs[4], [spot(picture(2))], there.media(picture(2))))
        hosted.host.halt(Halt(legs[4]))
        for leg in legs:
            await hosted.end(leg)
        ends = {event.leg: event for event in hosted.events if isinstance(event, Failed | Yielded | Finished)}
        assert len(hosted.events) == len(ends) == 5
        reasons = {leg.request: end.reason for leg, end in ends.items() if isinstance(end, Failed)}
        assert reasons == {0: Reason.INVALID, 1: Reason.FAILED, 2: Reason.INVALID, 3: Reason.INVALID}
        assert isinstance(ends[legs[4]], Yielded)

    run(test)


def test_what_could_not_be_offered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise TransferRefused("too many offers are open")

    async def test(there: House) -> None:
        hosted, leg, data = Hosted(there), Leg(1, 2, 3), picture(1)
        monkeypatch.setattr(there.ours, "offer", full)
        hosted.host.start(start(leg, [spot(data)], there.media(data)))
        (failed,) = await hosted.end(leg)
        assert isinstance(failed, Failed) and failed.retryable
        assert not hosted.host.offered_bytes
        assert all(not place.holders for place in there.embedder.shelf._places.values())

    run(test)


def test_routers_hear_of_what_was_read_before_a_part_that_cannot_be() -> None:
    async def test(there: House) -> None:
        hosted, leg, data, bad = Hosted(there), Leg(1, 2, 3), picture(1), png_that_says(5, 5)
        hosted.host.start(start(leg, [spot(data), spot(bad, 9)], there.media(data, bad)))
        (failed,) = await hosted.end(leg)
        assert isinstance(failed, Failed) and failed.reason is Reason.INVALID
        assert [event.kind for event in hosted.told] == ["stored"]

    run(test)


def test_an_encoder_with_much_to_do_is_well_and_one_whose_tower_stands_still_is_not() -> None:
    async def test(there: House) -> None:
        hosted = Hosted(there)
        assert hosted.host._is_well()
        there.embedder.encoding = 1
        beats = int(TOWER_S_MAX / PULSE_S) + 1
        for _ in range(3):
            there.embedder.figures["encoded"] += 1
            assert all(hosted.host._is_well() for _ in range(beats - 1)), "it goes on"
        assert not hosted.host._is_well() and not hosted.host._is_well()
        there.embedder.figures["encoded"] += 1
        assert hosted.host._is_well()
        await hosted.host.close()

    run(test)


def test_an_encoder_says_that_it_is_well() -> None:
    async def test(there: House) -> None:
        hosted = Hosted(there)
        while not hosted.beats:
            await asyncio.sleep(0.01)
        await hosted.host.close()

    run(test)


def test_a_tower_that_raises_ends_its_leg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("wiremesh.encoder"), "error", lambda *_, **__: None)  # it would keep frames

    async def test(there: House) -> None:
        assert there.towers
        there.towers.fails = True
        hosted, leg, data = Hosted(there), Leg(1, 2, 3), picture(1)
        hosted.host.start(start(leg, [spot(data)], there.media(data)))
        (failed,) = await hosted.end(leg)
        assert isinstance(failed, Failed) and failed.retryable

    run(test)


def test_the_desk_gives_rows_or_says_why_not_and_forgets() -> None:
    async def test(there: House) -> None:
        desk, data = Desk(there.embedder, asyncio.get_running_loop()), picture(1)
        found: asyncio.Future[list[Media] | Failed] = asyncio.get_running_loop().create_future()
        desk.embed(Leg(1, 1, 1), [spot(data, 5)], [there.media(data)], found.set_result)
        media = await found
        assert isinstance(media, list) and (media[0].first, media[0].count) == (5, ROWS)
        assert media[0].embedding.shape == (ROWS, FEATURES)
        failed: asyncio.Future[list[Media] | Failed] = asyncio.get_running_loop().create_future()
        desk.embed(Leg(1, 2, 1), [spot(picture(2))], [], failed.set_result)
        assert isinstance(await failed, Failed)
        calls: list[object] = []
        desk.embed(Leg(1, 3, 1), [spot(data)], [], calls.append)
        desk.forget(Leg(1, 3, 1))
        desk.forget(Leg(9, 9, 9))
        await desk.close()
        assert not calls

    run(test)


def test_what_clients_sent_lies_in_one_memory_and_what_has_no_room_apart() -> None:
    async def test(there: House) -> None:
        ground = Ground(there.client, 2 * limits.PAGE_BYTES)
        parts = [picture(1), picture(2), picture(3)]
        laid = [ground.lay(part, 60.0) for part in parts]
        assert ground.bank.used == 2 and len(there.client._memories) == 2
        for part, (handle, close) in zip(parts, laid, strict=True):
            room = there.ours.allocate(len(part))
            assert (await there.ours.fetch(handle, room)).ending is Ending.DONE
            assert room.array.tobytes() == part
            close()
        while ground.bank.used or len(there.client._memories) > 1:
            await asyncio.sleep(0.001)
        ground.bank.check()
        with pytest.raises(TransferRefused):
            ground.lay(parts[0], -1.0)
        assert not ground.bank.used

    run(test)
