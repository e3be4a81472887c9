"""Shell. Pictures, sounds and clips of a request: got, looked at, counted, and offered to whoever reads them.

The bytes stay here until the request is over; what travels is a parcel that says where they are.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from math import isqrt

from msgspec import Struct

from nodes import names, parcels
from nodes.contract.engine import MediaCard, lines_for, rows_of
from nodes.contract.media import AUDIO
from nodes.frontend import limits
from nodes.frontend.offered import Offered
from nodes.media import limits as media_limits
from nodes.media import npy, sniff
from nodes.media.content import Clip, MediaRefused, name_of, pack, resampled
from nodes.media.decoder import Decoder
from nodes.media.fetch import Fetcher
from nodes.media.ground import Ground
from nodes.media.wanted import wanted_of
from nodes.openai.errors import INVALID, Problem, invalid
from nodes.text.placeholders import Size
from nodes.transfer import TransferRefused
from nodes.transfer.limits import LEASE_S_MAX

Cards = Mapping[str, MediaCard]


class TooLarge(MediaRefused):
    """More bytes than one part may have."""


class Got(Struct, frozen=True):
    """A part that was looked at."""

    kind: str
    data: bytes  # as it came; or the rows, if it is an embedding
    content: bytes
    rows: int
    embeds: bool = False
    across: int = 0  # rows in a line, of a picture of any size

    @property
    def size(self) -> Size:
        return Size(self.kind, self.rows, self.content, self.across)


class Attendant:
    """What a frontend needs for media. `ground` is made when the first request wants it."""

    def __init__(self, ground: Callable[[], "asyncio.Future[Ground]"], bytes_max: int, urls: Sequence[str]) -> None:
        self._ground = ground
        self._bytes_max = bytes_max
        self._decoder = Decoder()
        self._fetcher = Fetcher(urls, bytes_max)

    async def get(self, clips: Sequence[Clip], model: str, cards: Cards) -> list[Got] | Problem:
        """All parts of a request, or what is wrong with the first that is wrong."""
        found: list[Got] = []
        for clip in clips:
            card = cards.get(clip.kind)
            if card is None:
                return invalid(f"`{clip.word}` is not supported by `{model}`.", clip.place, "unsupported_content")
            try:
                found.append(await self._got(clip, card))
            except TooLarge as refused:
                return Problem(413, f"`{clip.place}`: {refused}.", INVALID, clip.place, "media_too_large")
            except MediaRefused as refused:
                return invalid(f"`{clip.place}`: {refused}.", clip.place, "invalid_media")
        return found

    async def _got(self, clip: Clip, card: MediaCard) -> Got:
        data = await self._bytes(clip)
        if len(data) > self._bytes_max:
            raise self._too_large()
        if clip.embeds:
            rows, raw = await asyncio.to_thread(npy.rows_of, data, card.features)
            if card.step and isqrt(rows) ** 2 != rows:
                raise MediaRefused(f"its {rows} rows are no square, and nobody says how many stand in a line")
            return Got(clip.kind, raw, name_of("embeds", raw), rows, embeds=True)
        form = sniff.look(clip.kind, data)
        samples = await self._samples(form, data, card) if clip.kind == AUDIO else 0
        is_long = len(data) > limits.HASH_BYTES_MAX
        content = await asyncio.to_thread(name_of, clip.kind, data) if is_long else name_of(clip.kind, data)
        if card.step:
            lines, across = lines_shown(card, form, data)
            return Got(clip.kind, data, content, lines * across, across=across)
        return Got(clip.kind, data, content, rows_of(card, samples))

    async def _bytes(self, clip: Clip) -> bytes:
        scheme, _, rest = clip.source.partition(":") if clip.word.endswith("_url") else ("", "", "")
        if scheme.lower() in ("http", "https"):
            return await self._fetcher.fetch(clip.source)
        text = clip.source
        if clip.word.endswith("_url"):
            if scheme.lower() != "data":
                raise MediaRefused("its URL must begin with data:, https: or http:")
            head, comma, text = rest.partition(",")
            if not comma or not head.rstrip().endswith(";base64"):
                raise MediaRefused("its data: URL must hold base64")
        if len(text) // 4 * 3 > self._bytes_max + 3:
            raise self._too_large()
        if len(text) > limits.ENCODE_BYTES_MAX:
            return await asyncio.to_thread(decoded, text)
        return decoded(text)

    async def _samples(self, form: str, data: bytes, card: MediaCard) -> int:
        """How long a sound is, at the model's rate."""
        if form != "wav":
            return await self._decoder.measure(wanted_of(AUDIO, card, len(data), measure=True), data)
        wave = sniff.wave(data)
        if not wave.samples:
            raise MediaRefused("it has no samples")
        seconds_max = card.seconds_max or media_limits.SECONDS_MAX
        if wave.samples > seconds_max * wave.rate:
            raise MediaRefused(f"it is longer than {seconds_max:g} seconds")
        return resampled(wave.samples, wave.rate, card.rate)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"it has more than {self._bytes_max} bytes")

    # --- For others --------------------------------------------------------------------------------------

    async def offer(self, got: Sequence[Got], model: str, digest: str, encoders: bool, lease_s: float) -> Offered:
        """Offer all parts. Raises TransferRefused."""
        ground = await self._ground()
        distinct = list({part.content: part for part in got}.values())
        media = [part for part in distinct if not part.embeds]
        embedded = [part for part in distinct if part.embeds]
        lots: list[tuple[int, str, list[Got], bytes]] = []
        if media:
            lots.append((parcels.MEDIA, "", media, pack([part.data for part in media])))
        if embedded:
            lots.append((parcels.EMBEDDING, digest, embedded, b"".join(part.data for part in embedded)))
        handles: list[bytes] = []
        closers: list[Callable[[], None]] = []
        try:
            for kind, of, parts, packed in lots:
                handle, close = ground.lay(packed, min(lease_s, LEASE_S_MAX))
                closers.append(close)
                rows = sum(part.rows for part in parts) if kind == parcels.EMBEDDING else len(parts)
                content = b"".join(part.content for part in parts)
                handles.append(parcels.encode(parcels.Parcel(kind, handle, of, 0, rows, content)))
        except TransferRefused:
            _all(closers)
            raise
        needs = (names.ENCODE + model,) if media and encoders else ()
        return Offered(tuple(handles), needs, bool(media), lambda: _all(closers))

    def close(self) -> None:
        """End the process that measures."""
        self._decoder.close()


def lines_shown(card: MediaCard, form: str, data: bytes) -> tuple[int, int]:
    """Lines and columns of rows of a picture of any size. Raises MediaRefused."""
    width, height = sniff.upright(form, data)
    lines, columns = lines_for(card, width, height)
    step = card.step
    if max(lines, columns) * step > media_limits.SIDE_MAX or lines * columns * step**2 > card.pixels_max:
        raise MediaRefused(f"its {width} x {height} pixels are too long and thin")
    return lines, columns


def decoded(text: str) -> bytes:
    """The bytes of base64, in either alphabet. Raises MediaRefused."""
    try:
        return base64.b64decode(text, altchars=b"-_" if "-" in text or "_" in text else None, validate=True)
    except (binascii.Error, ValueError):
        raise MediaRefused("it is not valid base64") from None


def _all(closers: Sequence[Callable[[], None]]) -> None:
    for close in closers:
        close()
