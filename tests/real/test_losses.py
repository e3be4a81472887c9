"""Processes that die and processes that freeze, over real links: how soon it is noticed, and that nothing is lost."""

import asyncio
import signal
import textwrap
import time
from pathlib import Path

import pytest

from mesh import connect
from mesh.links import Outboxes, new_context, terminate
from proto.errors import Reason
from tests.real.processes import PATIENCE_S, ROOT, Child

LISTENER = """
    import select, sys
    from mesh.links import Inbox, new_context

    inbox = Inbox(new_context())
    print("listens at", *inbox.bind(sys.argv[1:]), flush=True)
    while True:
        select.select([inbox.descriptor], [], [])
        inbox.drain(lambda zid, frame: print("heard", flush=True), print, 256)
"""
KILLS = 6
RESUMABLE = ROOT / "launch" / "examples" / "resumable" / "server.py"


@pytest.mark.parametrize("address", ["ipc://{runtime}/{number}.ipc", "tcp://127.0.0.1:0"])
def test_a_killed_process_is_noticed_by_its_links(runtime: str, address: str) -> None:
    async def body() -> None:
        context, loop = new_context(), asyncio.get_running_loop()
        took = []
        for number in range(KILLS):
            with Child("-c", textwrap.dedent(LISTENER), address.format(runtime=runtime, number=number)) as child:
                bound = child.line("listens at").split()[-1]
                down: asyncio.Future[Reason] = loop.create_future()
                outboxes = Outboxes(context, loop, lambda _, reason, told=down: told.done() or told.set_result(reason))
                outboxes.open(1, bound)
                outboxes.send(1, b"hello")
                await asyncio.to_thread(child.line, "heard")
                assert not down.done()
                begin = time.perf_counter()
                child.kill()
                assert await asyncio.wait_for(down, PATIENCE_S) is Reason.LINK_LOST
                took.append(time.perf_counter() - begin)
                outboxes.close_all()
        await terminate(context)
        assert sorted(took)[KILLS // 2] < 1.0, took  # 1 ms here, and 3 s for who listens for silence

    asyncio.run(body())


def test_a_frozen_instance_loses_its_stream_and_its_late_words_change_nothing(runtime: str) -> None:
    async def body() -> None:
        with Child(RESUMABLE) as first, Child(RESUMABLE) as second:
            nodes = {int(child.line("is ready").split("node ")[1][:16], 16): child for child in (first, second)}
            async with connect() as mesh:
                client = mesh.client("demo.sums.running")
                await client.ready(2, timeout_s=PATIENCE_S)
                stream = client.generate(250)
                items = [await anext(stream) for _ in range(20)]
                frozen = nodes[stream.instances[0]]
                begin = time.perf_counter()
                frozen.signal(signal.SIGSTOP)
                while len(stream.instances) == 1:
                    items.append(await anext(stream))
                assert time.perf_counter() - begin < 10  # 3.5 s here: DEAD_S and a beat
                frozen.signal(signal.SIGCONT)
                items += await stream.all()
                assert items == [number * (number + 1) // 2 for number in range(1, 251)]
                async with asyncio.timeout(PATIENCE_S):
                    await client.ready(2)  # It is welcome again.

    asyncio.run(body())


def test_who_was_frozen_does_not_accuse_the_others(runtime: str, tmp_path: Path) -> None:
    program = """
        import asyncio
        from mesh import connect

        async def main():
            async with connect() as mesh:
                client = mesh.client("demo.sums.running")
                await client.ready(timeout_s=60)
                stream = client.generate(150)
                print("begins", await anext(stream), flush=True)
                await stream.all()
                print("paused", mesh.actor.node.stats.get("node.paused"), "attempts", stream.attempts, flush=True)

        asyncio.run(main())
    """
    with Child(RESUMABLE) as server:
        server.line("is ready")
        with Child("-c", textwrap.dedent(program)) as client:
            client.line("begins")
            client.signal(signal.SIGSTOP)
            with pytest.raises(AssertionError, match="no line"):
                client.line("paused", timeout_s=1.6)  # Less than DEAD_S: the server has not given up on it.
            client.signal(signal.SIGCONT)
            assert client.line("paused") == "paused 1 attempts 1"
            assert client.wait() == 0
