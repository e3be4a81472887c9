"""Shell. The process that decodes pictures, sounds and clips, and can do little else.

It has a bounded memory, a bounded time for each part, no keys, and writes no file. Whatever a part does to the
libraries that read it, it does to this process alone; whoever started it starts another one.
"""

import io
import os
import resource
import signal
import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nodes.contract.media import AUDIO, IMAGE
from nodes.media import limits, sniff
from nodes.media.content import MediaRefused, resampled
from nodes.media.wanted import Answered, Wanted, framed, read_wanted

Array = NDArray[Any]
CONTAINERS = {"mp4": "mp4", "matroska": "matroska", "mp3": "mp3", "flac": "flac", "ogg": "ogg", "aac": "aac"}


def main() -> None:
    """Answer until the pipe ends."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not speak in our place
    confine()
    while head := asked.read(4):
        wanted = read_wanted(asked.read(int.from_bytes(head, "little")))
        data = asked.read(wanted.size)
        if len(data) == wanted.size:
            answer(answers, wanted, data)


def confine() -> None:
    """Give up what is not needed."""
    warnings.simplefilter("ignore")  # nobody reads them, and what they warn of is looked at here
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = limits.MEMORY_BYTES_MAX if hard == resource.RLIM_INFINITY else min(limits.MEMORY_BYTES_MAX, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: whoever started this ends it


def answer(answers: BinaryIO, wanted: Wanted, data: bytes) -> None:
    """One part."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(spent.ru_utime + spent.ru_stime) + limits.DECODE_CPU_S + 1
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    array, answered = attempt(wanted, data)
    answers.write(framed(answered))
    if array is not None:
        answers.write(np.ascontiguousarray(array).data)
    answers.flush()


def attempt(wanted: Wanted, data: bytes) -> tuple[Array | None, Answered]:
    """The array, or why there is none."""
    try:
        array = decode(wanted, data)
    except MediaRefused as refused:
        return None, Answered(refusal=str(refused))
    except MemoryError:
        return None, Answered(refusal="decoding it takes more memory than there is for one part")
    except Exception as error:  # Libraries that read what anybody sent may raise anything.
        return None, Answered(refusal=f"it cannot be decoded ({type(error).__name__})")
    if wanted.measure:
        return None, Answered((len(array),))
    return array, Answered(array.shape)


def decode(wanted: Wanted, data: bytes) -> Array:
    """A part as an array. What is too large is refused by its header."""
    found = sniff.look(wanted.kind, data)
    if wanted.kind == AUDIO:
        return sound(found, data, wanted)
    if wanted.kind == IMAGE:
        return picture(found, data, wanted)
    return animation(data, wanted) if found == "gif" else clip(found, data, wanted)


# --- Pictures ------------------------------------------------------------------------------------------


def opened(found: str, data: bytes) -> Any:
    """A picture whose header was read, by the one reader that its first bytes call for."""
    try:
        from PIL import Image
    except ImportError:
        raise MediaRefused("pictures are not read here: install Pillow (pip install 'wiremesh[media]')") from None
    Image.MAX_IMAGE_PIXELS = limits.PIXELS_MAX
    image = Image.open(io.BytesIO(data), formats=[found.upper()])
    if image.width * image.height > limits.PIXELS_MAX:  # what Pillow sees counts, whatever we saw in the header
        raise MediaRefused(f"it has {image.width} x {image.height} pixels: {limits.PIXELS_MAX} are the most")
    return image


def picture(found: str, data: bytes, wanted: Wanted) -> Array:
    """A picture as the model sees it: upright, in colours, in the model's size."""
    from PIL import ImageOps

    return fitted(ImageOps.exif_transpose(opened(found, data)), wanted)


def fitted(image: Any, wanted: Wanted) -> Array:
    """An image of Pillow's in the model's size."""
    from PIL import Image, ImageOps

    image, size = image.convert("RGB"), (wanted.width, wanted.height)
    if image.size != size and wanted.crop:
        image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    elif image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8)


def animation(data: bytes, wanted: Wanted) -> Array:
    """The frames of an animated GIF. They build on each other, so each has to be read."""
    image = opened("gif", data)
    count = image.n_frames
    refuse_long(count, image.width * image.height)
    frames = []
    for index in range(count):
        image.seek(index)
        for _ in range(taken(index, count, wanted.frames)):
            frames.append(fitted(image, wanted))
    return np.stack(frames)


