"""What a scene may be, and how a picture travels."""

import io
import struct
import zlib
from contextlib import suppress
from importlib.util import find_spec

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.contract.pictures import (
    PIECE_BYTES_MAX,
    Piece,
    Scene,
    Step,
    Whole,
    digest_of,
    encode,
    fitted,
    scene_of,
    unit_of,
    units_of,
)
from nodes.diffusion.files import check, filed_by
from nodes.diffusion.png import SIGNATURE, png
from nodes.folder import ModelRefused
from tests.nodes.diffusion.painters import CARD


def test_what_is_not_said_suits_the_model() -> None:
    found = fitted(Scene("a cat", seed=3), CARD)
    assert (found.width, found.height, found.steps, found.guidance) == (32, 16, 4, 5.0)
    said = Scene("a cat", "dogs", 64, 64, 9, 0.0, 3)
    assert fitted(said, CARD) == said, "also a guidance of 0"
    assert scene_of(encode(said)) == said


@pytest.mark.parametrize(
    ("scene", "why"),
    [
        (Scene(""), "a prompt has"),
        (Scene("x" * 32_001), "a prompt has"),
        (Scene("x", width=33), "33x16: the model makes multiples of 8"),
        (Scene("x", width=256, height=256), "4096 pixels are the most"),
        (Scene("x", kind="video"), "the model makes pictures"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(scene: Scene, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fitted(scene, CARD)


def test_a_clip_has_frames_or_seconds() -> None:
    clips = msgspec.structs.replace(CARD, kind="video", frames=9, rate=8)
    for more, frames, rate in (
        ({}, 9, 8),
        ({"frames": 3}, 3, 8),
        ({"seconds": 2.0}, 16, 8),
        ({"seconds": 2.0, "rate": 4}, 8, 4),
    ):
        found = fitted(Scene("x", kind="video", **more), clips)
        assert (found.frames, found.rate, found.seconds) == (frames, rate, 0.0)
    with pytest.raises(ValueError, match="are too much for one clip"):
        fitted(Scene("x", kind="video", seconds=999.0), clips)


def test_a_clip_is_an_mp4_with_its_frames() -> None:
    av = pytest.importorskip("av")
    scene = Scene("x", width=96, height=64, frames=5, rate=8, kind="video")
    pixels = bytes(range(96)) * (5 * 64 * 3)
    clips = msgspec.structs.replace(CARD, kind="video")
    media_type, content = filed_by(clips)(scene, pixels)
    assert media_type == "video/mp4" and filed_by(clips)(scene, pixels) == (media_type, content)
    with av.open(io.BytesIO(content)) as found:
        frames = [frame.to_ndarray(format="rgb24") for frame in found.decode(video=0)]
        assert len(frames) == 5 and frames[0].shape == (64, 96, 3) and found.streams.video[0].average_rate == 8
        wanted = np.frombuffer(pixels, np.uint8).reshape(5, 64, 96, 3)
        assert np.abs(np.asarray(frames, np.int16) - wanted).mean() < 16


@pytest.mark.skipif(find_spec("av") is not None, reason="it is not missing")
def test_without_pyav_a_worker_of_clips_says_what_to_do() -> None:
    with pytest.raises(ModelRefused, match=r"wiremesh\[video\]"):
        check("video")
    check("image")


def test_a_model_that_takes_no_negative_prompt_says_so() -> None:
    with pytest.raises(ValueError, match="no negative prompt"):
        fitted(Scene("x", "y"), msgspec.structs.replace(CARD, negates=False))


numbers = st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9) | st.floats()


@given(st.binary(max_size=200) | st.lists(numbers, max_size=9).map(msgspec.msgpack.encode))
def test_bytes_of_a_peer_are_a_scene_or_a_complaint(data: bytes) -> None:
    for read in (scene_of, unit_of):
        with suppress(ValueError):
            assert read(data)


WRONG = [{"width": -8}, {"width": 8_192}, {"steps": 1_001}, {"guidance": 101.0}, {"seed": -1}]


@pytest.mark.parametrize("field", WRONG)
def test_numbers_that_no_engine_could_use_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no scene"):
        scene_of(encode(Scene("x", **field)))  # type: ignore[arg-type]


def test_a_picture_is_cut_and_named() -> None:
    content = bytes(range(256)) * (PIECE_BYTES_MAX // 128)
    *pieces, last = [unit_of(item) for item in units_of("image/png", content)]
    assert all(isinstance(piece, Piece) and len(piece.data) <= PIECE_BYTES_MAX for piece in pieces) and len(pieces) == 2
    assert b"".join(piece.data for piece in pieces if isinstance(piece, Piece)) == content
    assert last == Whole("image/png", len(content), digest_of(content))
    assert unit_of(encode(Step(3, 9))) == Step(3, 9)


def test_a_png_holds_the_pixels() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    found = png(pixels.tobytes(), 7, 5)
    assert found.startswith(SIGNATURE) and found == png(pixels.tobytes(), 7, 5)
    chunks, rest = {}, found[len(SIGNATURE) :]
    while rest:
        (size,), name = struct.unpack(">I", rest[:4]), rest[4:8]
        assert zlib.crc32(rest[4 : 8 + size]) == struct.unpack(">I", rest[8 + size : 12 + size])[0]
        chunks[name], rest = rest[8 : 8 + size], rest[12 + size :]
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 22)
    assert (rows[:, 0] == 1).all(), "each row says its filter"
    assert (rows[:, 1:].reshape(5, 7, 3).cumsum(1, np.uint8) == pixels).all()


def test_another_reader_sees_the_same_picture() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(2).integers(0, 256, (16, 9, 3), np.uint8)
    with image.open(io.BytesIO(png(pixels.tobytes(), 9, 16))) as found:
        assert (np.asarray(found) == pixels).all()
