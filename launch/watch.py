"""Shell. Looks on as a member of the mesh, and says what each of some nodes does."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from launch.screen import load_of
from mesh.client import Client, connect
from mesh.failures import MeshError
from mesh.options import Options
from nodes.names import STATUS

LOOK_S = 1.0  # between two looks
ANSWER_S = 0.8  # a node that takes longer shows nothing this time


async def watch(options: Options, nodes: Callable[[], Mapping[str, str]]) -> AsyncGenerator[dict[str, str], None]:
    """What each node does, again and again. `nodes`: the id of each, by what we call it."""
    async with connect(options=replace(options, name="", listen=())) as mesh:
        client = mesh.client(STATUS)
        while True:
            known = {name: int(node, 16) for name, node in nodes().items() if node}
            answers = await asyncio.gather(*(_status(client, node) for node in known.values()))
            yield {name: load_of(answer) for name, answer in zip(known, answers, strict=True)}
            await asyncio.sleep(LOOK_S)


async def _status(client: Client, node: int) -> Mapping[str, Any]:
    with suppress(MeshError):
        async for answer in client.direct(None, node, timeout_s=ANSWER_S):
            if isinstance(answer, dict):
                return answer
    return {}
