"""vLLM's adapter: what a job is in its words, which hand-overs are believed, and that its sampler is ours.

What needs vLLM itself runs where it is installed (`./launch/test.sh --engine vllm`); so does the conformance suite.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nodes.contract.engine import Job, Logprobs, Sampling
from nodes.engine_options import EngineOptions
from nodes.engines.guard import Guard, descendants
from nodes.engines.numpy.sampling import choose
from nodes.engines.outside import EngineRefused
from nodes.engines.vllm.params import EXTRA, asked, fresh, is_plain, rows_of, word
from nodes.folder import folder_of

NOW = 1_000_000.0
LEASE_S = 30.0
PROMPT = [*range(40, 60)]
EOS = (2, 7)
GREEDY = Sampling(temperature=0.0)
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")


def params_of(job: Job, keyed: bool = True) -> dict[str, Any]:
    return asked(job, EOS, keyed, NOW).params


# --- A job in its words ------------------------------------------------------------------------------------


def test_what_was_generated_elsewhere_counts() -> None:
    job = Job("a", PROMPT, generated=[60, 61, 62], max_tokens=10, min_tokens=5, sampling=GREEDY, stop_tokens=(9,))
    wanted = asked(job, EOS, True, NOW)
    assert wanted.tokens == [*PROMPT, 60, 61, 62] and not wanted.again
    assert (wanted.params["max_tokens"], wanted.params["min_tokens"]) == (7, 2)
    assert wanted.params["stop_token_ids"] == [2, 7, 9] and wanted.params["ignore_eos"]
    assert "extra_args" not in wanted.params, "vLLM's own greedy choice will do"


def test_an_ignored_end_of_sequence_stops_nothing() -> None:
    job = Job("a", PROMPT, ignore_eos=True, stop_tokens=(9,), sampling=GREEDY)
    assert params_of(job)["stop_token_ids"] == [9]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.5),
        Sampling(temperature=0.0, repetition_penalty=1.2),
        Sampling(temperature=0.0, frequency_penalty=0.5),
        Sampling(temperature=0.0, presence_penalty=0.5),
        Sampling(temperature=0.0, logit_bias={5: 3.0}),
    ],
)
def test_whatever_is_not_plain_is_for_our_sampler(sampling: Sampling) -> None:
    job = Job("a", PROMPT, generated=[60], sampling=sampling)
    assert not is_plain(job)
    found = params_of(job)
    assert found["temperature"] == 0.0, "vLLM takes what we leave it"
    told = found["extra_args"][EXTRA]
    assert told["begins"] == len(PROMPT) and told["temperature"] == sampling.temperature
    own = params_of(job, keyed=False)
    assert "extra_args" not in own
    assert (own["temperature"], own["frequency_penalty"]) == (sampling.temperature, sampling.frequency_penalty)


def test_vllms_own_sampler_does_not_repeat_its_draws_after_a_move() -> None:
    seeds = {params_of(Job("a", PROMPT, generated=[60] * count), keyed=False)["seed"] for count in range(3)}
    assert len(seeds) == 3


def test_log_probabilities_are_told_likeliest_first() -> None:
    row = {5: SimpleNamespace(logprob=-3.0, rank=9), 8: SimpleNamespace(logprob=-1.5, rank=2)}
    row |= {4: SimpleNamespace(logprob=-0.5, rank=1)}
    assert rows_of([5], [row], 2) == [Logprobs(-3.0, [(4, -0.5), (8, -1.5)])]
    assert rows_of([4], [row], 1) == [Logprobs(-0.5, [(4, -0.5)])]
    assert rows_of([5], [row], 0) == [Logprobs(-3.0, [])]


# --- Hand-over ---------------------------------------------------------------------------------------------


def said(age_s: float, positions: int = len(PROMPT)) -> bytes:
    return word({"remote_port": 5}, positions, NOW - age_s, LEASE_S)


def test_a_prefill_is_told_that_another_goes_on() -> None:
    found = params_of(Job("a", PROMPT, max_tokens=1, feeds=True, sampling=GREEDY))
    assert found["extra_args"]["kv_transfer_params"] == {"do_remote_decode": True, "do_remote_prefill": False}


def test_who_goes_on_makes_the_tokens_of_the_prefill_again() -> None:
    job = Job("a", PROMPT, generated=[60], max_tokens=10, min_tokens=3, native=said(0.1), sampling=GREEDY)
    wanted = asked(job, EOS, True, NOW)
    assert (wanted.tokens, wanted.again) == (PROMPT, [60]), "vLLM fetches the cache of whole prompts"
    assert (wanted.params["max_tokens"], wanted.params["min_tokens"]) == (10, 3)
    assert wanted.params["extra_args"]["kv_transfer_params"] == {"remote_port": 5}


@pytest.mark.parametrize("age_s", [LEASE_S / 2 + 0.1, LEASE_S, 10 * LEASE_S, -2.0])
def test_one_older_than_half_its_lease_is_never_fetched(age_s: float) -> None:
    """vLLM would take whatever lies there by then, and say nothing."""
    job = Job("a", PROMPT, generated=[60], native=said(age_s), sampling=GREEDY)
    wanted = asked(job, EOS, True, NOW)
    assert wanted.tokens == [*PROMPT, 60] and not wanted.again and "extra_args" not in wanted.params
    assert fresh(said(LEASE_S / 2), len(PROMPT), NOW) is not None


@pytest.mark.parametrize("native", [b"", b"\xc1", b"nonsense", said(0.0, len(PROMPT) + 1), said(0.0, 0)])
def test_one_that_makes_no_sense_is_left_alone(native: bytes) -> None:
    assert fresh(native, len(PROMPT), NOW) is None


# --- The guard ---------------------------------------------------------------------------------------------


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(holds: Any, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield child
    with contextlib.suppress(OSError):
        child.kill()
    child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who started whom")
def test_no_process_survives_its_owner(sleeper: subprocess.Popen[bytes]) -> None:
    program = f"from nodes.engines.guard import Guard; g = Guard([{sleeper.pid}]); print('on', flush=True); input()"
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None and owner.stdin is not None
    with owner.stdout, owner.stdin:
        assert owner.stdout.readline() == b"on\n" and is_running(sleeper.pid)
        owner.kill()
        owner.wait()
    wait_for(lambda: not is_running(sleeper.pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who started whom")
def test_nor_does_what_was_being_started() -> None:
    program = """
