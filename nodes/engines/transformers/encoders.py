"""Shell. A model of the transformers library that makes rows of texts, on any device: for embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.engines.numpy.config import Unsupported
from nodes.engines.transformers.library import complete, library, torch

Floats = NDArray[np.float32]
FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)


class Encoder:
    """Keeps `nodes.engines.embedding.Body`."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        library.utils.logging.disable_progress_bar()
        try:
            options = {"dtype": dtype, "output_loading_info": True}
            load = library.AutoModel.from_pretrained
            self._model = complete(load(str(folder), local_files_only=True, trust_remote_code=False, **options))
            self._model.to(device).eval()
            self._device = torch.device(device)
            config = self._model.config.get_text_config()
            self._padding = int(getattr(config, "pad_token_id", None) or 0)
            self.vocabulary = int(self._model.get_input_embeddings().num_embeddings)
            self.positions = int(getattr(config, "max_position_embeddings", 0))
            # RoBERTa's family counts positions from behind its padding token's id.
            behind = getattr(getattr(self._model, "embeddings", None), "padding_idx", None)
            self.positions -= behind + 1 if isinstance(behind, int) else 0
            self.width = self.rows([[1]])[0].shape[1]
        except FAILURES as error:
            text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise Unsupported(f"transformers cannot make embeddings with {folder}: {text}") from None

    def rows(self, prompts: Sequence[Sequence[int]]) -> list[Floats]:
        """Shorter texts are filled up behind their end, where nobody looks."""
        lengths = [len(prompt) for prompt in prompts]
        tokens = np.full((len(prompts), max(lengths)), self._padding, np.int64)
        seen = np.zeros(tokens.shape, np.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            seen[row, : len(prompt)] = 1
        given = {"input_ids": tokens, "attention_mask": seen}
        with torch.inference_mode():
            inputs: dict[str, Any] = {name: torch.from_numpy(one).to(self._device) for name, one in given.items()}
            found = self._model(**inputs).last_hidden_state.float().cpu().numpy()
        return [found[row, :length] for row, length in enumerate(lengths)]
