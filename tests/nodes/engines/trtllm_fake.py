"""The part of the tensorrt_llm package that the adapter uses, with its signatures and schemas, without a GPU.

Its tokens are those of our numpy engine, in a thread of its own. What it does like the package: an answer is one
object that is filled, with all tokens so far; a prompt that was computed elsewhere begins with its first token;
statistics and events flow after a first request, in maps, and their iterators end; an aborted request gets an answer.
"""

import asyncio
import hashlib
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from nodes.contract.engine import BlockEvent, Ending, Job, Output, Sampling
from nodes.engines.numpy.engine import NumpyEngine, Settings
from nodes.engines.trtllm import library
from tests.nodes.engines.trtllm_types import (
    CacheTransceiverConfig,
    DisaggregatedParams,
    KvCacheConfig,
    LoraConfig,
    LoRARequest,
    RequestOutput,
    SamplingParams,
    SchedulingParams,
)

VERSION = "1.2.1"
ARGUMENTS = {  # of LLM, besides its own parameters: tests/unittest/api_stability of the package
    *("pipeline_parallel_size", "moe_expert_parallel_size", "enable_lora", "lora_config", "max_batch_size"),
    *("max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens", "enable_chunked_prefill"),
    *("kv_cache_config", "stream_interval", "enable_attention_dp", "cache_transceiver_config"),
    *("return_perf_metrics", "enable_iter_perf_stats", "disable_overlap_scheduler", "backend"),
}
NAMES_MASK = 0x5DEECE66D1234567  # its names of blocks are not ours


