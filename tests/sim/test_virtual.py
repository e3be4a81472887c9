"""The virtual loop: asyncio's own tools work in it, and no time passes."""

import asyncio
import time

import pytest

from mesh.simulation import virtual


def test_a_day_passes_in_no_time() -> None:
    async def day() -> float:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await asyncio.gather(*(asyncio.sleep(hours * 3600) for hours in range(25)))
        return loop.time() - begin

    begin = time.monotonic()
    assert virtual.run(day) == pytest.approx(24 * 3600)
    assert time.monotonic() - begin < 10.0


def test_queues_events_and_timeouts() -> None:
    async def talk() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        done = asyncio.Event()

        async def produce() -> None:
            for number in range(5):
                await asyncio.sleep(0.1)
                await queue.put(number)
            done.set()

        task = asyncio.ensure_future(produce())
        got = [await queue.get() for _ in range(5)]
        await done.wait()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 3600)
        await task
        return got

    assert virtual.run(talk) == [0, 1, 2, 3, 4]


def test_what_never_comes_is_an_error() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never happens"):
        virtual.run(wait)


def test_an_exception_comes_out() -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        virtual.run(fail)
