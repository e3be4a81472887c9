"""The demo as people start it, with the model that comes along, and the openai client while a worker is killed."""

import json
import os
import signal
from typing import Any

import openai

from tests.real.processes import PATIENCE_S, Child

QUESTION = "What is Wiremesh?"


def event(child: Child, topic: str, begin: str = "") -> dict[str, Any]:
    """What `wiremesh up` has told, waited for."""
    return dict(json.loads(child.line(f'"event":"{topic}","text":"{begin}')))


def test_the_demo_answers_while_a_worker_is_killed(runtime: str) -> None:
    with Child("-m", "launch.cli", "up", "--workers", 2, "--port", 0, "--json") as child:
        url = event(child, "serving")["url"] + "/v1"
        pids = [event(child, "ready", f"worker-{number} is ready")["pid"] for number in (1, 2)]
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            (model,) = client.models.list()
            wanted: dict[str, Any] = {"model": model.id, "messages": [{"role": "user", "content": QUESTION}]}
            answer = client.chat.completions.create(**wanted, temperature=0).choices[0]
            assert answer.finish_reason == "stop" and len(answer.message.content or "") > 20
            wanted |= {"temperature": 0.7, "seed": 3, "max_tokens": 200, "n": 3, "extra_body": {"ignore_eos": True}}
            undisturbed = client.chat.completions.create(**wanted)
            texts = [""] * 3
            with client.chat.completions.create(**wanted, stream=True) as stream:
                for number, chunk in enumerate(stream):
                    for choice in chunk.choices:
                        texts[choice.index] += choice.delta.content or ""
                    if number == 40:
                        os.kill(pids[0], signal.SIGKILL)
            assert texts == [choice.message.content for choice in undisturbed.choices]
            assert "killed by SIGKILL" in event(child, "ended", "worker-1")["text"]
            again = client.chat.completions.create(**{**wanted, "n": 1}).choices[0]
            assert again.message.content == texts[0]
        child.signal(signal.SIGINT)
        assert child.wait() == 0
