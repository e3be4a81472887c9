"""SGLang's adapter: its words and ours, against a small stand-in. Against itself: test_sglang_itself.py."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodes.contract.engine import Card, Ending, Job, Logprobs, Sampling
from nodes.engine_options import EngineOptions
from nodes.engines.outside import EngineDead, EngineRefused, JobLost, OutsideEngine, Piece
from nodes.engines.sglang import source as source_module
from nodes.engines.sglang import words
from nodes.engines.sglang.source import SglangSource
from nodes.engines.sglang.starting import Died, Sockets, flags_of, free_ports, ranks_in, sockets_of

GREEDY = Sampling(temperature=0.0)
FOLDER = Path("model")
HERE = [Sockets("ipc:///tmp/stream", "ipc:///tmp/replay")]


# --- Words --------------------------------------------------------------------------------------------------


def test_sampling_is_said_in_its_words() -> None:
    job = Job(1, [1, 2], sampling=Sampling(top_p=0.0, top_k=0, logit_bias={7: 1.5}, seed=3), ignore_eos=True)
    said = words.sampling_of(job, 5, [], [9])
    assert said["max_new_tokens"] == 5 and said["top_p"] > 0 and said["top_k"] == -1
    assert said["logit_bias"] == {"7": 1.5} and said["stop_token_ids"] == [9] and said["ignore_eos"]
    assert "sampling_seed" not in said and words.sampling_of(job, 5, [], [], seeded=True)["sampling_seed"] == 3
    early = words.sampling_of(Job(1, [1], stop_tokens=[4]), 2, [4, 2], [])
    assert early["logit_bias"] == {"4": words.NEVER, "2": words.NEVER} and early["ignore_eos"]


def test_endings_leave_out_what_a_job_ignores() -> None:
    assert words.endings_of(Job(1, [1], stop_tokens=[4, 2]), (2, 3)) == [2, 3, 4]
    assert words.endings_of(Job(1, [1], stop_tokens=[4], ignore_eos=True), (2, 3)) == [4]


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        (Sampling(frequency_penalty=2.5), "frequency_penalty"),
        (Sampling(presence_penalty=-3.0), "presence_penalty"),
        (Sampling(repetition_penalty=2.1), "repetition_penalty"),
    ],
)
def test_what_it_would_refuse_is_refused_before(sampling: Sampling, word: str) -> None:
    assert word in (words.refusal_of(Job(1, [1], sampling=sampling), 10) or "")
    assert "10" in (words.refusal_of(Job(1, [1] * 8, generated=[1] * 3), 10) or "")
    assert words.refusal_of(Job(1, [1] * 8, generated=[1] * 2), 10) is None


def chunk(tokens: Sequence[int], reason: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"output_ids": list(tokens), "meta_info": {"finish_reason": reason, "cached_tokens": 4, **more}}


def test_chunks_are_understood() -> None:
    rows = {"output_token_logprobs": [(-1.0, 5, None)], "output_top_logprobs": [[(-1.0, 5, None), (-2.0, 6, None)]]}
    assert words.heard(chunk([5], **rows)) == words.Heard([5], [Logprobs(-1.0, [(5, -1.0), (6, -2.0)])], 4)
    plain = {"output_token_logprobs": [(-1.0, 5, None)], "output_top_logprobs": []}
    assert words.heard(chunk([5], **plain)).logprobs == [Logprobs(-1.0, [])]
    assert words.heard(chunk([5], {"type": "stop", "matched": 5})).ending is Ending.STOP
    assert words.heard(chunk([5], {"type": "length", "length": 1})).ending is Ending.LENGTH
    lost = words.heard(chunk([5], {"type": "abort", "message": "the other side is gone", "status_code": 500}))
    assert (lost.ending, lost.text, lost.tokens) == (Ending.LOST, "the other side is gone", [])
    assert words.heard(chunk([], {"type": "abort", "message": "bad", "status_code": 400})).ending is Ending.FAILED


def test_a_meeting_place_is_checked() -> None:
    meeting = words.Bootstrap("10.0.0.1", 8998, 2**63 - 1)
    assert words.meeting_of(words.packed(meeting)) == meeting
    wrong = [words.packed(words.Bootstrap("", 8998, 1)), words.packed(words.Bootstrap("a", 0, 1)), b"\xc1", b""]
    for bad in [*wrong, words.packed(words.Bootstrap("a", 1, -1))]:
        with pytest.raises(ValueError, match="meeting place"):
            words.meeting_of(bad)


# --- Flags --------------------------------------------------------------------------------------------------


def test_flags_are_ours_and_then_the_users() -> None:
    native = ("--page-size", "64", "--mem-fraction-static", "0.8")
    flags = flags_of(FOLDER, EngineOptions(engine="sglang", slots=3, native=native), HERE, 7)
    assert flags[-4:] == list(native) and "--max-running-requests=3" in flags
    assert any(flag.startswith("--kv-events-config=") and "ipc:///tmp/replay" in flag for flag in flags)
    assert not any("disaggregation" in flag for flag in flags) and "--enable-priority-scheduling" in flags
    other = EngineOptions(engine="sglang", native=("--schedule-policy", "lpm"))
    assert "--enable-priority-scheduling" not in flags_of(FOLDER, other, HERE, 7), "it would refuse to start"
    fed = flags_of(FOLDER, EngineOptions(engine="sglang", role="decode", caching=False), HERE, 7)
    assert {"--disaggregation-mode=decode", "--disaggregation-bootstrap-port=7", "--disable-radix-cache"} <= {*fed}
    assert not any("kv-events" in flag for flag in fed)


def test_ranks_have_sockets_of_their_own() -> None:
    assert ranks_in(("--tp-size", "2")) == 1 and ranks_in(("--dp-size", "3")) == 3
    assert ranks_in(("--data-parallel-size=2", "--attn-dp-size", "2")) == 4
    with pytest.raises(EngineRefused, match="invalid int value"):
        ranks_in(("--dp-size", "many"))
    assert sockets_of(1, "/tmp/x") == [Sockets("ipc:///tmp/x/stream", "ipc:///tmp/x/replay")]
    several = sockets_of(3, "/tmp/x")
    assert len({*map(str, several)}) == 3 and all(one.stream.startswith("tcp://127.0.0.1:") for one in several)
    assert free_ports() != 0


# --- A stand-in ---------------------------------------------------------------------------------------------


class Manager:
    """What the adapter uses of SGLang's tokenizer manager: it counts on from the last token of the prompt."""

    enable_priority_scheduling = False
    server = SimpleNamespace(host="127.0.0.1", disaggregation_bootstrap_port=7001)

    def __init__(self) -> None:
        self.asked: list[SimpleNamespace] = []
        self.aborted: list[str] = []
        self.abort: dict[str, Any] | None = None  # how it ends what it gets
        self.after = 10**9  # tokens after which it says no more

    def config_value(self, name: str) -> bool:
        return False

    async def generate_request(self, asked: SimpleNamespace, request: None) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(asked)
        sampling, token, over = asked.sampling_params, asked.input_ids[-1], False
        try:
            for made in range(1, sampling["max_new_tokens"] + 1):
                if made > self.after:
                    await asyncio.Event().wait()
                token += 1
                while sampling.get("logit_bias", {}).get(str(token)) == words.NEVER:
                    token += 1
                reason: dict[str, Any] | None = self.abort
                if not sampling["ignore_eos"] and token in sampling.get("stop_token_ids", ()):
                    reason = {"type": "stop", "matched": token}
                elif made == sampling["max_new_tokens"]:
                    reason = {"type": "length", "length": made}
                over = reason is not None
                yield chunk([token], reason)
                if over:
                    return
        finally:
            if not over:
                self.aborted.append(asked.rid)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SglangSource]:
    """A source around the stand-in."""
    request = SimpleNamespace(GenerateReqInput=SimpleNamespace)
    monkeypatch.setattr(source_module, "library", lambda name: request)

    def make(role: str = "worker") -> SglangSource:
        source = SglangSource(FOLDER, EngineOptions(engine="sglang", role=role), (2,))
        source._card = Card("sglang", "model", 100, 64, 4, 16, 4, (2,))
        source._manager = Manager()
        source._engine = SimpleNamespace(server_args=Manager.server)
        source._prompt_max = 64
        return source

    return make


