"""Shell. Guides of vLLM's jobs: our sampler keeps to them, in vLLM's own process, and `Witness` sees that it did.

Not vLLM's structured outputs: those begin anew with each request, and a stream that has moved is a new request whose
prompt holds what was made before. Ours count from where the output began, whoever made it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nodes.contract.guide import Guide
from nodes.engines.transformers.library import torch
from nodes.folder import contents_of
from nodes.guiding.following import Guides, Lost, guides_of
from nodes.guiding.library import GuideRefused, installed

log = logging.getLogger("wiremesh.engine")


def guides_in(config: Any) -> Guides | None:
    """Those of a model as vLLM describes it."""
    folder = Path(str(config.tokenizer or config.model))
    if config.runner_type == "pooling" or not installed() or not folder.is_dir():
        return None
    from nodes.text.tokenizer import ModelFiles, Tokenizer

    eos_tokens = Tokenizer(ModelFiles(**contents_of(folder))).eos_tokens
    return guides_of(folder / "tokenizer.json", int(config.get_vocab_size()), eos_tokens)


class Guided:
    """One request under its guide."""

    def __init__(self, guides: Guides, wanted: dict[str, Any]) -> None:
        self._stops: list[int] = wanted["stops"]
        self._stops_from: int = wanted["stops_from"]
        self._endless: list[int] = wanted["endless"]
        self._eos_tokens = [*guides.eos_tokens]
        self._following = guides.follow(Guide(*wanted["guide"]), wanted["begins"])

    def mask(self, row: Any, tokens: Sequence[int], position: int) -> None:
        """Leave what may come. One that can say nothing ends here, and the worker finds that it should not have."""
        try:
            allowed = torch.from_numpy(self._following.allowed(tokens))
        except (GuideRefused, Lost) as error:
            log.warning("a guide was lost: %s", error)
            allowed = torch.zeros(self._following.vocabulary, dtype=torch.bool)
            allowed[self._eos_tokens] = True
        size = min(len(row), len(allowed))
        row[:size].masked_fill_(~allowed[:size].to(row.device), -torch.inf)
        row[size:] = -torch.inf
        unwanted = [*self._endless, *(self._stops if position < self._stops_from else ())]
        if unwanted:
            kept = row[unwanted]
            row[unwanted] = -torch.inf
            if row.max() == -torch.inf:
                row[unwanted] = kept
