"""Programs that people use, against a mesh of real processes: the openai client, curl, LangChain."""

import asyncio
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import openai
import pytest

from mesh.actor import Actor
from mesh.client import Mesh
from nodes import names
from tests.nodes.text.tiny import byte_level
from tests.real.processes import PATIENCE_S, Child
from tests.real.raw_http import ask
from tests.real.serving import (
    AT_ONCE,
    MODEL,
    Frontend,
    Serving,
    chat,
    chat_tokens,
    eventually,
    mesh,
    random_model,
    ready,
    says,
    served,
)
from tests.real.tokens import play, workers

SLOW, RANDOM = "slow", "org/team/random"  # 2,000 tokens of the slow one take longer than any test waits
RANDOM_CHAT = {"model": RANDOM, "extra_body": {"ignore_eos": True}}
LANGCHAIN = """
import asyncio, sys
from langchain_openai import ChatOpenAI
model = ChatOpenAI(base_url=sys.argv[1], api_key="none", model=sys.argv[2], max_tokens=40, max_retries=0)
answer = model.invoke("hello world")
print(answer.content, answer.usage_metadata["output_tokens"], answer.response_metadata["finish_reason"])
parts = list(model.stream("hello world", stream_usage=True))
whole = sum(parts[1:], start=parts[0])
print(whole.content, whole.usage_metadata["output_tokens"], len(parts) > 20)
answers = asyncio.run(model.abatch(["one", "two"]))
print(answers[0].content, answers[1].content)
"""


class House(NamedTuple):
    """What all tests here share."""

    mesh: Serving
    front: Frontend


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("clients")
    with mesh(folder) as there:
        started = [
            *(there.worker(name, *AT_ONCE) for name in ("one", "two")),
            there.worker("slow", "--decode-ms", "0:25", "--slots", 2, serves=SLOW),
            there.start("worker", "--model", random_model(folder / "random"), "--name-as", RANDOM, "--exact"),
        ]
        front = there.frontend()
        ready(*started)
        for model, count in ((MODEL, 2), (SLOW, 1), (RANDOM, 1)):
            asyncio.run(served(front, count, model))
        yield House(there, front)


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=house.front.url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {MODEL, SLOW, RANDOM}
    for name, model in listed.items():
        assert client.models.retrieve(name) == model and model.owned_by == "wiremesh" and model.created > 1.7e9
        assert model.model_extra == {"max_model_len": 2048}


def test_a_chat_in_one_piece_and_as_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**chat(seed=1, user="ann", stream=False))
    text = says("hello world", 40)
    (choice,) = whole.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (text, "assistant", "length")
    assert whole.usage is not None and whole.model == MODEL
    prompt = len(chat_tokens("hello world"))
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (
        prompt,
        40,
        prompt + 40,
    )
    options = {"include_usage": True}
    with client.chat.completions.create(**chat(seed=1, stream=True, stream_options=options)) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert last.choices == [] and last.usage is not None and last.usage.total_tokens == prompt + 40


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    """The client's own accumulator is stricter than a loop over chunks."""
    text = says("hello world", 40)
    end = text.index(text[30:33])
    with client.chat.completions.stream(**chat(n=2, logprobs=True, top_logprobs=1, stop=text[30:33])) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    for choice in final.choices:
        assert (choice.message.content, choice.finish_reason) == (text[:end], "stop")
        assert choice.logprobs is not None
        assert "".join(entry.token for entry in choice.logprobs.content or ()) == text[:end], "each token once"


def test_many_at_once(house: House) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=house.front.url, api_key="none", max_retries=0) as client:

            async def one(number: int) -> None:
                text = f"question {number}"
                if number % 2:
                    whole = await client.chat.completions.create(**chat(text, 150))
                    assert whole.choices[0].message.content == says(text, 150)
                    return
                stream = await client.chat.completions.create(**chat(text, 150, stream=True))
                async with stream:
                    parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
                assert "".join(parts) == says(text, 150)

            await asyncio.gather(*map(one, range(24)))

    asyncio.run(main())


