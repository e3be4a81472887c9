"""Shell. From the parts of a request to their embeddings: those that are known, those that others made, the rest by us.

One for each process that has them: an encoder, or a worker that looks by itself. Equal parts that come at once are
worked on once. What comes over the mesh is checked: a part must have the name that it was announced by.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes import parcels
from nodes.contract.engine import MediaCard
from nodes.contract.media import Spot, lines_of
from nodes.media import limits
from nodes.media.content import MediaRefused, name_of, names_of, unpack
from nodes.media.decoder import Decoder
from nodes.media.shelf import Place, Shelf
from nodes.media.wanted import wanted_of
from nodes.parcels import Parcel
from nodes.transfer import Ending, Plane, TransferRefused

Rows = NDArray[np.float32]
PULL_S = 15.0  # for a part of a usual size over a slow network


class Unreachable(Exception):
    """Nothing is wrong with the parts, but they are not here. The text says why; another try may succeed."""


class Encodes(Protocol):
    """What makes embeddings: `nodes.engines.numpy.towers`."""

    def encode(self, kind: str, array: NDArray[Any]) -> Rows:
        """The rows of one decoded part."""
        ...


class Held(Struct):
    """An embedding that stays where it is until it is let go; without a place it is nowhere but in `rows`."""

    rows: Rows
    place: Place | None = None


Key = tuple[int, int, int]  # a node, its plane, and an offer there: each plane counts its own


class Source(Struct):
    """The parcels of one request, by what is in them."""

    sizes: dict[bytes, int]  # bytes of each embedding
    embeddings: dict[bytes, Parcel]
    media: dict[bytes, Parcel]
    pulled: dict[Key, "asyncio.Task[dict[bytes, memoryview]]"]  # by the parcel's offer


class Embedder:
    """All embeddings of one process. `memory` is the shelf's; without `towers` others must have made them."""

    def __init__(
        self,
        plane: Plane,
        memory: NDArray[np.uint8],
        cards: Mapping[str, MediaCard],
        digest: str,
        towers: Encodes | None,
        bytes_max: int = limits.CACHE_BYTES_DEFAULT,
        brought: Sequence[str] = (),
    ) -> None:
        """`digest`: of what is made here, and taken from encoders; `brought`: of what clients and prefills bring."""
        self.plane = plane
        self.digest = digest
        self._good = {digest, *brought}
        self.shelf = Shelf(min(bytes_max, memory.nbytes), limits.CACHE_BLOCK_BYTES)
        self.decoder = Decoder()
        self.figures = {"encoded": 0, "fetched": 0, "refused": 0}
        self.encode_s = 0.0
        self.encoding = 0  # parts that are at the towers, or wait for their turn there
        self._memory = memory
        self._cards = cards
        self._towers = towers
        self._thread = ThreadPoolExecutor(1, "towers")  # one at a time, so that each is as fast as it can be
        self._making: dict[bytes, asyncio.Future[None]] = {}

    async def hold(self, spots: Sequence[Spot], handles: Sequence[bytes]) -> dict[bytes, Held]:
        """The embeddings by the parts' names; whoever gets them lets them go. Raises MediaRefused or Unreachable."""
        source = self._source(spots, handles)
        found: dict[bytes, Held] = {}
        try:
            for number, spot in enumerate(spots):
                if spot.content not in found:
                    found[spot.content] = await self._held(spot, number, source)
        except BaseException:
            self.let_go(found)
            raise
        finally:
            for task in source.pulled.values():
                task.cancel()
        return found

    def let_go(self, found: Mapping[bytes, Held]) -> None:
        """They may be forgotten when their room is needed."""
        for held in found.values():
            if held.place is not None:
                self.shelf.let_go(held.place)

    def close(self) -> None:
        """End the process that decodes."""
        self.decoder.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- One part ----------------------------------------------------------------------------------------

    async def _held(self, spot: Spot, number: int, source: Source) -> Held:
        card = self._cards.get(spot.kind)
        if card is None:
            raise MediaRefused(f"this model takes no {spot.kind}")
        while True:
            place = self.shelf.find(spot.content)
            if place is not None:
                held = Held(self._read(place, card.features), place)
                break
            making = self._making.get(spot.content)
            if making is None:
                held = await self._made(spot, number, card, source)
                break
            await asyncio.wait([making])
        if held.rows.shape != (spot.count, card.features):
            self.let_go({spot.content: held})
            raise MediaRefused(f"{spot.kind} {number + 1} has {len(held.rows)} rows, and room for {spot.count}")
        return held

    async def _made(self, spot: Spot, number: int, card: MediaCard, source: Source) -> Held:
        """Make it; others who want the same wait."""
        making = asyncio.get_running_loop().create_future()
        self._making[spot.content] = making
        try:
            return self._stored(spot.content, await self._rows(spot, card, source))
        except MediaRefused as refused:
            self.figures["refused"] += 1
            raise MediaRefused(f"{spot.kind} {number + 1} cannot be used: {refused}") from None
        finally:
            del self._making[spot.content]
            making.set_result(None)

    async def _rows(self, spot: Spot, card: MediaCard, source: Source) -> Rows:
        """From an encoder if it made them, else from the part itself."""
        if spot.content in source.embeddings:
            try:
                parts = await self._pulled(source.embeddings[spot.content], source)
                self.figures["fetched"] += 1
                return np.frombuffer(parts[spot.content], np.float32).reshape(-1, card.features)
            except (Unreachable, MediaRefused):
                if self._towers is None or spot.content not in source.media:
                    raise
        if self._towers is None:
            raise Unreachable("this worker reads no pictures by itself, and no encoder has read them")
        if spot.content not in source.media:
            raise Unreachable(f"the bytes of {spot.kind} {spot.content.hex()[:8]} did not come with the request")
        data = (await self._pulled(source.media[spot.content], source))[spot.content]
        if name_of(spot.kind, data) != spot.content:
            raise MediaRefused("its bytes are not those that it was announced by")
        array = await self.decoder.decode(wanted_of(spot.kind, card, len(data), lines=bounded(spot, card)), data)
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.encoding += 1
        try:
            rows = await loop.run_in_executor(self._thread, self._towers.encode, spot.kind, array)
        except ValueError as error:  # a sound of what is no numbers, for one
            raise MediaRefused(str(error)) from None
        finally:
            self.encoding -= 1
        self.encode_s += loop.time() - began
        self.figures["encoded"] += 1
        return np.ascontiguousarray(rows, np.float32)

    def _stored(self, content: bytes, rows: Rows) -> Held:
        """On the shelf, if there is room."""
        place = self.shelf.put(content, len(rows), rows.nbytes)
        if place is not None:
            raw, at = rows.reshape(-1).view(np.uint8), 0
            for start, length in self.shelf.pieces(place):
                self._memory[start : start + length] = raw[at : at + length]
                at += length
        return Held(rows, place)

    def _read(self, place: Place, features: int) -> Rows:
        """A copy: what is on the shelf may change as soon as it is let go."""
        pieces = [self._memory[start : start + length] for start, length in self.shelf.pieces(place)]
        return np.concatenate(pieces).view(np.float32).reshape(-1, features)

    # --- Parcels -----------------------------------------------------------------------------------------

    def _source(self, spots: Sequence[Spot], handles: Sequence[bytes]) -> Source:
        cards = self._cards
        sizes = {spot.content: 4 * spot.count * cards[spot.kind].features for spot in spots if spot.kind in cards}
        source = Source(sizes, {}, {}, {})
        for packed in handles:
            try:
                parcel = parcels.decode(packed)
            except ValueError as error:
                raise Unreachable(str(error)) from None
            if parcel.kind in (parcels.EMBEDDING, parcels.NATIVE) and parcel.digest in self._good:
                source.embeddings |= dict.fromkeys(names_of(parcel.content), parcel)
            elif parcel.kind == parcels.MEDIA:
                source.media |= dict.fromkeys(names_of(parcel.content), parcel)
        return source

    async def _pulled(self, parcel: Parcel, source: Source) -> dict[bytes, memoryview]:
        """What is in a parcel, by name; each is pulled once for a request."""
        key = parcel.handle.node, parcel.handle.plane, parcel.handle.offer
        if key not in source.pulled:
            source.pulled[key] = asyncio.get_running_loop().create_task(self._pull(parcel, source.sizes))
        return await asyncio.shield(source.pulled[key])

    async def _pull(self, parcel: Parcel, sizes: Mapping[bytes, int]) -> dict[bytes, memoryview]:
        size = parcel.handle.size
        if size > limits.PARCEL_BYTES_MAX:
            raise MediaRefused(f"its parcel has {size} bytes: {limits.PARCEL_BYTES_MAX} are the most")
        room = np.empty(max(size, 1), np.uint8)
        try:
            memory = self.plane.register(room)
            try:
                ended = await self.plane.fetch(parcel.handle, memory, [(0, size)], timeout_s=PULL_S)
            finally:
                self.plane.release(memory)
        except TransferRefused as refused:
            raise Unreachable(str(refused)) from None
        if ended.ending is not Ending.DONE:
            raise Unreachable(f"a parcel did not come: {ended.cause.label}")
        packed, names = room.data[:size], names_of(parcel.content)
        if parcel.kind == parcels.MEDIA:
            return dict(zip(names, unpack(packed, len(names)), strict=True))
        return cut(packed, names, sizes)


def bounded(spot: Spot, card: MediaCard) -> tuple[int, int]:
    """Lines and columns of a picture of any size. Raises MediaRefused for what the card does not allow."""
    lines, columns = lines_of(spot)
    if card.step and (
        max(lines, columns) * card.step > limits.SIDE_MAX or spot.count * card.step**2 > max(1, card.pixels_max)
    ):
        raise MediaRefused(f"{lines} x {columns} rows are more than a picture has")
    return lines, columns


def cut(packed: memoryview, names: Sequence[bytes], sizes: Mapping[bytes, int]) -> dict[bytes, memoryview]:
    """Embeddings that lie one after another. Raises MediaRefused."""
    found, at = {}, 0
    for name in names:
        size = sizes.get(name, -1)
        if not 0 <= size <= len(packed) - at:
            raise MediaRefused("a parcel of embeddings does not hold what this request needs")
        found[name] = packed[at : at + size]
        at += size
    return found