import subprocess
from nodes.engines.guard import Guard
with (guard := Guard()).marking():
    print(subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True).pid, flush=True)
    input()
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None and owner.stdin is not None
    with owner.stdout, owner.stdin:
        started = int(owner.stdout.readline())
        wait_for(lambda: len(descendants(started)) == 1)
        there = [started, *descendants(started)]
        owner.kill()
        owner.wait()
    wait_for(lambda: not any(map(is_running, there)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who started whom")
def test_released_it_ends_them_and_itself(sleeper: subprocess.Popen[bytes]) -> None:
    before = set(descendants())
    guard = Guard([sleeper.pid])
    assert sleeper.pid in before and len(set(descendants()) - before) == 1
    guard.release()
    guard.release()
    wait_for(lambda: not is_running(sleeper.pid))
    assert not set(descendants()) - before


# --- With vLLM ---------------------------------------------------------------------------------------------


@needs_vllm
def test_our_sampler_inside_vllm_chooses_what_our_engines_choose() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        from nodes.engines.vllm.drawing import Drawn, drawn
    random = np.random.default_rng(5)
    settings = [
        Sampling(temperature=0.9, seed=3),
        Sampling(temperature=1.3, seed=2**63 + 11, top_k=7),
        Sampling(temperature=0.7, seed=4, top_p=0.6),
        Sampling(temperature=2.0, seed=5, min_p=0.3, top_k=40, top_p=0.9),
        Sampling(temperature=0.9, seed=6, repetition_penalty=1.4, frequency_penalty=0.7, presence_penalty=-0.5),
        Sampling(temperature=0.8, seed=7, logit_bias={3: 8.0, 9: -100.0}),
    ]
    for turn in range(40):
        logits = random.normal(0, 3, (len(settings), 300)).astype(np.float32)
        prompt = random.integers(0, 300, 20).tolist()
        output = random.integers(0, 300, turn).tolist()
        jobs = [Job(index, prompt, sampling=given) for index, given in enumerate(settings)]
        said = [*prompt, *output]
        wanted = [choose(row, job, said, ())[0] for row, job in zip(logits, jobs, strict=True)]
        rows = [Drawn(params_of(job)["extra_args"][EXTRA], [*prompt, *output[:9]], output[9:]) for job in jobs]
        theirs = torch.from_numpy(logits)
        for row, one in enumerate(rows):
            if one.adjusts:
                one.adjust(theirs[row])
        assert drawn(theirs.double(), rows).tolist() == wanted


def no_fives(input_ids: Sequence[int], logits: Any) -> None:
    assert list(input_ids) == [*PROMPT, 60]
    logits[5] = -np.inf


@needs_vllm
def test_somebody_may_change_the_logits_inside_vllm_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        from nodes.engines.vllm.arguments import PROCESSORS
        from nodes.engines.vllm.drawing import Drawn, KeyedSampling
    model = SimpleNamespace(runner_type="generate", tokenizer="no directory", model="no directory")  # nor any guides
    config = SimpleNamespace(additional_config={PROCESSORS: [f"{__name__}:no_fives"]}, model_config=model)
    sampler = KeyedSampling(config, torch.device("cpu"), False)
    job = Job("a", PROMPT, sampling=GREEDY)
    told = asked(job, EOS, True, NOW, processed=True).params["extra_args"][EXTRA]
    sampler._drawn[1] = Drawn(told, PROMPT, [60])
    logits = torch.zeros(2, 100)
    logits[:, 5], logits[:, 8] = 9.0, 4.0
    assert sampler.apply(logits).argmax(dim=1).tolist() == [5, 8], "and only where it is asked for"


def refused(*native: str, **more: Any) -> str:
    """Why these flags are."""
    from contextlib import ExitStack

    from nodes.engines.vllm.arguments import arguments_of

    folder = folder_of("demo")
    options = EngineOptions(str(folder), engine="vllm", native=native, **more)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        with pytest.raises(EngineRefused) as raised:
            arguments_of(folder, options, stack)
    return str(raised.value)


@needs_vllm
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--max-num-sequences", "8"], "unrecognized arguments"),
        (["--max-num-seqs", "many"], "--max-num-seqs"),
        (["--lora-modules", "poet"], "NAME=PATH"),
        (["--lora-modules", "poet=/nowhere"], "no adapter_config.json in /nowhere"),
    ],
)
def test_flags_that_make_no_sense_are_refused_in_a_sentence(words: Sequence[str], part: str) -> None:
    text = refused(*words)
    assert part in text and "\n" not in text


@needs_vllm
def test_a_side_channel_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM itself would hang for ever."""
    if find_spec("nixl") is None:
        pytest.skip("NIXL is not installed here")
    with socket.socket() as taken:
        taken.bind(("", 0))
        monkeypatch.setenv("VLLM_NIXL_SIDE_CHANNEL_PORT", str(taken.getsockname()[1]))
        assert "is taken" in refused(role="decode")
    assert "VLLM_NIXL_SIDE_CHANNEL_PORT" in os.environ


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_says_how_to_get_it() -> None:
    assert "wiremesh engines install vllm" in refused()
