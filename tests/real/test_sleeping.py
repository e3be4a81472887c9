"""Workers that sleep, as processes: what they ran goes on elsewhere, without a lost token, and they come back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mesh.client import Mesh, connect
from nodes import names
from tests.real.processes import PATIENCE_S, Child
from tests.real.raw_http import COMPLETIONS, ask
from tests.real.serving import MODEL, PACED, Serving, eventually, mesh, metric, node_of, random_model, ready, served

TOKENS = 400
BODY = {"model": MODEL, "prompt": list(range(3, 40)), "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


async def told(mesh: Mesh, endpoint: str, node: str, request: Any = None) -> dict[str, Any]:
    """What a worker answers, once it has done so."""
    client = mesh.client(endpoint)
    await client.ready(2, timeout_s=PATIENCE_S)
    [answer] = [item async for item in client.direct(request, instance=int(node, 16))]
    found: dict[str, Any] = answer
    return found


def workers(serving: Serving, engine: str) -> list[Child]:
    if engine == "sim":
        return [serving.worker(name, *PACED) for name in ("a", "b")]
    folder = random_model(serving.folder / "random")
    words = ("--engine", engine, "--model", folder, "--name-as", MODEL)
    return [serving.start("worker", "--name", name, *words) for name in ("a", "b")]


@pytest.mark.parametrize("engine", ["sim", "numpy"])
def test_streams_leave_a_worker_that_sleeps_and_come_back_when_it_wakes(engine: str, tmp_path: Path) -> None:
    async def test(serving: Serving, mesh: Mesh) -> None:
        pair, front = workers(serving, engine), serving.frontend()
        ready(*pair)
        await served(front, 2)
        calm = (await ask(front.port, COMPLETIONS, BODY)).json
        assert "wiremesh" not in calm["usage"]
        one, two = map(node_of, pair)
        for node in (one, two):  # who answers now need not be found when it counts
            assert (await told(mesh, names.WAKE, node))["asleep"] == 0
        async with asyncio.TaskGroup() as group:
            name, kind = "wiremesh_engine_tokens_total", "generated"
            before = await metric(front.port, name, node=one, kind=kind)
            running = [group.create_task(ask(front.port, COMPLETIONS, BODY)) for _ in range(6)]
            await eventually(lambda: metric(front.port, name, node=one, kind=kind), lambda found: found > before + 20)
            load = await told(mesh, names.SLEEP, one, {"level": 2})
            assert load["asleep"] == 2 and load["running"] == 0
        bodies = [task.result().json for task in running]
        assert {body["choices"][0]["text"] for body in bodies} == {calm["choices"][0]["text"]}, "not a token differs"
        moved = [body["usage"]["wiremesh"]["migrated_at"] for body in bodies if "wiremesh" in body["usage"]]
        assert moved and all(0 < move[0]["position"] < TOKENS and move[0]["choice"] == 0 for move in moved)
        assert (await ask(front.port, COMPLETIONS, BODY)).json["choices"] == calm["choices"], "the other one serves"

        assert (await told(mesh, names.WAKE, one))["asleep"] == 0
        await told(mesh, names.SLEEP, two, {"level": 1})
        assert (await ask(front.port, COMPLETIONS, BODY)).json["choices"] == calm["choices"]

    async def joined(serving: Serving) -> None:
        async with connect(join=serving.join) as there:
            await test(serving, there)

    with mesh(tmp_path) as serving:
        asyncio.run(joined(serving))
