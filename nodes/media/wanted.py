"""Pure. What is asked of the process that decodes, and what it answers."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from nodes.contract.engine import MediaCard
from nodes.contract.media import AUDIO
from nodes.media import limits
from nodes.media.content import MediaRefused

Side = Annotated[int, Meta(ge=0, le=limits.SIDE_MAX)]
Bytes = Annotated[int, Meta(ge=0, le=limits.PART_BYTES_MAX)]


class Wanted(Struct, frozen=True):
    """Decode this part into an array of this shape. The bytes follow."""

    kind: str
    size: Bytes
    height: Side = 0  # of a picture, or of each frame
    width: Side = 0
    crop: bool = False  # keep its proportions, and cut what is too much; else it is stretched
    frames: Annotated[int, Meta(ge=0, le=limits.FRAMES_TAKEN_MAX)] = 0  # of a clip: so many, evenly over it
    rate: Annotated[int, Meta(ge=0, le=limits.RATE_MAX)] = 0  # of a sound: samples per second
    seconds_max: float = limits.SECONDS_MAX
    measure: bool = False  # of a sound: say only how many samples it has


def wanted_of(kind: str, card: MediaCard, size: int, measure: bool = False, lines: tuple[int, int] = (0, 0)) -> Wanted:
    """What a model needs of a part. `lines` and columns of rows are of a picture that may have any size."""
    seconds_max = card.seconds_max or limits.SECONDS_MAX
    height, width = (card.step * count for count in lines) if card.step else (card.height, card.width)
    return Wanted(kind, size, height, width, card.crop, card.frames, card.rate, seconds_max, measure)


class Answered(Struct, frozen=True):
    """The array's bytes follow, or there is none, and why."""

    shape: tuple[int, ...] = ()
    refusal: str = ""

    @property
    def size(self) -> int:
        """Bytes that follow."""
        if not self.shape:
            return 0
        bytes_each = 4 if len(self.shape) == 1 else 1
        for length in self.shape:
            bytes_each *= length
        return bytes_each


encode = msgspec.msgpack.Encoder().encode
read_wanted = msgspec.msgpack.Decoder(Wanted).decode
read_answered = msgspec.msgpack.Decoder(Answered).decode


def framed(header: Wanted | Answered) -> bytes:
    """A header on a pipe: after its length."""
    packed = encode(header)
    assert len(packed) <= limits.HEADER_BYTES_MAX
    return len(packed).to_bytes(4, "little") + packed


def expected(wanted: Wanted, answered: Answered) -> None:
    """Raise MediaRefused for an answer whose shape was not asked for: whoever made it was broken into."""
    if answered.refusal:
        raise MediaRefused(answered.refusal)
    right = {
        "image": (wanted.height, wanted.width, 3),
        "video": (wanted.frames, wanted.height, wanted.width, 3),
    }.get(wanted.kind, answered.shape)
    if wanted.kind == AUDIO and wanted.measure:
        most, right = 0, answered.shape[:1]
    else:
        most = int(wanted.seconds_max * wanted.rate) + 1 if wanted.kind == AUDIO else 0
    if answered.shape != right or (most and (len(right) != 1 or right[0] > most)):
        raise MediaRefused("the decoder's answer is not what was asked for")
