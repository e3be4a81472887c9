"""Streams and contexts over real sockets: what a caller sees of its request, and how its end travels down a chain."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh import Component, Context, failures
from tests.real.witness import Bench, Witness, node_of, play

pytestmark = pytest.mark.usefixtures("runtime")


# --- Streams and contexts ---------------------------------------------------------------------------------------


def test_a_stream_tells_where_it_is() -> None:
    async def body(bench: Bench) -> None:
        (serving,) = await bench.serve(Witness())
        client = await bench.client("test.it.count")
        stream = client.generate(3)
        assert (stream.position, stream.endpoint) == (0, "test.it.count")
        assert await stream.all() == [0, 1, 2]
        assert (stream.position, stream.attempts, stream.instances) == (3, 1, (node_of(serving),))
        assert client.generate(1).request > stream.request
        with pytest.raises(failures.MeshError, match="ended without an item"):
            await client.generate(3, timeout_s=5, context=_stopped()).first()

    play(body)


def _stopped() -> Context:
    context = Context()
    context.stop()
    return context


def test_a_killed_stream_says_so_and_two_readers_are_one_too_many() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        client = await bench.client("test.it.one_at_a_time")
        stream = client.generate(60.0)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks read one stream"):
            await anext(stream)
        stream.kill()
        with pytest.raises(failures.StreamKilled):
            await reader
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    play(body)


def test_many_streams_at_once_keep_apart() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness(), Witness())
        client = await bench.client("test.it.count", count=2)
        streams = [client.generate(10 + number) for number in range(50)]
        found = await asyncio.gather(*(stream.all() for stream in streams))
        assert found == [list(range(10 + number)) for number in range(50)]

    play(body)


def chain(witness: Witness) -> Component:
    """A middle component that passes its context on."""
    middle = Component("test.middle")

    @middle.endpoint
    async def count(request: int, context: Context) -> AsyncIterator[int]:
        async for item in context.client("test.it.count").generate(request, context=context):
            yield item

    @middle.endpoint
    async def tell(request: Any, context: Context) -> AsyncIterator[Any]:
        inner = middle.client("test.it.tell").generate(request, context=context, metadata={"by": "middle"})
        async for item in inner:
            yield item

    return middle


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_a_context_hears_reaches_the_end_of_a_chain(how: str) -> None:
    async def body(bench: Bench) -> None:
        witness = Witness()
        await bench.serve(witness)
        async with chain(witness).serving():
            client = await bench.client("test.middle.count")
            context = Context()
            streams = [client.generate(0, context=context) for _ in range(2)]
            for stream in streams:
                await anext(stream)
            getattr(context, how)()
            if how == "stop":
                for stream in streams:
                    await stream.all()
                await witness.until(lambda seen: seen.count(("stopped", True, False)) == 2)
            else:
                for stream in streams:
                    with pytest.raises(failures.StreamKilled):
                        await stream.all()
                await witness.until(lambda seen: seen.count(("killed", True, True)) == 2)

    play(body)


def test_deadline_trace_and_metadata_travel_down_a_chain() -> None:
    async def body(bench: Bench) -> None:
        witness = Witness()
        await bench.serve(witness)
        async with chain(witness).serving():
            client = await bench.client("test.middle.tell")
            context = Context(timeout_s=50, trace="00-abc", metadata={"user": "ada", "by": "client"})
            told, remaining_s = await client.generate(context=context).all()
            assert told["trace"] == "00-abc"
            assert told["metadata"] == {"user": "ada", "by": "middle"}
            assert 40 < remaining_s <= 50
            with pytest.raises(failures.DeadlineExceeded, match="not asked, the time of its context is up"):
                client.generate(context=Context(timeout_s=0.0))
            count = await bench.client("test.middle.count")
            for timeout_s, context_s in ((0.05, 30.0), (30.0, 0.05)):
                with pytest.raises(failures.DeadlineExceeded):
                    await count.generate(0, timeout_s=timeout_s, context=Context(timeout_s=context_s)).all()

    play(body)
