"""Pure. `/v1/images/generations` and `/v1/videos`: what is asked, in the usual words and extras, and what is answered.

A parameter that nothing here can serve is refused by its name, never ignored. There is no place to fetch a picture from
later: where a client wants a `url`, the picture itself is in it.
"""

import re
from base64 import b64encode
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from nodes.contract import pictures
from nodes.contract.pictures import Scene
from nodes.openai import limits
from nodes.openai.demand import mixed
from nodes.openai.errors import Problem, invalid
from nodes.openai.reading import Bad, Reader, fields_of
from nodes.openai.schema import Label, Name

PICTURES_MAX = 10  # of one request, as with OpenAI
SEED_BITS = 32  # of a seed that we choose: what every client's JSON holds exactly
REFUSED = ("style", "output_compression", "partial_images", "image", "mask", "input_fidelity")
REFUSED_VIDEO = ("input_reference", "image", "n", "quality")
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")

Text = Annotated[str, Meta(max_length=pictures.PROMPT_CHARS_MAX)]


class ImagesRequest(Struct, kw_only=True):
    """`POST /v1/images/generations`. The extras are last."""

    model: Name
    prompt: Annotated[str, Meta(min_length=1, max_length=pictures.PROMPT_CHARS_MAX)]
    n: Annotated[int, Meta(ge=1, le=PICTURES_MAX)] | None = None
    size: Label | None = None  # WIDTHxHEIGHT, or auto
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png"] | None = None
    quality: Literal["auto", "standard", "medium"] | None = None  # others: num_inference_steps says it better
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None  # there is none
    stream: bool | None = None
    user: Label | None = None
    seed: Annotated[int, Meta(ge=0, le=pictures.SEED_MAX)] | None = None
    negative_prompt: Text | None = None
    num_inference_steps: Annotated[int, Meta(ge=1, le=pictures.STEPS_MAX)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0.0, le=pictures.GUIDANCE_MAX)] | None = None


class VideosRequest(Struct, kw_only=True):
    """`POST /v1/videos`, as Dynamo has it: the answer comes when the clip is there."""

    model: Name
    prompt: Annotated[str, Meta(min_length=1, max_length=pictures.PROMPT_CHARS_MAX)]
    size: Label | None = None
    seconds: Annotated[float, Meta(gt=0.0, le=pictures.FRAMES_MAX)] | Label | None = None
    num_frames: Annotated[int, Meta(ge=1, le=pictures.FRAMES_MAX)] | None = None
    fps: Annotated[int, Meta(ge=1, le=pictures.RATE_MAX)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    user: Label | None = None
    seed: Annotated[int, Meta(ge=0, le=pictures.SEED_MAX)] | None = None
    negative_prompt: Text | None = None
    num_inference_steps: Annotated[int, Meta(ge=1, le=pictures.STEPS_MAX)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0.0, le=pictures.GUIDANCE_MAX)] | None = None


class Image(Struct, omit_defaults=True):
    """One picture of an answer. The same seed, prompt and settings make the same picture again."""

    b64_json: str | None = None
    url: str | None = None
    seed: int = -1


class ImageList(Struct, kw_only=True):
    """The answer of `/v1/images/generations`."""

    created: int
    data: list[Image]
    output_format: str = "png"


class Video(Struct, kw_only=True):
    """The answer of `/v1/videos`."""

    id: str
    object: str = "video"
    model: str
    status: str = "completed"
    progress: int = 100
    created: int
    data: list[Image]
    output_format: str = "mp4"


class Progress(Struct, kw_only=True):
    """An event: a picture has made so many of its steps."""

    type: str
    index: int
    step: int
    steps: int


class Completed(Struct, kw_only=True):
    """An event: a picture is there."""

    type: str
    index: int
    created_at: int
    b64_json: str
    seed: int
    output_format: str = "png"


class Images(Struct, frozen=True):
    """A request, checked: a scene for each picture."""

    model: str
    scenes: tuple[Scene, ...]
    as_url: bool = False
    stream: bool = False
    kind: str = pictures.IMAGE


_IMAGES = Reader(ImagesRequest, (), REFUSED)
_VIDEOS = Reader(VideosRequest, (), REFUSED_VIDEO)
_encode = msgspec.json.Encoder().encode


