"""Embeddings through real processes: OpenAI's own client, a worker that dies under a batch, and a clean end."""

import asyncio
import json
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.nodes.engines.berts import WIDTH, folder_of, rows_of, tokenizer, unit
from tests.real.processes import Child
from tests.real.serving import Frontend, eventually, mesh, metric, node_of, ready, served
from tests.real.test_up import event

NAME = "bert"
TEXTS = ["the cat sits on the mat", "a kitten rests on a rug", "rates rose again"]
BATCH = 2_000


def expected(text: str) -> np.ndarray:
    made = tokenizer()
    made.no_padding()
    made.no_truncation()
    return unit(rows_of(made.encode(text).ids).mean(0))


def right(found: Any, texts: list[str]) -> bool:
    """Whether all vectors are there, in their order."""
    known = {text: expected(text) for text in dict.fromkeys(texts)}
    assert [one.index for one in found.data] == list(range(len(texts)))
    differences = [
        np.abs(np.asarray(one.embedding) - known[text]).max() for one, text in zip(found.data, texts, strict=True)
    ]
    return bool(max(differences) < 1e-5)


@pytest.mark.usefixtures("runtime")
def test_up_serves_embeddings_and_shows_a_request_that_works(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / NAME)
    with Child("-m", "launch.cli", "up", "--model", folder, "--port", 0, "--json", "--drain-s", 5) as child:
        shown = event(child, "serving")
        done = subprocess.run(["bash", "-c", f"{shown['curl']} -sf"], capture_output=True, text=True, check=True)
        assert len(json.loads(done.stdout)["data"][0]["embedding"]) == WIDTH
        with openai.OpenAI(base_url=f"{shown['url']}/v1", api_key="none", max_retries=0) as client:
            assert right(client.embeddings.create(model=NAME, input=TEXTS), TEXTS)
            numbers = client.embeddings.create(model=NAME, input=TEXTS[0], encoding_format="float")
            assert right(numbers, TEXTS[:1]) and numbers.usage.prompt_tokens == 8
            with pytest.raises(openai.BadRequestError, match="cannot be shortened"):
                client.embeddings.create(model=NAME, input=TEXTS, dimensions=8)
            with pytest.raises(openai.BadRequestError, match="use /v1/embeddings"):
                client.completions.create(model=NAME, prompt="the cat")
        child.signal(signal.SIGINT)
        assert child.wait() == 0


def test_a_worker_that_is_killed_under_a_batch_costs_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / NAME)
    texts = [TEXTS[index % len(TEXTS)] for index in range(BATCH)]

    async def asked(front: Frontend, victim: Child) -> Any:
        await served(front, 2, NAME)
        node = node_of(front.child)
        async with openai.AsyncOpenAI(base_url=front.url, api_key="none", max_retries=0) as client:
            assert await client.models.list()  # so that it is connected
            victim.signal(signal.SIGSTOP)  # so that it gets a share of the batch, and is not done with it
            task = asyncio.create_task(
                client.embeddings.create(model=NAME, input=texts, extra_headers={"x-request-id": "batch"})
            )
            sequences = partial(metric, front.port, "wiremesh_frontend_sequences", node=node)
            await eventually(sequences, lambda found: found > 0 or task.done())
            victim.signal(signal.SIGKILL)
            return await task

    with mesh(tmp_path) as there:
        workers = [there.start("worker", "--model", folder, "--name", name) for name in ("one", "two")]
        front = there.frontend()
        ready(*workers)
        assert right(asyncio.run(asked(front, workers[0])), texts)
        line = front.line("batch")
        assert (line["status"], line["choices"]) == (200, BATCH)
        assert line["attempts"] > BATCH and len(line["nodes"]) == 2, "some of it was with the dead one"
