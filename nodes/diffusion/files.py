"""Shell. From pixels to files: a picture is a PNG, a clip an MP4 (with PyAV, which brings its encoder along)."""

import io
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

import numpy as np

from nodes.contract.pictures import VIDEO, PictureCard, Scene
from nodes.diffusion.host import Filed
from nodes.diffusion.png import MEDIA_TYPE, png
from nodes.folder import ModelRefused

CLIP_TYPE = "video/mp4"
CODEC = "libx264"
# One thread: how a picture is cut for several would be in the bytes.
QUALITY = {"crf": "18", "preset": "medium", "threads": "1"}


def filed_by(card: PictureCard) -> Filed:
    """What makes the files of an engine."""
    return _clip if card.kind == VIDEO else _picture


def check(kind: str) -> None:
    """Raises ModelRefused if nothing is installed that makes such files."""
    if kind == VIDEO and find_spec("av") is None:
        raise ModelRefused("--diffusion video makes MP4 files with PyAV: pip install 'wiremesh[video]'")


def _picture(scene: Scene, pixels: bytes) -> tuple[str, bytes]:
    return MEDIA_TYPE, png(pixels, scene.width, scene.height)


def _clip(scene: Scene, pixels: bytes) -> tuple[str, bytes]:
    import av  # type: ignore[import-not-found, unused-ignore]

    frames = np.frombuffer(pixels, np.uint8).reshape(-1, scene.height, scene.width, 3)
    content = io.BytesIO()
    with av.open(content, "w", format="mp4", options={"fflags": "bitexact"}) as container:
        stream: Any = container.add_stream(CODEC, rate=scene.rate, options=QUALITY)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        stream.time_base = Fraction(1, scene.rate)
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return CLIP_TYPE, content.getvalue()