def test_choices_seeds_and_log_probabilities(client: openai.OpenAI) -> None:
    """Of a model that computes: the same seed is the same text, each choice is another one, and greedy has no say."""

    def answers(**more: Any) -> list[str | None]:
        made = client.chat.completions.create(**{**chat(**more), **RANDOM_CHAT})
        return [choice.message.content for choice in made.choices]

    first = answers(n=2, seed=5, temperature=0.8)
    assert answers(n=2, seed=5, temperature=0.8) == first and first[0] != first[1]
    assert answers(seed=5, temperature=0.8) == first[:1] and answers(seed=6, temperature=0.8) != first[:1]
    assert answers(temperature=0.8) != answers(temperature=0.8), "without a seed each request draws anew"
    assert len({*answers(temperature=0, n=3)}) == 1
    made = client.chat.completions.create(**{**chat(logprobs=True, top_logprobs=3, temperature=0), **RANDOM_CHAT})
    entries = made.choices[0].logprobs
    assert entries is not None and entries.content is not None and len(entries.content) == 40
    spelled = b"".join(bytes(entry.bytes or ()) for entry in entries.content)
    assert spelled.decode("utf-8", "replace") == made.choices[0].message.content
    for entry in entries.content:
        assert entry.top_logprobs[0].token == entry.token and entry.logprob <= 0
        assert [one.logprob for one in entry.top_logprobs] == sorted(one.logprob for one in entry.top_logprobs)[::-1]
    best = client.completions.create(model=RANDOM, prompt="go", max_tokens=20, best_of=4, n=2, seed=3, logprobs=1)
    means = [sum(choice.logprobs.token_logprobs or ()) for choice in best.choices if choice.logprobs]
    assert len(means) == 2 and means[0] >= means[1]


def test_stops(client: openai.OpenAI) -> None:
    text = says("hello world", 200)
    end = text.index(text[120:123])
    for stop in (text[120:123], ["nowhere", text[120:123]]):
        made = client.chat.completions.create(**chat(tokens=200, stop=stop))
        assert (made.choices[0].message.content, made.choices[0].finish_reason) == (text[:end], "stop")
        with client.chat.completions.create(**chat(tokens=200, stop=stop, stream=True)) as stream:
            chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[:end]
        assert chunks[-1].choices[0].finish_reason == "stop"
    (token,) = byte_level().encode(text[50], add_special=False)
    made = client.chat.completions.create(**chat(tokens=200), extra_body={"stop_token_ids": [token]})
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == (text[: text.index(text[50])], "stop")
    kept = client.chat.completions.create(
        **chat(tokens=200, stop=text[120:123]), extra_body={"include_stop_str_in_output": True}
    )
    assert kept.choices[0].message.content == text[: end + 3]


def test_completions(client: openai.OpenAI) -> None:
    """All four forms of a prompt; several prompts and choices keep their order."""
    tokens = [byte_level().encode(text, add_special=False) for text in ("hello", "world and")]
    for prompt, wanted in (
        ("hello", tokens[:1]),
        (["hello", "world and"], tokens),
        (tokens[1], tokens[1:]),
        (tokens, tokens),
    ):
        made = client.completions.create(model=MODEL, prompt=prompt, max_tokens=30, n=2)
        assert [choice.text for choice in made.choices] == [says(one, 30) for one in wanted for _ in range(2)]
        assert made.usage is not None and made.usage.completion_tokens == 60 * len(wanted)
    echoed = client.completions.create(model=MODEL, prompt="hello", max_tokens=5, echo=True)
    assert echoed.choices[0].text == "hello" + says(tokens[0], 5)
    with client.completions.create(model=MODEL, prompt=tokens, max_tokens=30, n=2, stream=True) as stream:
        parts = [""] * 4
        for chunk in stream:
            for choice in chunk.choices:
                parts[choice.index] += choice.text
    assert parts == [says(one, 30) for one in tokens for _ in range(2)]
    shown = client.completions.create(model=MODEL, prompt=tokens[0], max_tokens=9, logprobs=2)
    told = shown.choices[0].logprobs
    assert told is not None and told.tokens == list(says(tokens[0], 9)) and told.text_offset == list(range(9))


async def load(actor: Actor, model: str) -> dict[str, int]:
    """What the only worker of a model has to do now."""
    (node,) = await workers(actor, model)
    (status,) = await Mesh(actor).client(names.STATUS).direct(None, node).all()
    found: dict[str, int] = status["load"]
    return found


def gives_up(client: openai.OpenAI) -> None:
    """Wait less than the answer takes. The frontend knows how long, and may be the first to say that it is too late."""
    with pytest.raises((openai.APITimeoutError, openai.InternalServerError)) as caught:
        client.with_options(timeout=0.2).chat.completions.create(**{**chat(tokens=2000), "model": SLOW})
    late = caught.value
    assert not isinstance(late, openai.InternalServerError) or late.code == "deadline_exceeded"


