"""A seed is heeded, or refused: never taken and forgotten."""

import asyncio
from typing import Any

import msgspec
import pytest

from nodes.frontend.models import Models
from tests.nodes.frontend.fakes import WORKER, House, card, house

HOW = "with -- --some-flag"


def deaf(there: House, node: int = WORKER) -> None:
    """From now on a worker heeds no seed."""
    models, known = there.frontend.registry.models, card()
    models.card(node, msgspec.structs.replace(known, engine=msgspec.structs.replace(known.engine, unseeded=HOW)), 0.0)
    models.offered({"generate/org/tiny": (node,)}, 0.0)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_seed_that_would_change_nothing_is_refused(path: str) -> None:
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": [5]}

    async def main() -> None:
        async with house() as there:
            body = {"model": "org/tiny", "max_tokens": 2, "seed": 7, **said}
            assert (await there.post(path, body)).status == 200
            deaf(there)
            refused = await there.post(path, body)
            error = refused.json["error"]
            assert (refused.status, error["param"], error["code"]) == (400, "seed", "unsupported_parameter")
            assert HOW in error["message"]
            assert (await there.post(path, {**body, "temperature": 0})).status == 200, "it changes nothing anywhere"
            del body["seed"]
            assert (await there.post(path, body)).status == 200

    asyncio.run(main())


def test_one_worker_that_heeds_none_is_enough_also_one_that_computes_prompts() -> None:
    known = card()
    quiet = msgspec.structs.replace(known, engine=msgspec.structs.replace(known.engine, unseeded=HOW))
    for there in ({"generate/org/tiny": (1, 2)}, {"generate/org/tiny": (1,), "prefill/org/tiny": (2,)}):
        models: Models[str] = Models()
        models.offered(there, 0.0)
        models.card(1, known, 0.0)
        assert not models.models["org/tiny"].unseeded
        models.card(2, quiet, 0.0)
        assert models.models["org/tiny"].unseeded == HOW
        models.offered({"generate/org/tiny": (1,)}, 0.0)
        assert not models.models["org/tiny"].unseeded
