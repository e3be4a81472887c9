"""Shell. Eyes and ears of a model's directory: an array becomes the rows that its placeholders stand for.

They are loaded without the language model, so that an encoder needs its memory for them alone. `encode` changes
nothing, and may be called from several threads. An embedding is a function of its array alone, to the bit; with `exact`
also where BLAS has another number of threads.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.contract.engine import MediaCard
from nodes.engines.numpy.audio import Audio
from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.safetensors import Damaged, opened
from nodes.engines.numpy.senses import Ear, Eye, cards_of, ear_of, eye_of, prepared_of
from nodes.engines.numpy.vision import Vision

Floats = NDArray[np.float32]
PREPARED = ("processor_config.json", "preprocessor_config.json")


class Towers:
    """What a model sees and hears with."""

    def __init__(self, cards: dict[str, MediaCard], vision: Vision | None, audio: Audio | None) -> None:
        self.cards = cards
        self._vision = vision
        self._audio = audio

    def encode(self, kind: str, array: NDArray[Any]) -> Floats:
        """One picture, clip or sound, in the shape of its card, to (rows, features). Raises ValueError."""
        card = self.cards.get(kind)
        if card is None:
            raise ValueError(f"this model takes no {kind}")
        if self._audio is not None and kind == "audio":
            return self._audio.sound(heard(array))
        shape = (card.height, card.width, 3)
        if array.dtype != np.uint8 or array.shape != (shape if kind == "image" else (card.frames, *shape)):
            raise ValueError(f"{kind} of {array.dtype} {array.shape} is not of the shape that this model takes")
        assert self._vision is not None
        frames = array[None] if kind == "image" else array
        return np.concatenate([self._vision.picture(frame) for frame in frames])


def heard(array: NDArray[Any]) -> Floats:
    if array.dtype != np.float32 or array.ndim != 1:
        raise ValueError(f"a sound of {array.dtype} {array.shape} is not a run of float32 samples")
    if not np.isfinite(array).all():
        raise ValueError("a sound has samples that are no numbers")
    return array


def load(folder: Path, exact: bool = False) -> Towers | None:
    """Read the weights; None if the model is blind and deaf. Raises Unsupported or Damaged."""
    eye, ear = senses_of(folder)
    if eye is None and ear is None:
        return None
    with opened(folder) as tensors:
        try:
            vision = None if eye is None else Vision(eye, tensors, exact)
            audio = None if ear is None else Audio(ear, tensors, exact)
        except ValueError as error:
            raise Damaged(f"the weights in {folder} have other shapes than its config.json says: {error}") from error
    return Towers(cards_of(eye, ear), vision, audio)


def media_of(folder: Path) -> dict[str, MediaCard]:
    """What a model takes, by kind; no weights are read. Raises Unsupported."""
    return cards_of(*senses_of(folder))


def senses_of(folder: Path) -> tuple[Eye | None, Ear | None]:
    raw = read(folder / "config.json")
    named = {name: read(folder / name) for name in PREPARED}
    try:
        eye = eye_of(raw, prepared_of(named, "image_processor"))
        return eye, ear_of(raw, prepared_of(named, "feature_extractor"))
    except (TypeError, ValueError, OverflowError) as error:
        raise Unsupported(f"what {folder} says about pictures and sounds cannot be read: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is no such file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Unsupported(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Unsupported(f"{path} is no JSON object")
    return found
