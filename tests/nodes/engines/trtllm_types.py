"""What goes into the fake tensorrt_llm package and comes out: the names and fields of the package itself."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nodes.contract.engine import Ending, Logprobs, Output


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """The fields that an engine reads."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    embedding_bias: Any = None
    logits_processor: Any = None
    n: int = 1
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    prompt_ignore_length: int | None = None
    min_p: float | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True


@dataclass(slots=True, kw_only=True)
class DisaggregatedParams:
    """As it goes from a context server to a generation server."""

    request_type: str | None = None
    first_gen_tokens: list[int] | None = None
    ctx_request_id: int | None = None
    opaque_state: bytes | None = None
    draft_tokens: list[int] | None = None
    disagg_request_id: int | None = None
    ctx_dp_rank: int | None = None
    ctx_info_endpoint: str | None = None


@dataclass(slots=True, kw_only=True)
class SchedulingParams:
    attention_dp_rank: int | None = None
    attention_dp_relax: bool = True


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass
class KvCacheConfig:
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    event_buffer_max_size: int = 0
    tokens_per_block: int = 32


@dataclass
class CacheTransceiverConfig:
    backend: str | None = None
    max_tokens_in_buffer: int | None = None
    kv_transfer_timeout_ms: int | None = None


@dataclass(slots=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class LoraConfig:
    lora_dir: list[str] = field(default_factory=list)
    max_lora_rank: int = 64
    max_loras: int | None = None
    max_cpu_loras: int | None = None


@dataclass
class CompletionOutput:
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    disaggregated_params: DisaggregatedParams | None = None


class RequestOutput:
    """One answer, which is filled as it goes."""

    def __init__(
        self, request_id: int, prompt_token_ids: list[int], streaming: bool, abort: Callable[[], None]
    ) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self.outputs = [CompletionOutput()]
        self.finished = False
        self.cached_tokens = 0
        self.known: list[int] = []
        self._streaming = streaming
        self._abort = abort
        self._loop = asyncio.get_running_loop()  # as the package: without one it cannot be iterated
        self._queue: asyncio.Queue[Output] = asyncio.Queue()

    def put(self, output: Output) -> None:
        """From the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, output)

    def abort(self) -> None:
        """Its answer ends with `cancelled`."""
        self._abort()

    def __aiter__(self) -> "RequestOutput":
        return self

    async def __anext__(self) -> "RequestOutput":
        if self.finished:
            raise StopAsyncIteration
        self._fill(await self._queue.get())
        while not (self._streaming or self.finished):
            self._fill(await self._queue.get())
        return self

    def _fill(self, output: Output) -> None:
        made = self.outputs[0]
        if not made.token_ids:
            made.token_ids.extend(self.known)
        if output.ending is Ending.FAILED:
            raise RuntimeError(output.text)
        made.token_ids.extend(output.tokens)
        made.logprobs.extend(map(_logprobs, output.tokens, output.logprobs))
        self.cached_tokens = self.cached_tokens or output.cached_tokens
        if output.ending is not None:
            self.finished = True
            made.finish_reason = {Ending.STOP: "stop", Ending.LENGTH: "length"}.get(output.ending, "cancelled")


def _logprobs(token: int, row: Logprobs) -> dict[int, Logprob]:
    found = {one: Logprob(value, rank + 1) for rank, (one, value) in enumerate(row.top)}
    return {token: Logprob(row.chosen), **found}
