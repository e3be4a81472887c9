"""Pure. What a request for tokens says besides its prompt, and how log-probabilities travel.

A worker may not trust what it reads: a number that an engine cannot compute with would kill it, and the requests
beside it. So `decode` checks every field, whatever the frontend has checked before.
"""

from collections.abc import Mapping
from math import isfinite

import msgspec
from msgspec import Struct

from nodes.contract.engine import Job, Logprobs, Sampling
from nodes.contract.guide import Guide, guide_complaint
from nodes.contract.media import HASH_BYTES, KINDS, PARTS_MAX, Spot, media_of
from proto.limits import NAME_CHARS_MAX, TOKENS_MAX
from proto.placing import RANK

TEMPERATURE_MAX = 100.0  # far beyond any use, and no overflow
PENALTY_MAX = 1e3  # likewise
TOP_K_MAX = 2**31 - 1  # some clients mean "all" by a large number
PRIORITY_MAX = 2**31 - 1  # any order that a person would think of
LOGPROBS_MAX = 128  # alternatives per position; each costs some 15 bytes per token
BIASES_MAX = 4_096  # entries of a logit bias: they are added one by one at each step
STOPS_MAX = 1_024  # stop tokens
RANK_DIGITS_MAX = 3  # of the number of a rank: there are 256 at most
DIMENSIONS_MAX = 65_536  # numbers of an embedding, 256 KiB: some times the widest model
SALT_CHARS_MAX = 1_024  # it is hashed once per request


class Generation(Struct, array_like=True, frozen=True):
    """The payload of a request to `generate/MODEL`. Fields mean what they mean in `contract.Job`."""

    max_tokens: int = 16  # generated in all, earlier holders included
    min_tokens: int = 0
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    sampling: Sampling = Sampling()
    cache_salt: str = ""
    priority: int = 0
    digest: str = ""  # of the model's files, as the asker knows them; empty: any will do
    media: tuple[Spot, ...] = ()  # in the order of their positions
    embeds: bool = False
    dimensions: int = 0
    lora: str = ""  # an adapter of the model
    guide: Guide | None = None


Row = tuple[float, list[tuple[int, float]]]  # of `Logprobs`, without names: one goes with each token

_encoder = msgspec.msgpack.Encoder()
_generation = msgspec.msgpack.Decoder(Generation)
_row = msgspec.msgpack.Decoder(Row)


def encode(generation: Generation) -> bytes:
    """The bytes of a payload."""
    return _encoder.encode(generation)


def decode(payload: bytes) -> Generation:
    """The generation of a payload. Raises ValueError with a sentence if no engine could run it."""
    try:
        found = _generation.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"the request is no generation: {error}") from None
    complaint = _complaint(found) or _sampling_complaint(found.sampling) or _media_complaint(found.media)
    complaint = complaint or guide_complaint(found.guide)
    if complaint:
        raise ValueError(complaint)
    return found


def job_of(
    key: object,
    generation: Generation,
    prompt: list[int],
    generated: list[int],
    vocabulary: int,
    metadata: Mapping[str, str] | None = None,
) -> Job:
    """What an engine is given. A stop token that the model does not have never comes, and is left out."""
    return Job(
        key=key,
        prompt=prompt,
        generated=generated,
        max_tokens=generation.max_tokens,
        min_tokens=generation.min_tokens,
        stop_tokens=tuple(token for token in generation.stop_tokens if token < vocabulary),
        ignore_eos=generation.ignore_eos,
        sampling=generation.sampling,
        cache_salt=generation.cache_salt,
        priority=generation.priority,
        media=[media_of(spot) for spot in generation.media],
        embeds=generation.embeds,
        dimensions=generation.dimensions,
        lora=generation.lora,
        rank=_rank(metadata or {}),
        guide=generation.guide,
    )


def _rank(metadata: Mapping[str, str]) -> int:
    """The data-parallel rank that a router chose; -1: none, and the engine chooses."""
    said = metadata.get(RANK, "")
    return int(said) if said.isdecimal() and len(said) <= RANK_DIGITS_MAX else -1


