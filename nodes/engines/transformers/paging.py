"""Shell. Attention over a paged cache, for any model of the transformers library.

The library asks a function for each attention that it computes; ours keeps the new keys and values in the cache and
reads those of the whole sequence from it. So a step is one row of tokens, of as many sequences as there are, and the
model never knows. What decodes is computed together; a prompt's part is computed by itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.numpy.attention import Span
from nodes.engines.transformers.library import library, torch

NAME = "wiremesh"
Ints = NDArray[np.int64]


class Unpaged(Exception):
    """This model's attention cannot be computed so. The text says why."""


class Together(Struct, eq=False):
    """Sequences that decode: one row each. Shorter ones are filled up with slot 0, which `seen` hides."""

    rows: Any
    slots: Any  # (sequence, position)
    lengths: Any


class Apart(Struct, eq=False):
    """A part of one sequence, with several rows."""

    first: int
    last: int
    slots: Any  # of all positions up to the last row
    before: int  # positions before the first row


class Batch(Struct, eq=False):
    """A step: where its rows go in the cache, and what each of them sees."""

    keys: Any  # (layer, slot, head, width)
    values: Any
    slots: Any  # of each row
    together: Together | None
    apart: list[Apart]


class Survey(Struct, eq=False):
    """Instead of a batch: what each layer's attention is like, by its number."""

    seen: dict[int, tuple[int, int, int]]  # heads of keys, the width of a key, and of a value


def batch_of(keys: Any, values: Any, slots: Ints, spans: Sequence[Span]) -> Batch:
    """The step of these rows."""
    device = keys.device
    single = [span for span in spans if span.last - span.first == 1]
    several = [span for span in spans if span.last - span.first > 1]
    apart = [
        Apart(span.first, span.last, torch.as_tensor(_slots(span), device=device), span.position) for span in several
    ]
    return Batch(keys, values, torch.as_tensor(slots, device=device), _together(single, device), apart)


def _together(spans: Sequence[Span], device: Any) -> Together | None:
    if not spans:
        return None
    found = [_slots(span) for span in spans]
    slots = np.zeros((len(found), max(map(len, found))), np.int64)
    for row, one in enumerate(found):
        slots[row, : len(one)] = one
    rows = torch.as_tensor([span.first for span in spans], device=device)
    lengths = torch.as_tensor([len(one) for one in found], device=device)
    return Together(rows, torch.as_tensor(slots, device=device), lengths)


def _slots(span: Span) -> Ints:
    return np.concatenate([np.arange(first, last) for first, last in span.runs])


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    batch: "Batch | Survey | None" = None,
    **rest: Any,
) -> tuple[Any, None]:
    """What the library calls: (1, heads, rows, width) of queries, the same of fewer heads of keys and values."""
    if batch is None:
        raise Unpaged("its attention does not hand on what it is given")
    if isinstance(batch, Survey):
        batch.seen[module.layer_idx] = key.shape[1], key.shape[3], value.shape[3]
        return torch.zeros_like(query.transpose(1, 2)), None
    keys, values = batch.keys[module.layer_idx], batch.values[module.layer_idx]
    keys[batch.slots] = key[0].transpose(0, 1)
    values[batch.slots] = value[0].transpose(0, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)  # (row, head, width)
    if batch.together is not None:
        some = batch.together
        seen = _seen(some.lengths[:, None] - 1, some.slots.shape[1], sliding_window)[:, None, None]
        queries = query[0][:, some.rows].transpose(0, 1)[:, :, None]  # (sequence, head, 1, width)
        found = _mix(queries, keys[some.slots], values[some.slots], seen, scale, softcap, s_aux)
        mixed[some.rows] = found[:, :, 0]
    for part in batch.apart:
        places = part.before + torch.arange(part.last - part.first, device=query.device)[:, None]
        seen = _seen(places, len(part.slots), sliding_window)
        queries = query[:, :, part.first : part.last]
        found = _mix(queries, keys[part.slots][None], values[part.slots][None], seen, scale, softcap, s_aux)
        mixed[part.first : part.last] = found[0].transpose(0, 1)
    return mixed[None], None


def _seen(places: Any, length: int, window: int | None) -> Any:
    """Which positions a row at each of these places sees."""
    positions = torch.arange(length, device=places.device)
    seen = positions <= places
    return seen & (positions > places - window) if window else seen


def _mix(queries: Any, keys: Any, values: Any, seen: Any, scale: float, softcap: float | None, sinks: Any) -> Any:
    """(n, heads, rows, width) of queries over (n, length, heads, width) of keys and values."""
    groups = queries.shape[1] // keys.shape[2]
    keys = keys.transpose(1, 2).repeat_interleave(groups, 1)
    values = values.transpose(1, 2).repeat_interleave(groups, 1)
    if softcap is None and sinks is None:
        attention = torch.nn.functional.scaled_dot_product_attention
        return attention(queries, keys, values, attn_mask=seen, scale=scale)
    scores = queries @ keys.transpose(2, 3) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:  # a place to look at that has no value
        column = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column], -1)
    scores = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return scores[..., : keys.shape[2]] @ values


def register() -> None:
    """Tell the library our name. It makes no mask then: `batch` says who sees what. And it draws no bars in our log."""
    library.utils.logging.disable_progress_bar()
    library.AttentionInterface.register(NAME, attend)
    library.AttentionMaskInterface.register(NAME, lambda *_, **__: None)
