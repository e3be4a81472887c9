"""llama.cpp on the mesh, in real processes: the right tokens, whoever is killed, and caches that move.

Runs where llama-cpp-python is installed: ./launch/test.sh --engine llama
"""

import asyncio
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from launch.codes import Exit
from nodes.folder import contents_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.engines.engines import POSITION_BYTES
from tests.engines.reference import DEMO, greedy
from tests.nodes.engines.ggufs import converted
from tests.real.processes import Child
from tests.real.raw_http import CHAT, Told, ask
from tests.real.serving import MODEL, Frontend, Serving, chat, mesh, metric, node_of, ready, served

pytestmark = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed here")

COMPLETIONS = "/v1/completions"
COUNT = 400
STREAMS = 6
BLOCK_BYTES = 16 * POSITION_BYTES
THREADS = ("--", "--n-threads", 1, "--n-threads-batch", 1)
PROMPTS = [[5 + (7 * index + 13 * stream) % 1500 for index in range(60)] for stream in range(STREAMS)]


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Serving]:
    with mesh(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(DEMO, tmp_path_factory.mktemp("gguf"))


def worker(there: Serving, name: str, file: Path, *words: object) -> Child:
    """Not waited for."""
    model = ("--engine", "llama", "--model", file.parent, "--name-as", MODEL, "--slots", 8)
    return there.start("worker", "--name", name, *model, *words, *THREADS)


def asked(prompt: list[int]) -> dict[str, Any]:
    return {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": COUNT,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def text_of(prompt: list[int], count: int = COUNT) -> str:
    """What the model says, undisturbed and by another engine."""
    return Tokenizer(ModelFiles(**contents_of(DEMO))).decode(greedy(prompt, count))


async def streams(front: Frontend) -> tuple[list[Told], Any]:
    """All prompts, each of which has begun to be answered; and what waits for their ends."""
    told = [Told() for _ in PROMPTS]
    runs = [one.run(front.port, COMPLETIONS, asked(prompt)) for one, prompt in zip(told, PROMPTS, strict=True)]
    ends = asyncio.gather(*runs)
    for one in told:
        await one.until(5)
    return told, ends


def test_who_is_killed_costs_no_token(there: Serving, file: Path) -> None:
    front = there.frontend()
    workers = [worker(there, f"w{number}", file) for number in range(2)]
    ready(*workers)

    async def main() -> None:
        await served(front, 2)
        told, ends = await streams(front)
        workers[0].signal(signal.SIGKILL)
        await ends
        for one, prompt in zip(told, PROMPTS, strict=True):
            assert one.texts == [text_of(prompt)] and one.complete
        assert await metric(front.port, "wiremesh_frontend_migrations_total") > 0
        await served(front, 1)

    asyncio.run(main())


def test_what_was_computed_goes_along(there: Serving, file: Path) -> None:
    """From a prefill worker to a decode worker, and on to another when that one is asked to leave."""
    front = there.frontend()
    router = there.start("router", "--disagg-tokens", 0)
    feeder = worker(there, "feeder", file, "--role", "prefill")
    one, two = (worker(there, name, file, "--role", "decode") for name in ("one", "two"))
    ready(router, feeder, one, two)

    async def main() -> None:
        await served(front, 2)
        told, ends = await streams(front)
        one.signal(signal.SIGTERM)
        await ends
        for stream, prompt in zip(told, PROMPTS, strict=True):
            assert stream.texts == [text_of(prompt)] and stream.complete
        assert one.wait() == Exit.OK
        name = "wiremesh_engine_tokens_total"
        assert await metric(front.port, name, node=node_of(feeder), kind="prefilled") == sum(map(len, PROMPTS))
        assert await metric(front.port, name, node=node_of(two), kind="prefilled") == 0, "nothing is computed again"

    asyncio.run(main())


def test_prompts_come_back_from_host_memory(there: Serving, file: Path) -> None:
    """The cache has room for three of them and their answers."""
    front = there.frontend()
    ready(worker(there, "w", file, "--kv-bytes", 40 * BLOCK_BYTES, "--kv-host-bytes", 8 << 20))
    prompts = [[5 + (11 * index + 17 * number) % 1500 for index in range(161)] for number in range(8)]

    async def said(prompt: list[int]) -> tuple[str, int]:
        answer = await ask(front.port, COMPLETIONS, {**asked(prompt), "stream": False, "max_tokens": 8})
        assert answer.status == 200, answer.body
        return answer.json["choices"][0]["text"], answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]

    async def main() -> None:
        await served(front, 1)
        first = [await said(prompt) for prompt in prompts]
        assert [await said(prompt) for prompt in prompts] == [(text, 160) for text, _ in first]
        assert first == [(text_of(prompt, 8), 0) for prompt in prompts]
        assert await metric(front.port, "wiremesh_tier_hit_blocks_total", tier="host") > 0

    asyncio.run(main())


def test_what_cannot_be_served_is_a_sentence(there: Serving, file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in file.parent.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 5000 if path.suffix == ".gguf" else None])
    named = ("--engine", "llama", "--model")
    for words, sentence in (
        ((*named, broken), "llama.cpp cannot load"),
        ((*named, DEMO), "has no GGUF file: name one, as in --model"),
        ((*named, file.parent, "--", "--n-gpus", 1), "'--n-gpus' is none of llama.cpp's parameters that can be set"),
        ((*named, file.parent, "--slots", 500), "it has at most"),
    ):
        with there.start("worker", *words) as child:
            assert child.wait() == Exit.SETTING, child.text
            assert sentence in child.text and "Traceback" not in child.text


def test_an_answer_has_its_log_probabilities(there: Serving, file: Path) -> None:
    front = there.frontend()
    ready(worker(there, "w", file))

    async def main() -> None:
        await served(front, 1)
        body = {**asked(PROMPTS[0]), "stream": False, "logprobs": 2, "max_tokens": 5}
        answer = await ask(front.port, COMPLETIONS, body)
        assert answer.status == 200, answer.body
        assert len(answer.json["choices"][0]["logprobs"]["token_logprobs"]) == 5

    asyncio.run(main())


def test_a_file_alone_is_a_model(there: Serving, tmp_path: Path) -> None:
    """Its tokenizer, its template and its ends come out of it, and travel to the frontend."""
    front = there.frontend()
    alone = converted(DEMO, tmp_path / "alone", shared=False)
    child = there.start("worker", "--engine", "llama", "--model", alone, "--name-as", MODEL, *THREADS)
    ready(child)
    tokenizer = Tokenizer(ModelFiles(**contents_of(DEMO)))
    prompt = "The quick brown fox; it's 42"

    async def main() -> None:
        await served(front, 1)
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 30, "temperature": 0, "ignore_eos": True}
        answer = await ask(front.port, COMPLETIONS, body)
        assert answer.json["choices"][0]["text"] == tokenizer.decode(greedy(tokenizer.encode(prompt), 30))
        answer = await ask(front.port, CHAT, chat("hello", 20))
        assert answer.status == 200 and answer.json["choices"][0]["finish_reason"] in ("stop", "length"), answer.body

    asyncio.run(main())
