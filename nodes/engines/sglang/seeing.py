"""Shell. Pictures for SGLang: the rows that somebody made of them go where their placeholders stand.

SGLang asks a processor what a request's pictures are: we stand in its place, and answer with what it would have made of
an encoder's answer, prepared already. So an encoder node can make rows, they can come from a cache, and SGLang's own
tower looks at nothing. Where no encoder lives, the worker looks, with the towers of the model's directory.

What fills a picture's positions in SGLang's cache are numbers: ours, made from its content (`nodes.contract.media`). So
a known picture is not computed again, and the events about its blocks carry what their names are made of.
Families are those of `nodes.engines.transformers.vision`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.contract.engine import Job
from nodes.contract.media import IMAGE, Media, hashed_tokens, numbers_of
from nodes.engines.numpy.config import Unsupported
from nodes.engines.outside import JobLost
from nodes.engines.sglang.library import library
from nodes.engines.shown import LACKING, lacks_rows, log, sight_for
from nodes.engines.transformers.library import torch
from nodes.engines.transformers.vision import Sight, Towers, load
from nodes.media.embedder import Unreachable

SCHEDULE = "srt.managers.schedule_batch"
NEEDED = {"pad_values", "precomputed_embeddings"}  # of SGLang's items: what we fill
PREPARED = "wiremesh_prepared"  # of what we say is a picture


def sight_of(folder: Path, manager: Any) -> Sight | None:
    """How this engine's model sees; from now on it takes what we prepare. None: it does not, or not so."""
    sight = sight_for(folder) if manager.mm_processor is not None else None
    if sight is None:
        return None
    if not {*getattr(library(SCHEDULE).MultimodalDataItem, "__struct_fields__", ())} >= NEEDED:
        log.warning("pictures are not taken here: this version of SGLang cannot be told what they are called")
        return None
    manager.mm_processor = Prepared(manager.mm_processor)
    return sight


class Prepared:
    """Stands where SGLang's processor of pictures does."""

    prefer_tokenized_input = True
    generates_input_ids_from_raw_prompt = False

    def __init__(self, theirs: Any) -> None:
        self._theirs = theirs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    async def process_mm_data_async(self, image_data: Sequence[Any], **more: Any) -> Any:
        """What was prepared with the request."""
        return image_data[0][PREPARED]


class Eyes:
    """Keeps `nodes.media.embedder.Encodes`: the towers of the model's directory, on the processor, for pictures that no
    encoder has looked at. They are read when they are first needed: where encoders live, that is never."""

    def __init__(self, folder: Path, sight: Sight, dtype: str) -> None:
        self.cards = {IMAGE: sight.card}
        self._folder, self._dtype = folder, dtype
        self._towers: Towers | None = None

    def encode(self, kind: str, array: NDArray[Any]) -> NDArray[np.float32]:
        """One decoded picture; in one thread only. Raises ValueError or Unreachable."""
        if self._towers is None:
            try:
                self._towers = load(self._folder, "cpu", self._dtype)
            except (Unsupported, OSError) as error:
                log.error("the eyes of %s cannot be used: %s", self._folder, error)
        if self._towers is None:
            raise Unreachable("this worker cannot look at pictures by itself")
        return self._towers.encode(kind, array)


def shown(job: Job, sequence: Sequence[int], sight: Sight | None, dtype: Any) -> list[Any] | None:
    """A job's pictures, as a request carries them. `dtype` is the model's. Raises JobLost."""
    if sight is None or not job.media:
        return None
    if lacks_rows(job):
        raise JobLost(LACKING)
    made = library(SCHEDULE)
    found: dict[str, Any] = {
        "mm_items": [_item(made, one, dtype) for one in job.media],
        "input_ids": [*sequence],
        "padded_input_ids": hashed_tokens(sequence, job.media),
        "im_token_id": sight.card.token,
    }
    if sight.patch:
        places, after = places_of(job.media, len(sequence), sight)
        found["mrope_positions"] = torch.tensor(places)
        found["mrope_position_delta"] = torch.tensor([[after - len(sequence)]])
    return [{PREPARED: made.MultimodalProcessorOutput(**found)}]


def _item(made: Any, one: Media, dtype: Any) -> Any:
    """One picture."""
    numbers = tuple(numbers_of(one.content, one.count))
    return made.MultimodalDataItem(
        modality=made.Modality.IMAGE,
        format=made.MultimodalInputFormat.PRECOMPUTED_EMBEDDING,
        hash=int.from_bytes(one.content[:8], "big"),
        pad_value=numbers[0],
        pad_values=numbers,
        offsets=[(one.first, one.end - 1)],
        precomputed_embeddings=torch.tensor(one.embedding).to(dtype),
    )


def places_of(media: Sequence[Media], length: int, sight: Sight) -> tuple[list[list[int]], int]:
    """Frames, lines and columns of all positions of a sequence, and the place after it.

    A text's places are its positions, three times; a picture's begin where the text before it ends, and it takes as
    many as its longer side has rows.
    """
    found: list[list[int]] = [[], [], []]
    place, position = 0, 0
    for one in media:
        place = _texted(found, place, one.first - position)
        _, high, wide = sight.grid_of(one)
        lines, columns = high // sight.merged, wide // sight.merged
        for row in range(one.count):
            for axis, offset in zip(found, (0, row // columns, row % columns), strict=True):
                axis.append(place + offset)
        place, position = place + max(lines, columns), one.end
    return found, _texted(found, place, length - position)


def _texted(found: list[list[int]], place: int, count: int) -> int:
    for axis in found:
        axis.extend(range(place, place + count))
    return place + count
