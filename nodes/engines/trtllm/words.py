"""Pure. Jobs in TensorRT-LLM's words, and what it says of them in ours.

Where it differs: what it gives is all tokens so far, and where a prompt was computed elsewhere they begin with the ones
made there. It is greedy if neither top-k nor top-p is given, it has one end token and the others are stop words, and
it takes the log-probability of the chosen token only together with at least one alternative.

Who goes on after another gets the prompt that was computed, without the tokens made since, and what the other said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from nodes.contract.engine import Ending, EngineLoad, Job, Logprobs

NO_TOKEN = -1
COLD = 1e-5  # a temperature below this is greedy, as for our own engines
EARLY_S = 1.0  # a word from the future: clocks differ by so much, and no more is believed
LEASE_S = 60.0  # how long it keeps a prompt's cache for who never came, where it was not told otherwise
SEED_MASK = 2**63 - 1
PENALTIES = ("frequency_penalty", "presence_penalty")
IGNORES = "prompt_ignore_length"  # newer ones count penalties from there on
NATIVE_FIELDS = (  # of DisaggregatedParams: those that a message can carry
    *("first_gen_tokens", "ctx_request_id", "opaque_state", "draft_tokens"),
    *("disagg_request_id", "ctx_dp_rank", "ctx_info_endpoint", "schedule_style"),
)


class Word(Struct, array_like=True, frozen=True):
    """What a prefill says to who goes on."""

    version: str  # TensorRT-LLM's: nobody else can read the state
    at: float  # when, by the wall clock
    lease_s: float
    positions: int  # whose cache lies there
    params: dict[str, Any]  # fields of DisaggregatedParams, unread but for the first tokens


class Asked(Struct):
    """What TensorRT-LLM is asked for."""

    tokens: list[int]  # its prompt
    known: list[int]  # with which all that it gives begins
    sampling: dict[str, Any]  # of SamplingParams
    native: dict[str, Any] | None = None  # of DisaggregatedParams


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Word).decode


def word(params: Any, version: str, positions: int, at: float, lease_s: float) -> bytes:
    """What is to be told to who goes on; nothing if there is nothing."""
    said = {name: value for name in NATIVE_FIELDS if (value := getattr(params, name, None)) is not None}
    if not said.get("first_gen_tokens"):
        return b""
    if "schedule_style" in said:
        said["schedule_style"] = int(said["schedule_style"])
    return _encode(Word(version, at, lease_s, positions, said))


def fresh(native: bytes, version: str, sequence: Sequence[int], now: float) -> Word | None:
    """What was said, if it can still be relied on and is of this prompt.

    After its lease a cache may be another prompt's. So nothing is fetched that is older than half of it; clocks may
    differ by less than the other half.
    """
    try:
        found = _decode(native)
    except (msgspec.DecodeError, RecursionError):
        return None
    first = found.params.get("first_gen_tokens")
    known = isinstance(first, list) and list(sequence[found.positions :]) == first
    young = -EARLY_S <= now - found.at <= found.lease_s / 2
    return found if found.version == version and young and known and first else None


def refusal_of(job: Job) -> str | None:
    """What it has no words for."""
    given = job.sampling
    if given.repetition_penalty != 1.0 and any(getattr(given, name) for name in PENALTIES):
        return "TensorRT-LLM cannot count repetition_penalty over the prompt and other penalties over the answer alone"
    return None


def asked(job: Job, eos_tokens: Sequence[int], context: int, version: str, ignores: bool, now: float) -> Asked:
    """A job as TensorRT-LLM is to run it. `ignores`: it can count penalties without the prompt."""
    tokens = [*job.prompt, *job.generated]
    said = fresh(job.native, version, tokens, now) if job.native else None
    known = tokens[said.positions :] if said is not None else []
    tokens = tokens[: len(tokens) - len(known)]
    made = len(job.generated) - len(known)
    params: dict[str, Any] = {
        "max_tokens": max(1, min(job.max_tokens - made, context - len(tokens))),  # more than fit, it refuses
        "min_tokens": max(0, min(job.min_tokens, job.max_tokens) - made) or None,
        "detokenize": False,
        "add_special_tokens": False,
        "include_stop_str_in_output": True,  # else a stop token would be taken back
        **_ends(job, eos_tokens),
        **_choice(job, made),
    }
    if ignores and any(getattr(job.sampling, name) for name in PENALTIES):
        params[IGNORES] = len(job.prompt)
    if job.sampling.logprobs >= 0:
        params["logprobs"] = max(1, job.sampling.logprobs)
    if job.feeds:
        return Asked(tokens, known, params, {"request_type": "context_only"})
    native = {**said.params, "request_type": "generation_only"} if said is not None else None
    return Asked(tokens, known, params, native)


def _ends(job: Job, eos_tokens: Sequence[int]) -> dict[str, Any]:
    """It has one end token; it must be told one, or it asks its tokenizer, which it has not."""
    ends = [] if job.ignore_eos else list(eos_tokens)
    stops = list(dict.fromkeys((*ends[1:], *job.stop_tokens)))
    end = ends[0] if ends else NO_TOKEN
    pad = eos_tokens[0] if eos_tokens else 0
    return {"end_id": end, "pad_id": pad, "stop_token_ids": stops or None, "ignore_eos": job.ignore_eos}


def _choice(job: Job, made: int) -> dict[str, Any]:
    """How the next token is chosen."""
    given = job.sampling
    found: dict[str, Any] = {
        "repetition_penalty": given.repetition_penalty if given.repetition_penalty != 1.0 else None
    }
    found |= {name: getattr(given, name) or None for name in PENALTIES}
    if given.temperature < COLD:
        return {**found, "top_k": 1}
    found |= {"temperature": given.temperature, "top_p": given.top_p or None, "min_p": given.min_p or None}
    found["top_k"] = given.top_k if given.top_k > 0 else 1 if not given.top_p else None
    return {**found, "seed": (given.seed + made) & SEED_MASK}


def ending_of(reason: str | None, feeds: bool) -> Ending | None:
    """What its word for an end means. One that it ended for its own reasons can go on elsewhere."""
    match reason:
        case None | "":
            return None
        case "stop":
            return Ending.STOP
        case "length":
            return Ending.LENGTH
        case "not_finished" if feeds:  # it computed the prompt, and another goes on
            return Ending.LENGTH
        case _:
            return Ending.LOST


def rows_of(tokens: Sequence[int], rows: Sequence[Any] | None, count: int) -> list[Logprobs]:
    """Its rows, the last of which are of these tokens: from tokens, the chosen one among them, to what is known."""
    if not rows or len(rows) < len(tokens):
        return []
    return [_row(token, row, count) for token, row in zip(tokens, rows[len(rows) - len(tokens) :], strict=True)]


def _row(token: int, row: Any, count: int) -> Logprobs:
    if not isinstance(row, Mapping):
        return Logprobs(_number(row))  # the chosen token's alone
    values = {name: _number(value) for name, value in row.items()}
    top = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    return Logprobs(values.get(token, min(values.values())), top[:count])


def _number(value: Any) -> float:
    return float(getattr(value, "logprob", value))


def load_of(stats: Mapping[str, Any]) -> EngineLoad:
    """How full it is, by its statistics of one step. What they do not say is 0."""
    cache, batch = stats.get("kvCacheStats") or {}, stats.get("inflightBatchingStats") or {}
    total = _count(cache, "maxNumBlocks")
    used = cache.get("usedNumBlocks")
    paused = _count(batch, "numPausedRequests")
    running = _count(batch, "numContextRequests") + _count(batch, "numGenRequests") or _count(
        stats, "numActiveRequests"
    )
    return EngineLoad(
        running=running,
        waiting=_count(stats, "numQueuedRequests") + paused,
        blocks_used=used if isinstance(used, int) else max(0, total - _count(cache, "freeNumBlocks")) if cache else 0,
        blocks_total=total,
    )


def _count(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    return int(value) if isinstance(value, int | float) and value > 0 else 0
