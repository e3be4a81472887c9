"""Workers that differ and serve one name, as real processes: engines, weights and files may differ, tokens may not."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.real.processes import Child
from tests.real.raw_http import CHAT, Told, ask
from tests.real.serving import (
    MODEL,
    Frontend,
    Serving,
    chat,
    eventually,
    mesh,
    metric,
    node_of,
    random_model,
    ready,
    served,
)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Serving]:
    with mesh(tmp_path) as found:
        yield found


def numpy_worker(there: Serving, name: str, folder: Path, *words: object) -> Child:
    """A worker that computes, not waited for."""
    model = ("--engine", "numpy", "--model", folder, "--name-as", MODEL, "--slots", 4)
    return there.start("worker", "--name", name, *model, *words)


async def said(front: Frontend, worker: Child | None = None, text: str = "hello world") -> Any:
    """What one worker says, or any."""
    headers = {"x_wiremesh_worker": node_of(worker)} if worker is not None else {}
    answer = await ask(front.port, CHAT, chat(text, 12, temperature=0), **headers)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["message"]["content"]


def other_tokens(folder: Path) -> Path:
    """The same model, but one token means something else."""
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    vocabulary = found["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(found))
    return folder


def test_two_engines_serve_one_model_and_a_third_with_other_tokens_does_not(there: Serving, tmp_path: Path) -> None:
    front = there.frontend()
    simulated = there.worker("simulated", "--speedup", 0)
    ready(simulated)
    computing = numpy_worker(there, "computing", random_model(tmp_path / "random"))

    async def main() -> None:
        ready(computing)
        await served(front, 2)
        assert await said(front, simulated) != await said(front, computing), "both are asked, each says its own"
        stranger = numpy_worker(there, "stranger", other_tokens(random_model(tmp_path / "strange")))
        ready(stranger)
        reason = "serves 'org/tiny' with another tokenizer than the workers before it"
        stranger.line("gives this worker no requests: node " + node_of(stranger))
        assert reason in stranger.text and reason in front.child.line("another tokenizer")
        status = there.start("call", "wiremesh.node.status", "--direct", node_of(stranger))
        assert status.wait() == 0 and reason in status.text, "its status says why, too"
        listed = (await ask(front.port, "/v1/models", method="GET")).json["data"]
        assert [(one["id"], one["max_model_len"]) for one in listed] == [(MODEL, 2048)]
        name = "wiremesh_frontend_refused_workers_total"
        await eventually(lambda: metric(front.port, name), lambda found: found == 1)
        await asyncio.gather(*(said(front, text=f"{number} times") for number in range(20)))
        assert await metric(front.port, "wiremesh_engine_tokens_total", node=node_of(stranger), kind="prompt") == 0
        simulated.kill()
        computing.kill()
        stranger.line("gives this worker requests again")
        await served(front, 1)
        assert await said(front, stranger)

    asyncio.run(main())


def test_prompts_are_not_computed_with_other_weights(there: Serving, tmp_path: Path) -> None:
    front = there.frontend()
    router = there.start("router", "--disagg-tokens", 0)
    alone = numpy_worker(there, "alone", random_model(tmp_path / "one"))
    ready(router, alone)

    async def main() -> None:
        await served(front, 1)
        truth = await said(front)
        alone.kill()
        fed = numpy_worker(there, "fed", tmp_path / "one", "--role", "decode")
        feeder = numpy_worker(there, "feeder", random_model(tmp_path / "two", seed=8), "--role", "prefill")
        ready(fed, feeder)
        feeder.line("with other weights, files or engine than any worker that would go on with them")
        assert [await said(front) for _ in range(5)] == [truth] * 5
        assert await metric(front.port, "wiremesh_engine_tokens_total", node=node_of(feeder), kind="prompt") == 0
        text = (await ask(front.port, "/metrics", method="GET")).body.decode()
        kinds = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(kinds) == len(set(kinds)) and list(text_string_to_metric_families(text))

    asyncio.run(main())


def test_caches_do_not_move_between_other_weights(there: Serving, tmp_path: Path) -> None:
    """A worker that leaves hands its streams over with their cache, and the next one has other weights."""
    front = there.frontend()
    leaving = numpy_worker(there, "leaving", random_model(tmp_path / "one"), "--drain-s", 0.1)
    ready(leaving)

    async def main() -> None:
        await served(front, 1)
        staying = numpy_worker(there, "staying", random_model(tmp_path / "two", seed=8))
        ready(staying)
        await served(front, 2)
        told = Told()
        body = chat("hello world", 1500, temperature=0, ignore_eos=True, stream=True)
        running = asyncio.ensure_future(told.run(front.port, CHAT, body, x_wiremesh_worker=node_of(leaving)))
        await told.until(5)
        leaving.signal(signal.SIGTERM)
        await running
        assert told.complete and told.error is None
        staying.line("blocks of another model were handed to this worker")
        assert await metric(front.port, "wiremesh_transfer_landed_tokens_total") == 0

    asyncio.run(main())
