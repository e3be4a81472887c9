"""`POST /v1/embeddings` at a frontend whose worker is played."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from mesh.core import Ask, Finish
from nodes.contract.engine import Card
from nodes.frontend import batch
from nodes.frontend.frontend import LEAVING
from nodes.generation import decode
from nodes.openai import limits
from proto.errors import Reason
from tests.nodes.frontend.fakes import DIGEST, House, Reading, eventually, house, prompt
from tests.nodes.frontend.fakes import card as generating

WIDTH = 4
PATH = "/v1/embeddings"


def vector_of(ask: Ask) -> bytes:
    numbers = np.arange(decode(ask.payload).dimensions or WIDTH) + len(ask.prompt) + ask.prompt[0] / 1000
    return numbers.astype("<f4").tobytes()


def served(test: Callable[[House], Awaitable[None]], **engine: Any) -> None:
    """Run a test against a frontend whose model makes embeddings."""

    async def main() -> None:
        async with house() as there:
            there.actor.vector = vector_of
            models, now = there.frontend.registry.models, there.frontend.now()
            made = Card("numpy", "vectors", 400, 12, 8, 16, 0, embeds=WIDTH, generates=False, **engine)
            models.offered({"generate/org/tiny": (0xBEEF,), "generate/vectors": (0xCAFE,)}, now)
            known = generating()
            models.card(0xCAFE, msgspec.structs.replace(known, model="vectors", engine=made), now)
            await test(there)

    asyncio.run(main())


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "vectors", "input": "hello world", **fields}


def test_each_text_is_a_request_of_the_mesh() -> None:
    async def test(there: House) -> None:
        found = (await there.post(PATH, asked(input=[[5], [6, 7]]))).json
        assert [ask.prompt for ask in there.actor.asked] == [[5], [6, 7]]
        payload = decode(there.actor.asked[0].payload)
        assert payload.embeds and payload.dimensions == 0 and payload.digest == DIGEST
        assert found["object"] == "list" and found["model"] == "vectors"
        assert found["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        expected = [np.frombuffer(vector_of(ask), "<f4").tolist() for ask in there.actor.asked]
        assert [one["embedding"] for one in found["data"]] == expected
        line = there.log()[-1]
        assert (line["endpoint"], line["status"], line["prompt_tokens"], line["choices"]) == (PATH, 200, 3, 2)
        text = (await there.get("/metrics")).body.decode()
        assert "wiremesh_frontend_embeddings_total{" in text and "wiremesh_frontend_input_tokens_total" in text

    served(test)


def test_texts_become_tokens_and_vectors_base64() -> None:
    async def test(there: House) -> None:
        found = (await there.post(PATH, asked(encoding_format="base64"))).json
        [ask] = there.actor.asked
        assert len(ask.prompt) > 1 and found["usage"]["prompt_tokens"] == len(ask.prompt)
        assert base64.b64decode(found["data"][0]["embedding"]) == vector_of(ask)

    served(test)


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "nobody"}, 404, "model", "model_not_found"),
        ({"model": "org/tiny"}, 400, "model", "model_not_supported"),
        ({"input": [[1] * 13]}, 400, "input", "context_length_exceeded"),
        ({"input": ["a", "hello world " * 50]}, 400, "input[1]", "context_length_exceeded"),
        ({"input": [[400]]}, 400, "input", "invalid_value"),
        ({"input": [[1], []]}, 400, "input[1]", "empty_prompt"),
        ({"dimensions": 3}, 400, "dimensions", "unsupported_parameter"),
        ({"routing": {"wat": 1}}, 400, "routing", "invalid_value"),
        ({"input": None}, 400, "input", "invalid_value"),
    ],
)
def test_what_is_wrong_is_said_before_the_mesh_hears_of_it(
    fields: dict[str, Any], status: int, param: str, code: str
) -> None:
    async def test(there: House) -> None:
        found = await there.post(PATH, asked(**fields))
        assert (found.status, found.error["param"], found.error["code"]) == (status, param, code), found.body
        assert not there.actor.asked

    served(test)


def test_too_many_tokens_in_all_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.frontend.embeddings.INPUT_TOKENS_MAX", 20)
    assert limits.INPUT_TOKENS_MAX > 20

    async def test(there: House) -> None:
        assert (await there.post(PATH, asked(input=[[1] * 10, [1] * 10]))).status == 200
        assert (await there.post(PATH, asked(input=[[1] * 10, [1] * 11]))).error["code"] == "too_many_tokens"

    served(test)


def test_a_model_that_was_made_for_it_is_cut() -> None:
    async def test(there: House) -> None:
        for wanted in (2, WIDTH):
            found = (await there.post(PATH, asked(dimensions=wanted))).json
            assert len(found["data"][0]["embedding"]) == wanted
        assert [decode(ask.payload).dimensions for ask in there.actor.asked] == [2, 0]
        for wrong in (3, WIDTH + 1):
            problem = (await there.post(PATH, asked(dimensions=wrong))).error
            assert problem["param"] == "dimensions" and "may have 2 numbers" in problem["message"]

    served(test, shortens=True, dimensions=(2,))


def test_a_model_of_embeddings_generates_nothing() -> None:
    async def test(there: House) -> None:
        found = await there.post("/v1/completions", prompt(model="vectors"))
        assert found.status == 400 and "use /v1/embeddings" in found.error["message"]
        assert not there.actor.asked

    served(test)


def test_a_large_batch_does_not_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(there: House) -> None:
        there.actor.delay_s = 0.001
        most = 0
        ask = there.actor.ask

        def counted(asked: Ask, feed: Any) -> None:
            nonlocal most
            ask(asked, feed)
            most = max(most, len(there.actor.open))

        there.actor.ask = counted  # type: ignore[method-assign,assignment]
        found = (await there.post(PATH, asked(input=[[index % 300] for index in range(400)]))).json
        assert [one["index"] for one in found["data"]] == list(range(400))
        assert most == batch.AT_ONCE and there.frontend.admission.streams == 0

    served(test)


def test_a_client_that_goes_ends_all_of_it() -> None:
    async def test(there: House) -> None:
        there.actor.delay_s = 60.0
        reading = Reading(*await asyncio.open_connection("127.0.0.1", there.port))
        body = msgspec.json.encode(asked(input=[[1], [2], [3]]))
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        reading.writer.write(head.encode() + body)
        await eventually(lambda: len(there.actor.open) == 3)
        reading.close()
        await eventually(lambda: not there.actor.open and not there.frontend.batches)
        assert len(there.actor.abandoned()) == 3
        await eventually(lambda: there.log() and there.log()[-1]["outcome"] == "disconnected")

    served(test)


def test_a_failure_is_told_and_ends_the_others() -> None:
    async def test(there: House) -> None:
        there.actor.delay_s = 60.0
        task = asyncio.create_task(there.post(PATH, asked(input=[[1], [2]])))
        await eventually(lambda: len(there.actor.open) == 2)
        feed = there.actor.open.pop(1)
        feed.end(Finish(1, Reason.INVALID, 0, text="that is no text"))
        found = await task
        assert found.status == 400 and found.error["message"] == "that is no text"
        assert there.actor.abandoned() == [2] and not there.frontend.batches

    served(test)


def test_who_leaves_ends_its_batches() -> None:
    async def test(there: House) -> None:
        there.actor.delay_s = 60.0
        task = asyncio.create_task(there.post(PATH, asked()))
        await eventually(lambda: len(there.actor.open) == 1)
        await there.frontend.drain(0.01)
        assert (await task).status == LEAVING.status and not there.frontend.batches
        assert (await there.post(PATH, asked())).error["code"] == "shutting_down"

    served(test)
