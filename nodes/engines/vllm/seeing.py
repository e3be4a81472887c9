"""Shell. Pictures for vLLM: the rows that somebody made of them go where their placeholders stand.

vLLM is given what its own processor would make of a prompt: a placeholder for each row, and the rows themselves
(`image_embeds`). So an encoder node can make them, they can come from a cache, and nothing is prepared twice. A part is
called by its content: vLLM keeps rows and blocks by that name, and its events about blocks say it to us.

Where there is no encoder, vLLM's own tower makes rows, unless it was left out (`--limit-mm-per-prompt`). Families are
those of `nodes.engines.transformers.vision`. Others are served without pictures.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.contract.engine import Job, MediaCard
from nodes.contract.media import IMAGE, Media, called
from nodes.engines.transformers.library import torch
from nodes.engines.transformers.vision import Sight, rows_shown, taken
from nodes.engines.vllm.library import part
from nodes.engines.vllm.looking import METHOD
from nodes.media.embedder import Unreachable

LOOK_S = 60.0  # for one picture, its wait for a step included: a tower that takes longer hangs
CHARS_MAX = 300  # of what vLLM says about a failure

Ask = Callable[..., Awaitable[Any]]  # vLLM's `collective_rpc`


def prompt_of(job: Job, tokens: Sequence[int], sight: Sight, dtype: Any) -> Any:
    """What vLLM's processor would make of it. `dtype` is the model's."""
    inputs = part("multimodal.inputs")
    ranges = [inputs.PlaceholderRange(offset=one.first, length=one.count) for one in job.media]
    items = [_item(inputs, one, sight, dtype) for one in job.media]
    return part("inputs").mm_input(
        [*tokens],
        inputs.MultiModalKwargsItems({IMAGE: items}),
        {IMAGE: [called(one) for one in job.media]},
        {IMAGE: ranges},
        cache_salt=job.cache_salt or None,
    )


def _item(inputs: Any, one: Media, sight: Sight, dtype: Any) -> Any:
    """One picture, as the model is to get it."""
    field, embedded = inputs.MultiModalFieldConfig, torch.tensor(one.embedding).to(dtype)
    if not sight.patch:
        [made] = field.batched(IMAGE).build_elems("image_embeds", [embedded])
        return inputs.MultiModalKwargsItem({"image_embeds": made})
    [made] = field.flat(IMAGE, [slice(0, one.count)]).build_elems("image_embeds", embedded)
    grids = field.batched(IMAGE, keep_on_cpu=True)
    [grid] = grids.build_elems("image_grid_thw", torch.tensor([sight.grid_of(one)]))
    return inputs.MultiModalKwargsItem({"image_embeds": made, "image_grid_thw": grid})


class Eyes:
    """Keeps `nodes.media.embedder.Encodes`. `ask` is called in `loop`."""

    def __init__(self, sight: Sight, ask: Ask, loop: asyncio.AbstractEventLoop) -> None:
        self.cards: dict[str, MediaCard] = {IMAGE: sight.card}
        self.asleep = False
        self._sight, self._ask, self._loop = sight, ask, loop

    def encode(self, kind: str, array: NDArray[Any]) -> NDArray[np.float32]:
        """One decoded picture, in a thread of its own. Raises ValueError or Unreachable."""
        if kind != IMAGE:
            raise ValueError(f"this model takes no {kind}")
        if self.asleep:
            raise Unreachable("this worker's engine is asleep")
        given, card = taken(array, self._sight), self._sight.card
        pixels = given["pixel_values"].contiguous().numpy()
        grid = given["image_grid_thw"][0].tolist() if self._sight.patch else []
        asked = asyncio.run_coroutine_threadsafe(self._look(pixels.tobytes(), [*pixels.shape], grid), self._loop)
        try:
            found = np.frombuffer(asked.result(LOOK_S), np.float32).reshape(-1, card.features)
        except TimeoutError:
            asked.cancel()
            raise Unreachable(f"vLLM's tower has not looked at a picture for {LOOK_S:.0f} s") from None
        except (Exception, CancelledError) as error:  # vLLM raises anything
            text = " ".join(str(error).split())[:CHARS_MAX]
            raise Unreachable(f"vLLM's tower cannot look at a picture: {text}") from None
        if len(found) != (wanted := rows_shown(array, card)):
            raise ValueError(f"a picture became {len(found)} rows instead of {wanted}")
        return found

    async def _look(self, pixels: bytes, shape: list[int], grid: list[int]) -> bytes:
        """Of several ranks, the first's: all see the same."""
        found: list[bytes] = await self._ask(METHOD, args=(pixels, shape, grid))
        return found[0]
