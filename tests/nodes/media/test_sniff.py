"""What bytes are, by their first ones."""

import io
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nodes.contract.media import AUDIO, HASH_BYTES, IMAGE, KINDS, VIDEO
from nodes.media import limits, sniff
from nodes.media.content import MediaRefused, name_of, pack, unpack
from tests.nodes.media.samples import animation, picture, png_that_says, tone, wav


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_picture_says_its_size_in_its_header(form: str) -> None:
    data = picture(1, form, 21, 34)
    assert sniff.look(IMAGE, data) == form.lower()
    assert sniff.size_of(form.lower(), data) == (34, 21)


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("big", [False, True])
def test_a_photograph_is_measured_as_it_is_looked_at(orientation: int, big: bool) -> None:
    """As Pillow turns it, whatever the byte order of its Exif."""
    exif = Image.Exif()
    exif.endian = ">" if big else "<"
    exif[0x010F], exif[0x0112] = "a maker", orientation
    file = io.BytesIO()
    Image.new("RGB", (34, 21)).save(file, "JPEG", exif=exif)
    data = file.getvalue()
    assert sniff.size_of("jpeg", data) == (34, 21)
    assert sniff.upright("jpeg", data) == ImageOps.exif_transpose(Image.open(file)).size
    assert sniff.upright("png", picture(1, "PNG", 21, 34)) == (34, 21)


@given(st.binary(max_size=90), st.sampled_from([b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b""]))
def test_an_exif_that_makes_no_sense_turns_nothing_and_raises_nothing(exif: bytes, head: bytes) -> None:
    data = picture(1, "JPEG", 21, 34)
    part = head + exif
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + data[2:]
    assert sniff.upright("jpeg", data) in ((34, 21), (21, 34))


def test_a_kind_takes_its_own_formats_only() -> None:
    for kind, data in ((AUDIO, picture()), (VIDEO, picture()), (IMAGE, wav(tone())), (IMAGE, b""), (IMAGE, b"#EXTM3U")):
        with pytest.raises(MediaRefused, match="is not a"):
            sniff.look(kind, data)
    assert sniff.look(VIDEO, animation([1, 2])) == "gif"


def test_too_many_pixels_are_refused_by_the_header() -> None:
    side = int(limits.PIXELS_MAX**0.5) + 1
    with pytest.raises(MediaRefused, match="pixels"):
        sniff.look(IMAGE, png_that_says(side, side))
    with pytest.raises(MediaRefused, match="no pixels"):
        sniff.look(IMAGE, png_that_says(0, 9))
    assert sniff.look(IMAGE, png_that_says(9, 9)) == "png"


@pytest.mark.parametrize(("bits", "form"), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)])
def test_a_wav_file_says_how_long_it_is(bits: int, form: int) -> None:
    found = sniff.wave(wav(tone(0.25, 8_000), 8_000, bits, 2, form))
    assert (found.rate, found.channels, found.bits, found.is_float, found.samples) == (8_000, 2, bits, form == 3, 2_000)


def test_a_wav_file_that_says_too_much_has_what_is_there() -> None:
    data = bytearray(wav(tone(0.25)))
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", 2**32 - 1)  # who writes to a pipe
    assert sniff.wave(bytes(data)).samples == 4_000


@given(st.binary(max_size=200), st.sampled_from(KINDS), st.sampled_from([b"", *(magic for magic, _ in sniff._MAGIC)]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_something_or_refused(data: bytes, kind: str, magic: bytes) -> None:
    for look in (lambda: sniff.look(kind, magic + data), lambda: sniff.wave(b"RIFF0000WAVE" + data)):
        with suppress(MediaRefused):
            look()


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_parts_travel_in_one_run_of_bytes(parts: list[bytes], cut: int) -> None:
    packed = pack(parts)
    assert [bytes(part) for part in unpack(memoryview(packed), len(parts))] == parts
    with pytest.raises(MediaRefused):
        unpack(memoryview(packed + b"x"), len(parts))
    if packed:
        with pytest.raises(MediaRefused):
            unpack(memoryview(packed[:-cut]), len(parts))


def test_equal_bytes_of_two_kinds_have_two_names() -> None:
    assert len({name_of(kind, b"x") for kind in KINDS}) == len(KINDS)
    assert len(name_of(IMAGE, b"")) == HASH_BYTES
