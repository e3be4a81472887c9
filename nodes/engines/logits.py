"""Shell. Logits processors: what somebody may change of a model's numbers before a token is chosen.

One interface for every engine that can: called with the tokens so far (prompt and output) and one row of logits, a
NumPy array or a Torch tensor, which it changes in place. What it does must be a function of these tokens alone, so that
a stream that moves to another worker goes on as it was. One that raises fails its request, and no other; TensorRT-LLM
has no way to be told that, and goes on without what it would have done.
"""

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from nodes.folder import ModelRefused

FORM = "MODULE:NAME of something that is called with (input_ids, logits)"

log = logging.getLogger("wiremesh.engine")


class LogitsProcessor(Protocol):
    """What a worker is given by `--logits-processor`."""

    def __call__(self, input_ids: Sequence[int], logits: Any) -> None: ...


def processors_of(names: Sequence[str]) -> tuple[LogitsProcessor, ...]:
    """Those that were named, in order. Raises ModelRefused."""
    return tuple(map(_processor, names))


def _processor(name: str) -> LogitsProcessor:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ModelRefused(f"--logits-processor is {name!r}: it must be {FORM}")
    try:
        found: LogitsProcessor = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelRefused(f"--logits-processor {name!r} cannot be loaded: {error}") from None
    if not callable(found):
        raise ModelRefused(f"--logits-processor {name!r} cannot be called: it must be {FORM}")
    return found


def process(processors: Sequence[LogitsProcessor], tokens: Sequence[int], row: Any) -> bool:
    """Let all of them change a row. False: one raised."""
    try:
        for processor in processors:
            processor(tokens, row)
    except Exception as error:  # It is somebody else's code, and other requests run beside it.
        log.warning("a logits processor failed: %s: %s", type(error).__name__, error)
        return False
    return True


class ForTrtllm:
    """One of ours as TensorRT-LLM calls them: for one request, with one beam."""

    def __init__(self, processor: LogitsProcessor) -> None:
        self._processor = processor

    def __call__(
        self, req_id: int, logits: Any, token_ids: list[list[int]], stream_ptr: int | None, client_id: int | None
    ) -> None:
        row = logits.reshape(-1)  # a view: it is one row
        if stream_ptr is None:
            process([self._processor], token_ids[0], row)
            return
        cuda = import_module("torch").cuda  # The C++ runtime computes on a stream of its own.
        with cuda.stream(cuda.ExternalStream(stream_ptr)):
            process([self._processor], token_ids[0], row)
