"""Pure. A job in vLLM's words: what it gets as a prompt, how it is to sample, and what came before.

Everything but the plain greedy choice is done by our own sampler inside vLLM (`drawing`), which keys its noise by seed
and position and knows where the output began, so that a stream that moves goes on exactly: with its penalties, its
biases and its draws. Where that sampler cannot be (with speculative decoding), vLLM samples by itself.

A job that was fed is given the prompt that was computed for it, not the tokens made since: vLLM fetches the cache of
whole prompts. It makes those tokens again, and they are left out.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from nodes.contract.engine import Job, Logprobs

EXTRA = "wiremesh"  # the key of what our sampler is told
COLD = 1e-5  # a temperature below this is greedy, as for our own engines
EARLY_S = 1.0  # a word from the future: clocks differ by so much, and no more is believed


class Word(Struct, array_like=True, frozen=True):
    """What a prefill says to who goes on."""

    version: int
    at: float  # when, by the wall clock
    lease_s: float
    positions: int  # whose cache lies there
    params: dict[str, Any]  # vLLM's own, unread


VERSION = 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Word).decode


class Asked(Struct):
    """What vLLM is asked for."""

    tokens: list[int]  # its prompt
    again: list[int]  # what it makes again first
    params: dict[str, Any]  # of SamplingParams


def word(params: dict[str, Any], positions: int, at: float, lease_s: float) -> bytes:
    """What is to be told to who goes on."""
    return _encode(Word(VERSION, at, lease_s, positions, params))


def fresh(native: bytes, length: int, now: float) -> Word | None:
    """What was said, if it can still be relied on.

    vLLM keeps the blocks for the lease, then uses them for others, and who fetches them later gets those: silently. So
    nothing is fetched that is older than half of it. Clocks may differ by less than the other half.
    """
    try:
        found = _decode(native)
    except (msgspec.DecodeError, RecursionError):
        return None
    age = now - found.at
    young = -EARLY_S <= age <= found.lease_s / 2
    return found if found.version == VERSION and young and 0 < found.positions <= length else None


def asked(job: Job, eos_tokens: Sequence[int], keyed: bool, now: float, processed: bool = False) -> Asked:
    """A job as vLLM is to run it. `processed`: our sampler has something to do for every one."""
    tokens, given = [*job.prompt, *job.generated], job.sampling
    said = fresh(job.native, len(tokens), now) if job.native else None
    again = tokens[said.positions :] if said is not None else []
    if again and said is not None:
        tokens = tokens[: said.positions]
    made = len(job.generated) - len(again)
    stops = set(job.stop_tokens) if job.ignore_eos else {*job.stop_tokens, *eos_tokens}
    params: dict[str, Any] = {
        "max_tokens": max(1, job.max_tokens - made),
        "min_tokens": max(0, min(job.min_tokens, job.max_tokens) - made),
        "stop_token_ids": sorted(stops),
        "ignore_eos": True,  # they are named above
        "detokenize": False,
        "temperature": 0.0,
    }
    if given.logprobs >= 0:
        params["logprobs"] = given.logprobs
    if job.guide is not None:
        params |= {"min_tokens": 0, "stop_token_ids": sorted({*job.stop_tokens, *eos_tokens})}  # our sampler sees to it
    extra: dict[str, Any] = {}
    if keyed and (processed or not is_plain(job)):
        extra[EXTRA] = _sampler(job, eos_tokens)
    elif not keyed:
        params |= _own(job, made)
    if job.feeds:
        extra["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False}
    elif said is not None:
        extra["kv_transfer_params"] = said.params
    if extra:
        params["extra_args"] = extra
    return Asked(tokens, again, params)


def is_plain(job: Job) -> bool:
    """Whether the largest logit is all that it wants."""
    given = job.sampling
    penalized = given.repetition_penalty != 1.0 or given.frequency_penalty or given.presence_penalty
    return given.temperature < COLD and not (penalized or given.logit_bias or job.guide)


def _sampler(job: Job, eos_tokens: Sequence[int]) -> dict[str, Any]:
    """What our sampler reads."""
    wanted = {"begins": len(job.prompt), **msgspec.structs.asdict(job.sampling)}
    if job.guide is None:
        return wanted
    wanted["guide"] = [job.guide.kind, job.guide.text]
    wanted["stops"] = [*job.stop_tokens, *eos_tokens]
    wanted["stops_from"] = min(job.min_tokens, job.max_tokens)
    wanted["endless"] = [*eos_tokens] if job.ignore_eos else []
    return wanted


def _own(job: Job, made: int) -> dict[str, Any]:
    """Of vLLM's own sampler: what was made elsewhere counts as prompt, and its draws begin anew after a move."""
    given = job.sampling
    return {
        "temperature": given.temperature if given.temperature >= COLD else 0.0,
        "top_p": given.top_p,
        "top_k": given.top_k,
        "min_p": given.min_p,
        "repetition_penalty": given.repetition_penalty,
        "frequency_penalty": given.frequency_penalty,
        "presence_penalty": given.presence_penalty,
        "logit_bias": given.logit_bias or None,
        "seed": (given.seed + made) & (2**63 - 1),
    }


def rows_of(tokens: Sequence[int], rows: Sequence[Any], count: int) -> list[Logprobs]:
    """vLLM's rows: for each position a map from tokens, the chosen one among them, to what is known of each."""
    found = []
    for token, row in zip(tokens, rows, strict=True):
        top = sorted(((other, one.logprob) for other, one in row.items() if one.rank <= count), key=_likeliest)
        found.append(Logprobs(row[token].logprob, top[:count]))
    return found


def _likeliest(pair: tuple[int, float]) -> tuple[float, int]:
    return -pair[1], pair[0]
