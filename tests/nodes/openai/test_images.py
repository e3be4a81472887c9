"""What a request for pictures asks for, in OpenAI's words, and how the answer looks."""

import base64
import json
from typing import Any

import pytest

from nodes.contract.pictures import Scene
from nodes.openai import images
from nodes.openai.errors import Problem
from nodes.openai.images import Images

ENTROPY = 2**40 + 77


def parsed(**fields: Any) -> Images | Problem:
    return images.parse(json.dumps({"model": "m", "prompt": "a cat", **fields}).encode(), ENTROPY)


def scenes(**fields: Any) -> tuple[Scene, ...]:
    found = parsed(**fields)
    assert isinstance(found, Images), found
    return found.scenes


def test_all_words_are_understood() -> None:
    found = parsed(
        n=1,
        size="128x64",
        quality="standard",
        response_format="url",
        seed=7,
        negative_prompt="dogs",
        num_inference_steps=12,
        guidance_scale=0.0,
        stream=True,
        background=None,
        user="me",
    )
    assert found == Images("m", (Scene("a cat", "dogs", 128, 64, 12, 0.0, 7),), True, True, "image")
    assert scenes(size="auto") == scenes() == (Scene("a cat", seed=77),), "the rest suits the model"


def test_each_picture_has_a_seed_of_its_own_and_the_first_the_one_that_was_asked_for() -> None:
    many = scenes(n=10, seed=5)
    seeds = [scene.seed for scene in many]
    assert seeds[0] == 5 and len(set(seeds)) == 10 and max(seeds) < 2**32
    assert seeds == [scene.seed for scene in scenes(n=10, seed=5)], "the same again"
    assert seeds[:3] == [scene.seed for scene in scenes(n=3, seed=5)]
    assert scenes(seed=2**63 - 1)[0].seed == 2**63 - 1


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"size": "64"}, "size", "invalid_value"),
        ({"size": "0x64"}, "size", "invalid_value"),
        ({"size": "4097x64"}, "size", "invalid_value"),
        ({"quality": "hd"}, "quality", "unsupported_value"),
        ({"output_format": "webp"}, "output_format", "unsupported_value"),
        ({"style": "vivid"}, "style", "unsupported_parameter"),
        ({"num_inference_steps": 1_001}, "num_inference_steps", "invalid_value"),
        ({"guidance_scale": -1}, "guidance_scale", "invalid_value"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"strength": 0.5}, "strength", "unknown_parameter"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(fields: dict[str, Any], param: str, code: str) -> None:
    found = parsed(**fields)
    assert isinstance(found, Problem) and (found.status, found.param, found.code) == (400, param, code), found


def test_bytes_are_an_answer_or_a_complaint() -> None:
    for body in (b"", b"[]", b'{"model": "m"}', b"\xff", b'{"prompt": "x"}'):
        found = images.parse(body, 1)
        assert isinstance(found, Problem) and found.status == 400


def test_an_answer_holds_the_pictures() -> None:
    parts = [("image/png", b"one"), ("image/png", b"two")]
    found = json.loads(images.answer(parts, [1, 2], False, 99))
    assert found["created"] == 99 and found["output_format"] == "png"
    assert [base64.b64decode(one["b64_json"]) for one in found["data"]] == [b"one", b"two"]
    assert [one["seed"] for one in found["data"]] == [1, 2] and "url" not in found["data"][0]
    [linked, _] = json.loads(images.answer(parts, [1, 2], True, 99))["data"]
    assert linked == {"url": "data:image/png;base64," + base64.b64encode(b"one").decode(), "seed": 1}


def test_events_have_a_name_and_data() -> None:
    name, data = images.progress("image", 1, 2, 3).decode().removesuffix("\n\n").split("\n")
    assert name == "event: image_generation.progress"
    expected = {"type": "image_generation.progress", "index": 1, "step": 2, "steps": 3}
    assert json.loads(data.removeprefix("data: ")) == expected
