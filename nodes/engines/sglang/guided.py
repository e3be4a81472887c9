"""Shell. Guides of SGLang's jobs, in its schedulers' processes: its place for grammars, filled with ours.

Not SGLang's structured outputs: those begin anew with each request, and a stream that has moved is a new request whose
prompt holds what was made before; besides, they need a tokenizer in SGLang. What is of SGLang is when masks are made
and what waits for them, so they are right where it overlaps steps, and cost nothing where nobody has a guide.

`schedule` is what these processes run. SGLang has an attribute of its engine for that, and hooks for plugins.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nodes.engines.sglang.library import library
from nodes.engines.sglang.words import Prescribed
from nodes.engines.transformers.library import torch
from nodes.folder import ModelRefused, contents_of
from nodes.guiding.following import Following, Guides, Lost, guides_of
from nodes.guiding.library import GuideRefused, installed

GRAMMARS = "srt.constrained.base_grammar_backend"
MANAGER = "srt.constrained.grammar_manager"
SAMPLER = "srt.layers.sampler"
RUNNER = "srt.model_executor.model_runner"
OWN = "wiremesh_own_logits"  # of a step, before the masks: log-probabilities are the model's
WORD = 32  # tokens in a number of a mask

log = logging.getLogger("wiremesh.engine")


def possible(engine: Any) -> bool:
    """Whether this version of SGLang lets us in."""
    try:
        library("srt.plugins.hook_registry")
        given = inspect.signature(library(SAMPLER).Sampler.forward).parameters
        masked = library(RUNNER).ModelRunner._preprocess_logits
    except (ImportError, AttributeError):
        return False
    return installed() and callable(masked) and hasattr(engine, "run_scheduler_process_func") and OWNED in given


OWNED = "logprob_logits"  # of `Sampler.forward`


def guides_in(folder: Path, config: Any) -> Guides | None:
    """Those of a model as SGLang describes it."""
    if not installed():
        return None
    from nodes.text.tokenizer import ModelFiles, Tokenizer

    try:
        own = Tokenizer(ModelFiles(**contents_of(folder))).eos_tokens
    except (ModelRefused, OSError, ValueError):
        return None
    eos_tokens = tuple(dict.fromkeys((*own, *sorted(config.hf_eos_token_id or ()))))
    return guides_of(folder / "tokenizer.json", int(config.vocab_size), eos_tokens)


# --- In SGLang's processes -----------------------------------------------------------------------------------


def schedule(*arguments: Any, **more: Any) -> None:
    """SGLang's own scheduler, with a place for our guides."""
    hooks = library("srt.plugins.hook_registry")
    registry, kind = hooks.HookRegistry, hooks.HookType
    registry.register(f"sglang.{MANAGER}.GrammarManager.__init__", _filled, kind.AFTER)
    registry.register(f"sglang.{RUNNER}.ModelRunner._preprocess_logits", _remembered, kind.AROUND)
    registry.register(f"sglang.{SAMPLER}.Sampler.forward", _told, kind.AROUND)
    library("srt.managers.scheduler").run_scheduler_process(*arguments, **more)


def _filled(result: None, manager: Any, scheduler: Any, *more: Any) -> None:
    """After SGLang has found that it has no tokenizer to read grammars with."""
    if manager.grammar_backend is None:
        guides = guides_in(Path(scheduler.server_args.model_path), scheduler.model_config)
        manager.grammar_backend = Backend(guides) if guides is not None else None


def _remembered(original: Callable[..., Any], runner: Any, output: Any, info: Any, *more: Any, **named: Any) -> Any:
    """Before the masks: what the model says of those whose log-probabilities are told."""
    rows = [row for row, one in enumerate(info.grammars or ()) if isinstance(one, Grammar) and one.prescribed.told]
    if rows:
        places = torch.tensor(rows, device=output.next_token_logits.device)
        setattr(info, OWN, (places, output.next_token_logits[places]))
    return original(runner, output, info, *more, **named)


def _told(original: Callable[..., Any], sampler: Any, output: Any, info: Any, *more: Any, **named: Any) -> Any:
    """After them."""
    own = info.__dict__.pop(OWN, None)
    if own is not None and named.get(OWNED) is None:
        places, rows = own
        named[OWNED] = output.next_token_logits.clone()
        named[OWNED][places] = rows
    return original(sampler, output, info, *more, **named)


