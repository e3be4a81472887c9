"""Clients over real sockets: requests and items, choosing an instance, time and flow."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pydantic
import pytest

from mesh import Component, failures
from mesh.security import create_key
from proto.errors import Reason
from tests.real.witness import SOON_S, Bench, Witness, node_of, play

pytestmark = pytest.mark.usefixtures("runtime")


# --- Requests and items -----------------------------------------------------------------------------------


class Greeting(msgspec.Struct):
    names: list[str]


class Model(pydantic.BaseModel):
    size: int


def test_requests_are_checked_before_the_handler_and_items_are_read_as_a_type() -> None:
    called = []
    component = Component("test.types")

    @component.endpoint
    async def greet(request: Greeting) -> AsyncIterator[Greeting]:
        called.append(request)
        yield Greeting([f"Hello {name}" for name in request.names])

    @component.endpoint
    async def grow(request: Model) -> Model:
        return Model(size=request.size + 1)

    async def body(bench: Bench) -> None:
        async with component.serving():
            client = await bench.client("test.types.greet", type=Greeting)
            assert await client.generate({"names": ["Ada"]}).first() == Greeting(["Hello Ada"])
            assert await client.generate(Greeting(["Ada"])).all() == [Greeting(["Hello Ada"])]
            with pytest.raises(
                failures.InvalidRequest, match=r"expects Greeting: Expected `str`.* at `\$\.names\[1\]`"
            ):
                await client.generate({"names": ["Ada", 1]}).all()
            with pytest.raises(failures.InvalidRequest, match="the request cannot be sent"):
                client.generate(object())
            assert len(called) == 2
            grow = await bench.client("test.types.grow", type=Model)
            assert await grow.generate(Model(size=1)).all() == [Model(size=2)]
            with pytest.raises(failures.InvalidRequest, match="size: Input should be a valid integer"):
                await grow.generate({"size": "x"}).all()
            wrong = await bench.client("test.types.greet", type=int)
            with pytest.raises(failures.MeshError, match="the caller expects int") as caught:
                await wrong.generate(Greeting(["Ada"])).all()
            assert caught.value.reason is Reason.MALFORMED

    play(body)


@pytest.mark.parametrize("value", [None, 1, "a", b"\0\xff", [1, [2]], {"a": {"b": None}}, 1.5, True, "ä" * 10_000])
def test_what_goes_in_comes_out(value: Any) -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        assert await (await bench.client("test.it.echo")).generate(value).all() == [value]

    play(body)


def test_large_items_and_many_items_come_whole() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        large = bytes(900_000)
        assert await (await bench.client("test.it.echo")).generate(large).first() == large
        assert await (await bench.client("test.it.count")).generate(5_000).all() == list(range(5_000))

    play(body)


# --- Choosing an instance -----------------------------------------------------------------------------------


def test_policies() -> None:
    async def body(bench: Bench) -> None:
        servings = await bench.serve(Witness(), Witness(), Witness())
        nodes = sorted(node_of(serving) for serving in servings)
        client = await bench.client("test.it.count", count=3)
        assert sorted(client.instances()) == nodes

        async def asked(call: Callable[..., Any], **options: Any) -> list[int]:
            found = []
            for _ in range(6):
                stream = call(1, **options)
                await stream.all()
                found += stream.instances
            return found

        turns = await asked(client.round_robin)
        assert turns[:3] == turns[3:] and sorted(turns[:3]) == nodes
        assert await asked(client.generate) == turns, "round robin is the default"
        assert set(await asked(client.random)) <= set(nodes)
        assert await asked(client.direct, instance=nodes[1]) == [nodes[1]] * 6
        busy = [client.direct(0, instance=node) for node in nodes[:2]]
        for stream in busy:
            await anext(stream)
        assert await asked(client.least_loaded) == [nodes[2]] * 6

    play(body)


def test_a_client_of_a_policy_that_is_none() -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(ValueError, match="one of round_robin, random, power_of_two, least_loaded"):
            bench.mesh.client("a.b.c", policy="best")
        with pytest.raises(ValueError, match="must have 3 parts"):
            bench.mesh.client("a.b")
        client = bench.mesh.client("a.b.c")
        for wrong in ({"window": 0}, {"stall_s": -1}, {"metadata": {"a": "x" * 5_000}}, {"metadata": {"a": "\ud800"}}):
            with pytest.raises(ValueError):
                client.generate(1, **wrong)
        with pytest.raises(ValueError, match="say which instance"):
            client.direct(1)

    play(body)


def test_nobody_serves_it() -> None:
    async def body(bench: Bench) -> None:
        client = bench.mesh.client("test.nobody.it")
        with pytest.raises(failures.Unavailable, match=r"0 of 1 instances after 0\.05 s, looking in directory"):
            await client.ready(timeout_s=0.05)
        with pytest.raises(failures.Unavailable, match=r"no instance of test\.nobody\.it takes work"):
            await client.generate(1, patience_s=0.05).all()
        assert client.instances() == ()

    play(body)


def test_a_request_that_was_asked_before_there_was_anybody_waits() -> None:
    async def body(bench: Bench) -> None:
        stream = bench.mesh.client("test.it.echo").generate("early", patience_s=SOON_S)
        await asyncio.sleep(0.05)
        await bench.serve(Witness())
        assert await stream.all() == ["early"]

    play(body)


def test_two_meshes_on_one_host_never_meet() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness(), mesh="blue")
        red, blue = await bench.join(mesh="red"), await bench.join(mesh="blue")
        assert await blue.client("test.it.echo").ready(timeout_s=SOON_S)
        with pytest.raises(failures.Unavailable):
            await red.client("test.it.echo").ready(timeout_s=0.3)

    play(body)


def test_a_mesh_over_tcp_with_a_key_and_a_seed(runtime: str) -> None:
    key = f"{runtime}/mesh.key"
    create_key(key, "keyed")

    async def body(bench: Bench) -> None:
        options = {"mesh": "keyed", "key": key, "listen": ("tcp://127.0.0.1:0",)}
        (serving,) = await bench.serve(Witness(), join="tcp://127.0.0.1:1", **options)
        (address,) = [name for name in serving.actor.node.settings.addresses if name.startswith("tcp://")]
        mesh = await bench.join(join=address, **options)
        client = mesh.client("test.it.echo")
        await client.ready(timeout_s=SOON_S)
        assert await client.generate("secret").all() == ["secret"]

    play(body)


# --- Time and flow --------------------------------------------------------------------------------------------


def test_a_deadline_ends_both_sides() -> None:
    async def body(bench: Bench) -> None:
        witness = Witness()
        await bench.serve(witness)
        client = await bench.client("test.it.count")
        begin = time.perf_counter()
        with pytest.raises(failures.DeadlineExceeded, match=r"not done within 0\.1 s"):
            await client.generate(0, timeout_s=0.1).all()
        assert 0.09 < time.perf_counter() - begin < SOON_S
        await witness.until(lambda seen: ("killed", True, True) in seen)
        told = await (await bench.client("test.it.tell")).generate(timeout_s=50).all()
        assert 40 < told[1] <= 50

    play(body)


def test_silence_is_noticed() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        client = await bench.client("test.it.one_at_a_time")
        with pytest.raises(failures.Stalled, match=r"nothing for 0\.1 s"):
            await client.generate(30.0, stall_s=0.1).all()

    play(body)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 256])
def test_a_slow_reader_pauses_the_handler_and_gets_everything(window: int) -> None:
    made = []
    component = Component("test.flow")

    @component.endpoint
    async def produce(request: int) -> AsyncIterator[int]:
        for number in range(request):
            made.append(number)
            yield number

    async def body(bench: Bench) -> None:
        async with component.serving():
            client = await bench.client("test.flow.produce")
            stream = client.generate(2_000, window=window)
            assert await anext(stream) == 0
            await asyncio.sleep(0.1)
            assert len(made) <= 2 * window + 2, "what is not read is not made"
            assert [item async for item in stream] == list(range(1, 2_000))

    play(body)


def test_slots_bound_what_runs_and_the_rest_waits_its_turn() -> None:
    async def body(bench: Bench) -> None:
        witness = Witness()
        await bench.serve(witness)
        client = await bench.client("test.it.one_at_a_time")
        streams = [client.generate(0.01) for _ in range(3)]
        for stream in streams:
            await stream.all()
        assert [what for what, _ in witness.seen] == ["begins", "ends"] * 3

    play(body)


def test_when_every_place_is_taken_the_mesh_is_busy() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        client = await bench.client("test.it.one_at_a_time")
        taken = [client.generate(60.0) for _ in range(1_025)]
        with pytest.raises(failures.Busy) as caught:
            await client.generate(0.0, patience_s=1.5).all()
        assert caught.value.retry_s > 0
        for stream in taken:
            stream.kill()
        assert await client.generate(0.0).all() == [0.0], "killed requests leave their places at once"

    play(body)
