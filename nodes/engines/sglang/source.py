"""Shell. SGLang as an engine of the mesh: one `sgl.Engine` in the worker's process, driven from the worker's loop.

Prefill and decode apart are SGLang's own: both sides get the same request at once, and find each other by the host and
port of the prefill side's bootstrap server and by the number of a room, which we draw. A decode side computes no prompt
of its own (its card says so), and an abort that we did not ask for means that the other side is gone: the job is lost
here, and goes on elsewhere. Seeds are heeded in its deterministic mode alone, which is for GPUs: on a CPU it was run
without the kernels that make its sums the same in every batch. Sleeping needs SGLang's memory saver, which only GPUs
have: without one it was run with a stand-in for it, which gives nothing back.
"""

import asyncio
import atexit
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import zmq
from xxhash import xxh3_64_intdigest

from nodes.contract.engine import BlockEvent, Card, Ending, EngineLoad, Job
from nodes.contract.media import IMAGE
from nodes.engine_options import SLOTS_MAX, EngineOptions
from nodes.engines.guard import Guard, descendants
from nodes.engines.kv_feed import KvFeed
from nodes.engines.outside import (
    EngineDead,
    EngineRefused,
    JobLost,
    OutsideEngine,
    Piece,
    budget_of,
    names,
    sequence_of,
)
from nodes.engines.sglang import words
from nodes.engines.sglang.figures import families, load_of, schedulers_of, together
from nodes.engines.sglang.library import library
from nodes.engines.sglang.seeing import Eyes, shown, sight_of
from nodes.engines.sglang.starting import (
    Died,
    closed,
    failed,
    flags_of,
    free_ports,
    guides_for,
    launched,
    ranks_in,
    sockets_of,
)
from nodes.engines.shown import refusal_of as unseen_of
from nodes.engines.transformers.vision import Sight
from nodes.engines.witness import Witness
from nodes.guiding.following import Guides
from nodes.text.tokenizer import Tokenizer

LOAD_S = 0.05  # older figures are asked for again: they are in shared memory
END_S = 5.0  # for its schedulers to end by themselves
REAPED_S = 2.0  # from a kill to the end: a process that holds much memory takes a while
PROBED_S = 10.0  # without a word from its scheduler: ask it for one
SEEDS = "with -- --enable-deterministic-inference"
QUIET_S = 10.0  # before it sleeps: until it has done what it had begun for jobs that are over
LEVELS = {1: ("kv_cache",), 2: ("kv_cache", "weights")}  # what it gives back, asleep
Meeting = words.Bootstrap | None


