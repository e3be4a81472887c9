"""Shell. Eyes of models of the transformers library, on any device: a picture becomes the rows that it stands for.

LLaVA takes squares of one size. Qwen2-VL and Qwen2.5-VL take pictures of about their own size and proportions, up to
ROWS_MAX rows, which have places in two dimensions: see `grids.py`. Pictures are prepared here, not by the library, so
that Pillow and torchvision are not needed. Clips and sounds are not taken.
"""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.contract.engine import MediaCard
from nodes.contract.media import Media, lines_of
from nodes.engines.numpy.config import Unsupported, number
from nodes.engines.numpy.senses import CLIP, MEANS, Triple, eye_of, prepared_of, triple
from nodes.engines.numpy.towers import PREPARED, read
from nodes.engines.transformers.library import complete, library, torch

Floats = NDArray[np.float32]
LLAVA, QWEN = ("llava",), ("qwen2_vl", "qwen2_5_vl")
FAMILIES = LLAVA + QWEN
ROWS_MAX = 1280  # of one picture: what Qwen's own advice is. A million pixels; text of ten points is legible in them
PIXELS_MIN = 56 * 56  # where the files do not say
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

    def grid_of(self, one: Media) -> tuple[int, int, int]:
        """Frames, lines and columns of patches, of a picture whose rows have places in two dimensions."""
        lines, columns = lines_of(one)
        return 1, lines * self.merged, columns * self.merged


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
    step = patch * merged
    pixels_max = prepared.get("max_pixels") or size.get("longest_edge") or ROWS_MAX * step**2
    pixels_min = prepared.get("min_pixels") or size.get("shortest_edge") or PIXELS_MIN
    most = min(pixels_max, ROWS_MAX * step**2)
    side = isqrt(most) // step * step
    if side <= 0:
        raise Unsupported(f"pictures of {pixels_max} pixels are smaller than one row")
    mean, deviation = (
        triple(prepared, name, usual, (0.0,) * 3)
        for name, usual in zip(("image_mean", "image_std"), MEANS[CLIP], strict=True)
    )
    card = MediaCard(
        token=number(raw, "image_token_id"),
        features=number(text, "hidden_size"),
        tokens=(side // step) ** 2,
        height=side,
        width=side,
        step=step,
        pixels_min=min(pixels_min, most),
        pixels_max=most,
    )
    scale = float(prepared.get("rescale_factor", 1 / 255))
    return Sight(family, card, scale, mean, deviation, patch, merged, vision.get("temporal_patch_size", 2))


class Towers:
    """Keeps `nodes.media.embedder.Encodes`. `model` may be without its language part."""

    def __init__(self, model: Any, sight: Sight) -> None:
        self.cards = {"image": sight.card}
        self._model, self._sight = model, sight

    def encode(self, kind: str, array: NDArray[Any]) -> Floats:
        """One picture, in a shape of its card, to (rows, features). Raises ValueError."""
        card = self.cards.get(kind)
        if card is None:
            raise ValueError(f"this model takes no {kind}")
        given = taken(array, self._sight)
        pixels = given["pixel_values"].to(self._model.device, self._model.dtype)
        grids = {name: value.to(self._model.device) for name, value in given.items() if name != "pixel_values"}
        with torch.inference_mode():
            found = self._model.get_image_features(pixel_values=pixels, **grids)
            found = getattr(found, "pooler_output", found)
            found = found[0] if isinstance(found, (list, tuple)) else found
            rows: Floats = found.reshape(-1, card.features).float().cpu().numpy()
        if len(rows) != rows_shown(array, card):
            raise ValueError(f"a picture became {len(rows)} rows instead of {rows_shown(array, card)}")
        return rows


def rows_shown(array: NDArray[Any], card: MediaCard) -> int:
    """How many rows a picture of this shape becomes."""
    return array.shape[0] * array.shape[1] // card.step**2 if card.step else card.tokens


def fits(array: NDArray[Any], card: MediaCard) -> bool:
    """Whether a picture has a shape that a model takes."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        return False
    height, width = array.shape[:2]
    if not card.step:
        return (height, width) == (card.height, card.width)
    whole = min(height, width) > 0 and height % card.step == 0 and width % card.step == 0
    return bool(whole and height * width <= card.pixels_max)


def taken(array: NDArray[Any], sight: Sight) -> dict[str, Any]:
    """One picture, in a shape of its card, as a tower takes it, float32 in host memory. Raises ValueError."""
    if not fits(array, sight.card):
        raise ValueError(f"image of {array.dtype} {array.shape} is not of the shape that this model takes")
    coloured = array.astype(np.float32) * np.float32(sight.scale)
    mean, deviation = (np.asarray(one, np.float32) for one in (sight.mean, sight.deviation))
    pixels = torch.from_numpy(np.ascontiguousarray(((coloured - mean) / deviation).transpose(2, 0, 1)[None]))
    if not sight.patch:
        return {"pixel_values": pixels}
    grid = [1, array.shape[0] // sight.patch, array.shape[1] // sight.patch]
    return {"pixel_values": patches_of(pixels, sight), "image_grid_thw": torch.tensor([grid])}


def patches_of(pixels: Any, sight: Sight) -> Any:
    """(1, 3, height, width) to (patches, 3 * frames * patch * patch): those of one row are neighbours."""
    patch, merged = sight.patch, sight.merged
    lines, columns = (length // (patch * merged) for length in pixels.shape[-2:])
    cut = pixels.reshape(3, lines, merged, patch, columns, merged, patch).permute(1, 4, 2, 5, 0, 3, 6)
    deep = cut.unsqueeze(5).expand(-1, -1, -1, -1, -1, sight.frames, -1, -1)
    return deep.reshape(lines * columns * merged**2, -1)


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
