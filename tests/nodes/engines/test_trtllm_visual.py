"""TensorRT-LLM's pictures and clips, against a fake of VisualGen; and the fake against the package, where that is."""

import dataclasses
import inspect
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.contract.pictures import PainterDead, Scene, fitted
from nodes.diffusion.worker import load
from nodes.engine_options import EngineOptions
from nodes.engines.trtllm import library, visual
from nodes.engines.trtllm.visual import PLACES, VisualPainter
from nodes.folder import ModelRefused
from tests.nodes.engines import trtllm_visual as fake
from tests.nodes.engines.trtllm_visual import installed


def started(kind: str = "image", words: tuple[str, ...] = (), **changed: Any) -> VisualPainter:
    painter = VisualPainter(f"/models/a-{kind}-model", "m", kind, words)
    with installed(**changed):
        painter.start()
    return painter


def painted(painter: VisualPainter, scene: Scene) -> tuple[bytes, list[int]]:
    steps: list[int] = []
    return painter.paint(fitted(scene, painter.card), steps.append), steps


@pytest.mark.skipif(find_spec("tensorrt_llm") is not None, reason="it is not missing")
def test_without_the_package_one_sentence_says_what_to_do() -> None:
    with pytest.raises(ModelRefused, match="pip install tensorrt-llm"):
        VisualPainter("/models/x", "m", "image", ()).start()


def test_a_worker_of_it_is_loaded_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "an-image").mkdir()
    with installed():
        folder, words = str(tmp_path / "an-image"), ("--n-workers", "2")
        card = load(EngineOptions(folder, engine="trtllm", diffusion="image", native=words)).card
    assert (card.engine, card.model, card.kind, card.tells_steps) == ("trtllm VisualGen", "an-image", "image", False)
    assert (card.width, card.height, card.steps, card.guidance, card.frames) == (832, 480, 50, 5.0, 0)


def test_it_is_asked_in_its_words() -> None:
    painter = started()
    found, steps = painted(painter, Scene("a cat", "dogs", 64, 32, 7, 2.0, 9))
    asked = fake.VisualGenParams(
        width=64, height=32, num_inference_steps=7, guidance_scale=2.0, seed=9, negative_prompt="dogs"
    )
    assert painter._engine.asked == [("a cat", asked)]
    assert len(found) == 64 * 32 * 3 and steps == [7], "there is nothing to be seen before its end"
    assert painted(painter, Scene("a cat", "dogs", 64, 32, 7, 2.0, 9))[0] == found


def test_a_clip_has_frames() -> None:
    painter = started("video")
    found, _ = painted(painter, Scene("a cat", "", 64, 32, 7, 2.0, 9, 5, kind="video"))
    assert len(found) == 5 * 64 * 32 * 3 and painter._engine.asked[0][1].num_frames == 5
    assert painter.card.frames == 81


def test_what_it_cannot_do_is_said_in_a_sentence() -> None:
    with pytest.raises(ModelRefused, match=r"makes no images of .*speed.*not permitted"):
        started(words=("--speed", "9"))
    with pytest.raises(ModelRefused, match="no flag of TensorRT-LLM"):
        started(words=("speed",))
    with pytest.raises(ModelRefused, match="has no VisualGen"):
        started(VisualGen=None)

    @dataclass
    class Older:
        width: int = 0
        height: int = 0

    with pytest.raises(ModelRefused, match="has no num_inference_steps, seed, num_frames"):
        started("video", VisualGenParams=Older)


def test_what_it_makes_is_looked_at() -> None:
    painter = started("video")
    painter._engine.makes = "image"
    scene = Scene("a cat", "", 64, 32, 7, 2.0, 9, 5, kind="video")
    with pytest.raises(ValueError, match="gave no video"):
        painted(painter, scene)
    painter._engine.generate = lambda inputs, params: fake.MediaOutput(video=np.zeros((4, 32, 64, 3), "uint8"))
    assert len(painted(painter, scene)[0]) == 4 * 32 * 64 * 3, "some make one frame less than they are asked for"
    painter._engine.generate = lambda inputs, params: fake.MediaOutput(video=np.zeros((5, 64, 32, 3), "uint8"))
    with pytest.raises(ValueError, match=r"not \(32, 64, 3\)"):
        painted(painter, scene)


def test_one_that_fails_is_alone_unless_its_processes_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = started()
    with pytest.raises(RuntimeError, match="out of memory"):
        painted(painter, Scene("a cat", width=64, height=32, steps=901))
    monkeypatch.setattr(visual, "has_ended", lambda process: True)
    painter._guard.processes.append(2**30)
    with pytest.raises(PainterDead, match="its own log"):
        painted(painter, Scene("a cat", width=64, height=32, steps=901))
    painter._guard.processes.clear()
    engine = painter._engine
    painter.stop()
    painter.stop()
    assert engine.shutdowns == 1


@pytest.mark.skipif(find_spec("tensorrt_llm") is None, reason="tensorrt_llm is not installed")
def test_the_fake_is_like_the_package() -> None:
    """Each name that the adapter uses is there, with the parameters and fields that it uses."""
    theirs = {name: visual._class(name) for name in (visual.ENGINE, visual.PARAMS)}
    fields = {one.name for one in dataclasses.fields(fake.VisualGenParams)}
    assert all(library.has(theirs[visual.PARAMS], name) for name in fields)
    for method in ("__init__", "generate", "shutdown"):
        wanted = inspect.signature(getattr(fake.VisualGen, method)).parameters.keys() - {"kwargs", "model"}
        assert wanted <= inspect.signature(getattr(theirs[visual.ENGINE], method)).parameters.keys(), method
    assert PLACES
