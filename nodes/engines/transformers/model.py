"""Shell. A model of the transformers library with a paged cache of keys and values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.numpy.attention import Span
from nodes.engines.numpy.config import Unsupported
from nodes.engines.transformers.library import complete, library, torch
from nodes.engines.transformers.paging import NAME, Batch, Survey, Unpaged, batch_of, register
from nodes.engines.transformers.vision import PLAIN, Towers, sight_of

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
DTYPES = ("auto", "float32", "float16", "bfloat16")


class Shape(Struct, frozen=True):
    """What a cache must know of a model."""

    vocabulary: int
    context: int
    layers: int
    heads: int  # of keys
    width: int  # of one head
    item_bytes: int

    @property
    def token_bytes(self) -> int:
        """Keys and values of one position."""
        return 2 * self.item_bytes * self.layers * self.heads * self.width


class TransformersModel:
    """Weights and cache on one device."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        register()
        self.sight = sight_of(folder)
        try:
            sees = self.sight is not None
            kind = library.AutoModelForImageTextToText if sees else library.AutoModelForCausalLM
            attention: Any = {"text_config": NAME, "vision_config": PLAIN} if sees else NAME
            options = {"dtype": dtype, "attn_implementation": attention, "output_loading_info": True}
            self._model = complete(
                kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
            )
            self._model.to(device).eval()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise Unsupported(f"transformers cannot load {folder}: {str(error).splitlines()[0][:300]}") from None
        self._device = torch.device(device)
        layers, heads, width = self._surveyed()
        self.shape = Shape(
            vocabulary=self._model.get_input_embeddings().num_embeddings,
            context=int(getattr(self._model.config.get_text_config(), "max_position_embeddings", 0)),
            layers=layers,
            heads=heads,
            width=width,
            item_bytes=self._model.dtype.itemsize,
        )

    @property
    def row_width(self) -> int:
        """Numbers in a row of a picture."""
        return int(self._model.config.get_text_config().hidden_size)

    @property
    def towers(self) -> Towers | None:
        """Its eyes."""
        return None if self.sight is None else Towers(self._model, self.sight)

    @property
    def dtype(self) -> str:
        """Of the cache, and of most weights."""
        return str(self._model.dtype).removeprefix("torch.")

    def _surveyed(self) -> tuple[int, int, int]:
        """Layers, heads of keys and their width, as one token finds them: configurations name them in many ways."""
        survey = Survey({})
        try:
            self._run(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), survey)
        except (Unpaged, RuntimeError, TypeError, IndexError, AttributeError) as error:
            text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise Unsupported(f"this architecture cannot be served with a paged cache: {text}") from None
        kinds = list(dict.fromkeys(survey.seen.values()))
        layers = int(self._model.config.get_text_config().num_hidden_layers)
        if sorted(survey.seen) != list(range(layers)) or len(kinds) != 1 or kinds[0][1] != kinds[0][2]:
            text = "its layers have attentions of several kinds, or none that we know"
            raise Unsupported(f"this architecture cannot be served with a paged cache: {text}")
        return layers, kinds[0][0], kinds[0][1]

    def allocate(self, slots: int) -> None:
        """The cache."""
        shape = self.shape
        size = shape.layers, slots, shape.heads, shape.width
        self.keys = torch.zeros(size, dtype=self._model.dtype, device=self._device)
        self.values = torch.zeros_like(self.keys)

    def logits(
        self,
        tokens: Ints,
        positions: Ints,
        slots: Ints,
        spans: Sequence[Span],
        heads: Ints,
        placed: Sequence[tuple[int, Floats]] = (),
    ) -> Floats:
        """Compute rows of (token, position), keep their keys and values in `slots`, and give the logits of `heads`."""
        return self._run(tokens, positions, heads, batch_of(self.keys, self.values, slots, spans), placed)

    def _run(
        self,
        tokens: Ints,
        positions: Ints,
        heads: Ints,
        batch: Batch | Survey,
        placed: Sequence[tuple[int, Floats]] = (),
    ) -> Floats:
        ids = torch.as_tensor(tokens, device=self._device)[None]
        given: dict[str, Any] = {
            "position_ids": torch.as_tensor(positions, device=self._device)[..., None, :],
            "logits_to_keep": torch.as_tensor(heads, device=self._device),
        }
        with torch.inference_mode():
            if placed:
                given["inputs_embeds"] = self._with_rows(ids, placed)
            else:
                given["input_ids"] = ids
            found = self._model(use_cache=False, batch=batch, **given).logits[0]
        made: Floats = found.float().cpu().numpy()
        return made

    def _with_rows(self, ids: Any, placed: Sequence[tuple[int, Floats]]) -> Any:
        """The embeddings of a step's tokens, with rows of pictures among them."""
        found = self._model.get_input_embeddings()(ids)
        for first, rows in placed:
            found[0, first : first + len(rows)] = torch.tensor(rows).to(self._device, found.dtype)
        return found