def _base(name: str) -> Any:
    try:
        return getattr(library(GRAMMARS), name)
    except ImportError:  # without SGLang it is nobody's
        return object


class Grammar(_base("BaseGrammarObject")):  # type: ignore[misc]
    """One request under its guide. What SGLang calls."""

    def __init__(self, guides: Guides, prescribed: Prescribed) -> None:
        super().__init__()
        self.prescribed = prescribed
        self._guides = guides
        self._tokens = [*prescribed.said]
        self._following = self._followed()

    def _followed(self) -> Following:
        return self._guides.follow(self.prescribed.guide, 0)

    def accept_token(self, token: int) -> None:
        self.current_token = token  # SGLang asks whether there was one
        self._tokens.append(token)

    def rollback(self, count: int) -> None:
        """Of tokens that were only guessed."""
        if count > 0:
            del self._tokens[-count:]
            self._following = self._followed()

    def is_terminated(self) -> bool:
        """Never by itself: at the end it may only say an end of sequence, for which SGLang looks anyway."""
        return False

    def allowed(self) -> NDArray[np.bool_]:
        """What may come. One that can say nothing ends here, and the worker finds that it should not have."""
        try:
            found = self._following.allowed(self._tokens)
        except (GuideRefused, Lost) as error:
            log.warning("a guide was lost: %s", error)
            found = np.zeros(self._guides.vocabulary, np.bool_)
            found[[*self._guides.eos_tokens]] = True
            return found
        early = len(self._tokens) < self.prescribed.stops_from
        if unwanted := [*self.prescribed.endless, *(self.prescribed.stops if early else ())]:
            kept = found.copy()
            kept[unwanted] = False
            found = kept if kept.any() else found
        return found

    def allocate_vocab_mask(self, vocab_size: int, batch_size: int, device: object) -> Any:
        """As others' masks: a bit for each token."""
        return torch.full((batch_size, -(-vocab_size // WORD)), -1, dtype=torch.int32)

    def fill_vocab_mask(self, vocab_mask: Any, idx: int) -> None:
        row = np.zeros(vocab_mask.shape[1] * WORD // 8, np.uint8)
        bits = np.packbits(self.allowed(), bitorder="little")[: len(row)]
        row[: len(bits)] = bits
        vocab_mask[idx] = torch.from_numpy(row.view(np.int32))

    @staticmethod
    def move_vocab_mask(vocab_mask: Any, device: object) -> Any:
        return vocab_mask.to(device, non_blocking=True)

    @staticmethod
    def apply_vocab_mask(logits: Any, vocab_mask: Any) -> None:
        bits = vocab_mask.view(torch.uint8)[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=logits.device)
        barred = (bits & 1).flatten(1)[:, : logits.shape[1]] == 0
        logits[:, : barred.shape[1]].masked_fill_(barred, -torch.inf)


class Backend(_base("BaseGrammarBackend")):  # type: ignore[misc]
    """All guides of a scheduler."""

    def __init__(self, guides: Guides) -> None:
        super().__init__()
        self._guides = guides
        self._decode = msgspec.json.Decoder(Prescribed).decode

    def get_cached_or_future_value(self, key: Sequence[str], require_reasoning: bool) -> tuple[Any, bool]:
        """A grammar, and whether it is there; else what will be one."""
        try:
            prescribed = self._decode(key[1])
        except msgspec.DecodeError as error:  # not from us
            return library(GRAMMARS).InvalidGrammarObject(str(error)), True
        read = self._guides.read(prescribed.guide)
        if read.done():
            return self._grammar(prescribed, read), True
        coming: Future[Any] = Future()
        read.add_done_callback(lambda _: self._come(coming, prescribed, read))
        return coming, False

    def _come(self, coming: "Future[Any]", prescribed: Prescribed, read: "Future[Any]") -> None:
        if coming.set_running_or_notify_cancel():
            coming.set_result(self._grammar(prescribed, read))

    def _grammar(self, prescribed: Prescribed, read: "Future[Any]") -> Any:
        if (error := read.exception()) is not None:
            return library(GRAMMARS).InvalidGrammarObject(str(error))
        return Grammar(self._guides, prescribed)

    def set_cache(self, key: Sequence[str], value: object) -> None:
        """Guides are kept where they were read; what follows one is its job's alone."""