def parse(
    body: bytes, entropy: int, bytes_max: int = limits.BODY_BYTES_MAX, kind: str = pictures.IMAGE
) -> Images | Problem:
    """What a body asks for, or why not. Never raises. `entropy`: this request's own random number."""
    try:
        fields = fields_of(body, bytes_max)
        found, extra = _VIDEOS.read(body, fields) if kind == pictures.VIDEO else _IMAGES.read(body, fields)
        if extra:
            name = min(extra)[: limits.METADATA_KEY_CHARS_MAX]
            raise Bad(invalid(f"`{name}` is not known.", name, "unknown_parameter"))
        as_url, stream = found.response_format == "url", bool(found.stream)
        return Images(found.model, _scenes(found, entropy), as_url, stream, kind)
    except Bad as bad:
        return bad.problem


def _scenes(found: ImagesRequest | VideosRequest, entropy: int) -> tuple[Scene, ...]:
    width, height = _size(found.size)
    count = (found.n or 1) if isinstance(found, ImagesRequest) else 1
    first = entropy % 2**SEED_BITS if found.seed is None else found.seed
    bits = SEED_BITS if first < 2**SEED_BITS else 63
    seeds = [first, *(mixed(first, index) % 2**bits for index in range(1, count))]
    guidance = -1.0 if found.guidance_scale is None else found.guidance_scale
    steps = found.num_inference_steps or 0
    negative = found.negative_prompt or ""
    if isinstance(found, VideosRequest):
        moving = (found.num_frames or 0, pictures.VIDEO, found.fps or 0, _seconds(found.seconds))
        return (Scene(found.prompt, negative, width, height, steps, guidance, first, *moving),)
    return tuple(Scene(found.prompt, negative, width, height, steps, guidance, seed) for seed in seeds)


def _seconds(given: float | str | None) -> float:
    """OpenAI's clients say it as text; 0 for what suits the model."""
    if not isinstance(given, str):
        return given or 0.0
    if not _SECONDS.fullmatch(given) or not 0.0 < float(given) <= pictures.FRAMES_MAX:
        raise Bad(invalid("`seconds` must be a number of seconds, as in 4.", "seconds", "invalid_value"))
    return float(given)


def _size(text: str | None) -> tuple[int, int]:
    """Width and height; 0 for what suits the model."""
    if text in (None, "auto"):
        return 0, 0
    said = _SIZE.fullmatch(text or "")
    if said is None:
        raise Bad(invalid("`size` must be WIDTHxHEIGHT, as in 1024x1024, or auto.", "size", "invalid_value"))
    width, height = int(said.group(1)), int(said.group(2))
    if max(width, height) > pictures.SIDE_PIXELS_MAX:
        message = f"`size`: {pictures.SIDE_PIXELS_MAX} pixels are the most on either side."
        raise Bad(invalid(message, "size", "invalid_value"))
    return width, height


def answer(parts: list[tuple[str, bytes]], seeds: list[int], as_url: bool, created: int) -> bytes:
    """The whole answer, of files and their kinds. It may take long: some milliseconds for each megabyte."""
    return _encode(ImageList(created=created, data=_shown(parts, seeds, as_url)))


def video(parts: list[tuple[str, bytes]], seeds: list[int], as_url: bool, created: int, name: str, model: str) -> bytes:
    """Likewise, of a clip."""
    return _encode(Video(id=name, model=model, created=created, data=_shown(parts, seeds, as_url)))


def _shown(parts: list[tuple[str, bytes]], seeds: list[int], as_url: bool) -> list[Image]:
    shown = []
    for (media_type, content), seed in zip(parts, seeds, strict=True):
        text = b64encode(content).decode()
        shown.append(Image(url=f"data:{media_type};base64,{text}", seed=seed) if as_url else Image(text, seed=seed))
    return shown


def event(what: Progress | Completed) -> bytes:
    """An event of a stream."""
    return b"event: " + what.type.encode() + b"\ndata: " + _encode(what) + b"\n\n"


def progress(kind: str, index: int, step: int, steps: int) -> bytes:
    """The event of a step that is made."""
    return event(Progress(type=f"{kind}_generation.progress", index=index, step=step, steps=steps))


def completed(kind: str, index: int, content: bytes, seed: int, created: int) -> bytes:
    """The event of a picture or clip that is there."""
    text, made = b64encode(content).decode(), "png" if kind == pictures.IMAGE else "mp4"
    name = f"{kind}_generation.completed"
    return event(Completed(type=name, index=index, created_at=created, b64_json=text, seed=seed, output_format=made))