class SglangSource:
    """One engine."""

    def __init__(self, folder: Path, options: EngineOptions, eos_tokens: tuple[int, ...]) -> None:
        self._folder = folder
        self._options = options
        self._eos = eos_tokens
        self._names = names()
        self._engine: Any = None
        self._manager: Any = None
        self._card: Card | None = None
        self._guard: Guard | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._feeds: list[KvFeed] = []
        self._home = ""  # of sockets
        self._tasks: list[asyncio.Task[None]] = []
        self._prompt_max = 0
        self._load = EngineLoad()
        self._load_at = 0.0
        self._asleep: list[str] = []
        self._guides: Guides | None = None
        self._sight: Sight | None = None
        self.towers: Eyes | None = None  # once it runs

    def start(self) -> Card:
        Died.said = False
        ranks = ranks_in(self._options.native)
        self._home = tempfile.mkdtemp(prefix="wiremesh-sglang-")
        sockets = sockets_of(ranks, self._home)
        resource_tracker.ensure_running()  # multiprocessing keeps it until the end: it must not get our mark
        guard = self._guard = Guard()
        before = {*descendants()}
        try:
            with guard.marking():
                self._engine = launched(flags_of(self._folder, self._options, sockets, free_ports()))
        except EngineRefused:
            guard.watch(process for process in descendants() if process not in before)
            self._clean()
            raise
        guard.watch(process for process in descendants() if process not in before)
        self._manager = self._engine.tokenizer_manager
        card = self._card = self._told(ranks)
        if card.tells_blocks:
            context = self._context = zmq.Context()
            self._feeds = [
                KvFeed(context, one.stream, one.replay, xxh3_64_intdigest, topic="kv", rank=rank)
                for rank, one in enumerate(sockets)
            ]
        return card

    def _told(self, ranks: int) -> Card:
        """What it is, by its own word."""
        manager, options = self._manager, self._options
        model, info = manager.model_config, self._engine._scheduler_init_result.scheduler_infos[0]
        settings = self._engine.server_args
        page = int(manager.config_value("page_size"))
        self._prompt_max = int(info["max_req_input_len"]) - 1
        blocks, embeds = int(info["max_total_num_tokens"]) // page, not manager.is_generation
        slots = self._slots(blocks)
        own = model.hf_eos_token_id or ()
        if not embeds and (sight := sight_of(self._folder, manager)) is not None:
            self._sight, self.towers = sight, Eyes(self._folder, sight, str(model.dtype).removeprefix("torch."))
        self._guides = None if embeds else guides_for(self._engine, self._folder, model)
        loras = tuple(manager.lora_registry.get_all_adapters()) if manager.enable_lora else ()
        lacks = {
            "min_tokens": options.role == "decode",
            "priority": not manager.enable_priority_scheduling,
            "min_p": self._seeded,  # its scheduler dies of one, in its deterministic mode
        }
        return Card(
            "sglang",
            self._folder.name,
            int(model.vocab_size),
            self._prompt_max,  # what has moved here is a prompt as a whole, and may have any length up to there
            min(SLOTS_MAX, slots * ranks),
            page,
            blocks * ranks,
            tuple(dict.fromkeys((*self._eos, *sorted(own)))),
            resumes_sampling=self._seeded,
            resumes_exactly="float32" in str(model.dtype),
            tells_blocks=options.caching and not embeds and not manager.config_value("disable_radix_cache"),
            sleeps=bool(settings.enable_memory_saver),
            loras=loras,
            lacks=tuple(name for name, is_so in lacks.items() if is_so),
            native="beside" if options.role in ("prefill", "decode") else "",
            fed_only=options.role == "decode",
            step_tokens=max(0, int(manager.config_value("chunked_prefill_size") or 0)),
            embeds=int(model.hidden_size) if embeds else 0,
            generates=not embeds,
            ranks=ranks,
            unseeded="" if self._seeded else SEEDS,
            guides=self._guides is not None,
            media={IMAGE: self._sight.card} if self._sight is not None else {},
        )

    def _slots(self, blocks: int) -> int:
        found = self._manager.load_snapshot_reader.read_all()
        return int(found[0].max_running_requests) if found else self._options.slots or max(1, blocks)

    def begin(self) -> None:
        """As SGLang would begin with its first request, but without its handlers of signals and its exit."""
        loop, manager = asyncio.get_running_loop(), self._manager
        manager.event_loop = loop
        self._tasks = [loop.create_task(self._listen())]

    async def _listen(self) -> None:
        try:
            await self._manager.handle_loop()
        except Exception as error:
            failed()
            raise EngineDead(f"SGLang's tokenizer manager failed: {error}") from error

    # --- Jobs ------------------------------------------------------------------------------------------------

    def refusal(self, job: Job) -> str | None:
        unseen = unseen_of(job, self._sight, "sglang") if job.media else None
        return unseen or words.refusal_of(job, self._prompt_max)

    async def stream(self, job: Job) -> AsyncIterator[Piece]:
        if job.embeds:
            yield await self._embedded(job)
            return
        meeting = self._meeting(job)
        if job.feeds and meeting is not None:
            yield Piece(native=words.packed(meeting))
        budget, stops = min(budget_of(job), self._room(job)), words.endings_of(job, self._eos_tokens)
        early = min(budget, job.min_tokens - len(job.generated)) if job.guide is None else 0
        sequence = sequence_of(job)
        if early > 0:
            async with aclosing(self._made(job, sequence, early, stops, [], meeting)) as first:
                async for piece in first:
                    sequence = [*sequence, *piece.tokens]
                    budget -= len(piece.tokens)
                    if piece.ending is Ending.LENGTH and budget:
                        piece.ending = None
                    yield piece
                    if piece.ending is not None:
                        return
        witness = await self._witnessed(job)
        async with aclosing(self._made(job, sequence, budget, [], stops, meeting)) as rest:
            async for piece in rest:
                if early > 0:
                    piece.cached_tokens = 0  # what the first part has left there
                if witness is not None:
                    await witness.see(piece)
                yield piece

    async def _witnessed(self, job: Job) -> Witness | None:
        """Who sees that a guide is kept, once that was read. Raises GuideRefused."""
        if job.guide is None or self._guides is None:
            return None
        witness = Witness(self._guides, job)
        await witness.ready()
        return witness

    async def _made(
        self, job: Job, sequence: list[int], budget: int, banned: list[int], stops: list[int], meeting: Meeting
    ) -> AsyncGenerator[Piece, None]:
        """One request to SGLang."""
        wanted = words.sampling_of(job, budget, banned, stops, self._seeded)
        asked = library("srt.managers.io_struct").GenerateReqInput(
            rid=next(self._names),
            input_ids=sequence,
            image_data=shown(job, sequence, self._sight, self._manager.model_config.dtype) if job.media else None,
            sampling_params=wanted | words.prescribed_of(job, self._eos_tokens),
            stream=True,
            return_logprob=job.sampling.logprobs >= 0,
            top_logprobs_num=max(0, job.sampling.logprobs),
            lora_path=job.lora or None,
            cache_salt=job.cache_salt or None,
            priority=job.priority if self._manager.enable_priority_scheduling else None,
            routed_dp_rank=job.rank if 0 <= job.rank < self._told_ranks and self._told_ranks > 1 else None,
            bootstrap_host=meeting.host if meeting else None,
            bootstrap_port=meeting.port if meeting else None,
            bootstrap_room=meeting.room if meeting else None,
        )
        # Closing it before its end aborts the request.
        async with aclosing(self._manager.generate_request(asked, None)) as chunks:
            async for chunk in chunks:
                found = words.heard(chunk)
                if job.ignore_eos and stops:
                    found = words.cut(found, stops)
                yield _piece(found)
                if found.ending is not None:
                    return

    async def _embedded(self, job: Job) -> Piece:
        asked = library("srt.managers.io_struct").EmbeddingReqInput(
            rid=next(self._names), input_ids=list(job.prompt), sampling_params={}, dimensions=job.dimensions or None
        )
        async with aclosing(self._manager.generate_request(asked, None)) as answers:
            answer = await anext(answers)
        return Piece(vector=words.vector_of(answer["embedding"]), ending=Ending.STOP)

    def _room(self, job: Job) -> int:
        """What its context has for it: SGLang refuses a job that asks for more."""
        assert self._card is not None
        return self._card.context - len(job.prompt) - len(job.generated)

    def _meeting(self, job: Job) -> Meeting:
        """Where both sides of a request meet."""
        if job.native:
            try:
                return words.meeting_of(job.native)
            except ValueError as error:
                raise JobLost(str(error)) from None
        if self._options.role != "prefill":
            return None
        settings = self._engine.server_args
        anywhere = settings.host in ("", "0.0.0.0", "::", None)
        host = library("srt.utils").get_local_ip_auto() if anywhere else settings.host
        return words.Bootstrap(host, settings.disaggregation_bootstrap_port, int.from_bytes(os.urandom(8), "big") >> 1)

    @property
    def _seeded(self) -> bool:
        """Whether what it draws is a function of seed and position."""
        return bool(self._manager.config_value("enable_deterministic_inference"))

    @property
    def _eos_tokens(self) -> tuple[int, ...]:
        assert self._card is not None
        return self._card.eos_tokens

    @property
    def _told_ranks(self) -> int:
        assert self._card is not None
        return self._card.ranks

    # --- What it says of itself ------------------------------------------------------------------------------

    def load(self) -> EngineLoad:
        now = time.monotonic()
        if now - self._load_at >= LOAD_S and self._card is not None:
            self._load_at = now
            each = [load_of(one, self._card.block_tokens) for one in self._manager.load_snapshot_reader.read_all()]
            self._load = together(each) if each else EngineLoad(blocks_total=self._card.blocks)
        return self._load

    def events(self) -> list[BlockEvent]:
        return [event for feed in self._feeds for event in feed.events()]

    def families(self) -> list[Any]:
        return families()

    async def well(self) -> bool:
        if Died.said:
            raise EngineDead("a process of SGLang has failed")
        if any(task.done() for task in self._tasks):
            raise EngineDead("SGLang's tokenizer manager has ended")
        if time.time() - self._manager.last_receive_tstamp > PROBED_S:
            await self._manager.get_internal_state()  # by way of its scheduler, which may hang
        return True

    # --- Sleeping, and the end -------------------------------------------------------------------------------

    async def sleep(self, level: int) -> None:
        """Give the cache back, and the weights too where SGLang keeps a copy of them to wake with."""
        kept = bool(self._engine.server_args.enable_weights_cpu_backup)
        await self._rest(LEVELS[level] if kept else LEVELS[1])

    async def wake(self) -> None:
        """Take it again."""
        await self._rest(())

    async def _rest(self, wanted: Sequence[str]) -> None:
        """Only these are given back. SGLang dies of a wish that is granted already, and of one while it has work."""
        messages, manager = library("srt.managers.io_struct"), self._manager
        if taken := [tag for tag in self._asleep if tag not in wanted]:
            await manager.resume_memory_occupation(messages.ResumeMemoryOccupationReqInput(tags=taken))
            self._asleep = [tag for tag in self._asleep if tag in wanted]
        if given := [tag for tag in wanted if tag not in self._asleep]:
            answers = await manager.flush_cache_communicator(messages.FlushCacheReqInput(timeout_s=QUIET_S))
            if not all(one.success for one in answers):
                raise EngineDead("SGLang still has work for jobs that have ended: it cannot sleep")
            await manager.release_memory_occupation(messages.ReleaseMemoryOccupationReqInput(tags=given))
            self._asleep = [*self._asleep, *given]

    async def stop(self) -> None:
        engine, self._engine = self._engine, None
        for task in self._tasks:
            task.cancel()
        for feed in self._feeds:
            feed.close()
        self._feeds = []
        if engine is not None:
            # Its own `shutdown` kills whatever this process has started.
            atexit.unregister(engine.shutdown)
            self._manager._dispatch_to_scheduler(library("srt.managers.io_struct").ShutdownReq())
            await asyncio.get_running_loop().run_in_executor(None, self._await_end)
            closed(engine, self._manager)
        self._clean()

    def _await_end(self) -> None:
        """Schedulers that end by themselves give their GPU back; what is left then is killed."""
        self._manager._subprocess_watchdog.stop()
        deadline = time.monotonic() + END_S
        while self._schedulers() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _schedulers(self) -> list[int]:
        """Those that run."""
        return schedulers_of(self._guard.processes if self._guard is not None else ())

    def _clean(self) -> None:
        if self._guard is not None:
            ours = {*self._guard.processes}
            self._guard.release()
            self._guard = None
            for process in multiprocessing.active_children():
                if process.pid in ours:
                    process.join(REAPED_S)  # or they would stay as zombies
        if self._context is not None:
            self._context.destroy(0)
        with suppress(OSError):
            shutil.rmtree(self._home)


def _piece(found: words.Heard) -> Piece:
    if found.ending is Ending.LOST:
        raise JobLost(found.text)
    return Piece(found.tokens, found.logprobs, found.ending, found.text, found.cached_tokens)


def open_sglang(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> tuple[OutsideEngine, Card, None]:
    """An engine that is ready. Raises EngineRefused."""
    engine = OutsideEngine(SglangSource(folder, options, tuple(tokenizer.eos_tokens)))
    return engine, engine.start(), None
