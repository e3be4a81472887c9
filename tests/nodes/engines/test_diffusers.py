"""Pictures with the diffusers library, on a tiny pipeline with random weights. Skipped where it is not installed."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.contract.pictures import PainterDead, Scene, Unwanted, fitted
from nodes.engines.diffusers import DiffusersPainter
from nodes.folder import ModelRefused
from tests.nodes.diffusion.tiny import SIZE, make, make_clips

pytestmark = [
    pytest.mark.skipif(
        not (find_spec("torch") and find_spec("transformers") and find_spec("diffusers")),
        reason="needs torch, transformers and diffusers",
    ),
    pytest.mark.filterwarnings("ignore"),  # the library's own
]
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("pictures") / "tiny")


@pytest.fixture(scope="module")
def ready(folder: Path) -> DiffusersPainter:
    painter = DiffusersPainter(str(folder), "tiny", "image", "cpu", "")
    painter.start()
    return painter


def painted(painter: DiffusersPainter, heard: list[int] | None = None, **more: Any) -> bytes:
    scene = Scene(**{"prompt": "a cat", "steps": STEPS, "seed": 3, **more})
    return painter.paint(fitted(scene, painter.card), (heard if heard is not None else []).append)


def test_its_card_says_what_the_pipeline_is_made_for(ready: DiffusersPainter) -> None:
    card = ready.card
    assert (card.engine, card.model, card.kind) == ("diffusers StableDiffusionPipeline", "tiny", "image")
    assert (card.width, card.height, card.steps, card.guidance, card.negates) == (SIZE, SIZE, 50, 7.5, True)
    assert card.grain == 2, "pixels of one latent"


def test_a_picture_is_what_the_library_makes_by_itself(ready: DiffusersPainter, folder: Path) -> None:
    torch, library = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipeline = library.DiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    more = {"width": 2 * SIZE, "height": SIZE, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    noise = torch.Generator("cpu").manual_seed(3)
    made = pipeline("a cat", negative_prompt="dogs", generator=noise, output_type="pil", **more).images[0]
    steps: list[int] = []
    found = painted(ready, steps, negative_prompt="dogs", width=2 * SIZE, height=SIZE, guidance=3.0)
    assert found == np.asarray(made).tobytes() and steps == [1, 2, 3, 4]


def test_the_same_scene_is_the_same_picture_and_another_is_not(ready: DiffusersPainter) -> None:
    first = painted(ready)
    assert painted(ready) == first
    others = [painted(ready, **more) for more in ({"seed": 4}, {"prompt": "a dog"}, {"steps": 3}, {"guidance": 2.0})]
    assert len({first, *others}) == 5


def test_who_is_not_wanted_any_more_leaves_nothing_behind(ready: DiffusersPainter) -> None:
    first, made = painted(ready), []

    def went(step: int) -> None:
        made.append(step)
        if step == 2:
            raise Unwanted

    with pytest.raises(Unwanted):
        ready.paint(fitted(Scene("a dog", steps=STEPS), ready.card), went)
    assert made == [1, 2] and painted(ready) == first


def test_a_gpu_that_has_failed_is_the_end(ready: DiffusersPainter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> None:
        def call(**words: Any) -> None:
            raise error

        monkeypatch.setattr(ready, "_pipeline", call)

    torch = pytest.importorskip("torch")
    fails(RuntimeError("CUDA error: device-side assert triggered\nmore"))
    with pytest.raises(PainterDead, match=r"the GPU is gone: CUDA error: device-side assert triggered$"):
        painted(ready)
    fails(torch.cuda.OutOfMemoryError("CUDA error: out of memory"))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        painted(ready)


def test_a_clip_is_made_of_frames(tmp_path: Path) -> None:
    folder = make_clips(tmp_path / "clips")
    with pytest.raises(ModelRefused, match="but clips: --diffusion video"):
        DiffusersPainter(str(folder), "clips", "image", "cpu", "").start()
    painter = DiffusersPainter(str(folder), "clips", "video", "cpu", "")
    card = painter.start()
    assert (card.engine, card.kind, card.frames) == ("diffusers AnimateDiffPipeline", "video", 16)
    heard: list[int] = []
    more: dict[str, Any] = {"kind": "video", "frames": 3, "steps": 2}
    found = painted(painter, heard, **more)
    frames = [found[start : start + SIZE * SIZE * 3] for start in range(0, len(found), SIZE * SIZE * 3)]
    assert len(frames) == 3 and len({*frames}) == 3 and heard == [1, 2]
    assert painted(painter, **more) == found


def test_what_it_cannot_load_is_said_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    def refusal(of: Path) -> str:
        with pytest.raises(ModelRefused) as refused:
            DiffusersPainter(str(of), "tiny", "image", "cpu", "").start()
        assert "\n" not in str(refused.value)
        return str(refused.value)

    (tmp_path / "empty").mkdir()
    assert "no model_index.json" in refusal(tmp_path / "empty")
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").rename(pickled / "unet" / "diffusion_pytorch_model.bin")
    assert "cannot load" in refusal(pickled), "no pickle is read"
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    index = json.loads((foreign / "model_index.json").read_text())
    (foreign / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionImg2ImgPipeline"}))
    assert "makes no images of a text (no width)" in refusal(foreign)
