"""Shell. The numpy engine: the scheduler decides a step, the model computes it, and each head gets its token.

By default products are as fast as they can be, and a sequence's logits differ in their last bits with what else is in
the batch, with how its prompt was cut, and with what was computed again. With `exact` they do not differ in any bit.
"""

import json
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from nodes.contract.below import Below
from nodes.contract.engine import ASLEEP, Card, Ending, EngineLoad, Job, Logprobs, Output, Step
from nodes.contract.media import misplaced
from nodes.engines.guided import Left, kept_back, late, let_end, masks, told
from nodes.engines.logits import LogitsProcessor, process
from nodes.engines.numpy.attention import Span, runs_of
from nodes.engines.numpy.config import Config, Unsupported, config_of, tokens_of
from nodes.engines.numpy.exchange import Exchange
from nodes.engines.numpy.model import Model, load
from nodes.engines.numpy.placing import lacking, parts_of, placed, without
from nodes.engines.numpy.sampling import Bools, choose, is_plain
from nodes.engines.numpy.towers import media_of
from nodes.engines.scheduler import Limits, Plan, Running, Scheduler
from nodes.guiding.following import Guides, guides_of

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
CACHE_BYTES = 1 << 30
OVERFLOWED = "the model's numbers overflowed: it has no next token"


class Settings(Struct, frozen=True):
    """What to serve, and how much of it at once."""

    folder: str
    exact: bool = False
    slots: int = 32
    waiting_max: int = 1024
    step_tokens: int = 512
    block_tokens: int = 16
    context: int = 0  # positions; 0: what the model has
    cache_bytes: int = CACHE_BYTES  # taken from the system as they are written
    caching: bool = True
    hand_over: bool = False


