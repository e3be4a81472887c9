"""Pure. Jobs in SGLang's words, and what it says of them in ours.

Where SGLang differs: `ignore_eos` would make it ignore stop tokens too, so those are looked for here. Without a
tokenizer of its own it cannot mask what would end a job too early, so such a job runs in two parts, the first of which
has the endings biased away (under a guide our masks see to it). Penalties count what it made itself: of a stream that
has moved, not what came before.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from nodes.contract.engine import Ending, Job, Logprobs
from nodes.contract.guide import Guide

PENALTY_MAX = 2.0  # of frequency and presence; as OpenAI
REPETITION_MAX = 2.0
TOP_P_MIN = 1e-6  # it takes no 0; so few are the likeliest alone
NEVER = -1e9  # added to a logit
ROOM_MAX = SEED_MAX = 2**63 - 1
BAD_REQUEST = 400  # what an abort says of a request that can run nowhere


class Bootstrap(Struct, array_like=True, frozen=True):
    """Where the decode side meets the prefill side of one request."""

    host: str
    port: int
    room: int


class Heard(Struct):
    """What one chunk of a stream says."""

    tokens: list[int]
    logprobs: list[Logprobs]
    cached_tokens: int
    ending: Ending | None = None  # LOST: it can run elsewhere
    text: str = ""


class Prescribed(Struct, array_like=True, frozen=True):
    """What a job's output must be, as our masks want to know it."""

    guide: Guide
    said: list[int]  # by who had the job before
    stops: list[int]  # what ends it, and may not come
    stops_from: int  # before there are so many tokens
    endless: list[int]  # what may never come, while there is anything else
    told: bool  # with log-probabilities


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Bootstrap).decode


def packed(meeting: Bootstrap) -> bytes:
    """As a parcel carries it."""
    return _encode(meeting)


def meeting_of(native: bytes) -> Bootstrap:
    """From a parcel. Raises ValueError with a sentence."""
    try:
        found = _decode(native)
    except msgspec.DecodeError as error:
        raise ValueError(f"what the prefill worker said is no meeting place: {error}") from None
    if not (found.host and 0 < found.port < 2**16 and 0 <= found.room <= ROOM_MAX):
        raise ValueError("what the prefill worker said is no meeting place")
    return found


def refusal_of(job: Job, prompt_max: int) -> str | None:
    """Why SGLang would refuse a job; None if it takes it. Its card says the rest."""
    given = job.sampling
    if len(job.prompt) + len(job.generated) > prompt_max:
        return f"{len(job.prompt) + len(job.generated)} tokens are more than the {prompt_max} that SGLang takes at once"
    for name in ("frequency_penalty", "presence_penalty"):
        if abs(getattr(given, name)) > PENALTY_MAX:
            return f"{name} is {getattr(given, name)}: SGLang takes at most {PENALTY_MAX}"
    if not 0.0 < given.repetition_penalty <= REPETITION_MAX:
        return f"repetition_penalty is {given.repetition_penalty}: SGLang takes at most {REPETITION_MAX}"
    return None


def sampling_of(
    job: Job, budget: int, banned: Sequence[int], stops: Sequence[int], seeded: bool = False
) -> dict[str, Any]:
    """Its sampling parameters for a budget of tokens; `banned` are not to be made, one of `stops` ends it.

    `seeded`: it draws by seed and position, which takes its deterministic mode. Else it heeds no seed.
    """
    given = job.sampling
    biases = {str(token): float(bias) for token, bias in given.logit_bias.items()}
    biases |= {str(token): NEVER for token in banned}
    found: dict[str, Any] = {
        "max_new_tokens": budget,
        "temperature": given.temperature,
        "top_p": max(given.top_p, TOP_P_MIN),
        "top_k": given.top_k if given.top_k > 0 else -1,
        "min_p": given.min_p,
        "frequency_penalty": given.frequency_penalty,
        "presence_penalty": given.presence_penalty,
        "repetition_penalty": given.repetition_penalty,
        "ignore_eos": (job.ignore_eos and job.guide is None) or bool(banned),
    }
    if biases:
        found["logit_bias"] = biases
    if seeded:
        found["sampling_seed"] = given.seed & SEED_MAX
    if stops:
        found["stop_token_ids"] = list(stops)
    return found


def prescribed_of(job: Job, eos_tokens: Sequence[int]) -> dict[str, str]:
    """Its guide, where SGLang takes a grammar."""
    if job.guide is None:
        return {}
    found = Prescribed(
        job.guide,
        [*job.generated],
        [*eos_tokens, *job.stop_tokens],
        min(job.min_tokens, job.max_tokens),
        [*eos_tokens] if job.ignore_eos else [],
        job.sampling.logprobs >= 0,
    )
    return {"ebnf": msgspec.json.encode(found).decode()}


def endings_of(job: Job, eos_tokens: Sequence[int]) -> list[int]:
    """The tokens that end a job: under a guide always those, since it may allow nothing else."""
    ignored = job.ignore_eos and job.guide is None
    return list(dict.fromkeys((*(() if ignored else eos_tokens), *job.stop_tokens)))


def heard(chunk: Any) -> Heard:
    """What a chunk says; the tokens of a stream of increments."""
    said = chunk["meta_info"]
    found = Heard(list(chunk.get("output_ids") or ()), _logprobs(said), said.get("cached_tokens") or 0)
    reason = said.get("finish_reason")
    if reason is None:
        return found
    match reason.get("type"):
        case "length":
            found.ending = Ending.LENGTH
        case "stop":
            found.ending = Ending.STOP
        case _:  # aborted, and not by us
            found.ending = Ending.FAILED if reason.get("status_code") == BAD_REQUEST else Ending.LOST
            found.text = str(reason.get("message") or "SGLang aborted it")
            found.tokens, found.logprobs = [], []  # it repeats the last one
    return found


def cut(found: Heard, stops: Sequence[int]) -> Heard:
    """Ended at the first token that stops, if there is one."""
    for index, token in enumerate(found.tokens):
        if token in stops:
            return Heard(found.tokens[: index + 1], found.logprobs[: index + 1], found.cached_tokens, Ending.STOP)
    return found


def _logprobs(said: Any) -> list[Logprobs]:
    """Each row is (log-probability, token, text)."""
    tops = said.get("output_top_logprobs") or ()
    rows = said.get("output_token_logprobs") or ()
    return [
        Logprobs(row[0], [(one[1], one[0]) for one in (tops[index] if index < len(tops) else None) or ()])
        for index, row in enumerate(rows)
    ]


def vector_of(embedding: Sequence[float]) -> bytes:
    """Float32, little endian on all that engines run on."""
    return array("f", embedding).tobytes()
