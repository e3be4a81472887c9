"""Answers that must be something, from real processes: valid, parsed by the client, and the same whatever is killed."""

import asyncio
import json
import re
import signal
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal, NamedTuple

import openai
import pytest
from pydantic import BaseModel

from tests.real.processes import PATIENCE_S
from tests.real.raw_http import CHAT, COMPLETIONS, Told, ask
from tests.real.serving import (
    MODEL,
    Frontend,
    Serving,
    advised,
    chat,
    eventually,
    mesh,
    metric,
    node_of,
    ready,
    served,
)

pytest.importorskip("llguidance")

DEMO = "demo"
WORKER = ("--model", "demo", "--engine", "numpy", "--exact")
LONG = {"type": "array", "items": {"type": "string", "minLength": 60, "maxLength": 80}, "minItems": 3, "maxItems": 3}
RECORD = {
    "type": "object",
    "properties": {"said": LONG, "sure": {"type": "boolean"}},
    "required": ["said", "sure"],
    "additionalProperties": False,
}


class Verdict(BaseModel):
    """What a program wants to know."""

    kind: Literal["good", "bad", "n\u00e4h"]
    reasons: tuple[bool, bool] | None
    sure: bool


class House(NamedTuple):
    """What all tests here share: a frontend, a worker of the demo model, and one whose engine follows no guides."""

    mesh: Serving
    front: Frontend
    stays: str


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with mesh(tmp_path_factory.mktemp("guided")) as there:
        stays = there.start("worker", "--name", "stays", *WORKER)
        simulated = there.worker("simulated")
        front = there.frontend()
        ready(stays, simulated)
        for model in (DEMO, MODEL):
            asyncio.run(served(front, 1, model))
        yield House(there, front, node_of(stays))


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=house.front.url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


def named(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "record", "strict": True, "schema": schema}}


def text_of(answer: Any) -> str:
    (choice,) = answer["choices"]
    found: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return found


# --- The openai client ---------------------------------------------------------------------------------------


