"""Pictures and clips through real processes: the same from any worker, also from one that took over from a dead one."""

import asyncio
import base64
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.nodes.diffusion.tiny import SIZE, make, make_clips
from tests.real.processes import Child
from tests.real.raw_http import request, send
from tests.real.serving import Serving, eventually, mesh, metric, models, node_of

pytestmark = [
    pytest.mark.skipif(
        not (find_spec("torch") and find_spec("transformers") and find_spec("diffusers")),
        reason="needs torch, transformers and diffusers",
    ),
    pytest.mark.filterwarnings("ignore"),  # the library's own
]
NAME = "tiny-pictures"
LOAD_S = 180.0  # torch alone takes half a minute on a machine with much else to do
PATH = "/v1/images/generations"
PATHS = {"image": PATH, "video": "/v1/videos"}
FEW = 3  # as a clip takes a second for each
FRAMES = 16  # of a clip, where nobody says how many
PNG = b"\x89PNG\r\n\x1a\n"
STEPS = 40  # a second or more, of which three are seen before the worker dies


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("pictures") / NAME)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("clips") / "tiny-clips")


class Place:
    """A mesh that makes pictures."""

    def __init__(self, serving: Serving, model: Path) -> None:
        self.serving, self.model = serving, model
        self.workers = [self.worker("one"), self.worker("two")]
        self.front = serving.frontend()
        for worker in self.workers:
            worker.line("is ready", LOAD_S)

    def worker(self, name: str) -> Child:
        words = ("--name", name, "--model", self.model, "--device", "cpu")
        return self.serving.start("worker", *words, "--engine", "transformers", "--diffusion", "image")


@contextmanager
def place(folder: Path, model: Path) -> Iterator[Place]:
    with mesh(folder) as serving:
        there = Place(serving, model)
        asyncio.run(eventually(lambda: models(there.front.port), lambda found: NAME in found))
        yield there


def asked(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "a cat", "seed": 11, "num_inference_steps": STEPS, **more}


async def picture(port: int, body: dict[str, Any], **headers: str) -> bytes:
    found = [one async for one in told(port, body, **headers)][-1]
    return base64.b64decode(found["b64_json"])


async def told(port: int, body: dict[str, Any], **headers: str) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream."""
    connection = await send(port, request("POST", PATH, {**body, "stream": True}, **headers))
    try:
        assert connection.status == 200, (connection.status, await connection.reader.read(1000))
        async for _, data in connection.events():
            yield json.loads(data)
    finally:
        connection.break_off()


def test_a_picture_is_the_same_whatever_happens(tmp_path: Path, model: Path) -> None:
    with place(tmp_path, model) as there:
        nodes = [node_of(worker) for worker in there.workers]
        asyncio.run(who_goes(there, nodes[0]))
        asyncio.run(who_dies(there, nodes))
        with openai.OpenAI(base_url=there.front.url, api_key="none", max_retries=0, timeout=LOAD_S) as client:
            assert [one.id for one in client.models.list()] == [NAME]
            few: Any = {"extra_body": {"num_inference_steps": 3}, "size": f"{SIZE * 2}x{SIZE}"}
            found = client.images.generate(model=NAME, prompt="a cat", n=2, **few)
            made = [base64.b64decode(one.b64_json or "") for one in found.data or ()]
            assert len(made) == 2 and made[0] != made[1] and all(one.startswith(PNG) for one in made)
            with pytest.raises(openai.BadRequestError, match="multiples of"):
                client.images.generate(model=NAME, prompt="a cat", **{**few, "size": "101x64"})


async def who_goes(there: Place, node: str) -> None:
    """A client goes in the middle: the worker makes no further step, and is free for the next."""
    port = there.front.port
    async for event in told(port, asked(num_inference_steps=900), x_wiremesh_worker=node):
        if event["step"] == 2:
            break
    name = "wiremesh_pictures_total"
    await eventually(lambda: metric(port, name, outcome="cancelled"), lambda found: found == 1)
    assert await metric(port, "wiremesh_pictures_steps_total") < 100
    assert not await metric(port, "wiremesh_pictures_active")


async def who_dies(there: Place, nodes: list[str]) -> None:
    """A worker dies in the middle: each step is told once, and the picture is what it would have been."""
    port = there.front.port
    first, second = [await picture(port, asked(), x_wiremesh_worker=node) for node in nodes]
    assert first == second and first.startswith(PNG), "whoever makes it, it is the same"
    assert await picture(port, asked(seed=12)) != first != await picture(port, asked(prompt="a dog"))
    events = []
    async for event in told(port, asked(), x_wiremesh_worker=nodes[0], x_request_id="dies"):
        events.append(event)
        if len(events) == 3:
            there.workers[0].signal(signal.SIGKILL)
    assert [event["step"] for event in events[:-1]] == list(range(1, STEPS + 1))
    assert base64.b64decode(events[-1]["b64_json"]) == first
    line = there.front.line("dies")
    assert line["attempts"] == 2 and line["nodes"] == nodes


def is_picture(made: Path) -> bool:
    return made.read_bytes().startswith(PNG)


def is_clip(made: Path) -> bool:
    av: Any = import_module("av")
    with av.open(str(made)) as clip:
        frames = [*clip.decode(video=0)]
    return [(frame.width, frame.height) for frame in frames] == [(SIZE, SIZE)] * FRAMES


@pytest.mark.parametrize(
    ("kind", "file", "is_made"), [("image", "picture.png", is_picture), ("video", "clip.mp4", is_clip)]
)
def test_up_serves_what_a_pipeline_makes_and_its_curl_makes_one(
    tmp_path: Path, model: Path, clips: Path, kind: str, file: str, is_made: Callable[[Path], bool], runtime: str
) -> None:
    if kind == "video" and find_spec("av") is None:
        pytest.skip("needs PyAV")
    folder = {"image": model, "video": clips}[kind]
    words = ("--model", folder, "--engine", "transformers", "--port", 0, "--json")
    with Child("-m", "launch.cli", "up", *words, "--", "--diffusion", kind, "--device", "cpu") as child:
        served = json.loads(child.line('"event":"serving"', LOAD_S))
        assert served["model"] == folder.name and PATHS[kind] in served["curl"]
        curl = served["curl"].replace('{"model"', f'{{"num_inference_steps": {FEW}, "model"')
        subprocess.run(["bash", "-ec", curl], cwd=tmp_path, check=True, capture_output=True)
        assert is_made(tmp_path / file)
        child.signal(signal.SIGINT)
        assert child.wait() == 0
