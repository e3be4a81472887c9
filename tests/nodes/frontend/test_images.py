"""`POST /v1/images/generations` at a frontend whose worker is played."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mesh.core import Ask, Finish
from nodes.contract.pictures import Scene, Step, encode, scene_of, units_of
from nodes.frontend.frontend import LEAVING
from nodes.frontend.gallery import ANEW_MAX, WRONG
from nodes.frontend.painted import Painted, live, seen
from proto.errors import Reason
from tests.nodes.frontend.fakes import WORKER, House, Reading, eventually, house

PATH = "/v1/images/generations"
STEPS = 3
NAME = "org/tiny-pictures"


def file_of(scene: Scene) -> bytes:
    return b"a picture of " + repr(scene).encode()


class Painter:
    """Plays the workers: what it is asked, and how far it goes by itself."""

    def __init__(self, there: House) -> None:
        self.there = there
        self.steps, self.ends = STEPS, True
        self.told = file_of
        self.nodes: Callable[[int], tuple[int, ...]] = lambda attempt: (WORKER,)
        self.scenes: list[Scene] = []
        there.actor.ask = self.ask  # type: ignore[method-assign]

    def ask(self, ask: Ask, feed: Any) -> None:
        self.there.actor.asked.append(ask)
        self.there.actor.open[ask.request] = feed
        self.there.actor.loop.call_soon(self._run, ask, feed)

    def _run(self, ask: Ask, feed: Any) -> None:
        scene = scene_of(ask.payload)
        self.scenes.append(scene)
        units = list(self._units(scene))
        for position, unit in enumerate(units):
            feed.deliver(position, [unit], ())
        if self.ends and self.there.actor.open.pop(ask.request, None) is not None:
            nodes = self.nodes(len(self.scenes))
            feed.end(Finish(ask.request, Reason.COMPLETE, len(units), nodes=nodes, attempts=len(nodes)))

    def _units(self, scene: Scene) -> Iterator[bytes]:
        yield from [encode(Step(step + 1, STEPS)) for step in range(self.steps)]
        if self.ends:
            yield from units_of("image/png", self.told(scene))


def served(test: Callable[[House, Painter], Awaitable[None]]) -> None:
    """Run a test against a frontend with a model that makes pictures."""

    async def main() -> None:
        async with house() as there:
            there.frontend.registry.pictures = {NAME: Painted(5, (WORKER,)), "gone": Painted(6)}
            await test(there, Painter(there))

    asyncio.run(main())


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "a cat", "seed": 4, **fields}


def test_each_picture_is_a_request_of_the_mesh() -> None:
    async def test(there: House, painter: Painter) -> None:
        found = (await there.post(PATH, asked(n=3))).json
        assert [base64.b64decode(one["b64_json"]) for one in found["data"]] == list(map(file_of, painter.scenes))
        assert [one["seed"] for one in found["data"]] == [scene.seed for scene in painter.scenes]
        for ask in there.actor.asked:
            assert (ask.endpoint, ask.policy, ask.routed) == (f"imagine/{NAME}", "least_loaded", False)
        line = there.log()[-1]
        assert (line["endpoint"], line["status"], line["choices"], line["outcome"]) == (PATH, 200, 3, "stop")
        assert "wiremesh_frontend_pictures_total{" in (await there.get("/metrics")).body.decode()
        assert there.frontend.admission.streams == 0 and not there.frontend.batches

    served(test)


def test_a_stream_tells_each_step_and_each_picture() -> None:
    async def test(there: House, painter: Painter) -> None:
        found = await there.post(PATH, asked(stream=True))
        assert found.headers["content-type"].startswith("text/event-stream")
        *steps, last = found.chunks
        assert [(one["type"], one["index"], one["step"], one["steps"]) for one in steps] == [
            ("image_generation.progress", 0, step, STEPS) for step in (1, 2, 3)
        ]
        assert last["type"] == "image_generation.completed" and last["seed"] == 4
        assert base64.b64decode(last["b64_json"]) == file_of(painter.scenes[0])

    served(test)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"model": "gone"}, 503, "model_unavailable"),
        ({"model": "org/tiny"}, 400, "model_not_supported"),
        ({"size": "big"}, 400, "invalid_value"),
    ],
)
def test_what_is_wrong_is_said_before_the_mesh_hears_of_it(fields: dict[str, Any], status: int, code: str) -> None:
    async def test(there: House, painter: Painter) -> None:
        found = await there.post(PATH, asked(**fields))
        assert (found.status, found.error["code"]) == (status, code), found.body
        wrong = await there.post(PATH, asked(), **{"x-wiremesh-worker": "me"})
        assert wrong.status == 400 and not there.actor.asked

    served(test)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a cat"}]}),
        ("/v1/completions", {"prompt": "a cat"}),
        ("/v1/embeddings", {"input": "a cat"}),
        ("/tokenize", {"prompt": "a cat"}),
    ],
)
def test_who_wants_text_of_it_is_told_what_it_makes_and_where(path: str, fields: dict[str, Any]) -> None:
    async def test(there: House, painter: Painter) -> None:
        found = await there.post(path, {"model": NAME, **fields})
        assert (found.status, found.error["code"]) == (400, "model_not_supported"), found.body
        assert "makes pictures or clips" in found.error["message"] and PATH in found.error["message"]
        nobody = await there.post(path, {"model": "nobody", **fields})
        assert (nobody.status, nobody.error["code"]) == (404, "model_not_found")

    served(test)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_cannot_make_is_told_in_its_words(stream: bool) -> None:
    async def test(there: House, painter: Painter) -> None:
        painter.steps, painter.ends = 0, False
        task = asyncio.create_task(there.post(PATH, asked(n=2, stream=stream)))
        await eventually(lambda: len(painter.scenes) == 2)
        there.actor.open.pop(1).end(Finish(1, Reason.INVALID, 0, text="no such size"))
        found = await task
        assert found.status == 400 and found.error["message"] == "no such size"
        assert there.actor.abandoned() == [2] and not there.frontend.batches

    served(test)


def test_a_stream_that_has_begun_ends_with_an_error() -> None:
    async def test(there: House, painter: Painter) -> None:
        painter.ends = False
        task = asyncio.create_task(there.post(PATH, asked(stream=True)))
        await eventually(lambda: painter.scenes)
        there.actor.open.pop(1).end(Finish(1, Reason.DEADLINE, 3))
        found = await task
        assert found.status == 200 and found.chunks[-1]["error"]["code"] == "deadline_exceeded"
        assert there.log()[-1]["outcome"] == "deadline_exceeded"

    served(test)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_all_of_it(stream: bool) -> None:
    async def test(there: House, painter: Painter) -> None:
        painter.ends = False
        reading = Reading(*await asyncio.open_connection("127.0.0.1", there.port))
        body = msgspec.json.encode(asked(n=3, stream=stream))
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        reading.writer.write(head.encode() + body)
        await eventually(lambda: len(painter.scenes) == 3)
        reading.close()
        await eventually(lambda: not there.actor.open and not there.frontend.batches)
        assert len(there.actor.abandoned()) == 3
        await eventually(lambda: there.log() and there.log()[-1]["outcome"] == "disconnected")

    served(test)


def test_pieces_of_two_pictures_are_made_anew_and_told_if_that_goes_on() -> None:
    """Machines that compute differently: a picture that moved there after its first pieces."""

    async def test(there: House, painter: Painter) -> None:
        units = painter._units
        wrong = {1}

        def mixed(scene: Scene) -> Iterator[bytes]:
            found = list(units(scene))
            if len(painter.scenes) in wrong:
                found[STEPS] = next(units_of("image/png", file_of(scene)[::-1]))  # of another, as long
            return iter(found)

        painter._units = mixed  # type: ignore[method-assign]
        painter.nodes = lambda attempt: (WORKER, WORKER + 1)
        found = (await there.post(PATH, asked())).json
        assert base64.b64decode(found["data"][0]["b64_json"]) == file_of(painter.scenes[0])
        assert painter.scenes[0] == painter.scenes[1] and len(painter.scenes) == 2
        wrong.update(range(3, 99))
        found = await there.post(PATH, asked())
        assert (found.status, found.error["message"]) == (500, WRONG.message)
        assert len(painter.scenes) == 2 + 1 + ANEW_MAX
        painter.nodes = lambda attempt: (WORKER,)
        assert (await there.post(PATH, asked())).status == 500
        assert len(painter.scenes) == 2 + 1 + ANEW_MAX + 1, "one worker that is wrong is no accident"

    served(test)


def test_a_clip_is_asked_for_likewise() -> None:
    async def test(there: House, painter: Painter) -> None:
        body = asked(size="64x32", num_frames=5, fps=8, num_inference_steps=3)
        found = (await there.post("/v1/videos", body)).json
        assert painter.scenes == [Scene("a cat", "", 64, 32, 3, -1.0, 4, 5, "video", 8)]
        assert (found["object"], found["status"], found["model"], found["output_format"]) == (
            *("video", "completed", NAME),
            "mp4",
        )
        assert base64.b64decode(found["data"][0]["b64_json"]) == file_of(painter.scenes[0])
        last = (await there.post("/v1/videos", asked(seconds="2.5", stream=True))).chunks[-1]
        assert (last["type"], last["output_format"]) == ("video_generation.completed", "mp4")
        assert painter.scenes[-1].seconds == 2.5
        for wrong in ({"seconds": "soon"}, {"seconds": "0"}, {"n": 2}, {"num_frames": 2_000}):
            problem = (await there.post("/v1/videos", asked(**wrong))).error
            assert problem["param"] == next(iter(wrong))

    served(test)


def test_who_leaves_ends_its_pictures() -> None:
    async def test(there: House, painter: Painter) -> None:
        painter.ends = False
        task = asyncio.create_task(there.post(PATH, asked()))
        await eventually(lambda: painter.scenes)
        await there.frontend.drain(0.01)
        assert (await task).status == LEAVING.status and not there.frontend.batches
        assert (await there.post(PATH, asked())).error["code"] == "shutting_down"

    served(test)


def test_models_that_make_pictures_are_shown() -> None:
    async def test(there: House, painter: Painter) -> None:
        found = {one["id"]: one for one in (await there.get("/v1/models")).json["data"]}
        assert found.keys() == {"org/tiny", NAME} and found[NAME]["created"] == 5
        assert (await there.get(f"/v1/models/{NAME}")).json["id"] == NAME
        assert NAME in (await there.get("/health")).json["models"]

    served(test)


def test_a_model_is_known_from_its_first_worker_on() -> None:
    known = seen({}, {"imagine/a": (1, 2), "imagine/b": (2,)}, 100)
    known = seen(known, {"imagine/b": (3,), "imagine/c": (4,)}, 200)
    assert known == {"a": Painted(100), "b": Painted(100, (3,)), "c": Painted(200, (4,))}
    assert live(known) == ["b", "c"]


def test_there_is_an_end_to_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.painted.limits", SimpleNamespace(MODELS_MAX=2))
    assert len(seen({}, {f"imagine/{name}": (1,) for name in range(9)}, 100)) == 2
