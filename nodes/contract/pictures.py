"""Pure. The contract of an engine that makes pictures, or clips: what it is asked, and what comes of it unit by unit.

Such an engine makes one picture at a time, step by step, in a thread that the worker gives it. Each step it has made is
a unit of the request, so that everybody sees it move; the finished picture follows in pieces. Same scene, same units:
who goes on with a picture whose worker died begins it anew, and what was told already is not told again. Where another
machine computes a little differently its pieces would not fit those that came before: the last unit names them all.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from proto.limits import KIB, MIB

IMAGE, VIDEO = "image", "video"
KINDS = (IMAGE, VIDEO)
PROMPT_CHARS_MAX = 32_000  # what OpenAI takes; no text encoder reads as many
STEPS_MAX = 1_000  # what the schedulers are trained with
SIDE_PIXELS_MAX = 4_096  # larger ones fit into no GPU
FRAMES_MAX = 1_024  # a minute at some 16 a second
RATE_MAX = 120  # frames in a second
PIXELS_MAX = 2**30 // 3  # of all frames together: 1 GiB of colours, which are in memory at once
GUIDANCE_MAX = 100.0  # far beyond any use, and no overflow
SEED_MAX = 2**63 - 1
PIECE_BYTES_MAX = 256 * KIB  # a token of another stream never waits behind more
RESULT_BYTES_MAX = 64 * MIB  # a picture of that many pixels whose bytes are noise has 48 MiB
UNITS_MAX = STEPS_MAX + RESULT_BYTES_MAX // PIECE_BYTES_MAX + 1
DIGEST_BYTES = 16  # nobody finds two pictures with the same

Side = Annotated[int, Meta(ge=0, le=SIDE_PIXELS_MAX)]


class Unwanted(Exception):
    """Nobody wants this picture any more: raised between two of its steps."""


class PainterDead(Exception):
    """The engine is gone, and all that it would have made."""


class Scene(Struct, array_like=True, frozen=True):
    """What a picture is to show, and how. 0 means: what suits the model."""

    prompt: str
    negative_prompt: str = ""
    width: Side = 0
    height: Side = 0
    steps: Annotated[int, Meta(ge=0, le=STEPS_MAX)] = 0
    guidance: Annotated[float, Meta(ge=-1.0, le=GUIDANCE_MAX)] = -1.0  # below 0: what suits the model
    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)] = 0
    frames: Annotated[int, Meta(ge=0, le=FRAMES_MAX)] = 0  # of a clip
    kind: str = IMAGE
    rate: Annotated[int, Meta(ge=0, le=RATE_MAX)] = 0  # frames of it in a second
    seconds: Annotated[float, Meta(ge=0.0, le=FRAMES_MAX)] = 0.0  # how long it is, instead of its frames


class PictureCard(Struct, frozen=True):
    """What an engine makes, and what it does where it is told nothing."""

    engine: str
    model: str
    kind: str = IMAGE
    width: int = 512
    height: int = 512
    steps: int = 50
    guidance: float = 5.0
    grain: int = 8  # width and height are multiples of it
    pixels_max: int = 2_048 * 2_048  # of a picture, or of one frame: what its memory is meant for
    frames: int = 0  # of a clip; 0: it makes pictures
    rate: int = 16  # frames of a clip in a second
    negates: bool = True  # whether it can be told what not to show
    tells_steps: bool = True  # else nothing is seen before the end, and nobody can end it before


Went = Callable[[int], None]  # so many steps are made; raises Unwanted


class Painter(Protocol):
    """What a worker needs."""

    def start(self) -> PictureCard:
        """Load and be ready; may take long. Raises ModelRefused with one clear sentence if it cannot."""
        ...

    def paint(self, scene: Scene, went: Went) -> bytes:
        """Make a fitted scene: RGB, 8 bits each, row by row; of a clip one frame after another, as many as it can.

        Calls `went` after each step, and lets what that raises through; the next scene is as good as after any other.
        Whatever else it raises fails the scene alone; PainterDead is the end.
        """
        ...

    def stop(self) -> None:
        """Free everything; twice is once."""
        ...


def fitted(scene: Scene, card: PictureCard) -> Scene:
    """A scene with nothing left to be chosen. Raises ValueError with a sentence if the engine cannot make it."""
    if not scene.prompt or len(scene.prompt) > PROMPT_CHARS_MAX or len(scene.negative_prompt) > PROMPT_CHARS_MAX:
        raise ValueError(f"a prompt has between 1 and {PROMPT_CHARS_MAX} characters")
    if scene.kind != card.kind:
        made, where = ("clips", "/v1/videos") if card.kind == VIDEO else ("pictures", "/v1/images/generations")
        raise ValueError(f"the model makes {made}, nothing else: use {where}")
    if scene.negative_prompt and not card.negates:
        raise ValueError("the model takes no negative prompt")
    width, height = scene.width or card.width, scene.height or card.height
    if width % card.grain or height % card.grain:
        raise ValueError(f"the size is {width}x{height}: the model makes multiples of {card.grain}")
    if width * height > card.pixels_max:
        raise ValueError(f"the size is {width}x{height}: {card.pixels_max} pixels are the most here")
    guidance = card.guidance if scene.guidance < 0 else scene.guidance
    steps, rate = scene.steps or card.steps, scene.rate or card.rate
    found = replace(scene, width=width, height=height, steps=steps, guidance=guidance)
    return _clip(found, card, rate) if card.kind == VIDEO else replace(found, frames=0, rate=0, seconds=0.0)


def _clip(scene: Scene, card: PictureCard, rate: int) -> Scene:
    frames = scene.frames or round(scene.seconds * rate) or card.frames
    if frames > FRAMES_MAX or frames * scene.width * scene.height > PIXELS_MAX:
        raise ValueError(f"{frames} frames of {scene.width}x{scene.height} are too much for one clip")
    return replace(scene, frames=frames, rate=rate, seconds=0.0)


# --- How it travels ----------------------------------------------------------------------------------------


class Step(Struct, tag=0, array_like=True, frozen=True):
    """So many steps are made."""

    made: int
    steps: int


class Piece(Struct, tag=1, array_like=True, frozen=True):
    """Bytes of the file."""

    data: bytes


class Whole(Struct, tag=2, array_like=True, frozen=True):
    """That was all: what the pieces are together."""

    media_type: str
    size: int
    digest: bytes


Unit = Step | Piece | Whole
_encode = msgspec.msgpack.Encoder().encode
_scene = msgspec.msgpack.Decoder(Scene).decode
_unit = msgspec.msgpack.Decoder(Unit).decode


def encode(what: Scene | Unit) -> bytes:
    """The bytes of a scene, or of a unit."""
    return _encode(what)


def scene_of(payload: bytes) -> Scene:
    """Raises ValueError with a sentence if it is none."""
    try:
        return _scene(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the request is no scene: {error}") from None


def unit_of(item: bytes) -> Unit:
    """Raises ValueError."""
    try:
        found: Unit = _unit(item)
        return found
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"no unit of a picture: {error}") from None


def units_of(media_type: str, content: bytes) -> Iterator[bytes]:
    """A finished picture, cut for the mesh."""
    for start in range(0, len(content), PIECE_BYTES_MAX):
        yield encode(Piece(content[start : start + PIECE_BYTES_MAX]))
    yield encode(Whole(media_type, len(content), digest_of(content)))


def digest_of(content: bytes) -> bytes:
    """What tells two pictures apart."""
    return sha256(content).digest()[:DIGEST_BYTES]
