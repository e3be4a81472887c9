"""Ears hear what `transformers` hears, however long the sound is, and always the same."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.demo_model import senses
from nodes.contract.engine import rows_of
from nodes.engines.numpy import towers
from nodes.engines.numpy.audio import bands, spectrogram
from nodes.engines.numpy.config import Unsupported, config_of
from nodes.engines.numpy.senses import Ear, ear_of
from tests.nodes.engines.senses import GOLDEN_MEDIA, TOLERANCE, expected, random_sound, towers_of
from tests.nodes.engines.test_vision import changed

NAME = "qwen2-audio"
WHOLE = 32_000  # samples: all that this model hears


def ear() -> Ear:
    found = towers.senses_of(GOLDEN_MEDIA / NAME)[1]
    assert found is not None
    return found


@pytest.mark.parametrize("length", ["short", "odd", "whole"])
def test_embeddings_are_those_of_transformers(length: str) -> None:
    sound = expected(NAME)[f"input_{length}"]
    found = towers_of(NAME).encode("audio", sound)
    np.testing.assert_allclose(found, expected(NAME)[f"features_{length}"], atol=TOLERANCE, rtol=0)
    assert len(found) == rows_of(towers_of(NAME).cards["audio"], len(sound))


def test_the_spectrogram_is_that_of_transformers() -> None:
    found = spectrogram(expected(NAME)["input_short"], 200, ear())
    np.testing.assert_allclose(found.T, expected(NAME)["mel"], atol=2e-6, rtol=0)


@given(st.integers(0, WHOLE + 3_000), st.integers(0, 5))
@settings(max_examples=40)
def test_rows_of_any_length(samples: int, seed: int) -> None:
    """As many as the card says, and all of them numbers."""
    found = towers_of(NAME).encode("audio", random_sound(seed, samples))
    assert found.shape == (rows_of(towers_of(NAME).cards["audio"], samples), 32)
    assert np.isfinite(found).all()


@given(st.integers(1, WHOLE), st.integers(0, 5))
@settings(max_examples=20)
def test_silence_after_the_sound_is_not_computed(samples: int, seed: int) -> None:
    """A spectrogram of all that the model's time holds begins like the one that stops behind the sound."""
    sound = random_sound(seed, samples)
    frames = min(200, -(-samples // 160) + 2)
    whole = spectrogram(sound, 200, ear())
    assert (spectrogram(sound, frames, ear()) == whole[:frames]).all()
    assert (whole[frames:] == whole[frames:].min(initial=np.inf)).all()


def test_more_than_it_hears_is_cut() -> None:
    sound = random_sound(1, WHOLE + 5_000)
    ears = towers_of(NAME)
    assert (ears.encode("audio", sound) == ears.encode("audio", sound[:WHOLE])).all()


def test_every_sample_is_heard() -> None:
    """But those of a last row that is dropped."""
    sound = random_sound(1, 640 * 4)
    before = towers_of(NAME).encode("audio", sound)
    for at in range(0, len(sound), 97):
        other = sound.copy()
        other[at] += 0.5
        assert not np.array_equal(towers_of(NAME).encode("audio", other), before), at


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 2), np.float32),
        np.zeros(9, np.int16),
        np.array([0, np.nan], np.float32),
        np.array([0, np.inf], np.float32),
    ],
)
def test_what_is_not_heard(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a sound"):
        towers_of(NAME).encode("audio", array)


def test_bands_cover_all_frequencies() -> None:
    found = bands(128, 400, 16_000)
    assert found.shape == (201, 128)
    assert (found >= 0).all()
    assert (found[1:-1].sum(axis=1) > 0).all()


def test_the_card() -> None:
    card = towers.media_of(GOLDEN_MEDIA / NAME)["audio"]
    assert (card.token, card.features, card.rate, card.seconds_max) == (69, 32, 16_000, 2.0)
    rows = {0: 1, 1: 1, 640: 1, 960: 1, 961: 2, 1_280: 2, WHOLE: 50, 10**9: 50}
    assert {samples: rows_of(card, samples) for samples in rows} == rows


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"audio_config__model_type": "wav2vec2"}, "wav2vec2"),
        ({"audio_config__num_mel_bins": 21}, "21 bands"),
        ({"audio_config__activation_function": "mish"}, "mish"),
        ({"audio_token_index": -1}, "audio_token_index"),
    ],
)
def test_what_is_not_supported(tmp_path: Path, values: dict[str, object], told: str) -> None:
    with pytest.raises(Unsupported, match=told):
        towers.load(changed(tmp_path, NAME, **values))


def test_a_model_that_sees_and_hears(tmp_path: Path) -> None:
    senses.make(tmp_path)
    both = towers.load(tmp_path)
    assert both is not None
    assert both.cards.keys() == {"image", "video", "audio"}
    assert len({card.token for card in both.cards.values()}) == 3
    assert both.encode("audio", random_sound(2, 16_000)).shape == (25, senses.WIDTH)
    again = tmp_path / "again"
    senses.make(again)
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_the_files_of_a_large_model() -> None:
    """`config.json` of Qwen2-Audio leaves out what is the default of its families."""
    raw = {
        "model_type": "qwen2_audio",
        "text_config": {
            "model_type": "qwen2",
            "intermediate_size": 11008,
            "vocab_size": 156032,
            "eos_token_id": 151645,
        },
        "audio_config": {
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 128,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "d_model": 1280,
            "max_source_positions": 1500,
        },
    }
    config = config_of(raw)
    assert (config.family, config.width, config.inner, config.layers) == ("qwen2", 4096, 11008, 32)
    assert config.eos_tokens == (151645,)
    found = ear_of(raw, {"feature_size": 128, "sampling_rate": 16_000})
    assert found is not None
    assert (found.card.token, found.card.seconds_max, rows_of(found.card, 480_000)) == (151_646, 30.0, 750)
