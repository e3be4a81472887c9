"""Pure. What bytes are, by their first ones: which format, how large, how long. Nothing is decoded here.

A format that is not recognized here is not decoded at all: libraries guess, and some guesses read other files.
"""

import struct
from collections.abc import Iterator

from msgspec import Struct

from nodes.contract.media import AUDIO, IMAGE, VIDEO
from nodes.media import limits
from nodes.media.content import MediaRefused

PICTURES = ("png", "jpeg", "gif", "webp", "bmp")
SOUNDS = ("wav", "mp3", "flac", "ogg", "aac")
CLIPS = ("mp4", "matroska", "gif")
OF_KIND = {IMAGE: PICTURES, AUDIO: (*SOUNDS, "mp4", "matroska"), VIDEO: CLIPS}
WORDS = {IMAGE: "a picture", AUDIO: "a sound", VIDEO: "a clip"}
SHOWN = {
    IMAGE: "PNG, JPEG, GIF, WebP and BMP",
    AUDIO: "WAV, MP3, FLAC, Ogg and AAC",
    VIDEO: "MP4, WebM and animated GIF",
}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_NO_SIZE = bytes((0xC4, 0xC8, 0xCC))  # JPEG markers that look like a frame's and are none
_EXIF, _ORIENTATION, _SHORT = 0xE1, 0x0112, 3
TURNED = range(5, 9)  # orientations of a camera that lay on its side
_BRANDS_NOT_CLIPS = (b"heic", b"avif", b"mif1")


class Wave(Struct, frozen=True):
    """Where the samples of a WAV file are, and how they are written."""

    rate: int
    channels: int
    bits: int
    is_float: bool
    start: int
    samples: int  # per channel


def format_of(data: bytes | memoryview) -> str:
    """The format; empty if it is none that we know."""
    head = bytes(data[:16])
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"WAVE": "wav"}.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return "" if head[8:12] in _BRANDS_NOT_CLIPS else "mp4"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "aac" if head[1] & 0x06 == 0 else "mp3"
    return ""


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"ID3", "mp3"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
)


def look(kind: str, data: bytes | memoryview) -> str:
    """The format of a part, if it can be one of its kind and within the limits. Raises MediaRefused."""
    found = format_of(data)
    if found not in OF_KIND[kind]:
        raise MediaRefused(f"it is not {WORDS[kind]} in a format that is read here: {SHOWN[kind]}")
    if found in PICTURES:
        width, height = size_of(found, data)
        most = limits.PIXELS_MAX if kind == IMAGE else limits.FRAME_PIXELS_MAX
        if not width or not height:
            raise MediaRefused("it has no pixels")
        if width * height > most:
            raise MediaRefused(f"it has {width} x {height} pixels: {most} are the most")
    return found


def size_of(name: str, data: bytes | memoryview) -> tuple[int, int]:
    """Width and height of a picture, from its header. Raises MediaRefused."""
    try:
        return _SIZES[name](bytes(data[:64]) if name != "jpeg" else data)
    except (struct.error, IndexError):
        raise MediaRefused("its header is cut short") from None


def upright(name: str, data: bytes | memoryview) -> tuple[int, int]:
    """Width and height of a picture as it is meant to be looked at: cameras write how they were held."""
    width, height = size_of(name, data)
    try:
        turned = name == "jpeg" and _orientation(data) in TURNED
    except (struct.error, IndexError, MediaRefused):
        turned = False
    return (height, width) if turned else (width, height)


def _orientation(data: bytes | memoryview) -> int:
    """What the first Exif of a JPEG says; 0 without."""
    for marker, start, size in _segments(data):
        if marker == _EXIF and bytes(data[start : start + 6]) == b"Exif\0\0":
            return _tagged(bytes(data[start + 6 : start + size]))
    return 0


def _tagged(exif: bytes) -> int:
    """The orientation among the first tags of a TIFF header."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 0
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for index in range(count):
        tag, kind, _, found = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * index)
        if tag == _ORIENTATION:
            return int(found) if kind == _SHORT else 0
    return 0


def _png(data: bytes | memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: bytes | memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes | memoryview) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # the oldest header
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # upside down is usual


def _webp(data: bytes | memoryview) -> tuple[int, int]:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg(data: bytes | memoryview) -> tuple[int, int]:
    for marker, start, _ in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return width, height
    raise MediaRefused("its header says no size")


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """A JPEG's, before its picture: marker, where its content begins, and its bytes. Raises MediaRefused."""
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # filling
            at += 1
        if data[at] != 0xFF:
            raise MediaRefused("its header is broken")
        marker = data[at + 1]
        if marker in (0xD9, 0xDA):
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        size = max(2, struct.unpack_from(">H", data, at + 2)[0])
        yield marker, at + 4, size - 2
        at += 2 + size


_SIZES = {"png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp, "jpeg": _jpeg}


def wave(data: bytes | memoryview) -> Wave:
    """The header of a WAV file. Raises MediaRefused."""
    try:
        return _wave(data)
    except struct.error:
        raise MediaRefused("its header is cut short") from None


def _wave(data: bytes | memoryview) -> Wave:
    at, form = 12, None
    while True:
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"fmt ":
            form = struct.unpack_from("<HHIIHH", data, at)
            if form[0] == _EXTENSIBLE and size >= 26:
                form = (struct.unpack_from("<H", data, at + 24)[0], *form[1:])
        if name == b"data":
            break
        at += size + size % 2
    if form is None:
        raise MediaRefused("its header does not say how it is written")
    tag, channels, rate, _, _, bits = form
    usual = (tag == _PCM and bits in (8, 16, 24, 32)) or (tag == _FLOAT and bits in (32, 64))
    if not usual or not 1 <= channels <= limits.CHANNELS_MAX or not 1 <= rate <= limits.RATE_MAX:
        raise MediaRefused("it is written in a way that is not read here: PCM or float, 1 to 768,000 samples a second")
    there = min(size, len(data) - at)  # who writes to a pipe cannot know the size
    return Wave(rate, channels, bits, tag == _FLOAT, at, there // (channels * bits // 8))