class NumpyEngine:
    """Keeps the contract of `nodes.contract.engine.Engine`."""

    def __init__(self, settings: Settings) -> None:
        self.processors: Sequence[LogitsProcessor] = ()
        self._settings = settings
        self._model: Model | None = None
        self._scheduler: Scheduler | None = None
        self._exchange: Any = None
        self._again: Callable[[], Any] = _nothing  # the model, when it had been dropped
        self._asleep = 0
        self._sees = False  # whether a job ever had pictures or sounds in its prompt
        self._guides: Guides | None = None
        self._guided = False  # whether a job ever had a guide

    def start(self) -> Card:
        folder = Path(self._settings.folder)
        config, eos_tokens = configuration(folder)
        token_bytes = 2 * 4 * config.layers * config.key_heads * config.head_width
        limits = limits_of(self._settings, config.vocabulary, config.context, token_bytes, eos_tokens)
        limits = self._guide(limits)
        slots = limits.blocks * limits.block_tokens
        self._again = partial(load, config, folder, limits.context, slots, self._settings.exact)
        model = self._again()
        exchange = Exchange(model.keys, model.values, limits.block_tokens)
        self._keep(limits, model, exchange)
        return Card(
            engine="numpy",
            model=folder.resolve().name,
            vocabulary=limits.vocabulary,
            context=limits.context,
            slots=limits.slots,
            block_tokens=limits.block_tokens,
            blocks=limits.blocks,
            eos_tokens=eos_tokens,
            step_tokens=limits.step_tokens,
            layout=exchange.layout,
            media=media_of(folder),
            sleeps=True,
            guides=limits.guides,
        )

    def _guide(self, limits: Limits) -> Limits:
        """Be ready for guides, if this process can read them."""
        file = Path(self._settings.folder) / "tokenizer.json"
        self._guides = guides_of(file, limits.vocabulary, limits.eos_tokens)
        return replace(limits, guides=self._guides is not None)

    def _keep(self, limits: Limits, model: Any, exchange: Any) -> None:
        self._model, self._exchange = model, exchange
        self._scheduler = Scheduler(limits, xxh3_64_intdigest, exchange)

    def submit(self, job: Job) -> str | None:
        if self._asleep:
            return ASLEEP
        strange = [token for token in job.sampling.logit_bias if not 0 <= token < self._running.limits.vocabulary]
        if strange:
            return f"logit_bias names token {strange[0]}, which is none"
        if job.media:
            if text := misplaced(job.media, len(job.prompt), self._row_width()):
                return text
            self._sees = True
        if job.guide is not None and self._guides is not None:
            self._guides.read(job.guide)
            self._guided = True
        return self._running.submit(job)

    def cancel(self, key: Hashable, out: memoryview | None = None) -> int:
        return self._running.cancel(key, out)

    def land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        self._running.land(key, source, positions, tokens)

    def step(self) -> Step:
        scheduler = self._running
        plan = self._plan()
        if not plan.decoding and not plan.parts:
            return Step(scheduler.reports(), scheduler.events())
        computed = plan.computed
        tokens, logprobs, left = self._sample(plan, self._logits(plan))
        outputs = scheduler.apply(plan, tokens, logprobs)
        for one in left:
            if one.ending is not None:
                scheduler.fail(one.running, one.text, one.ending)
        prefilled = sum(part.count for part in plan.parts)
        return Step(outputs + told(left) + scheduler.reports(), scheduler.events(), computed, prefilled)

    def load(self) -> EngineLoad:
        load = self._running.load()
        return load if not self._asleep else replace(load, asleep=self._asleep)

    def idle(self) -> bool:
        return self._running.idle()

    def clear(self) -> list[Output]:
        """End all jobs and forget all prefixes."""
        return self._running.clear()

    def attach(self, below: Below) -> None:
        self._running.attach(below)

    def stir(self) -> None:
        self._running.stir()

    def sleep(self, level: int) -> None:
        if level < self._asleep:
            self.wake()
        if not self._asleep:
            self._running.forget()
        self._asleep = level
        self._empty(self._model if level == 1 else None)

    def wake(self) -> None:
        if not self._asleep:
            return
        limits = self._running.limits
        if self._model is None:
            self._model = self._again()
        else:
            self._model.allocate(limits.blocks * limits.block_tokens)
        self._exchange.use(self._model.keys, self._model.values)
        self._asleep = 0

    def _empty(self, model: Any) -> None:
        """Only this is left: what nobody names any more goes back to the system."""
        if model is not None:
            model.allocate(0)
            self._exchange.use(model.keys, model.values)
        else:
            self._exchange.use(None, None)
        self._model = model

    def stop(self) -> None:
        if self._scheduler is not None:
            self._scheduler.stop()
        self._model = self._scheduler = self._exchange = None

    def check(self) -> None:
        """Assert all invariants."""
        self._running.check()

    @property
    def _running(self) -> Scheduler:
        assert self._scheduler is not None, "start it first"
        return self._scheduler

    def _plan(self) -> Plan:
        """What can be computed of the scheduler's plan: a sequence may lack what it is to see."""
        plan = self._running.plan()
        if self._guided and self._guides is not None and (waits := late(self._guides, plan)):
            plan = without(plan, waits)
        if not self._sees or self._asleep:
            return plan
        blind = lacking(plan, self._row_width())
        for running, text in blind:
            self._running.fail(running, text)
        return without(plan, [running for running, _ in blind]) if blind else plan

    def _logits(self, plan: Plan) -> Floats:
        """One row for each of the plan's heads."""
        assert self._model is not None
        parts = parts_of(plan)
        size = self._settings.block_tokens
        tokens: list[int] = []
        positions, slots, spans, media = [], [], [], []
        for part in parts:
            running, stop = part.running, part.start + part.count
            if running.job.media:
                media += placed(part, len(tokens))
            spans.append(Span(len(tokens), len(tokens) + part.count, part.start, runs_of(running.blocks, size, stop)))
            tokens += running.tokens[part.start : stop]
            position = np.arange(part.start, stop)
            positions.append(self._places(running, part.start, stop))
            slots.append(np.asarray(running.blocks)[position // size] * size + position % size)
        whole = [part.start + part.count == len(part.running.tokens) for part in parts]
        heads = [span.last - 1 for span, is_whole in zip(spans, whole, strict=True) if is_whole]
        place = np.concatenate(positions, axis=-1), np.concatenate(slots)
        return self._model.logits(np.asarray(tokens), *place, spans, np.asarray(heads, np.int64), media)

    def _row_width(self) -> int:
        """Numbers in a row of a picture."""
        assert self._model is not None
        return self._model.config.width

    def _places(self, running: Running, start: int, stop: int) -> Ints:
        """What the model takes for the positions [start, stop) of a sequence."""
        return np.arange(start, stop)

    def _sample(self, plan: Plan, logits: Floats) -> tuple[list[int], list[Logprobs | None], list[Left]]:
        """A token for each head. A head whose logits are no numbers leaves the plan, and one that its guide stops."""
        allowed, left = masks(self._guides, plan.heads) if self._guided and self._guides is not None else ({}, [])
        for row, running in enumerate(plan.heads if self.processors else ()):
            if not process(self.processors, running.tokens, logits[row]):
                logits[row] = np.nan  # no token can be chosen: it fails
        best = logits.argmax(axis=1)
        sound = np.isfinite(logits[np.arange(len(best)), best])
        if not sound.all():
            unsound = [running for running, is_sound in zip(plan.heads, sound, strict=True) if not is_sound]
            left = [one for one in left if one.running not in unsound]
            left += [Left(running, Ending.FAILED, OVERFLOWED) for running in unsound]
        gone = [one.running for one in left]
        tokens: list[int] = []
        logprobs: list[Logprobs | None] = []
        for row, running in enumerate(plan.heads):
            if gone and running in gone:
                continue
            token, rows = int(best[row]), None
            if row in allowed:
                token, rows = self._guided_choice(logits[row], running, allowed[row])
            elif not is_plain(running.job):
                token, rows = choose(logits[row], running.job, running.tokens, banned(running, logits.shape[1]))
            tokens.append(token)
            logprobs.append(rows)
        if gone:
            plan.decoding = [running for running in plan.decoding if running not in gone]
            plan.heads = [running for running in plan.heads if running not in gone]
        return tokens, logprobs, left

    def _guided_choice(self, logits: Floats, running: Running, allowed: Bools) -> tuple[int, Logprobs | None]:
        ends = self._running.limits.eos_tokens
        unwanted = kept_back(running, banned(running, len(logits)), ends)
        token, rows = choose(logits, running.job, running.tokens, unwanted, allowed)
        let_end(running, token, ends)
        return token, rows


def _nothing() -> None:
    raise AssertionError("start it first")


def banned(running: Running, vocabulary: int) -> Sequence[int]:
    """What may not come yet, because it would stop the sequence too early. Some models name an end that is no token."""
    if len(running.tokens) >= running.stops_from:
        return ()
    return sorted(token for token in running.stops if token < vocabulary)


def configuration(folder: Path) -> tuple[Config, tuple[int, ...]]:
    """The model's shape, and its end-of-sequence tokens, of which `generation_config.json` knows more."""
    config = config_of(read_json(folder / "config.json"))
    generation = folder / "generation_config.json"
    more = tokens_of(read_json(generation).get("eos_token_id")) if generation.exists() else ()
    return config, tuple(dict.fromkeys((*config.eos_tokens, *more)))


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise Unsupported(f"no model here: {error}") from error
    except ValueError as error:
        raise Unsupported(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Unsupported(f"{path} is no JSON object")
    return found


def limits_of(
    settings: Settings, vocabulary: int, positions: int, token_bytes: int, eos_tokens: tuple[int, ...]
) -> Limits:
    """As many blocks as the memory has room for, and no more than all slots could use."""
    context = min(settings.context or positions, positions) if positions else settings.context
    if context < 1:
        raise Unsupported("the model's files do not say how many positions it has: say it with --context")
    blocks = settings.cache_bytes // (token_bytes * settings.block_tokens)
    blocks = min(blocks, 2 * settings.slots * -(-context // settings.block_tokens))
    if blocks < 1:
        raise Unsupported(f"cache_bytes {settings.cache_bytes} is less than one block")
    return Limits(
        vocabulary=vocabulary,
        context=min(context, blocks * settings.block_tokens),
        slots=settings.slots,
        waiting_max=settings.waiting_max,
        step_tokens=max(settings.step_tokens, settings.slots),
        block_tokens=settings.block_tokens,
        blocks=blocks,
        eos_tokens=eos_tokens,
        caching=settings.caching,
        hand_over=settings.hand_over,
    )