def test_a_client_that_goes_frees_its_slot(house: House, client: openai.OpenAI) -> None:
    """By closing the stream, by giving up, by being killed; and who waited gets the slot."""

    def streams(**more: Any) -> Any:
        return client.chat.completions.create(**{**chat(tokens=2000, stream=True, **more), "model": SLOW})

    def running(count: int) -> None:
        async def body(actor: Actor) -> None:
            found = await eventually(lambda: load(actor, SLOW), lambda found: found["running"] == count)
            assert count or found["blocks_used"] == found["waiting"] == 0

        play(house.mesh.join, body)

    with streams() as stream:
        next(stream)
        running(1)
    running(0)
    with streams(n=2) as stream:
        next(stream)
        running(2)
        gives_up(client)  # while it waits
        running(2)
    running(0)
    gives_up(client)
    running(0)
    body = json.dumps({**chat(tokens=2000, stream=True), "model": SLOW})
    with Child("-c", CURL, house.front.url, body) as curl:
        curl.line("data: ")
        running(1)
    running(0)


# curl in a Python process of the tests' own kind, so that its output is read line by line.
CURL = """
import os, sys
base, body = sys.argv[1:3]
os.execvp("curl", ["curl", "-sN", base + "/chat/completions", "-H", "content-type: application/json", "-d", body])
"""


def test_curl(house: House) -> None:
    body = json.dumps(chat(stream=True))
    with Child("-c", CURL, house.front.url, body) as curl:
        assert curl.wait() == 0
        *events, done = curl.text.removesuffix("\n\n").split("\n\n")
        assert done == "data: [DONE]"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == says("hello world", 40)


@pytest.mark.skipif(importlib.util.find_spec("langchain_openai") is None, reason="langchain-openai is not installed")
def test_langchain(house: House) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LANGCHAIN, house.front.url, MODEL],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert found.returncode == 0, found.stderr
    text = says("hello world", 40)
    assert found.stdout.splitlines() == [
        f"{text} 40 length",
        f"{text} 40 True",
        f"{says('one', 40)} {says('two', 40)}",
    ]


def test_errors_are_the_clients_exceptions(house: House, client: openai.OpenAI) -> None:
    def refused(kind: type[openai.APIStatusError], **more: Any) -> openai.APIStatusError:
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**chat(**more))
        assert type(caught.value) is kind and caught.value.request_id
        return caught.value

    assert refused(openai.NotFoundError, model="nobody").code == "model_not_found"
    assert refused(openai.BadRequestError, tokens=5000).code == "context_length_exceeded"
    assert refused(openai.BadRequestError, messages=[], stream=True).param == "messages"
    assert refused(openai.BadRequestError, temperature=3).param == "temperature"
    assert refused(openai.BadRequestError, response_format={"type": "xml"}).param == "response_format.type"
    with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
        client.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.NotFoundError) as nowhere:
        client.moderations.create(input="x")
    assert nowhere.value.code == "unknown_url"


def test_a_model_without_workers_and_a_client_that_tries_again(house: House) -> None:
    name = "comes/and/goes"
    wanted: dict[str, Any] = {**chat(), "model": name}
    with (
        house.mesh.moment(),
        openai.OpenAI(base_url=house.front.url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client,
    ):
        gone = house.mesh.worker("gone", *AT_ONCE, serves=name)
        asyncio.run(served(house.front, 1, name))
        gone.signal(signal.SIGTERM)
        assert gone.wait() == 0
        asyncio.run(served(house.front, 0, name))
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**wanted)
        assert (caught.value.status_code, caught.value.code) == (503, "model_unavailable")
        assert float(caught.value.response.headers["retry-after-ms"]) > 0
        house.mesh.worker("back", *AT_ONCE, serves=name)
        made = client.with_options(max_retries=30).chat.completions.create(**wanted)
        assert made.choices[0].message.content == says("hello world", 40)


def test_tokens_there_and_back(house: House) -> None:
    async def main() -> None:
        port = house.front.port
        for text in ("hello world", "caf\u00e9 \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f469\u200d\U0001f467", " \n\t"):
            found = (await ask(port, "/tokenize", {"model": MODEL, "prompt": text, "add_special_tokens": False})).json
            assert found["tokens"] == byte_level().encode(text, add_special=False)
            assert found["count"] == len(found["tokens"]) and found["max_model_len"] == 2048
            back = (await ask(port, "/detokenize", {"model": MODEL, "tokens": found["tokens"]})).json
            assert back == {"prompt": text}
        found = (await ask(port, "/v1/tokenize", {**chat(), "max_tokens": None})).json
        assert found["tokens"] == chat_tokens("hello world")

    asyncio.run(main())
