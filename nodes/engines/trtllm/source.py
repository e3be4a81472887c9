"""Shell. TensorRT-LLM as a source, by its LLM API: tokens in, tokens out as they come, an abort for what is not wanted.

A hand-over between prefill and decode is its own (`DisaggregatedParams`), carried by the mesh unread. Its statistics
and the events of its cache only flow in an event loop that runs, and after a first request: they are asked for then.

Written from the sources of releases 1.0 to 1.2 and tested with a fake of the same signatures. It has not been run on
hardware.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from xxhash import xxh3_64_intdigest

from nodes.contract.engine import BlockEvent, Card, Ending, EngineLoad, Job
from nodes.engine_options import SLOTS_MAX, EngineOptions
from nodes.engines.guard import Guard, descendants
from nodes.engines.logits import ForTrtllm, processors_of
from nodes.engines.outside import EngineDead, EngineRefused, JobLost, OutsideEngine, Piece
from nodes.engines.trtllm import flags, library, words
from nodes.engines.trtllm.cache import Cache
from nodes.engines.trtllm.figures import Figures
from nodes.engines.trtllm.library import MISSING, has, part, prepare
from nodes.engines.trtllm.loras import Loras
from nodes.text.tokenizer import Tokenizer

EVENTS_KEPT = 16_384  # of the cache, by the engine, until they are asked for
ASK_S = 2.0  # an iterator of statistics or events ends after so long without any: then it is asked for again
PAUSE_S = 0.1  # before that
SHUTDOWN_S = 15.0  # what it is given to end its processes before they are killed
BLOCK_TOKENS = EngineOptions().block_tokens  # where nobody chose, TensorRT-LLM chooses
MS = 1000.0

log = logging.getLogger("wiremesh.engine")


class TrtllmSource:
    """Keeps the contract of `nodes.engines.outside.Source`."""

    def __init__(self, folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> None:
        self._folder = folder
        self._options = options
        self._tokenizer = tokenizer
        self._guard = Guard(())
        self._engine: Any = None
        self._loras = Loras()
        self._cache = Cache(xxh3_64_intdigest, BLOCK_TOKENS)
        self._figures: Figures | None = None
        self._events: list[BlockEvent] = []
        self._loads: dict[int, EngineLoad] = {}  # by rank
        self._watching: list[asyncio.Task[None]] = []
        self._silent: set[str] = set()  # what was said to go wrong, so that it is said once

    # --- Starting --------------------------------------------------------------------------------------------

    def start(self) -> Card:
        """Takes minutes for large models."""
        prepare()
        self._processors = [ForTrtllm(one) for one in processors_of(self._options.logits_processor)]
        try:
            package, api = part(), part("llmapi")
        except ImportError as error:
            raise EngineRefused(f"{MISSING} ({error})") from None
        arguments = self._arguments()
        before = set(descendants())
        try:
            for name, kind in ((flags.KV, "KvCacheConfig"), (flags.TRANSCEIVER, "CacheTransceiverConfig")):
                if isinstance(arguments.get(name), dict):
                    arguments[name] = getattr(api, kind)(**arguments[name])
            self._engine = package.LLM(**{**arguments, **self._loras.arguments(arguments)})
        except (Exception, SystemExit) as error:  # It raises anything.
            Guard([process for process in descendants() if process not in before]).release()
            what = " ".join(str(error).split())[:500]
            raise EngineRefused(f"TensorRT-LLM cannot serve {self._folder}: {what}") from error
        self._guard = Guard([process for process in descendants() if process not in before])
        self._version = str(getattr(package, "__version__", ""))
        self._ignores = has(package.SamplingParams, words.IGNORES)
        self._figures = Figures(self._folder.name)
        return self._card()

    def _arguments(self) -> dict[str, Any]:
        """For `tensorrt_llm.LLM`. Raises EngineRefused."""
        try:
            given = flags.given(self._loras.taken(self._options.native))
        except ValueError as error:
            raise EngineRefused(str(error)) from None
        file = given.pop(flags.FILE, "")
        found = flags.merged(self._ours(), _read(file) if file else {}, given)
        context = found.get("max_seq_len") or self._tokenizer.context
        if not isinstance(context, int) or context < 1:
            raise EngineRefused(f"{self._folder} does not say how many positions its model has: give --context")
        if complaint := flags.too_small_buffer(found, context):
            raise EngineRefused(complaint)
        return found

    def _ours(self) -> dict[str, Any]:
        """What the worker's own flags say, in its words."""
        options, role = self._options, self._options.role
        cache: dict[str, Any] = {"enable_block_reuse": options.caching}
        if options.caching:
            cache["event_buffer_max_size"] = EVENTS_KEPT
        if options.block_tokens != BLOCK_TOKENS:
            cache["tokens_per_block"] = options.block_tokens
        chosen = {
            "max_batch_size": options.slots,
            "max_seq_len": options.context,
            "max_num_tokens": options.step_tokens,
            "dtype": options.dtype,
        }
        found = {
            "model": str(self._folder),
            "skip_tokenizer_init": True,
            "enable_iter_perf_stats": True,
            flags.KV: cache,
        }
        if role in ("prefill", "decode"):
            found[flags.TRANSCEIVER] = {"backend": "DEFAULT"}
        if role == "prefill":
            found["disable_overlap_scheduler"] = True  # it cannot overlap steps of prompts that others go on with
        return found | {name: value for name, value in chosen.items() if value}

    def _card(self) -> Card:
        args, tokenizer = self._engine.args, self._tokenizer
        ranks = int(args.tensor_parallel_size) if getattr(args, "enable_attention_dp", False) else 1
        context = int(getattr(args, "max_seq_len", None) or tokenizer.context)
        slots = min(SLOTS_MAX, int(args.max_batch_size) * ranks)
        block_tokens = int(args.kv_cache_config.tokens_per_block)
        self._cache = Cache(xxh3_64_intdigest, block_tokens)
        self._step_tokens = int(getattr(args, "max_num_tokens", None) or 0)
        self._prompt_max = context if getattr(args, "enable_chunked_prefill", False) else self._step_tokens or context
        self._transceiver = getattr(args, flags.TRANSCEIVER, None)
        self._ranks, self._context = ranks, context
        most = getattr(args.kv_cache_config, "max_tokens", None) or slots * context  # only its statistics know better
        return Card(
            engine="trtllm",
            model=self._folder.name,
            vocabulary=tokenizer.vocabulary,
            context=context,
            slots=slots,
            block_tokens=block_tokens,
            blocks=-(-int(most) // block_tokens),
            eos_tokens=tokenizer.eos_tokens,
            resumes_sampling=False,
            resumes_exactly=str(getattr(args, "dtype", "")) == "float32",
            tells_blocks=bool(args.kv_cache_config.enable_block_reuse),
            lacks=("priority",) if self._ignores else ("priority", *words.PENALTIES),
            step_tokens=self._step_tokens,
            native="after" if self._transceiver is not None else "",
            ranks=ranks,
            loras=tuple(self._loras.paths),
        )

    # --- Jobs ------------------------------------------------------------------------------------------------

    def refusal(self, job: Job) -> str | None:
        """What it would refuse, too late."""
        length = len(job.prompt) + len(job.generated)
        if job.media:
            return "the trtllm engine takes no pictures, sounds or clips here: send text, or use --engine transformers"
        if length > self._prompt_max and not job.native:
            return (
                f"{length} tokens are more than TensorRT-LLM computes in one step ({self._prompt_max}): "
                "start it with -- --enable-chunked-prefill true"
            )
        return words.refusal_of(job)

    async def stream(self, job: Job) -> AsyncIterator[Piece]:
        """One job. If what another worker computed cannot be had, it is computed here."""
        asked = self._asked(job)
        told = 0
        try:
            async for piece in self._pieces(job, asked):
                told += 1
                yield piece
        except (ValueError, JobLost) as error:
            if told or not asked.native or job.feeds:
                raise
            self._count("failed")
            self._say(f"a prompt that another worker computed is computed again: {error}")
        else:
            if asked.native and not job.feeds:
                self._count("fetched")
            return
        async for piece in self._pieces(job, self._asked(replace(job, native=b""))):
            yield piece

    def _asked(self, job: Job) -> words.Asked:
        return words.asked(job, self._tokenizer.eos_tokens, self._context, self._version, self._ignores, time.time())

    async def _pieces(self, job: Job, asked: words.Asked) -> AsyncIterator[Piece]:
        """Its answers are all that it has so far, in one object that it fills."""
        result = self._begin(job, asked)
        seen, over = len(asked.known), False
        try:
            async for answer in result:
                made = answer.outputs[0]
                tokens = list(made.token_ids[seen:])
                if made.token_ids and list(made.token_ids[: len(asked.known)]) != asked.known:
                    raise JobLost("TensorRT-LLM began with other tokens than were told")
                piece = Piece(tokens, cached_tokens=int(getattr(answer, "cached_tokens", 0) or 0))
                if job.sampling.logprobs >= 0 and tokens:
                    piece.logprobs = words.rows_of(tokens, made.logprobs, job.sampling.logprobs)
                seen += len(tokens)
                over = bool(answer.finished)
                self._end(job, made, piece, over)
                if tokens or piece.ending is not None:
                    yield piece
        except (JobLost, EngineDead):
            raise
        except Exception as error:
            raise self._meant(error) from error
        finally:
            if not over:
                self._count("aborted")
                _abort(result)
            elif self._figures is not None:
                self._figures.request(result)

    def _begin(self, job: Job, asked: words.Asked) -> Any:
        package = part()
        sampling = package.SamplingParams(**asked.sampling)
        if self._processors:
            sampling.logits_processor = self._processors
        if job.sampling.logit_bias:
            sampling.embedding_bias = _biases(job, self._tokenizer.vocabulary)
        more: dict[str, Any] = {}
        if asked.native:
            more["disaggregated_params"] = package.DisaggregatedParams(**asked.native)
        if 0 <= job.rank < self._ranks and self._ranks > 1:
            kind = part("scheduling_params").SchedulingParams
            more["scheduling_params"] = kind(attention_dp_rank=job.rank, attention_dp_relax=False)
        if job.lora:
            more["lora_request"] = self._loras.request(job.lora)
        if job.cache_salt:
            more["cache_salt"] = job.cache_salt
        try:
            result = self._engine.generate_async(asked.tokens, sampling, streaming=not job.feeds, **more)
        except Exception as error:
            raise self._meant(error) from error
        self._watch()
        return result

    def _end(self, job: Job, made: Any, piece: Piece, over: bool) -> None:
        ending = words.ending_of(made.finish_reason, job.feeds)
        if not over:
            return
        if ending is Ending.LOST or (ending is None and not job.feeds):
            raise JobLost(f"TensorRT-LLM ended it: {made.finish_reason}")
        piece.ending = ending or Ending.LENGTH
        if job.feeds:
            length = len(job.prompt) + len(job.generated)
            piece.native = words.word(made.disaggregated_params, self._version, length, time.time(), self._lease_s())

    def _lease_s(self) -> float:
        """How long it keeps what it computed for others."""
        found = getattr(self._transceiver, "kv_transfer_timeout_ms", None)
        return float(found) / MS if found else words.LEASE_S

    def _meant(self, error: Exception) -> Exception:
        if not self._is_well():
            return EngineDead("TensorRT-LLM has ended; its own log says why")
        return ValueError(f"TensorRT-LLM refuses it: {error}")

    def _count(self, name: str) -> None:
        if self._figures is not None:
            setattr(self._figures, name, getattr(self._figures, name) + 1)

    # --- What it says besides --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """From the first request on: before that it has nothing to say, and may never say it."""
        if self._watching:
            return
        asks: list[tuple[Callable[..., Any], Callable[[Any], None]]] = [(self._engine.get_stats_async, self._counted)]
        if self._engine.args.kv_cache_config.enable_block_reuse:
            asks.append((self._engine.get_kv_cache_events_async, self._changed))
        self._watching = [asyncio.ensure_future(self._follow(ask, take)) for ask, take in asks]

    async def _follow(self, ask: Callable[..., Any], take: Callable[[Any], None]) -> None:
        while True:
            try:
                async for found in ask(timeout=ASK_S):
                    take(found)
            except Exception as error:  # It serves without.
                self._say(f"TensorRT-LLM does not tell what it does: {error}")
            await asyncio.sleep(PAUSE_S)

    def _counted(self, found: Any) -> None:
        for stats in found if isinstance(found, list) else [found]:
            if isinstance(stats, dict):
                self._loads[int(stats.get("attentionDpRank") or 0)] = words.load_of(stats)
                if self._figures is not None:
                    self._figures.step(stats)

    def _changed(self, found: Any) -> None:
        self._events += self._cache.heard(found)

    def _say(self, text: str) -> None:
        if text not in self._silent and len(self._silent) < EVENTS_KEPT:
            self._silent.add(text)
            log.warning("%s", text)

    def load(self) -> EngineLoad:
        loads = list(self._loads.values())
        total = EngineLoad(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            blocks_used=sum(load.blocks_used for load in loads),
            blocks_total=sum(load.blocks_total for load in loads),
        )
        each = tuple(self._loads.get(rank, EngineLoad()) for rank in range(self._ranks))
        return replace(total, ranks=each) if self._ranks > 1 and len(loads) > 1 else total

    def events(self) -> list[BlockEvent]:
        found, self._events = self._events, []
        return found

    def families(self) -> list[Any]:
        return self._figures.families(self._cache.gaps) if self._figures is not None else []

    def _is_well(self) -> bool:
        check = getattr(self._engine, "_check_health", None)
        if check is not None:
            return bool(check())
        executor = getattr(self._engine, "_executor", None)
        return executor is not None and not executor.is_shutdown()

    async def well(self) -> bool:
        if not self._is_well():
            raise EngineDead("TensorRT-LLM has ended; its own log says why")
        return True

    async def stop(self) -> None:
        for task in self._watching:
            task.cancel()
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                await asyncio.wait_for(asyncio.to_thread(engine.shutdown), SHUTDOWN_S)
            except Exception as error:  # Its processes are ended anyway.
                log.warning("TensorRT-LLM did not end as it should: %s", error or type(error).__name__)
        self._guard.release()


def _abort(result: Any) -> None:
    try:
        result.abort()
    except Exception as error:  # It may be gone, and then there is nothing to be aborted.
        log.debug("TensorRT-LLM could not abort a request: %s", error)


def _biases(job: Job, vocabulary: int) -> Any:
    """A number for each token of the model."""
    found = library.zeros(vocabulary)
    for token, bias in job.sampling.logit_bias.items():
        if 0 <= token < vocabulary:
            found[token] = bias
    return found


def _read(path: str) -> dict[str, Any]:
    """A file of LLM arguments, YAML or JSON. Raises EngineRefused."""
    from importlib import import_module

    try:
        content = Path(path).expanduser().read_text()
        found = import_module("yaml").safe_load(content)
    except (OSError, ImportError, ValueError) as error:
        raise EngineRefused(f"the file {path} of TensorRT-LLM's arguments cannot be read: {error}") from None
    except Exception as error:  # yaml's own
        raise EngineRefused(f"the file {path} of TensorRT-LLM's arguments is no YAML: {error}") from None
    if not isinstance(found, dict):
        raise EngineRefused(f"the file {path} of TensorRT-LLM's arguments holds no names and values")
    return found


def open_trtllm(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> tuple[OutsideEngine, Card, None]:
    """A TensorRT-LLM engine that is ready. Raises EngineRefused."""
    engine = OutsideEngine(TrtllmSource(folder, options, tokenizer))
    return engine, engine.start(), None
