"""Shell. Eyes of models of the transformers library, on any device: a picture becomes the rows that it stands for.

LLaVA takes squares of one size. Qwen2-VL and Qwen2.5-VL take any; here all of their pictures become squares of SIDE
pixels, so that everybody knows without looking how many rows a picture has. Their rows have places in two dimensions:
see `grids.py`. Pictures are prepared here, not by the library, so that Pillow and torchvision are not needed. Clips and
sounds are not taken.
"""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.contract import MediaCard
from nodes.engines.numpy.config import Unsupported, number
from nodes.engines.numpy.senses import CLIP, MEANS, Triple, eye_of, prepared_of, triple
from nodes.engines.numpy.towers import PREPARED, read
from nodes.engines.transformers.library import complete, library, torch

Floats = NDArray[np.float32]
LLAVA, QWEN = ("llava",), ("qwen2_vl", "qwen2_5_vl")
FAMILIES = LLAVA + QWEN
SIDE = 448  # pixels: 256 rows of Qwen2-VL, as many as other models have
PLAIN = "sdpa"  # the attention of towers, which have no cache


class Sight(Struct, frozen=True):
    """How pictures are prepared for a model."""

    family: str
    card: MediaCard
    scale: float
    mean: Triple
    deviation: Triple
    patch: int = 0  # of Qwen's: pixels of a patch's side
    merged: int = 1  # patches of a row's side
    frames: int = 1  # that a patch is deep

    @property
    def across(self) -> int:
        """Rows along a side, where they have places in two dimensions; else 0."""
        return self.card.width // (self.patch * self.merged) if self.patch else 0


def sight_of(folder: Path) -> Sight | None:
    """What the files of a directory say; None for a model of text alone. Raises Unsupported."""
    raw = read(folder / "config.json")
    family = str(raw.get("model_type"))
    if family not in FAMILIES:
        return None
    prepared = prepared_of({name: read(folder / name) for name in PREPARED}, "image_processor")
    try:
        return _of_llava(raw, prepared) if family in LLAVA else _of_qwen(family, raw, prepared)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unsupported(f"what {folder} says about pictures cannot be read: {error}") from error


def _of_llava(raw: Mapping[str, Any], prepared: Mapping[str, Any]) -> Sight:
    eye = eye_of(raw, prepared)
    if eye is None:
        raise Unsupported("config.json says nothing about vision_config")
    return Sight(LLAVA[0], eye.card, eye.scale, eye.mean, eye.deviation)


def _of_qwen(family: str, raw: Mapping[str, Any], prepared: Mapping[str, Any]) -> Sight:
    vision, text = raw.get("vision_config") or {}, raw.get("text_config") or raw
    patch, merged = number(vision, "patch_size"), vision.get("spatial_merge_size", 2)
    size = prepared.get("size") or {}
    pixels_max = prepared.get("max_pixels") or size.get("longest_edge") or SIDE * SIDE
    side = min(SIDE, isqrt(pixels_max)) // (patch * merged) * patch * merged
    if side <= 0:
        raise Unsupported(f"pictures of {pixels_max} pixels are smaller than one row")
    mean, deviation = (
        triple(prepared, name, usual, (0.0,) * 3)
        for name, usual in zip(("image_mean", "image_std"), MEANS[CLIP], strict=True)
    )
    card = MediaCard(
        token=number(raw, "image_token_id"),
        features=number(text, "hidden_size"),
        tokens=(side // (patch * merged)) ** 2,
        height=side,
        width=side,
    )
    scale = float(prepared.get("rescale_factor", 1 / 255))
    return Sight(family, card, scale, mean, deviation, patch, merged, vision.get("temporal_patch_size", 2))


class Towers:
    """Keeps `nodes.media.embedder.Encodes`. `model` may be without its language part."""

    def __init__(self, model: Any, sight: Sight) -> None:
        self.cards = {"image": sight.card}
        self._model, self._sight = model, sight

    def encode(self, kind: str, array: NDArray[Any]) -> Floats:
        """One picture, in the shape of its card, to (rows, features). Raises ValueError."""
        card = self.cards.get(kind)
        if card is None:
            raise ValueError(f"this model takes no {kind}")
        if array.dtype != np.uint8 or array.shape != (card.height, card.width, 3):
            raise ValueError(f"{kind} of {array.dtype} {array.shape} is not of the shape that this model takes")
        sight = self._sight
        coloured = array.astype(np.float32) * np.float32(sight.scale)
        mean, deviation = (np.asarray(one, np.float32) for one in (sight.mean, sight.deviation))
        pixels = np.ascontiguousarray(((coloured - mean) / deviation).transpose(2, 0, 1)[None])
        with torch.inference_mode():
            found = self._features(torch.from_numpy(pixels).to(self._model.device, self._model.dtype))
            rows: Floats = found.reshape(-1, card.features).float().cpu().numpy()
        if len(rows) != card.tokens:
            raise ValueError(f"a picture became {len(rows)} rows instead of {card.tokens}")
        return rows

    def _features(self, pixels: Any) -> Any:
        sight, given = self._sight, {"pixel_values": pixels}
        if sight.patch:
            across = pixels.shape[-1] // sight.patch
            given = {
                "pixel_values": patches_of(pixels, sight),
                "image_grid_thw": torch.tensor([[1, across, across]], device=pixels.device),
            }
        found = self._model.get_image_features(**given)
        found = getattr(found, "pooler_output", found)
        return found[0] if isinstance(found, (list, tuple)) else found


def patches_of(pixels: Any, sight: Sight) -> Any:
    """(1, 3, side, side) to (patches, 3 * frames * patch * patch): those of one row are neighbours."""
    patch, merged = sight.patch, sight.merged
    blocks = pixels.shape[-1] // (patch * merged)
    cut = pixels.reshape(3, blocks, merged, patch, blocks, merged, patch).permute(1, 4, 2, 5, 0, 3, 6)
    deep = cut.unsqueeze(5).expand(-1, -1, -1, -1, -1, sight.frames, -1, -1)
    return deep.reshape((blocks * merged) ** 2, -1)


def load(folder: Path, device: str, dtype: str) -> Towers | None:
    """The eyes alone; None if the model is blind. Raises Unsupported."""
    sight = sight_of(folder)
    if sight is None:
        return None
    library.utils.logging.disable_progress_bar()
    try:
        options = {"dtype": dtype, "attn_implementation": PLAIN, "output_loading_info": True}
        load = library.AutoModelForImageTextToText.from_pretrained
        model = complete(load(str(folder), local_files_only=True, trust_remote_code=False, **options))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Unsupported(f"transformers cannot load {folder}: {str(error).splitlines()[0][:300]}") from None
    model.model.language_model = model.lm_head = None  # never moved to the device
    return Towers(model.to(device).eval(), sight)
