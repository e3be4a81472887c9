"""Answers that must be something, from a worker in front of another server: which keeps to it, and goes on anew."""

import asyncio
import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from tests.real.processes import Child
from tests.real.raw_http import CHAT, COMPLETIONS, Told, ask
from tests.real.serving import Frontend, Serving, chat, mesh, node_of, ready, served

pytest.importorskip("llguidance")

DEMO = "demo"
LIST = {"type": "array", "items": {"type": "string", "minLength": 60, "maxLength": 80}, "minItems": 3, "maxItems": 3}


class House(NamedTuple):
    """A mesh of ours, and one behind it that computes."""

    ours: Serving
    front: Frontend
    theirs: Frontend
    workers: list[Child]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("guided")
    with mesh(folder) as ours, ExitStack() as stack:
        (folder / "far").mkdir()
        far = Serving(stack, folder / "far", str(folder / "far" / "join"))
        ready(far.start("worker", "--name", "far", "--model", DEMO, "--engine", "numpy", "--exact"))
        theirs = far.frontend()
        asyncio.run(served(theirs, 1, DEMO))
        words = ("--model", DEMO, "--engine", "openai", "--url", theirs.url)
        workers = [ours.start("worker", "--name", f"near{number}", *words) for number in range(2)]
        front = ours.frontend()
        ready(*workers)
        asyncio.run(served(front, 2, DEMO))
        yield House(ours, front, theirs, workers)


def text_of(answer: Any) -> str:
    (choice,) = answer["choices"]
    found: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return found


def test_every_way_to_say_it_is_passed_on(house: House) -> None:
    async def main() -> None:
        ways: list[tuple[dict[str, Any], Callable[[str], object]]] = [
            ({"response_format": {"type": "json_object"}}, lambda text: text.startswith("{")),
            ({"guided_regex": "[A-C]{3}-[0-9]"}, lambda text: re.fullmatch("[A-C]{3}-[0-9]", text)),
            ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
            ({"guided_json": {"enum": [1, "two"]}}, lambda text: json.loads(text) in (1, "two")),
            ({"structured_outputs": {"grammar": "start: /[xy]{4}/"}}, lambda text: re.fullmatch("[xy]{4}", text)),
        ]
        for more, right in ways:
            body = {"model": DEMO, "prompt": "Say:", "max_tokens": 40, "seed": 3, "temperature": 1.0, **more}
            near = await ask(house.front.port, COMPLETIONS, body)
            far = await ask(house.theirs.port, COMPLETIONS, body)
            assert near.status == 200 and right(text_of(near.json)), (more, near.body)
            assert text_of(near.json) == text_of(far.json)
        wrong = await ask(house.front.port, COMPLETIONS, {**body, "structured_outputs": {"regex": "(["}})
        assert wrong.status == 400 and "unclosed" in wrong.error["message"]

    asyncio.run(main())


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "seed": 11}], ids=["greedy", "drawn"])
def test_a_worker_is_killed_in_the_middle_of_json(house: House, sampling: dict[str, Any]) -> None:
    """The server of the next begins anew, and what was said already is not said again."""
    form = {"type": "json_schema", "json_schema": {"name": "list", "schema": LIST}}
    body = {**chat(tokens=600), "model": DEMO, "stream": True, "response_format": form, **sampling}

    async def main() -> None:
        await served(house.front, 3, DEMO)
        whole, told = Told(), Told()
        await whole.run(house.theirs.port, CHAT, body)
        running = asyncio.create_task(
            told.run(house.front.port, CHAT, body, x_request_id=name, x_wiremesh_worker=node_of(victim))
        )
        await told.until(25)
        victim.signal(signal.SIGKILL)
        await running
        assert told.complete and told.texts == whole.texts and len(json.loads(told.texts[0])) == 3
        assert len(house.front.line(name)["nodes"]) == 2, "it was in the middle"

    name = f"victim-{len(sampling)}"
    with house.ours.moment():
        words = ("--model", DEMO, "--engine", "openai", "--url", house.theirs.url)
        victim = house.ours.start("worker", "--name", name, *words)
        ready(victim)
        asyncio.run(main())
