"""Components over real sockets: the parity table row by row, resuming and leaving.

The names of the tests of the table are those of its rows in `launch/examples/README.md`.
"""

import asyncio
import gc
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh import Checkpoint, Component, connect, failures
from mesh.client import PATIENCE_S, Client
from proto import limits
from tests.real.processes import Child
from tests.real.witness import SOON_S, Bench, Witness, play, server

NOBODY = 0xDEAD


pytestmark = pytest.mark.usefixtures("runtime")


# --- The parity table, row by row ---------------------------------------------------------------------


def test_sequential_one_item_requests() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        client = await bench.client("test.it.echo")
        took = []
        for number in range(200):
            begin = time.perf_counter()
            assert await client.generate(number).all() == [number]
            took.append(time.perf_counter() - begin)
        assert sorted(took)[100] < 0.1  # 0.5 ms here; a slow, busy machine must not fail it

    play(body)


def test_the_handler_raises_after_k_items(caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        stream = (await bench.client("test.it.fail")).generate(3)
        items = [await anext(stream) for _ in range(3)]
        with pytest.raises(failures.HandlerFailed, match=r"test\.it\.fail: ValueError: boom") as caught:
            await anext(stream)
        assert (items, caught.value.items) == ([0, 1, 2], 3)
        assert (caught.value.name, caught.value.text) == ("ValueError", "boom")
        assert "Traceback" not in str(caught.value)
        assert await (await bench.client("test.it.echo")).generate("the component lives on").all()

    play(body)


def test_direct_to_an_unknown_instance() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        client = await bench.client("test.it.echo")
        begin = time.perf_counter()
        with pytest.raises(failures.Unavailable, match=r"instance 000000000000dead of test\.it\.echo is not there"):
            await client.direct(1, NOBODY).all()
        assert time.perf_counter() - begin < PATIENCE_S, "nobody waited for it"

    play(body)


def test_a_stop_by_the_client() -> None:
    async def body(bench: Bench) -> None:
        witness = Witness()
        await bench.serve(witness)
        stream = (await bench.client("test.it.count")).generate(0)
        items = []
        async for item in stream:
            items.append(item)
            if item == 5:
                stream.stop()
        assert items == list(range(len(items))) and len(items) >= 6
        await witness.until(lambda seen: len(seen) == 2)
        assert witness.seen == [("stopped", True, False), ("ended", len(items))], "all that it yielded has come"

    play(body)


@pytest.mark.parametrize("how", ["break", "aclose", "del", "with", "cancel"])
def test_the_client_drops_the_iterator(how: str) -> None:
    async def leave(client: Client) -> None:
        if how == "with":
            async with client.generate(0) as stream:
                await anext(stream)
            return
        stream = client.generate(0)
        async for item in stream:
            if how == "break" and item == 3:
                break
            if item == 3:
                if how == "aclose":
                    await stream.aclose()
                    with pytest.raises(StopAsyncIteration):
                        await anext(stream)
                if how == "cancel":
                    task = asyncio.current_task()
                    assert task is not None
                    asyncio.get_running_loop().call_later(0.01, task.cancel)
                if how != "cancel":
                    return

    async def body(bench: Bench) -> None:
        witness = Witness()
        await bench.serve(witness)
        task = asyncio.ensure_future(leave(await bench.client("test.it.count")))
        await asyncio.wait([task])
        assert task.cancelled() == (how == "cancel")
        del task
        gc.collect()
        await witness.until(lambda seen: ("killed", True, True) in seen)

    play(body)


def test_the_clients_process_dies(tmp_path: Path) -> None:
    client = tmp_path / "client.py"
    client.write_text(
        textwrap.dedent("""
        import asyncio
        from mesh import connect

        async def main():
            async with connect() as mesh:
                async for item in mesh.client("test.it.count").generate(0):
                    print("got", item, flush=True)

        asyncio.run(main())
        """)
    )
    with server(tmp_path / "server.py") as holder, Child(client) as owner:
        owner.line("got 10")
        owner.kill()
        begin = time.monotonic()
        holder.line("killed", timeout_s=SOON_S)
        assert time.monotonic() - begin < limits.DEAD_S, "the link told it, not the silence"


def test_the_worker_is_killed_in_mid_stream_and_nobody_calls_it_again(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        with server(tmp_path / "a.py") as first, server(tmp_path / "b.py") as second:
            client = await bench.client("test.it.count", count=2)
            by_pid = {first.pid: first, second.pid: second}
            streams = [client.generate(0) for _ in range(2)]
            for stream in streams:
                await anext(stream)
            dead = streams[0].instances[0]
            names = {int(child.line("is ready").split("node ")[1][:16], 16): pid for pid, child in by_pid.items()}
            begin = time.perf_counter()
            by_pid[names[dead]].kill()
            with pytest.raises(failures.InstanceLost, match=r"was lost .* cannot resume") as caught:
                await streams[0].all()
            assert time.perf_counter() - begin < limits.DEAD_S, "the link told it, not the silence"  # 5 ms here
            assert caught.value.instances == (dead,)
            await anext(streams[1])
            assert client.instances() == (streams[1].instances[0],), "it is no candidate any more"
            begin = time.perf_counter()
            with pytest.raises(failures.Unavailable, match="is not there"):
                await client.direct(1, dead).all()
            assert time.perf_counter() - begin < PATIENCE_S, "nobody waited for it"
            for _ in range(10):
                assert await client.generate(1).all() == [0]

    play(body)


def test_sigterm_drains(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        with server(tmp_path / "server.py") as worker:
            client = await bench.client("test.it.count")
            stream = client.generate(150)
            await anext(stream)
            worker.signal(signal.SIGTERM)
            async with asyncio.timeout(SOON_S):
                while client.instances():
                    await asyncio.sleep(0.001)
            with pytest.raises(failures.Unavailable, match=r"no instance of test\.it\.count takes work"):
                await client.generate(1, patience_s=0.05).all()
            assert await stream.all() == list(range(1, 150)), "what runs is finished"
            assert await asyncio.to_thread(worker.wait) == 0
            assert "finished" in worker.text

    play(body)


def test_cancelled_error_raised_by_the_handler() -> None:
    async def body(bench: Bench) -> None:
        await bench.serve(Witness())
        stream = (await bench.client("test.it.give_up")).generate()
        assert await anext(stream) == 1
        with pytest.raises(failures.StreamKilled):
            await anext(stream)

    play(body)


# --- Resuming and leaving -----------------------------------------------------------------------------------


def sums(name: str = "test.sums") -> Component:
    component = Component(name)

    @component.endpoint
    async def running(request: int, resume: Any = None) -> AsyncIterator[Any]:
        done, total = resume or (0, 0)
        while done < request:
            done += 1
            total += done
            yield total
            if done % 7 == 0:
                yield Checkpoint([done, total])
            await asyncio.sleep(0.001)

    return component


SUMS = [number * (number + 1) // 2 for number in range(1, 301)]


def test_a_drained_instance_hands_its_streams_over() -> None:
    async def body(bench: Bench) -> None:
        first, second = sums().serving(), sums().serving()
        async with second:
            async with first:
                client = await bench.client("test.sums.running", count=2)
                streams = [client.generate(300) for _ in range(4)]
                found = [[await anext(stream) for _ in range(20)] for stream in streams]
                first.actor.leave(30.0)
                async with asyncio.timeout(SOON_S):
                    await first.actor.departed
            for stream, items in zip(streams, found, strict=True):
                assert items + await stream.all() == SUMS
            assert sorted(stream.attempts for stream in streams) == [1, 1, 2, 2]

    play(body)


def test_an_abrupt_end_of_an_instance_loses_and_repeats_nothing() -> None:
    async def body(bench: Bench) -> None:
        async with sums().serving() as survivor:
            doomed = sums().serving()
            mesh = await doomed.__aenter__()
            client = await bench.client("test.sums.running", count=2)
            streams = [client.generate(300) for _ in range(4)]
            found = [[await anext(stream) for _ in range(20)] for stream in streams]
            await mesh.actor.stop()  # without a word
            for stream, items in zip(streams, found, strict=True):
                assert items + await stream.all() == SUMS
                assert stream.instances[-1] == survivor.actor.node.settings.node

    play(body)


def test_a_client_that_leaves_ends_its_streams() -> None:
    async def body(bench: Bench) -> None:
        witness = Witness()
        await bench.serve(witness)
        async with connect() as mesh:
            stream = mesh.client("test.it.count").generate(0)
            await anext(stream)
        await witness.until(lambda seen: ("killed", True, True) in seen)
        with pytest.raises(failures.StreamKilled):
            await stream.all()
        with pytest.raises(failures.InstanceLost, match="this node has left the mesh"):
            await mesh.client("test.it.count").generate(0).all()

    play(body)


def test_a_mistake_of_ours_ends_the_node_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench) -> None:
        (serving,) = await bench.serve(Witness())
        stream = (await bench.client("test.it.count")).generate(0)
        await anext(stream)
        actor = bench.mesh.actor
        actor.post("no event at all")  # type: ignore[arg-type]
        with pytest.raises(failures.MeshError, match="this node has left the mesh"):
            await stream.all()
        assert isinstance(actor.crashed, KeyError) and actor.departed.done()
        assert serving.actor.crashed is None

    play(body)
    assert "a mistake of ours" in caplog.text


def test_python_that_serves_without_uvloop(tmp_path: Path) -> None:
    """The event loop of the standard library will do."""
    assert sys.version_info >= (3, 11)
    program = "import sys; sys.modules['uvloop'] = None; import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"

    async def body(bench: Bench) -> None:
        with server(tmp_path / "server.py"), Child("-c", program, tmp_path / "server.py") as plain:
            await asyncio.to_thread(plain.line, "is ready")
            await bench.client("test.it.count", count=2)

    play(body)
