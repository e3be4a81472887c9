"""Eyes see what `transformers` sees, always the same, and say clearly what they cannot look at."""

import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.demo_model import senses
from nodes.contract.engine import MediaCard, rows_of
from nodes.engines.numpy import towers
from nodes.engines.numpy.config import Unsupported, config_of
from nodes.engines.numpy.encoder import ACTIVATE, erf
from nodes.engines.numpy.safetensors import Damaged
from nodes.engines.numpy.senses import eye_of
from tests.nodes.engines.senses import GOLDEN_MEDIA, TOLERANCE, expected, random_picture, towers_of

EYES = ["llava-clip", "llava-siglip"]
DIGEST = """
import sys
from hashlib import sha256
from pathlib import Path
from nodes.engines.numpy import towers
from tests.nodes.engines.senses import random_picture, random_sound
both = towers.load(Path(sys.argv[1]), exact=True)
print(*(sha256(both.encode(kind, array).tobytes()).hexdigest() for kind, array in [
    ("image", random_picture(3, 32, 32)), ("audio", random_sound(3, 90_000))]))
"""


@pytest.mark.parametrize("name", EYES)
def test_embeddings_are_those_of_transformers(name: str) -> None:
    found = towers_of(name).encode("image", expected(name)["input"].astype(np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(name)["features"], atol=TOLERANCE, rtol=0)
    assert len(found) == rows_of(towers_of(name).cards["image"])


@pytest.mark.parametrize("name", EYES)
def test_exact_differs_by_rounding_only(name: str) -> None:
    exact = towers.load(GOLDEN_MEDIA / name, exact=True)
    assert exact is not None
    picture = random_picture(4, 28, 28)
    found, wanted = exact.encode("image", picture), towers_of(name).encode("image", picture)
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", EYES)
def test_cards(name: str) -> None:
    cards = towers.media_of(GOLDEN_MEDIA / name)
    assert cards == towers_of(name).cards
    card = cards["image"]
    assert (card.token, card.features, card.tokens, card.height, card.width) == (69, 32, 16, 28, 28)
    assert card.crop == (name == "llava-clip")
    assert cards.keys() == {"image"}


def test_a_clip_is_its_frames(tmp_path: Path) -> None:
    senses.make(tmp_path)
    eyes = towers.load(tmp_path)
    assert eyes is not None
    card = eyes.cards["video"]
    frames = np.stack([random_picture(seed, card.height, card.width) for seed in range(card.frames)])
    found = eyes.encode("video", frames)
    assert len(found) == rows_of(card)
    assert found.tobytes() == b"".join(eyes.encode("image", frame).tobytes() for frame in frames)


def test_the_same_to_the_bit_in_company() -> None:
    """Whatever was looked at before or is looked at beside it."""
    eyes = towers_of("llava-clip")
    pictures = [random_picture(seed, 28, 28) for seed in range(8)]
    alone = [eyes.encode("image", picture).tobytes() for picture in pictures]
    assert len(set(alone)) == len(alone)
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda picture: eyes.encode("image", picture).tobytes(), pictures * 4)
        assert [*together] == alone * 4


def test_the_same_to_the_bit_in_another_process(tmp_path: Path) -> None:
    """Exact: whatever the number of threads there."""
    senses.make(tmp_path)
    command = [sys.executable, "-c", DIGEST, str(tmp_path)]
    root, ran = Path(__file__).parents[3], []
    for threads in "12":
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads}
        ran.append(subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, env=environment))
    digests = {process.communicate(timeout=60)[0] for process in ran}
    assert len(digests) == 1
    assert len(digests.pop().split()) == 2


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("image", np.zeros((28, 29, 3), np.uint8)),
        ("image", np.zeros((28, 28, 4), np.uint8)),
        ("image", np.zeros((28, 28, 3), np.float32)),
        ("image", np.zeros((2, 28, 28, 3), np.uint8)),
        ("video", np.zeros((2, 28, 28, 3), np.uint8)),
        ("audio", np.zeros(9, np.float32)),
    ],
)
def test_what_is_not_seen(kind: str, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="takes"):
        towers_of("llava-siglip").encode(kind, array)


def test_a_text_model_is_blind() -> None:
    folder = GOLDEN_MEDIA.parent / "golden" / "llama"
    assert towers.load(folder) is None
    assert towers.media_of(folder) == {}


# --- The files ------------------------------------------------------------------------------------------


