"""TensorRT-LLM workers on a mesh of real processes, with a fake of its package that computes with our numpy engine."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.real.processes import ROOT, Child
from tests.real.raw_http import CHAT, Told, ask
from tests.real.serving import Frontend, Serving, chat, eventually, mesh, metric, node_of, ready, served

MODEL = "demo"
PACKAGE = """
import sys
from tests.nodes.engines.trtllm_fake import modules
sys.modules.update({name: module for name, module in modules().items() if "." in name})
globals().update({name: value for name, value in vars(modules()[__name__]).items() if name != "__spec__"})
"""
NATIVE = ("--", "--dtype", "float32")
TEXTS = ("Tell me about the sea.", "Count the birds on the roof, please.", "What is a mesh?")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder from which the fake can be imported as if it were installed."""
    (tmp_path / "package" / "tensorrt_llm").mkdir(parents=True)
    (tmp_path / "package" / "tensorrt_llm" / "__init__.py").write_text(PACKAGE)
    return tmp_path / "package"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Serving]:
    with mesh(tmp_path) as found:
        yield found


def worker(stack: ExitStack, there: Serving, package: Path, name: str, *words: object) -> Child:
    """A worker that finds the fake, not waited for."""
    command = ("-m", "launch.cli", "worker", "--join", there.join, "--name", name, "--engine", "trtllm")
    place = {"PYTHONPATH": f"{ROOT}:{package}"}
    return stack.enter_context(Child(*command, "--model", MODEL, "--slots", 4, *words, *NATIVE, environment=place))


async def said(front: Frontend, text: str, tokens: int = 24) -> Any:
    answer = await ask(front.port, CHAT, asked(text, tokens))
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["message"]["content"]


def asked(text: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {**chat(text, tokens, temperature=0, ignore_eos=True, **more), "model": MODEL}


def test_prompts_are_handed_over_and_streams_survive(there: Serving, package: Path) -> None:
    front = there.frontend()
    alone = there.start("worker", "--name", "alone", "--engine", "numpy", "--model", MODEL)
    router = there.start("router", "--disagg-tokens", 0)
    ready(alone, router)

    async def main(stack: ExitStack) -> None:
        await served(front, 1, MODEL)
        truth = [await said(front, text) for text in TEXTS]
        long = await said(front, "long", 400)
        alone.kill()
        feeder = worker(stack, there, package, "feeder", "--role", "prefill")
        decode = [worker(stack, there, package, f"decode{number}", "--role", "decode") for number in range(2)]
        ready(feeder, *decode)
        await served(front, 2, MODEL)

        async def handed() -> float:
            assert [await said(front, text) for text in TEXTS] == truth
            return await metric(front.port, "trtllm_kv_transfer_success_total")

        await eventually(handed, bool)
        told = Told()
        running = asyncio.ensure_future(told.run(front.port, CHAT, asked("long", 400, stream=True)))
        await told.until(20)
        name = "wiremesh_engine_active_requests"
        busy = [child for child in decode if await metric(front.port, name, node=node_of(child))]
        busy[0].kill()
        await running
        assert "".join(told.texts) == long, "whoever of them died"
        assert await metric(front.port, "trtllm_kv_transfer_failed_total") == 0

    with ExitStack() as stack:
        asyncio.run(main(stack))
