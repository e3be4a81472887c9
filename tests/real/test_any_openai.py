"""Workers in front of other servers: two meshes that others run, and ours before them."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from launch.codes import Exit
from tests.real.processes import ROOT, Child
from tests.real.raw_http import CHAT, Told, ask
from tests.real.serving import MODEL, PACED, Frontend, Serving, chat, eventually, mesh, metric, ready, says, served

COUNT = 300
STREAMS = 24  # more than a mesh tries again at once


class House(NamedTuple):
    """Ours, and the servers behind it."""

    ours: Serving
    front: Frontend
    theirs: list[Frontend]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with mesh(tmp_path) as ours, ExitStack() as stack:
        theirs = []
        for number in range(2):
            folder = tmp_path / f"far{number}"
            folder.mkdir()
            far = Serving(stack, folder, str(folder / "join"))
            far.worker("far", *PACED)
            theirs.append(far.frontend())
        for front in theirs:
            asyncio.run(served(front, 1))
        yield House(ours, ours.frontend(), theirs)


def before(house: House, number: int) -> Child:
    words = ("--model", house.ours.model, "--name-as", MODEL, "--url", house.theirs[number].url)
    return house.ours.start("worker", "--name", f"near{number}", "--engine", "openai", *words)


def test_streams_go_on_elsewhere_when_a_server_dies(house: House) -> None:
    workers = [before(house, number) for number in range(2)]
    ready(*workers)

    async def main() -> None:
        await served(house.front, 2)
        told = [Told() for _ in range(STREAMS)]
        asks = [chat(f"hello {number}", COUNT, stream=True) for number in range(STREAMS)]
        streams = [one.run(house.front.port, CHAT, body) for one, body in zip(told, asks, strict=True)]
        all_of_them = asyncio.gather(*streams)
        for one in told:
            await one.until(5)
        house.theirs[0].child.signal(signal.SIGKILL)
        await all_of_them
        for number, one in enumerate(told):
            assert one.texts == [says(f"hello {number}", COUNT)] and one.complete
        await served(house.front, 1)

    asyncio.run(main())
    assert workers[0].wait() == Exit.INTERNAL
    assert "the engine crashed (EngineDead: the engine says that it is not well)" in workers[0].text
    assert "Traceback" not in workers[0].text


def test_who_goes_away_is_cancelled_there_too(house: House) -> None:
    worker = before(house, 0)
    ready(worker)

    async def main() -> None:
        await served(house.front, 1)
        far = house.theirs[0].port
        answer = await ask(house.front.port, CHAT, chat("hello", 20))
        assert answer.json["choices"][0]["message"]["content"] == says("hello", 20)
        assert answer.json["usage"]["completion_tokens"] == 20
        told = Told()
        stream = asyncio.ensure_future(told.run(house.front.port, CHAT, chat("hello", 1500, stream=True)))
        await told.until(3)
        stream.cancel()
        await eventually(lambda: metric(far, "wiremesh_engine_cancels_total"), lambda found: found >= 1)
        await eventually(lambda: metric(far, "wiremesh_engine_active_requests"), lambda found: found == 0)

    asyncio.run(main())


def test_what_cannot_be_served_so_is_a_sentence(house: House, tmp_path: Path) -> None:
    url = house.theirs[0].url
    for words, sentence in (
        (("--url", "nowhere"), "--url is 'nowhere': it must be the server's OpenAI-compatible URL"),
        (("--url", url, "--role", "prefill"), "--engine openai is for --role worker, not prefill"),
        (("--url", url, "--url-model", "other"), "has no model 'other': choose one with --url-model, of org/tiny"),
        (("--url", f"http://127.0.0.1:{house.front.port}", "--model", "demo"), "/models says 404"),
    ):
        model = () if "--model" in words else ("--model", house.ours.model)
        with house.ours.start("worker", "--engine", "openai", *model, *words) as child:
            assert child.wait() == Exit.SETTING
            assert sentence in child.text and "Traceback" not in child.text


def test_the_script_tells_what_it_wants() -> None:

    done = subprocess.run([ROOT / "launch/any_openai.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "the first argument must be the server's URL" in done.stderr