def encode_logprobs(logprobs: Logprobs) -> bytes:
    """The item that goes with a token."""
    return _encoder.encode((logprobs.chosen, logprobs.top))


def decode_logprobs(item: bytes) -> Logprobs:
    """The log-probabilities in an item. Raises ValueError."""
    try:
        chosen, top = _row.decode(item)
    except msgspec.DecodeError as error:
        raise ValueError(f"no log-probabilities: {error}") from None
    return Logprobs(chosen, top)


def _complaint(found: Generation) -> str:
    """What is wrong with the budget, the stops or the order; empty if nothing is."""
    if not 0 <= found.max_tokens <= 2**31:
        return f"max_tokens is {found.max_tokens}: it must be 0 or more"
    if found.min_tokens < 0:
        return f"min_tokens is {found.min_tokens}: it must be 0 or more"
    if len(found.stop_tokens) > STOPS_MAX:
        return f"{len(found.stop_tokens)} stop tokens: {STOPS_MAX} are the most"
    if found.stop_tokens and min(found.stop_tokens) < 0:
        return f"stop token {min(found.stop_tokens)}: a token's id is 0 or more"
    if len(found.cache_salt) > SALT_CHARS_MAX:
        return f"cache_salt has {len(found.cache_salt)} characters: {SALT_CHARS_MAX} are the most"
    if len(found.lora) > NAME_CHARS_MAX:
        return f"the name of an adapter has {len(found.lora)} characters: {NAME_CHARS_MAX} are the most"
    if not 0 <= found.dimensions <= DIMENSIONS_MAX:
        return f"dimensions is {found.dimensions}: it must be between 0 and {DIMENSIONS_MAX}"
    if abs(found.priority) > PRIORITY_MAX:
        return f"priority is {found.priority}: it must be between -{PRIORITY_MAX} and {PRIORITY_MAX}"
    return ""


def _media_complaint(spots: tuple[Spot, ...]) -> str:
    """What is wrong with the places of pictures; empty if nothing is."""
    if len(spots) > PARTS_MAX:
        return f"{len(spots)} pictures, sounds and clips: {PARTS_MAX} are the most"
    end = 0
    for spot in spots:
        if spot.kind not in KINDS or len(spot.content) != HASH_BYTES:
            return "a picture, sound or clip without a kind or a name"
        if not end <= spot.first < spot.end <= TOKENS_MAX:
            return "pictures, sounds and clips fill positions one after another, each at least one"
        if not 0 <= spot.across <= spot.count:
            return "a picture has lines that are longer than all of it"
        end = spot.end
    return ""


def _sampling_complaint(given: Sampling) -> str:
    """The first field of the sampling that an engine could not compute with; empty if there is none."""
    ranges = (
        ("temperature", given.temperature, 0.0, TEMPERATURE_MAX),
        ("top_p", given.top_p, 0.0, 1.0),
        ("top_k", given.top_k, -1, TOP_K_MAX),
        ("min_p", given.min_p, 0.0, 1.0),
        ("repetition_penalty", given.repetition_penalty, 1 / PENALTY_MAX, PENALTY_MAX),
        ("frequency_penalty", given.frequency_penalty, -PENALTY_MAX, PENALTY_MAX),
        ("presence_penalty", given.presence_penalty, -PENALTY_MAX, PENALTY_MAX),
        ("logprobs", given.logprobs, -1, LOGPROBS_MAX),
    )
    for name, value, least, most in ranges:
        if not least <= value <= most:  # false for NaN too
            return f"{name} is {value}: it must be between {least} and {most}"
    if len(given.logit_bias) > BIASES_MAX:
        return f"logit_bias has {len(given.logit_bias)} entries: {BIASES_MAX} are the most"
    if not all(isfinite(bias) and abs(bias) <= PENALTY_MAX for bias in given.logit_bias.values()):
        return f"logit_bias: each bias must be between -{PENALTY_MAX} and {PENALTY_MAX}"
    return ""