def changed(folder: Path, name: str, **values: Any) -> Path:
    """A copy of a model with other values in its config.json; dots lead inwards."""
    shutil.copytree(GOLDEN_MEDIA / name, folder / name)
    path = folder / name / "config.json"
    raw = json.loads(path.read_text())
    for key, value in values.items():
        *outer, last = key.split("__")
        inner = raw
        for step in outer:
            inner = inner[step]
        inner[last] = value
    path.write_text(json.dumps(raw))
    return path.parent


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"vision_config__model_type": "pixtral"}, "pixtral"),
        ({"vision_config__hidden_act": "mish"}, "mish"),
        ({"vision_config__num_channels": 4}, "4 colours"),
        ({"vision_config__patch_size": 29}, "patches of 29"),
        ({"vision_config__image_size": "large"}, "image_size"),
        ({"vision_config": [1]}, "no object"),
        ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer"),
        ({"vision_feature_layer": -5}, "vision_feature_layer"),
        ({"image_token_index": 70}, "image_token_index = 70"),
        ({"image_token_index": None}, "image_token_index = None"),
        ({"projector_hidden_act": 7}, "projector_hidden_act"),
        ({"text_config": 3}, "text_config"),
        ({"vision_config__num_attention_heads": 5}, "5 heads"),
        ({"vision_config__image_size": 10_000}, "10000 pixels"),
        ({"vision_config__layer_norm_eps": []}, "cannot be read"),
        ({"video_token_index": 70}, "video_token_index"),
    ],
)
def test_what_is_not_supported(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(Unsupported, match=told):
        towers.load(changed(tmp_path, "llava-clip", **values))


@pytest.mark.parametrize(
    "values",
    [
        {"vision_config__image_size": 35},
        {"vision_config__hidden_size": 48},
        {"vision_config__intermediate_size": 41},
        {"vision_config__num_hidden_layers": 9},
        {"text_config__hidden_size": 64},
    ],
)
def test_weights_of_another_shape(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        towers.load(changed(tmp_path, "llava-clip", **values))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"image_mean": [1, 2]}, "three colours"),
        ({"image_std": 3}, "cannot be read"),
        ({"rescale_factor": "x"}, "cannot be read"),
        ({"image_std": [1, 0, 1]}, "cannot be prepared"),
        ({"rescale_factor": 1e999}, "cannot be prepared"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": "8"}, "num_frames is '8'"),
    ],
)
def test_what_cannot_be_prepared(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    folder = changed(tmp_path, "llava-siglip")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(Unsupported, match=told):
        towers.media_of(folder)
    path.write_text("{")
    with pytest.raises(Unsupported, match="cannot be read"):
        towers.media_of(folder)


def test_newer_names_of_tensors(tmp_path: Path) -> None:
    """The same weights as other versions of `transformers` write them."""
    folder = changed(tmp_path, "llava-clip")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    renamed = {}
    for name, entry in header.items():
        new = name.replace("vision_tower.", "model.vision_tower.vision_model.")
        new = new.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head")
        renamed[new.replace("multi_modal_projector", "model.multi_modal_projector")] = entry
    text = json.dumps(renamed).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    found = towers.load(folder)
    assert found is not None
    picture = random_picture(1, 28, 28)
    assert (found.encode("image", picture) == towers_of("llava-clip").encode("image", picture)).all()


def test_a_row_of_the_whole_picture(tmp_path: Path) -> None:
    """`full` keeps it: one row more, before the others, which do not change."""
    found = towers.load(changed(tmp_path, "llava-clip", vision_feature_select_strategy="full"))
    assert found is not None
    picture = random_picture(1, 28, 28)
    rows = found.encode("image", picture)
    assert len(rows) == rows_of(found.cards["image"]) == 17
    np.testing.assert_allclose(rows[1:], towers_of("llava-clip").encode("image", picture), atol=TOLERANCE, rtol=0)


# --- Activations ----------------------------------------------------------------------------------------


def test_activations() -> None:
    some = np.linspace(-20, 20, 4001, dtype=np.float32)
    wanted = {
        "gelu": [x * (1 + math.erf(x / 2**0.5)) / 2 for x in some.tolist()],
        "quick_gelu": [x / (1 + math.exp(-1.702 * x)) for x in some.tolist()],
        "gelu_pytorch_tanh": [
            x * (1 + math.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2 for x in some.tolist()
        ],
        "relu": [max(x, 0.0) for x in some.tolist()],
        "silu": [x / (1 + math.exp(-x)) for x in some.tolist()],
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(ACTIVATE[name](some), values, atol=3e-6, rtol=1e-6, err_msg=name)
    far = np.array([-3e38, -200, 200, 3e38], np.float32)
    np.testing.assert_allclose(erf(far), [-1, -1, 1, 1], atol=5e-7)
    assert np.isfinite(ACTIVATE["quick_gelu"](far)).all()


def test_the_files_of_a_large_model() -> None:
    """`config.json` of LLaVA 1.5 leaves out what is the default of its families."""
    raw = {
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
    config = config_of(raw)
    assert (config.width, config.inner, config.layers, config.key_heads, config.context) == (4096, 11008, 32, 32, 4096)
    eye = eye_of(raw, {"do_center_crop": True})
    assert eye is not None
    assert (eye.stack.layers, eye.stack.activation, eye.clip) == (23, "quick_gelu", None)
    assert eye.card == MediaCard(32_000, 4096, 576, 336, 336, crop=True)
