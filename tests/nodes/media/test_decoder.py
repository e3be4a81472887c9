"""The process that decodes: what it makes of parts, and what parts make of it."""

import asyncio
import io
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from nodes.contract.media import AUDIO, IMAGE, VIDEO
from nodes.media import decoding
from nodes.media.content import MediaRefused
from nodes.media.decoder import Decoder
from nodes.media.wanted import Answered, Wanted, expected
from tests.nodes.media.samples import animation, long_animation, picture, pixels, png_that_says, tone, wav


def run(test: Callable[[Decoder], Awaitable[None]], timeout_s: float = 20.0) -> None:
    async def main() -> None:
        decoder = Decoder(timeout_s=timeout_s)
        try:
            async with asyncio.timeout(30):
                await test(decoder)
        finally:
            decoder.close()

    asyncio.run(main())


def image(data: bytes, height: int = 8, width: int = 12, crop: bool = False) -> Wanted:
    return Wanted(IMAGE, len(data), height, width, crop)


def test_parts_become_arrays_in_one_process() -> None:
    async def test(decoder: Decoder) -> None:
        data = picture()
        found = await decoder.decode(image(data, 20, 30), data)
        assert np.array_equal(found, pixels())
        smaller = await decoder.decode(image(data), data)
        shown = Image.fromarray(pixels())
        assert np.array_equal(smaller, np.asarray(shown.resize((12, 8), Image.Resampling.BICUBIC)))
        cropped = await decoder.decode(image(data, 8, 8, crop=True), data)
        assert np.array_equal(cropped, np.asarray(ImageOps.fit(shown, (8, 8), Image.Resampling.BICUBIC)))
        clip = animation([0, 50, 100, 150, 200])
        frames = await decoder.decode(Wanted(VIDEO, len(clip), 4, 4, frames=3), clip)
        assert frames[:, 0, 0, 0].tolist() == [0, 50, 150]
        sound = wav(tone(0.5, 32_000), 32_000, channels=2)
        samples = await decoder.decode(Wanted(AUDIO, len(sound), rate=16_000), sound)
        assert samples.shape == (8_000,) and np.abs(samples - tone(0.5)).max() < 1e-3
        assert await decoder.measure(Wanted(AUDIO, len(sound), rate=16_000, measure=True), sound) == 8_000
        assert decoder.figures == {"decoded": 6, "refused": 0, "killed": 0}

    run(test)


@pytest.mark.parametrize(("bits", "form"), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)])
def test_every_way_to_write_samples_is_read(bits: int, form: int) -> None:
    data = wav(tone(), bits=bits, form=form)
    found = decoding.sound("wav", data, Wanted(AUDIO, len(data), rate=16_000))
    assert np.abs(found - tone()).max() < (0.01 if bits == 8 else 1e-4)


def test_a_photograph_is_turned_upright() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it to the right
    Image.fromarray(pixels()).save(file, "PNG", exif=exif)
    found = decoding.decode(Wanted(IMAGE, 1, 30, 20), file.getvalue())
    assert np.array_equal(found, np.rot90(pixels(), -1))


def test_what_cannot_be_decoded_is_refused_and_the_process_goes_on() -> None:
    async def test(decoder: Decoder) -> None:
        cut = picture(form="JPEG")[:200]
        for data in (cut, b"nothing", png_that_says(60_000, 60_000), png_that_says(50, 50)):
            with pytest.raises(MediaRefused):
                await decoder.decode(image(data), data)
        long = wav(tone(2.0))
        with pytest.raises(MediaRefused, match="longer than 1 seconds"):
            await decoder.decode(Wanted(AUDIO, len(long), rate=16_000, seconds_max=1.0), long)
        good = picture()
        await decoder.decode(image(good), good)
        assert decoder.figures == {"decoded": 1, "refused": 5, "killed": 0}

    run(test)


def test_one_that_takes_too_long_is_killed_and_the_next_part_has_a_new_process() -> None:
    async def test(decoder: Decoder) -> None:
        good = picture()
        await decoder.decode(image(good), good)
        (child,) = decoder._idle
        child._popen.send_signal(19)  # SIGSTOP: it hangs
        decoder._timeout_s = 0.2
        with pytest.raises(MediaRefused, match="longer than"):
            await decoder.decode(image(good), good)
        decoder._timeout_s = 20.0
        assert (await decoder.decode(image(good), good)).shape == (8, 12, 3)
        assert decoder.figures["killed"] == 1

    run(test)


def test_one_that_dies_refuses_its_part_only() -> None:
    async def test(decoder: Decoder) -> None:
        good = picture()
        await decoder.decode(image(good), good)
        decoder._idle[0]._popen.kill()
        with pytest.raises(MediaRefused, match="more time or memory"):
            await decoder.decode(image(good), good)
        assert (await decoder.decode(image(good), good)).shape == (8, 12, 3)

    run(test)


def test_who_gives_up_leaves_no_half_read_answer_behind() -> None:
    async def test(decoder: Decoder) -> None:
        parts = [picture(seed, height=400, width=400) for seed in (1, 2)]
        first = asyncio.ensure_future(decoder.decode(image(parts[0], 400, 400), parts[0]))
        while not decoder._busy:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        found = await decoder.decode(image(parts[1], 400, 400), parts[1])
        assert np.array_equal(found, pixels(2, 400, 400))

    run(test)


@pytest.mark.parametrize(("side", "frames"), [(3_000, 500), (8, 7_300)])
def test_a_clip_that_would_take_long_is_refused_before_it_is_decoded(side: int, frames: int) -> None:
    with pytest.raises(MediaRefused, match=f"{frames} frames"):
        decoding.decode(Wanted(VIDEO, 1, 4, 4, frames=2), long_animation(side, side, frames))


def test_frames_are_taken_evenly() -> None:
    for count in range(1, 12):
        for wanted in range(1, 9):
            taken = [index for index in range(count) for _ in range(decoding.taken(index, count, wanted))]
            assert taken == [place * count // wanted for place in range(wanted)]


def test_an_answer_of_another_shape_is_not_believed() -> None:
    wanted = image(b"")
    expected(wanted, Answered((8, 12, 3)))
    for shape in ((8, 12, 4), (8, 12), (), (2**40, 2**40, 3)):
        with pytest.raises(MediaRefused):
            expected(wanted, Answered(shape))
    with pytest.raises(MediaRefused):
        expected(Wanted(AUDIO, 0, rate=100, seconds_max=1.0), Answered((10_000,)))


def test_compressed_sounds_and_clips_are_read_where_pyav_is_installed() -> None:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as made:
        stream = made.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(20):
            grey = np.full((48, 64, 3), index * 10, np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        made.mux(stream.encode())
    clip = file.getvalue()
    found = decoding.decode(Wanted(VIDEO, len(clip), 6, 8, frames=4), clip)
    assert np.abs(found[:, 3, 4, 0].astype(int) - [0, 50, 100, 150]).max() < 12
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as made:
        stream = made.add_stream("flac", rate=16_000, layout="mono", format="s16")
        samples = np.round(tone() * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = 16_000
        made.mux(stream.encode(frame))
        made.mux(stream.encode())
    sound = file.getvalue()
    heard = decoding.decode(Wanted(AUDIO, len(sound), rate=16_000), sound)
    assert heard.shape == (8_000,) and np.abs(heard - tone()).max() < 1e-3
