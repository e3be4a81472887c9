"""Pictures, sounds and clips for tests, made when they are needed."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.uint8]


def pixels(seed: int = 1, height: int = 20, width: int = 30) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def picture(seed: int = 1, form: str = "PNG", height: int = 20, width: int = 30) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(file, form)
    return file.getvalue()


def animation(greys: list[int]) -> bytes:
    frames = [Image.new("RGB", (10, 8), (grey, grey, grey)) for grey in greys]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def long_animation(width: int, height: int, frames: int) -> bytes:
    """Frames of one pixel each, that all change a large canvas."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    place = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    return head + (b"\x21\xf9\x04\x04\x01\x00\x00\x00" + place + b"\x02\x02\x44\x01\x00") * frames + b";"


def png_that_says(width: int, height: int) -> bytes:
    """A picture of one pixel whose header speaks of more."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(2))),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def wav(samples: NDArray[np.float64], rate: int = 16_000, bits: int = 16, channels: int = 1, form: int = 1) -> bytes:
    """Samples from -1 to 1 in each channel alike, as PCM (1) or floats (3)."""
    values = np.repeat(samples, channels)
    if form == 3:
        raw = values.astype(f"<f{bits // 8}").tobytes()
    elif bits == 8:
        raw = np.round(values * 127 + 128).astype(np.uint8).tobytes()
    elif bits == 24:
        raw = np.round(values * (2**23 - 1)).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    else:
        raw = np.round(values * (2 ** (bits - 1) - 1)).astype(f"<i{bits // 8}").tobytes()
    step = channels * bits // 8
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, rate * step, step, bits)
    odd = struct.pack("<4sI", b"LIST", 3) + b"abc\0"  # chunks have even places
    body = b"WAVE" + head + odd + struct.pack("<4sI", b"data", len(raw)) + raw
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def tone(seconds: float = 0.5, rate: int = 16_000, hertz: float = 440.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