def taken(index: int, count: int, wanted: int) -> int:
    """How often a frame is among the `wanted` that are taken evenly: more than once where there are too few."""
    return -(-(index + 1) * wanted // count) + (-index * wanted // count)


# --- Sounds ----------------------------------------------------------------------------------------------


def sound(found: str, data: bytes, wanted: Wanted) -> Array:
    """A sound: one channel of floats at the model's rate."""
    samples = waved(data, wanted) if found == "wav" else streamed(found, data, wanted)
    if not len(samples):
        raise MediaRefused("it has no samples")
    if len(samples) > wanted.seconds_max * wanted.rate:
        raise too_long(wanted)
    return samples


def too_long(wanted: Wanted) -> MediaRefused:
    """It is refused, never cut."""
    return MediaRefused(f"it is longer than {wanted.seconds_max:g} seconds")


def waved(data: bytes, wanted: Wanted) -> Array:
    """The samples of a WAV file."""
    wave = sniff.wave(data)
    if wave.samples > wanted.seconds_max * wave.rate:
        raise too_long(wanted)
    raw = np.frombuffer(data, np.uint8, wave.samples * wave.channels * wave.bits // 8, wave.start)
    samples = levels(raw, wave).reshape(-1, wave.channels).mean(axis=1, dtype=np.float32)
    return retimed(samples, wave.rate, wanted.rate)


def levels(raw: NDArray[np.uint8], wave: sniff.Wave) -> Array:
    """Bytes as floats from -1 to 1."""
    if wave.is_float:
        values = raw.view(f"<f{wave.bits // 8}").astype(np.float32)
        return np.nan_to_num(np.clip(values, -1.0, 1.0))
    if wave.bits == 8:
        return (raw.astype(np.float32) - 128) / 128
    if wave.bits == 24:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        return wide.reshape(-1).view("<i4").astype(np.float32) / 2**31
    return raw.view(f"<i{wave.bits // 8}").astype(np.float32) / np.float32(2 ** (wave.bits - 1))


def retimed(samples: Array, rate: int, wanted: int) -> Array:
    """Samples at another rate: what both rates can carry is kept, nothing else is made up."""
    if rate == wanted or not len(samples):
        return samples
    count = resampled(len(samples), rate, wanted)
    spectrum = np.fft.rfft(samples.astype(np.float64))
    kept = np.zeros(count // 2 + 1, np.complex128)
    both = min(len(spectrum), len(kept))
    kept[:both] = spectrum[:both]
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)


# --- What PyAV reads ------------------------------------------------------------------------------------


def container(found: str, data: bytes) -> Any:
    """A file of PyAV's, with the reader that its first bytes call for: others open further files."""
    try:
        import av  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise MediaRefused(
            "only WAV and animated GIF are read here: install PyAV (pip install 'wiremesh[video]')"
        ) from None
    return av.open(io.BytesIO(data), format=CONTAINERS[found])


def streamed(found: str, data: bytes, wanted: Wanted) -> Array:
    """The samples of a compressed sound."""
    with container(found, data) as file:
        if not file.streams.audio:
            raise MediaRefused("it has no sound")
        import av  # type: ignore[import-not-found, unused-ignore]

        resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted.rate)
        pieces: list[Array] = []
        total = 0
        stream = file.streams.audio[0]
        stream.codec_context.thread_count = 1
        for frame in file.decode(stream):
            for piece in resampler.resample(frame):
                pieces.append(piece.to_ndarray().reshape(-1))
                total += len(pieces[-1])
            if total > wanted.seconds_max * wanted.rate:
                raise too_long(wanted)
        pieces += [piece.to_ndarray().reshape(-1) for piece in resampler.resample(None)]
    return np.concatenate(pieces).astype(np.float32) if pieces else np.zeros(0, np.float32)


def clip(found: str, data: bytes, wanted: Wanted) -> Array:
    """The frames of a clip, taken evenly. Frames are counted first, undecoded."""
    count = counted(found, data)
    frames: list[Array] = []
    with container(found, data) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(file.decode(stream)):
            if frame.width * frame.height > limits.FRAME_PIXELS_MAX:
                raise MediaRefused(f"its frames have more than {limits.FRAME_PIXELS_MAX} pixels")
            times = taken(index, count, wanted.frames) if index < count else 0
            if times:
                frames += [fitted(frame.to_image(), wanted)] * times
    if not frames:
        raise MediaRefused("none of its frames can be decoded")
    frames += [frames[-1]] * (wanted.frames - len(frames))  # the last ones were broken
    return np.stack(frames)


def counted(found: str, data: bytes) -> int:
    """How many frames a clip has."""
    with container(found, data) as file:
        if not file.streams.video:
            raise MediaRefused("it has no pictures")
        stream = file.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > limits.FRAME_PIXELS_MAX:
            raise MediaRefused(f"its frames have {width} x {height} pixels: {limits.FRAME_PIXELS_MAX} are the most")
        count = 0
        for packet in file.demux(stream):
            count += packet.size > 0
    if not count:
        raise MediaRefused("it has no frames")
    refuse_long(count, width * height)
    return count


def refuse_long(count: int, pixels: int) -> None:
    """Raise MediaRefused for more frames than can be decoded in time."""
    if count > limits.FRAMES_MAX:
        raise MediaRefused(f"it has {count} frames: {limits.FRAMES_MAX} are the most")
    if count * pixels > limits.CLIP_PIXELS_MAX:
        most = limits.CLIP_PIXELS_MAX // pixels
        raise MediaRefused(f"it has {count} frames: {most} are the most in this size")


if __name__ == "__main__":
    main()