async def _all(source: SglangSource, job: Job) -> list[Piece]:
    stream: Any = source.stream(job)
    async with aclosing(stream):
        return [piece async for piece in stream]


def tokens_of(pieces: list[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.tokens]


def test_a_job_becomes_one_request(made: Callable[..., SglangSource]) -> None:
    source = made()
    pieces = asyncio.run(_all(source, Job(1, [10, 11], generated=[12], max_tokens=4, cache_salt="s", sampling=GREEDY)))
    assert tokens_of(pieces) == [13, 14, 15] and pieces[-1].ending is Ending.LENGTH
    (asked,) = source._manager.asked
    assert asked.input_ids == [10, 11, 12] and asked.sampling_params["max_new_tokens"] == 3
    assert asked.cache_salt == "s" and asked.stream and asked.bootstrap_room is None and not asked.return_logprob
    assert not source._manager.aborted


def test_names_are_of_one_length_because_it_aborts_by_their_beginning(made: Callable[..., SglangSource]) -> None:
    source = made()
    for _ in range(12):
        asyncio.run(_all(source, Job(1, [10], max_tokens=1)))
    names = [asked.rid for asked in source._manager.asked]
    assert len({*names}) == 12 and len({*map(len, names)}) == 1


def test_stop_tokens_end_a_job_that_ignores_the_end_of_sequence(made: Callable[..., SglangSource]) -> None:
    source = made()
    pieces = asyncio.run(_all(source, Job(1, [1], max_tokens=9, stop_tokens=[5], ignore_eos=True)))
    assert tokens_of(pieces) == [2, 3, 4, 5] and pieces[-1].ending is Ending.STOP
    assert len(source._manager.aborted) == 1, "SGLang would have gone on"


def test_what_ends_too_early_is_not_made(made: Callable[..., SglangSource]) -> None:
    source = made()
    pieces = asyncio.run(_all(source, Job(1, [9], max_tokens=9, min_tokens=2, stop_tokens=[10, 13])))
    assert tokens_of(pieces) == [11, 12, 13] and pieces[-1].ending is Ending.STOP
    assert [len(asked.input_ids) for asked in source._manager.asked] == [1, 3]
    assert tokens_of(asyncio.run(_all(source, Job(1, [9], max_tokens=2, min_tokens=5, stop_tokens=[10])))) == [11, 12]


def test_a_cancelled_job_is_aborted(made: Callable[..., SglangSource]) -> None:
    source = made()
    source._manager.after = 2

    async def run() -> None:
        engine = OutsideEngine(source)
        source.start = lambda: source._card  # type: ignore[method-assign, assignment, return-value]
        source.events = list  # type: ignore[method-assign]
        engine.start()
        news = asyncio.Event()
        engine.on_news(news.set)
        assert engine.submit(Job("a", [10], max_tokens=9)) is None
        found: list[int] = []
        while len(found) < 2:
            await asyncio.wait_for(news.wait(), 5)
            news.clear()
            found += [token for output in engine.step().outputs for token in output.tokens]
        engine.cancel("a")
        async with asyncio.timeout(5):
            while not source._manager.aborted:
                await asyncio.sleep(0)
        assert found == [11, 12] and engine.step().outputs[0].ending is Ending.CANCELLED

    asyncio.run(run())


def test_an_abort_that_nobody_asked_for_moves_the_job(made: Callable[..., SglangSource]) -> None:
    source = made()
    source._manager.abort = {"type": "abort", "message": "prefill is gone", "status_code": 500}
    with pytest.raises(JobLost, match="prefill is gone"):
        asyncio.run(_all(source, Job(1, [10])))


def test_both_sides_meet_in_one_room(made: Callable[..., SglangSource]) -> None:
    prefill, decode = made("prefill"), made("decode")
    said = asyncio.run(_all(prefill, Job(1, [10], max_tokens=1, feeds=True)))
    assert said[0].native and tokens_of(said) == [11]
    told = asyncio.run(_all(decode, Job(1, [10], max_tokens=3, native=said[0].native)))
    assert tokens_of(told) == [11, 12, 13], "the decode side says the first token too"
    first, second = prefill._manager.asked[0], decode._manager.asked[0]
    place = first.bootstrap_host, first.bootstrap_port, first.bootstrap_room
    assert place == (second.bootstrap_host, second.bootstrap_port, second.bootstrap_room)
    assert place[:2] == ("127.0.0.1", 7001) and 0 <= place[2] < 2**63
    another = asyncio.run(_all(prefill, Job(2, [10], max_tokens=1, feeds=True)))[0].native
    assert another != said[0].native
    with pytest.raises(JobLost, match="meeting place"):
        asyncio.run(_all(decode, Job(1, [10], native=b"nonsense")))


def test_a_process_that_failed_is_the_engine_that_died(
    made: Callable[..., SglangSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Died, "said", True)
    with pytest.raises(EngineDead):
        asyncio.run(made().well())


def test_it_sleeps_once_and_only_when_it_has_no_work(
    made: Callable[..., SglangSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGLang's scheduler dies of a wish that is granted already, and of one that comes while it works."""
    source, told, rests = made(), [], [True]
    source._engine.server_args = SimpleNamespace(enable_weights_cpu_backup=True)

    async def hear(name: str, answer: Any, wish: SimpleNamespace) -> Any:
        told.append((name, *getattr(wish, "tags", ())))
        return answer

    source._manager.flush_cache_communicator = lambda wish: hear("flush", [SimpleNamespace(success=rests[0])], wish)
    source._manager.release_memory_occupation = lambda wish: hear("release", None, wish)
    source._manager.resume_memory_occupation = lambda wish: hear("resume", None, wish)
    wishes = ("ReleaseMemoryOccupationReqInput", "ResumeMemoryOccupationReqInput", "FlushCacheReqInput")
    monkeypatch.setattr(
        source_module, "library", lambda name: SimpleNamespace(**dict.fromkeys(wishes, SimpleNamespace))
    )

    async def turns() -> None:
        for level in (1, 1, 2):
            await source.sleep(level)
        await source.wake()
        await source.wake()

    asyncio.run(turns())
    assert told == [
        ("flush",),
        ("release", "kv_cache"),
        ("flush",),
        ("release", "weights"),
        ("resume", "kv_cache", "weights"),
    ]
    rests[0], source._engine.server_args.enable_weights_cpu_backup = False, False
    told.clear()
    with pytest.raises(EngineDead, match="cannot sleep"):
        asyncio.run(source.sleep(2))
    assert told == [("flush",)]
