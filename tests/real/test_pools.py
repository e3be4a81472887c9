"""Pools as processes: a table says which one, a pool that dies is replaced, one that comes back is used again."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from tests.real.processes import Child
from tests.real.raw_http import CHAT, ask
from tests.real.serving import PACED, Frontend, advised, chat, eventually, mesh, metric, node_of, ready, says, served

TABLE = {
    "pools": [{"name": "quick"}, {"name": "cheap", "slowness": 1}],
    "axes": [{"name": "first_token_ms", "least": 0, "most": 1000, "steps": 2}],
    "cells": ["quick", "cheap"],
    "retry": "any",
}
SHOWN = {"x-wiremesh-explain": "1"}


async def holder(front: Frontend, text: str = "hello", tokens: int = 8, **routing: Any) -> Any:
    """The node that a chat went to; what it says is right."""
    body = chat(text, tokens, ignore_eos=True, **({"routing": routing} if routing else {}))
    found = await ask(front.port, CHAT, body, **SHOWN)
    assert found.status == 200, found.body
    assert found.json["choices"][0]["message"]["content"] == says(text, tokens)
    return json.loads(found.headers["x-wiremesh-route"])[0]["stops"][-1][1]


def test_pools(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps(TABLE))

    async def first(front: Frontend, router: Child, quick: Child, cheap: Child) -> None:
        await served(front, 2)
        await eventually(
            lambda: metric(front.port, "wiremesh_pool_nodes", node=node_of(router)), lambda found: found == 2
        )
        assert await advised(front, 1, lambda: holder(front, first_token_ms=100)) == node_of(quick)
        assert await advised(front, 1, lambda: holder(front, first_token_ms=900)) == node_of(cheap)
        assert await advised(front, 1, lambda: holder(front)) == node_of(cheap), "no target is the middle of the axis"
        nvext = {"nvext": {"router": {"ttft_target": 50}}}
        found = await advised(front, 1, lambda: ask(front.port, CHAT, chat("hi", 4, **nvext), **SHOWN))
        assert node_of(quick) in found.headers["x-wiremesh-route"]
        bad = await ask(front.port, CHAT, chat("hi", 4, routing={"first_token_ms": -1}))
        assert bad.status == 400 and "first_token_ms" in bad.json["error"]["message"]

    async def dies(front: Frontend, quick: Child, cheap: Child) -> None:
        """Streams that run there when it dies, and those that come after it, are complete."""
        running = [asyncio.create_task(holder(front, f"number {n}", 400, first_token_ms=100)) for n in range(8)]
        await eventually(
            lambda: metric(front.port, "wiremesh_node_legs", node=node_of(quick)), lambda found: found >= 8
        )
        quick.signal(signal.SIGKILL)
        assert {*await asyncio.gather(*running)} == {node_of(cheap)}
        assert await holder(front, first_token_ms=100) == node_of(cheap)

    async def returns(front: Frontend, again: Child) -> None:
        await served(front, 2)

        await eventually(lambda: holder(front, first_token_ms=100), lambda found: found == node_of(again))

    async def without(front: Frontend, *workers: Child) -> None:
        """Nobody is left who knows of pools: any worker will do."""
        for _ in range(4):
            assert await holder(front, first_token_ms=100) in map(node_of, workers)

    with mesh(tmp_path) as serving:
        quick = serving.worker("quick1", "--pool", "quick", *PACED)
        cheap = serving.worker("cheap1", "--pool", "cheap", *PACED)
        router = serving.start("pools", "--table", table)
        front = serving.frontend()
        ready(quick, cheap, router)
        assert "in pools: quick, cheap" in router.line("is ready: node")
        asyncio.run(first(front, router, quick, cheap))
        asyncio.run(dies(front, quick, cheap))
        again = serving.worker("quick2", "--pool", "quick", *PACED)
        ready(again)
        asyncio.run(returns(front, again))
        router.kill()
        asyncio.run(without(front, cheap, again))
