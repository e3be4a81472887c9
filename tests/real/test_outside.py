"""Engines with processes of their own that die, hang or cannot start: requests go on, and no child stays."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from launch.codes import Exit
from tests.real.processes import PATIENCE_S, Child
from tests.real.raw_http import CHAT, Told
from tests.real.serving import MODEL, PACED, Frontend, Serving, chat, mesh, ready, says, served
from tests.real.test_supervised import alive

PROGRAM = Path(__file__).with_name("forking.py")
TOKENS, STREAMS = 300, 6


class House(NamedTuple):
    mesh: Serving
    front: Frontend


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with mesh(tmp_path_factory.mktemp("outside")) as there:
        there.worker("stays", *PACED)
        front = there.frontend()
        asyncio.run(served(front, 1))
        yield House(there, front)


def forking(house: House, how: str = "well") -> Child:
    flags = ("--join", house.mesh.join, "--name", "forking", "--model", house.mesh.model, "--name-as", MODEL)
    return Child(PROGRAM, how, *flags)


def children(worker: Child) -> list[int]:
    """The processes of its engine."""
    found = [int(word) for word in worker.line("children ").split()[1:]]
    assert len(found) == 2 and all(map(alive, found))
    return found


def gone(processes: list[int]) -> None:
    end = time.monotonic() + PATIENCE_S
    while any(map(alive, processes)):
        assert time.monotonic() < end, [process for process in processes if alive(process)]
        os.sched_yield()


@pytest.mark.parametrize(
    ("how", "code", "says_why"),
    [
        ("its process dies", Exit.INTERNAL, "the engine says that it is not well"),
        ("its process hangs", Exit.INTERNAL, "the engine hangs: it has not answered for 2 s"),
        ("killed", -signal.SIGKILL, ""),
        ("told to leave", 0, ""),
    ],
)
def test_streams_go_on_and_no_child_stays(house: House, how: str, code: int, says_why: str) -> None:
    async def main() -> None:
        await served(house.front, 2)
        told = [Told() for _ in range(STREAMS)]
        asks = [chat(f"{how} {number}", TOKENS, stream=True) for number in range(STREAMS)]
        streams = [one.run(house.front.port, CHAT, body) for one, body in zip(told, asks, strict=True)]
        all_of_them = asyncio.gather(*streams)
        for one in told:
            await one.until(5)
        match how:
            case "its process dies":
                os.kill(processes[0], signal.SIGKILL)
            case "its process hangs":
                os.kill(processes[0], signal.SIGSTOP)
            case "killed":
                worker.signal(signal.SIGKILL)
            case _:
                worker.signal(signal.SIGTERM)
        await all_of_them
        for number, one in enumerate(told):
            assert one.texts == [says(f"{how} {number}", TOKENS)] and one.complete and one.error is None
        await served(house.front, 1)

    with forking(house) as worker:
        processes = children(worker)
        ready(worker)
        asyncio.run(main())
        assert worker.wait() == code
        gone(processes)
        assert says_why in worker.text and "Traceback" not in worker.text
        assert worker.text.count("the engine crashed") == bool(says_why)


def test_one_that_cannot_start_leaves_nothing(house: House) -> None:
    with forking(house, "fails") as worker:
        processes = [int(word) for word in worker.line("children ").split()[1:]]
        assert worker.wait() == Exit.SETTING
        gone(processes)
        assert "wiremesh: the engine cannot start: RuntimeError: no room for the weights\n" in worker.text
        assert "Traceback" not in worker.text
