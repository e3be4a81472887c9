"""What is over is gone at once, without a collection: that would take long, and hold up all streams meanwhile."""

import gc
from typing import Any

import pytest

from nodes.frontend.broadcast import Broadcast
from nodes.frontend.choice import Choice
from nodes.frontend.generation import Generation
from tests.nodes.frontend.fakes import House, chat, eventually, served

CHAT = "/v1/chat/completions"
STREAM: dict[str, Any] = {"stream": True}
LONG = 500  # tokens: seconds


def left() -> list[str]:
    return [type(found).__name__ for found in gc.get_objects() if isinstance(found, Broadcast | Choice | Generation)]


@pytest.mark.parametrize(
    "more",
    [
        {},
        STREAM,
        {"n": 2, "logprobs": True},
        {**STREAM, "n": 2, "stop": ["a", "b", "c", "d"]},
        {**STREAM, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ],
)
def test_an_answer_leaves_nothing(more: dict[str, Any]) -> None:
    async def ask(there: House) -> None:
        for _ in range(3):
            assert (await there.post(CHAT, chat(**more))).status == 200
        await eventually(lambda: not there.frontend.running)
        await eventually(lambda: not left())

    without_collections(ask)


def test_nor_does_one_whose_client_has_gone() -> None:
    async def leave(there: House) -> None:
        there.actor.pace_s = 0.01
        reading = await there.open(CHAT, chat(stream=True, max_tokens=LONG))
        await reading.piece()
        assert left()
        reading.close()
        await eventually(lambda: not there.frontend.running)
        await eventually(lambda: not left())

    without_collections(leave)


def without_collections(test: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        served(test)
    finally:
        gc.enable()