def test_the_client_parses_what_it_asked_for(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Is it good?"}]
    for seed in range(3):
        found = client.chat.completions.parse(model=DEMO, messages=messages, response_format=Verdict, seed=seed)
        message = found.choices[0].message
        assert isinstance(message.parsed, Verdict) and message.refusal is None
        assert json.loads(message.content or "") == json.loads(message.parsed.model_dump_json())
        assert found.choices[0].finish_reason == "stop"


def test_the_client_parses_a_stream(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Is it good?"}]
    with client.chat.completions.stream(model=DEMO, messages=messages, response_format=Verdict, seed=5) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Verdict)


def test_every_way_to_say_it(house: House) -> None:
    async def main() -> None:
        ways: list[tuple[dict[str, Any], Callable[[str], object]]] = [
            ({"response_format": {"type": "json_object"}}, lambda text: text.startswith("{")),
            ({"guided_regex": "[A-C]{3}-[0-9]"}, lambda text: re.fullmatch("[A-C]{3}-[0-9]", text)),
            ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
            ({"guided_json": {"enum": [1, "two"]}}, lambda text: json.loads(text) in (1, "two")),
            ({"guided_grammar": 'root ::= "a" [0-9]{2} "b"'}, lambda text: re.fullmatch("a[0-9]{2}b", text)),
            ({"structured_outputs": {"grammar": "start: /[xy]{4}/"}}, lambda text: re.fullmatch("[xy]{4}", text)),
        ]
        for more, right in ways:
            common = {"model": DEMO, "max_tokens": 40, "seed": 3, "temperature": 1.0, "logprobs": 1, **more}
            written = await ask(house.front.port, COMPLETIONS, {"prompt": "Say:", **common})
            common["logprobs"] = True
            said = await ask(house.front.port, CHAT, {"messages": chat()["messages"], **common})
            for found in (written, said):
                assert found.status == 200, found.body
                assert right(text_of(found.json)), (more, found.json)
        shown = await ask(house.front.port, COMPLETIONS, {**common, **ways[2][0], "logprobs": 0} | ECHO)
        assert text_of(shown.json) in ("Say: yes", "Say: no")

    asyncio.run(main())


ECHO: dict[str, Any] = {"prompt": "Say: ", "echo": True, "logprobs": None, "structured_outputs": None}


# --- What is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "more", "param", "words"),
    [
        (MODEL, {"response_format": {"type": "json_object"}}, "response_format", "engine"),
        (MODEL, {"guided_regex": "a"}, "guided_regex", "engine"),
        (DEMO, {"guided_regex": "(["}, "guided_regex", "unclosed"),
        (DEMO, {"response_format": named({"type": "frob"})}, "response_format", "frob"),
        (DEMO, {"structured_outputs": {"json": '{"a"'}}, "structured_outputs", "JSON schema"),
        (DEMO, {"guided_grammar": "start: x"}, "guided_grammar", "unknown name"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    house: House, model: str, more: dict[str, Any], param: str, words: str
) -> None:
    found = asyncio.run(ask(house.front.port, CHAT, {**chat(), "model": model, **more}))
    assert found.status == 400 and found.error["param"] == param and words in found.error["message"]
    assert found.error["type"] == "invalid_request_error"


# --- Whatever happens to it ----------------------------------------------------------------------------------


def bodies() -> list[dict[str, Any]]:
    told = {"logprobs": True, "return_tokens_as_token_ids": True}
    common = {**chat(tokens=600), "model": DEMO, "stream": True, "response_format": named(RECORD)}
    return [
        {**common, "temperature": 0},
        {**common, "temperature": 1.0, "seed": 11, "n": 2},
        {**common, "temperature": 0.9, "seed": 12, "frequency_penalty": 0.3, **told},
    ]


async def streams(front: Frontend, name: str, worker: str = "", disturb: Callable[[], Any] = str) -> list[Told]:
    tolds = [Told() for _ in bodies()]
    pinned = {"x_wiremesh_worker": worker} if worker else {}
    async with asyncio.TaskGroup() as group:
        for place, (told, body) in enumerate(zip(tolds, bodies(), strict=True)):
            group.create_task(told.run(front.port, CHAT, body, x_request_id=f"{name}-{place}", **pinned))
        for told in tolds:
            await told.until(25)
        disturb()
    for told in tolds:
        assert told.complete and set(told.reasons.values()) == {"stop"}
        for text in told.texts:
            assert [*json.loads(text)] == ["said", "sure"] and len(json.loads(text)["said"]) == 3
    return tolds


def test_a_worker_is_killed_in_the_middle_of_json(house: House) -> None:
    """And the text goes on where it was: valid, and the one that it would have been."""

    async def main() -> None:
        await served(house.front, 2, DEMO)
        undisturbed = await streams(house.front, "calm", house.stays)
        found = await streams(house.front, "killed", node_of(victim), lambda: victim.signal(signal.SIGKILL))
        for one, same in zip(found, undisturbed, strict=True):
            assert one.texts == same.texts
        for place in range(len(found)):
            assert len(house.front.line(f"killed-{place}")["nodes"]) == 2, "it was in the middle"

    with house.mesh.moment():
        victim = house.mesh.start("worker", "--name", "victim", *WORKER)
        ready(victim)
        asyncio.run(main())


def test_the_first_token_is_of_a_prefill_worker(tmp_path_factory: pytest.TempPathFactory, house: House) -> None:
    """Which keeps to the guide too."""

    async def main(front: Frontend) -> None:
        await served(front, 1, DEMO)
        await eventually(
            lambda: metric(front.port, "wiremesh_node_peers", node=node_of(front.child)), lambda found: found >= 3
        )
        undisturbed = await streams(house.front, "whole", house.stays)
        tries = count()

        async def apart() -> tuple[list[Told], list[int]]:
            name = f"apart-{next(tries)}"
            found = await streams(front, name)
            return found, [len(front.line(f"{name}-{place}")["nodes"]) for place in range(len(found))]

        found, nodes = await advised(front, sum(body.get("n", 1) for body in bodies()), apart)
        for one, same in zip(found, undisturbed, strict=True):
            assert one.texts == same.texts
        assert set(nodes) == {2}, "one for the prompt, one for the rest"

    with mesh(tmp_path_factory.mktemp("apart")) as there:
        nodes = [there.start("worker", "--role", role, *WORKER) for role in ("prefill", "decode")]
        router = there.start("router", "--disagg-tokens", 0)
        front = there.frontend()
        ready(*nodes, router)
        asyncio.run(main(front))