class LLM:
    """The engine."""

    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        if strange := sorted(kwargs.keys() - ARGUMENTS):
            raise ValueError(f"1 validation error for TorchLlmArgs\n{strange[0]}\n  Extra inputs are not permitted")
        cache = kwargs.get("kv_cache_config") or KvCacheConfig()
        self.args = SimpleNamespace(
            model=model,
            dtype=dtype,
            tensor_parallel_size=tensor_parallel_size,
            kv_cache_config=cache,
            cache_transceiver_config=kwargs.get("cache_transceiver_config"),
            enable_attention_dp=kwargs.get("enable_attention_dp", False),
            enable_chunked_prefill=kwargs.get("enable_chunked_prefill", False),
            max_batch_size=kwargs.get("max_batch_size", 2048),
            max_seq_len=kwargs.get("max_seq_len"),
            max_num_tokens=kwargs.get("max_num_tokens", 8192),
        )
        self.lora_config = kwargs.get("lora_config") if kwargs.get("enable_lora") else None
        self.adapters: list[LoRARequest | None] = []  # of the requests so far
        self._runs = Computing(str(model), self.args)
        self._dead = False

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: DisaggregatedParams | None = None,
        _postproc_params: Any = None,
        scheduling_params: SchedulingParams | None = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        if self._dead:
            raise RuntimeError("LLM is shutting down")
        if lora_request is not None and self.lora_config is None:
            raise ValueError("LoRA is not enabled")
        self.adapters.append(lora_request)
        given = sampling_params or SamplingParams()
        if given.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if len(inputs) > self.args.max_num_tokens and not self.args.enable_chunked_prefill:
            raise ValueError("the prompt is longer than max_num_tokens")
        return self._runs.begin(list(inputs), given, streaming, disaggregated_params, cache_salt or "")

    def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        return self._told(self._runs.stats, timeout)

    def get_kv_cache_events_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        return self._told(self._runs.events, timeout)

    async def _told(self, found: list[dict[str, Any]], timeout: float | None) -> AsyncIterator[dict[str, Any]]:
        """What there is, until nothing comes for a while."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (timeout or 0.0)
        while self._runs.requested and loop.time() < end and not self._dead:
            while found:
                yield found.pop(0)
                end = loop.time() + (timeout or 0.0)
            await asyncio.sleep(0.005)

    def die(self) -> None:
        """As after a crash of its workers."""
        self._dead = True
        self._runs.stop()

    def _check_health(self) -> bool:
        return not self._dead

    def shutdown(self) -> None:
        self.die()


class Computing:
    """Our numpy engine in a thread."""

    def __init__(self, model: str, args: Any) -> None:
        cache = args.kv_cache_config
        settings = Settings(
            model,
            slots=args.max_batch_size if args.max_batch_size < 2048 else 8,
            step_tokens=64,
            block_tokens=cache.tokens_per_block,
            context=args.max_seq_len or 0,
            cache_bytes=cache.max_tokens * 2048 if cache.max_tokens else 64 << 20,
            caching=cache.enable_block_reuse,
        )
        self.engine = NumpyEngine(settings)
        self.engine.start()
        self.stats: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.requested = False
        self._numbers = count(1)
        self._event_ids = count()
        self._results: dict[int, RequestOutput] = {}
        self._lock = threading.Condition()
        self._commands: list[Callable[[], Any]] = []
        self._stopped = False
        self._event({"type": "created", "num_blocks_per_cache_level": [self.engine.load().blocks_total, 0]})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(
        self, tokens: list[int], given: SamplingParams, streaming: bool, native: DisaggregatedParams | None, salt: str
    ) -> RequestOutput:
        number = next(self._numbers)
        result = RequestOutput(number, tokens, streaming, lambda: self._do(lambda: self.engine.cancel(number)))
        if native is not None and native.request_type == "generation_only":
            if native.opaque_state != _state(tokens) or native.ctx_request_id is None:
                raise ValueError("there is no cache of this prompt on any context server")
            result.known = list(native.first_gen_tokens or ())
        self.requested = True
        self.engine.processors = [partial(_processed, one) for one in given.logits_processor or ()]
        job = _job(number, tokens, result.known, given, salt)
        if native is not None and native.request_type == "context_only":
            job.max_tokens = len(job.generated) + 1
            result.outputs[0].disaggregated_params = DisaggregatedParams(
                request_type="context_only", ctx_request_id=number, opaque_state=_state(tokens), first_gen_tokens=[]
            )
        self._do(lambda: self._submit(job, result))
        return result

    def _submit(self, job: Job, result: RequestOutput) -> None:
        refusal = self.engine.submit(job)
        if refusal:
            result.put(Output(job.key, ending=Ending.FAILED, text=refusal))
        else:
            self._results[result.request_id] = result

    def _do(self, command: Callable[[], Any]) -> None:
        with self._lock:
            self._commands.append(command)
            self._lock.notify()

    def stop(self) -> None:
        self._stopped = True
        self._do(lambda: None)
        self._thread.join(10)
        self.engine.stop()

    def _run(self) -> None:
        while not self._stopped:
            with self._lock:
                while not self._commands and self.engine.idle() and not self._stopped:
                    self._lock.wait(0.5)
                commands, self._commands = self._commands, []
            for command in commands:
                command()
            step = self.engine.step()
            for output in step.outputs:
                self._tell(output)
            for event in step.events:
                self._event(_event(event))
            if step.outputs:
                self._count()

    def _tell(self, output: Output) -> None:
        assert isinstance(output.key, int)
        result = self._results[output.key]
        params = result.outputs[0].disaggregated_params
        if params is not None and params.first_gen_tokens is not None:
            params.first_gen_tokens += output.tokens
        if output.ending is not None:
            del self._results[output.key]
        result.put(output)

    def _event(self, data: dict[str, Any]) -> None:
        self.events.append({"event_id": next(self._event_ids), "data": data, "window_size": 4096})

    def _count(self) -> None:
        load = self.engine.load()
        self.stats.append(
            {
                "iter": 0,
                "numActiveRequests": load.running,
                "numQueuedRequests": load.waiting,
                "kvCacheStats": {
                    "maxNumBlocks": load.blocks_total,
                    "freeNumBlocks": load.blocks_total - load.blocks_used,
                    "usedNumBlocks": load.blocks_used,
                },
                "inflightBatchingStats": {
                    "numContextRequests": 0,
                    "numGenRequests": load.running,
                    "numPausedRequests": 0,
                },
            }
        )


def _job(number: int, tokens: list[int], known: list[int], given: SamplingParams, salt: str) -> Job:
    """What it computes. The prompt ends where penalties begin to count."""
    begins = given.prompt_ignore_length if given.prompt_ignore_length is not None else len(tokens)
    generated = [*tokens[begins:], *known]
    ends = [] if given.ignore_eos or given.end_id is None or given.end_id < 0 else [given.end_id]
    made = len(tokens) - begins
    greedy = given.top_k == 1 or (given.top_p is None and given.top_k is None)
    biases = given.embedding_bias
    return Job(
        number,
        tokens[:begins],
        generated,
        max_tokens=made + given.max_tokens,
        min_tokens=made + (given.min_tokens or 0) if given.min_tokens else 0,
        stop_tokens=[*ends, *(given.stop_token_ids or ())],
        ignore_eos=True,
        cache_salt=salt,
        sampling=Sampling(
            temperature=0.0 if greedy else given.temperature or 1.0,
            top_p=given.top_p or 1.0,
            top_k=0 if greedy else given.top_k or 0,
            min_p=given.min_p or 0.0,
            repetition_penalty=given.repetition_penalty or 1.0,
            frequency_penalty=given.frequency_penalty or 0.0,
            presence_penalty=given.presence_penalty or 0.0,
            logit_bias={} if biases is None else {int(one): float(biases[one]) for one in np.flatnonzero(biases)},
            seed=given.seed or 0,
            logprobs=-1 if given.logprobs is None else given.logprobs,
        ),
    )


def _processed(processor: Any, tokens: Sequence[int], logits: Any) -> None:
    """As the package calls it: one request, one beam, and no stream where it computes with PyTorch."""
    processor(1, logits[None, None], [list(tokens)], None, None)


def _state(tokens: Sequence[int]) -> bytes:
    """What lets a generation server find the cache of a prompt."""
    return hashlib.sha256(json.dumps(list(tokens)).encode()).digest()


def _event(event: BlockEvent) -> dict[str, Any]:
    """As the package's serializer writes it."""
    if event.kind != "stored":
        return {"type": "removed", "block_hashes": [name ^ NAMES_MASK for name in event.hashes]}
    size = len(event.tokens) // len(event.hashes)
    blocks = [
        {
            "type": "stored_block",
            "block_hash": name ^ NAMES_MASK,
            "tokens": [
                {"type": "unique_token", "token_id": token, "token_extra_id": 0}
                for token in event.tokens[place * size : (place + 1) * size]
            ],
            "cache_level": 0,
            "priority": 35,
        }
        for place, name in enumerate(event.hashes)
    ]
    return {"type": "stored", "parent_hash": event.parent ^ NAMES_MASK if event.parent else None, "blocks": blocks}


def modules() -> dict[str, ModuleType]:
    """The package."""
    names = ("tensorrt_llm", "tensorrt_llm.llmapi", "tensorrt_llm.scheduling_params")
    where: tuple[str, ...] = ("tensorrt_llm.executor", "tensorrt_llm.lora_helper")
    found = {name: ModuleType(name) for name in (*names, *where)}
    everything: dict[str, Any] = {
        "LLM": LLM,
        "SamplingParams": SamplingParams,
        "DisaggregatedParams": DisaggregatedParams,
        "SchedulingParams": SchedulingParams,
        "KvCacheConfig": KvCacheConfig,
        "CacheTransceiverConfig": CacheTransceiverConfig,
        "LoRARequest": LoRARequest,
        "LoraConfig": LoraConfig,
        "__version__": VERSION,
    }
    for module in found.values():
        vars(module).update(everything)
    return found


@contextmanager
def installed() -> Iterator[None]:
    """It can be imported."""
    before = {name: sys.modules.get(name) for name in modules()}
    zeros = library.zeros
    sys.modules.update(modules())
    library.zeros = lambda count: np.zeros(count, np.float32)
    try:
        yield
    finally:
        library.zeros = zeros
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
