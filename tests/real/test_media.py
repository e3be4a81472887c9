"""Pictures, sounds and clips through real processes: every topology says the same, and what is broken is refused.

The tiny model of `launch.demo_model.senses` says something else for every pixel, so an embedding that is lost, mixed up
or computed otherwise shows in the text.
"""

import asyncio
import base64
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.demo_model.senses import make
from mesh.security import create_key
from tests.nodes.media.samples import animation, picture, png_that_says, tone, wav
from tests.real.processes import PATIENCE_S, Child
from tests.real.raw_http import CHAT, Told, ask
from tests.real.serving import Frontend, Serving, mesh, ready, scraped

NAME = "senses"
TOKENS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("senses") / NAME
    make(folder)
    return folder


class Place:
    """A mesh with a model that sees and hears."""

    def __init__(self, there: Serving, model: Path) -> None:
        self.there, self.model, self.seen = there, model, 0
        self.frontend: Frontend
        self._starting: list[Child] = []

    def worker(self, role: str, *words: object) -> Child:
        """One that is there when the frontend knows everybody."""
        child = self.there.start("worker", "--model", self.model, "--name-as", NAME, "--role", role, *words)
        self._starting.append(child)
        self.seen += role != "prefill"  # whom only routers send to
        return child

    def router(self, *words: object) -> None:
        self._starting.append(self.there.start("router", *words))
        self.seen += 1

    def front(self, *words: object) -> None:
        """A frontend that knows everybody whom it may need."""
        self.frontend = self.there.frontend(*words)
        self.know()

    def know(self) -> None:
        """Wait until the frontend does."""
        ready(*self._starting)
        deadline = time.monotonic() + PATIENCE_S
        while self.metric("wiremesh_node_peers{", 'role="frontend",state="up"') < self.seen or not self.models():
            assert time.monotonic() < deadline, self.frontend.child.text

    def models(self) -> list[Any]:
        found = json.loads(asyncio.run(ask(self.frontend.port, "/v1/models", method="GET")).body)["data"]
        return list(found)

    def metric(self, name: str, part: str = "") -> float:
        """The sum of a metric over the mesh."""
        lines = asyncio.run(scraped(self.frontend.port))
        lines = [line for line in lines if line.startswith(name) and part in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        answer = asyncio.run(ask(self.frontend.port, "/v1/chat/completions", body))
        return answer.status, json.loads(answer.body)

    def says(self, *parts: Any, **more: Any) -> str:
        status, found = self.post(asked(*parts, **more))
        assert status == 200, found
        return str(found["choices"][0]["message"]["content"])


@contextmanager
def place(folder: Path, model: Path) -> Iterator[Place]:
    with mesh(folder) as there:
        yield Place(there, model)


def data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()


def image(seed: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(picture(seed), "image/png")}}


def asked(*parts: Any, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is this?"}, *parts]
    messages = [{"role": "user", "content": content}]
    return {"model": NAME, "messages": messages, "max_tokens": TOKENS, "temperature": 0, **more}


SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(tone(0.4))).decode(), "format": "wav"}}
CLIP = {"type": "video_url", "video_url": {"url": data_url(animation([9, 80, 150]), "image/gif")}}
REQUESTS: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    ((image(1),), {}),
    ((image(2),), {}),
    ((image(1), image(2)), {"temperature": 1.0, "seed": 7}),
    ((SOUND,), {}),
    ((CLIP, image(1)), {}),
)
ROLES: dict[str, tuple[str, ...]] = {
    "agg": ("worker",),
    "epd": ("encoder", "prefill", "decode"),
    "e-pd": ("encoder", "worker"),
    "ep-d": ("prefill", "decode"),
}


def test_every_topology_says_the_same(tmp_path: Path, model: Path) -> None:
    told: dict[str, list[str]] = {}
    for topology, roles in ROLES.items():
        (tmp_path / topology).mkdir()
        with place(tmp_path / topology, model) as there:
            for role in roles:
                there.worker(role)
            if "prefill" in roles:
                there.router("--disagg-tokens", 0)
            there.front()
            told[topology] = [there.says(*parts, **more) for parts, more in REQUESTS]
    assert len(set(told["agg"])) == len(REQUESTS), "each is something else to the model"
    assert all(texts == told["agg"] for texts in told.values()), told


