"""Shell. The llama engine: our scheduler and sampling around llama.cpp, for any model in a GGUF file.

llama.cpp computes a step's batch and holds the cache; everything else is as with the numpy engine. What a quantized
model says of one sequence may differ in its last bits with what else was in the batch, and so may its likeliest token,
which its card says. It was run here on a CPU alone; with a GPU llama.cpp puts the layers there by itself.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from nodes.contract.engine import Card
from nodes.engines.llama.exchange import Exchange, layout_of
from nodes.engines.llama.lanes import SCRATCH, SLOTS_MAX, Lanes, Move, lanes_for
from nodes.engines.llama.model import ITEM_BYTES, LlamaModel
from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.engine import NumpyEngine, limits_of
from nodes.engines.numpy.engine import Settings as Batching
from nodes.engines.numpy.placing import parts_of
from nodes.engines.running import Limits, Plan, Running
from nodes.folder import contents_of
from nodes.guiding.following import guides_of

Floats = NDArray[np.float32]
DTYPES = ("auto", *ITEM_BYTES)


class Settings(Struct, frozen=True):
    """What to serve, and how."""

    batching: Batching
    file: Path  # the model; its directory has the tokenizer
    dtype: str = "auto"  # of the cache; auto: float32 for a model in float32, else float16
    ends: tuple[int, ...] = ()  # tokens that end a sequence; none: those that the file names
    native: Mapping[str, float] = {}  # fields of llama.cpp's own parameters


class LlamaEngine(NumpyEngine):
    """Keeps the contract of `nodes.contract.engine.Engine`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.batching)
        self._wanted = settings
        self._lanes: Any = None

    def start(self) -> Card:
        wanted, asked = self._wanted, self._settings
        if wanted.dtype not in DTYPES:
            raise Unsupported(f"dtype {wanted.dtype!r} is none of {', '.join(DTYPES)}")
        if asked.slots > SLOTS_MAX:
            raise Unsupported(f"it has at most {SLOTS_MAX} slots, not {asked.slots}")
        model = LlamaModel(wanted.file, wanted.dtype, wanted.native)
        try:
            return self._started(model)
        except BaseException:
            model.close()
            raise

    def _started(self, model: LlamaModel) -> Card:
        shape = model.shape
        ends = self._wanted.ends or shape.ends
        limits = limits_of(self._settings, shape.vocabulary, shape.context, shape.token_bytes, ends)
        limits = self._guide(replace(limits, caching=limits.caching and shape.whole))
        self._allocate(model, limits)
        state = probed(model) if shape.whole else b""
        layout, sample = layout_of(state, limits.block_tokens, shape.heads)
        limits = replace(limits, hand_over=limits.hand_over and layout is not None)
        exchange = Exchange(layout, sample)
        self._keep(limits, model, exchange)
        lanes = Lanes(limits.slots, limits.block_tokens, limits.caching, self._running.pool)
        self._lanes = exchange.lanes = lanes
        exchange.model = model
        self._again = partial(self._loaded, limits)
        return Card(
            engine="llama",
            model=self._wanted.file.parent.resolve().name,
            vocabulary=limits.vocabulary,
            context=limits.context,
            slots=limits.slots,
            block_tokens=limits.block_tokens,
            blocks=limits.blocks,
            eos_tokens=limits.eos_tokens,
            step_tokens=limits.step_tokens,
            layout=layout,
            resumes_exactly=model.exact,
            sleeps=True,
            guides=limits.guides,
        )

    def wake(self) -> None:
        if not self._asleep:
            return
        model: Any = self._model
        if model is None:
            self._model = self._exchange.model = self._again()
        else:
            self._allocate(model, self._running.limits)
        self._asleep = 0

    def stop(self) -> None:
        model: Any = self._model
        super().stop()
        if model is not None:
            model.close()

    def check(self) -> None:
        super().check()
        self._lanes.check()

    def _guide(self, limits: Limits) -> Limits:
        contents = contents_of(self._wanted.file.parent, str(self._wanted.file))
        self._guides = guides_of(contents["tokenizer"].decode(), limits.vocabulary, limits.eos_tokens)
        return replace(limits, guides=self._guides is not None)

    def _empty(self, model: Any) -> None:
        known: Any = self._model
        self._lanes.clear()
        if model is None and known is not None:
            known.close()
        elif model is not None:
            model.allocate(0, 0, 0)
        self._model = model

    def _loaded(self, limits: Limits) -> Any:
        model = LlamaModel(self._wanted.file, self._wanted.dtype, self._wanted.native)
        self._allocate(model, limits)
        return model

    def _allocate(self, model: LlamaModel, limits: Limits) -> None:
        positions = limits.blocks * limits.block_tokens
        model.allocate(positions, lanes_for(limits.slots, limits.caching), limits.step_tokens)

    def _plan(self) -> Plan:
        plan = super()._plan()
        running = self._running
        self._lanes.settle([*running.decoding, *running.filling, *running.landing])
        return plan

    def _logits(self, plan: Plan) -> Floats:
        """One row for each of the plan's heads."""
        model: Any = self._model
        parts = parts_of(plan)
        tokens: list[int] = []
        heads: list[int] = []
        for part in parts:
            tokens += part.running.tokens[part.start : part.start + part.count]
            if part.start + part.count == len(part.running.tokens):
                heads.append(len(tokens) - 1)
        positions = [np.arange(part.start, part.start + part.count) for part in parts]
        lanes = [self._lanes.begin(part) for part in parts]
        model.move(self._lanes.taken())
        rows = np.repeat(lanes, [part.count for part in parts])
        found: Floats = model.logits(np.asarray(tokens, np.int32), np.concatenate(positions), rows, heads)
        return found

    def _row_width(self) -> int:
        return 0  # it sees nothing

    def _places(self, running: Running, start: int, stop: int) -> NDArray[np.int64]:
        raise AssertionError("llama.cpp finds places by itself")


def probed(model: LlamaModel) -> bytes:
    """What llama.cpp says of a cache with one position."""
    one = np.zeros(1, np.int32)
    model.logits(one, one, one + SCRATCH + 1, [0])
    state = model.state(SCRATCH + 1, 0, 1)
    model.move([Move(SCRATCH + 1, -1, -1, -1)])
    return state
