"""Pure. What a serving plan adds to a plan of the mesh: engines, routers, and prompts that are to be continued.

What a stream ought to be is computed here, from the prompt alone: `undisturbed`.
"""

from collections.abc import Sequence
from math import log

from mesh.simulation.plan import Call, Place, Plan
from nodes.contract.engine import Logprobs, Sampling
from nodes.contract.media import IMAGE, Spot
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Settings, continuation, state_of
from nodes.engines.timing import Timing
from nodes.generation import Generation, encode_logprobs
from nodes.simulation.pictures import NAMES, PLACEHOLDER, SPOILT_NAME, rows_of

VOCABULARY = 512
SAID = (16, 511)  # what the engine says
POISON = 7  # outside of that, so that only a prompt can have it
END = 100  # end-of-sequence: one token in five hundred
CONTEXT = 160
CALM = "serving-calm"  # the profile in which nothing goes wrong
SALTS = ("", "salt")  # that keep callers apart
WORKER, FRONTEND, ROUTER, ENCODER = "worker", "frontend", "router", "encoder"


class ServingPlace(Place):
    """Where a worker, a frontend or a router runs."""

    kind: str = WORKER
    engine_slots: int = 8
    engine_queue: int = 64  # what the engine itself lets wait
    blocks: int = 160
    block_tokens: int = 4
    step_tokens: int = 64
    hand_over: bool = False
    caching: bool = True
    decode_ms: float = 40.0
    prefill_ms: float = 0.5  # for each token
    policy: str = "round_robin"  # of a router
    staging: int = 0  # blocks of memory to hand over in
    splits: bool = False  # a router: it knows of prefill workers, and sends every prompt there first
    queue_steps: float = 0.0  # a router by caches: with more than so many steps queued everywhere requests wait; 0: off
    queue_policy: str = "fcfs"
    tells: bool = False  # a worker: what it has cached
    untold: float = 0.0  # the share of that which is lost
    ring_changes: int = 4096  # that it can tell again
    pieces: int = 1  # that its cache is copied in
    sees: bool = False  # a worker: its model takes pictures; a router: it knows of encoders
    blind: bool = False  # but it cannot read them by itself
    encode_ms: float = 5.0  # that a tower takes for a picture
    shelf_parts: int = 16  # pictures whose embeddings are kept


class ServingCall(Call):
    """One request of a frontend."""

    shared: int = 0  # tokens that its prompt begins with, and those of others too
    max_tokens: int = 16
    min_tokens: int = 0
    stop_at: int = -1  # the token that it would say there is a stop token
    heeds_end: bool = False
    logprobs: int = -1
    priority: int = 0
    salt: str = ""
    poison: bool = False
    wrong: str = ""  # token: one that does not exist; long: no room for it; payload: bytes that are no generation
    routed: bool = True
    moves_max: int = 8
    wishes: bool = False  # its router is told of its blocks
    session: str = ""
    pictures: list[int] = []  # that it shows, after what it shares with others
    spoilt: str = ""  # the first of them. bytes: nobody can read it; name: its bytes are those of another


class ServingPlan(Plan):
    """Everything that happens in a run from outside."""

    places: Sequence[ServingPlace]
    calls: Sequence[ServingCall]


def engine_settings(place: ServingPlace) -> Settings:
    """The engine of a worker."""
    limits = Limits(
        vocabulary=VOCABULARY,
        context=CONTEXT,
        slots=place.engine_slots,
        waiting_max=place.engine_queue,
        step_tokens=place.step_tokens,
        block_tokens=place.block_tokens,
        blocks=place.blocks,
        eos_tokens=(END,),
        caching=place.caching,
        hand_over=place.hand_over,
    )
    per_token = place.prefill_ms
    timing = Timing(1.0, ((0.0, 1.0), (1000.0, 1.0 + 1000.0 * per_token)), ((0.0, place.decode_ms),))
    return Settings(limits, timing, SAID, poison=POISON)


def prompt_of(call: ServingCall) -> list[int]:
    """Its tokens: a beginning that others share, places for pictures, and an end that nobody has."""
    shared = [SAID[0] + index * 11 % 300 for index in range(call.shared)]
    own = [SAID[0] + (call.work.seed * 31 + index * 7) % 400 for index in range(call.prompt)]
    if call.poison:
        own[0] = POISON
    elif call.wrong == "token":
        own[-1] = VOCABULARY
    elif call.wrong == "long":
        own *= CONTEXT // len(own) + 1
    return shared + [PLACEHOLDER] * sum(map(rows_of, call.pictures)) + own


def spots_of(call: ServingCall) -> tuple[Spot, ...]:
    """Where its pictures are."""
    found, at = [], call.shared
    for number, picture in enumerate(call.pictures):
        name = SPOILT_NAME if call.spoilt == "bytes" and not number else NAMES[picture]
        found.append(Spot(IMAGE, at, rows_of(picture), name))
        at += rows_of(picture)
    return tuple(found)


def generation_of(call: ServingCall, prompt: Sequence[int]) -> Generation:
    """What is asked of the engine."""
    last = continuation(prompt, call.stop_at + 1, SAID)[-1:] if call.stop_at >= 0 else []
    return Generation(
        max_tokens=call.max_tokens,
        min_tokens=call.min_tokens,
        stop_tokens=tuple(last),
        ignore_eos=not call.heeds_end,
        sampling=Sampling(logprobs=call.logprobs),
        cache_salt=call.salt,
        priority=call.priority,
        media=spots_of(call),
    )


def undisturbed(generation: Generation, prompt: Sequence[int]) -> tuple[list[int], bool]:
    """All tokens of a stream, and whether one of them stops it."""
    stops = {*generation.stop_tokens, *(() if generation.ignore_eos else (END,))}
    room = max(0, min(generation.max_tokens, CONTEXT - len(prompt)))
    tokens = continuation(prompt, room, SAID)
    for index, token in enumerate(tokens):
        if token in stops and index >= generation.min_tokens:
            return tokens[: index + 1], True
    return tokens, False


def rows(tokens: Sequence[int], prompt: Sequence[int], count: int) -> list[bytes]:
    """The log-probabilities of a stream, as the engine makes them up."""
    first, last = SAID
    sequence, found = list(prompt), []
    for token in tokens:
        sequence.append(token)
        likely = 0.5 + state_of(sequence) % 1000 / 2500
        top = [(token, log(likely))]
        for rank in range(1, count):
            top.append((first + (token - first + rank) % (last - first + 1), log((1 - likely) / 2**rank)))
        found.append(encode_logprobs(Logprobs(log(likely), top[:count])))
    return found
