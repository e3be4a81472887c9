"""Shell. Eyes: a picture becomes patches, an encoder looks at them, and a projector says what it saw.

| tensors below `vision_tower.` and `multi_modal_projector.` | |
|---|---|
| `embeddings.{patch_embedding, position_embedding}` | patches to rows; SigLIP's has a bias |
| `embeddings.class_embedding`, `pre_layrnorm` | CLIP alone: a row for the whole picture, and a norm before all layers |
| `encoder.layers.N.{layer_norm1, self_attn, layer_norm2, mlp}` | as many as `vision_feature_layer` wants |
| `linear_1`, `linear_2` | the projector |

`post_layernorm` and SigLIP's `head` come after what the language model gets, and are not read.
"""

import numpy as np
from numpy.typing import NDArray

from nodes.engines.numpy.encoder import ACTIVATE, VISION, dense_of, encoded, encoder_of, norm_of, normed
from nodes.engines.numpy.safetensors import Tensors
from nodes.engines.numpy.senses import CLIP, Eye

Floats = NDArray[np.float32]
COLOURS = 3
TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."


class Vision:
    """The weights of a model's eyes. Raises ValueError if they have other shapes than the configuration says."""

    def __init__(self, eye: Eye, tensors: Tensors, exact: bool) -> None:
        self._eye = eye
        stack, at = eye.stack, TOWER + "embeddings."
        width, patches, has_class = stack.width, eye.across**2, eye.family == CLIP
        self._patches = dense_of(tensors, at + "patch_embedding", COLOURS * eye.patch**2, width, exact)
        self._positions = tensors[at + "position_embedding.weight"]
        if self._positions.shape != (patches + has_class, width):
            raise ValueError(f"{len(self._positions)} positions for {patches} patches")
        self._class = tensors[at + "class_embedding"].reshape(1, width) if has_class else None
        self._before = norm_of(tensors, TOWER + "pre_layrnorm", stack) if has_class else None
        self._encoder = encoder_of(tensors, stack, TOWER + "encoder.layers.", VISION, exact)
        features = eye.card.features
        self._first = dense_of(tensors, PROJECTOR + "linear_1", width, features, exact)
        self._second = dense_of(tensors, PROJECTOR + "linear_2", features, features, exact)
        self._mean = np.asarray(eye.mean, np.float32)
        self._deviation = np.asarray(eye.deviation, np.float32)

    def picture(self, pixels: NDArray[np.uint8]) -> Floats:
        """(side, side, 3) of pixels to (tokens, features)."""
        eye = self._eye
        rows = self._patches.times(patches_of(self._coloured(pixels), eye.patch))
        if self._class is not None:
            rows = np.concatenate([self._class, rows])
        rows = rows + self._positions
        if self._before is not None:
            rows = normed(self._before, rows)
        rows = encoded(self._encoder, rows)
        if self._class is not None and not eye.keeps_class:
            rows = rows[1:]
        return self._second.times(ACTIVATE[eye.projector](self._first.times(rows)))

    def _coloured(self, pixels: NDArray[np.uint8]) -> Floats:
        scaled = pixels.astype(np.float32) * np.float32(self._eye.scale)
        return (scaled - self._mean) / self._deviation


def patches_of(picture: Floats, patch: int) -> Floats:
    """(height, width, colours) to (patches, colours * patch * patch). What is left over is cut off."""
    down, across = picture.shape[0] // patch, picture.shape[1] // patch
    cut = picture[: down * patch, : across * patch].reshape(down, patch, across, patch, COLOURS)
    return cut.transpose(0, 2, 4, 1, 3).reshape(down * across, -1)