def test_pictures_travel_over_tcp_under_the_key_of_the_mesh(tmp_path: Path, model: Path) -> None:
    """Frontend to encoder to prefill to decode, none of which could reach another by a socket in a directory."""
    (tmp_path / "plain").mkdir()
    with place(tmp_path / "plain", model) as there:
        there.worker("worker")
        there.front()
        plain = [there.says(*parts, **more) for parts, more in REQUESTS]
    key = tmp_path / "lab.key"
    create_key(key, "lab")
    (tmp_path / "keyed").mkdir()
    with place(tmp_path / "keyed", model) as there:
        there.there.apart = True
        keyed = ("--mesh", "lab", "--key", key, "--listen", "tcp://127.0.0.1:0")
        for role in ("encoder", "prefill", "decode"):
            there.worker(role, "--transports", "bulk", *keyed)
        there.router("--disagg-tokens", 0, *keyed)
        there.front(*keyed)
        assert [there.says(*parts, **more) for parts, more in REQUESTS] == plain
        assert there.metric("wiremesh_media_parts_total{", 'result="encoded"') > 0
        assert there.metric("wiremesh_transfer_received_bytes_total{", 'way="bulk"') > 0
        assert there.metric("wiremesh_transfer_received_bytes_total{", 'way="shared"') == 0


def test_a_known_picture_is_read_once_and_an_encoder_may_die(tmp_path: Path, model: Path) -> None:
    with place(tmp_path, model) as there:
        encoder = there.worker("encoder")
        there.worker("worker")
        there.front()
        first = [there.says(image(1)) for _ in range(3)]
        assert len(set(first)) == 1
        assert there.metric("wiremesh_media_parts_total{", 'result="encoded"') == 1
        encoder.kill()
        assert there.says(image(1)) == first[0], "the worker has eyes of its own"
        ready(there.worker("encoder"))
        assert there.says(image(2)) != first[0] and there.says(image(1)) == first[0]


def test_who_dies_or_freezes_costs_time_and_no_word(tmp_path: Path, model: Path) -> None:
    """An encoder freezes before a request, a worker is killed in the middle of one."""
    with place(tmp_path, model) as there:
        workers = [there.worker("worker") for _ in range(2)]
        there.front()
        long = asked(image(5), max_tokens=400)
        status, found = there.post(long)
        assert status == 200
        calm = found["choices"][0]["message"]["content"]
        encoder = there.worker("encoder")
        there.know()
        encoder.signal(signal.SIGSTOP)
        assert there.post(long)[1]["choices"][0]["message"]["content"] == calm
        encoder.signal(signal.SIGCONT)

        async def main() -> list[str]:
            streams = [Told() for _ in workers]
            async with asyncio.TaskGroup() as group:
                for told in streams:  # each worker gets one
                    group.create_task(told.run(there.frontend.port, CHAT, {**long, "stream": True}))
                for told in streams:
                    await told.until(8)
                workers[0].kill()
            return [told.texts[0] for told in streams]

        assert asyncio.run(main()) == [calm] * 2
        assert there.metric("wiremesh_frontend_migrations_total") >= 1


BROKEN: tuple[tuple[dict[str, Any], int, str], ...] = (
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, 400, "not a picture"),
    (
        {"type": "image_url", "image_url": {"url": data_url(png_that_says(60_000, 60_000), "image/png")}},
        *(400, "pixels"),
    ),
    ({"type": "image_url", "image_url": {"url": data_url(png_that_says(9, 9), "image/png")}}, 400, "cannot be decoded"),
    ({"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}, 400, "not fetched here"),
    ({"type": "image_url", "image_url": {"url": data_url(b"x" * 60_000, "image/png")}}, 413, "more than 50000 bytes"),
)


def test_what_is_broken_is_refused_and_harms_nobody(tmp_path: Path, model: Path) -> None:
    with place(tmp_path, model) as there:
        there.worker("encoder")
        there.worker("worker")
        there.front("--media-bytes-max", 50_000)
        before = there.says(image(1))
        for part, status, words in BROKEN:
            found, body = there.post(asked(part))
            assert (found, words in body["error"]["message"]) == (status, True), body
        assert there.says(image(1)) == before
