"""Pure. What a router is told of a request: its prompt as block hashes, its session, and how it wants to be placed.

A request may say more in its field `routing`, in Dynamo's `nvext`, or in headers; the field wins. All of it is checked
here, so that a mistake is told to its client and not only to a router.
"""

from collections.abc import Mapping, Sequence
from math import isfinite

import msgspec
from msgspec import Struct, structs

from nodes.contract.blocks import Digest, chain, root
from nodes.contract.engine import Card
from nodes.contract.media import Media, hashed_tokens
from nodes.frontend import headers
from nodes.frontend.headers import Headers
from nodes.openai.demand import Demand
from nodes.routing import knobs
from nodes.routing.hashes import pack
from proto.limits import NAME_CHARS_MAX
from proto.placing import MEDIA_MAX, RANKS_MAX, Wish

ROUTING, NVEXT = "routing", "nvext"  # fields of a body
HEADER = b"x-wiremesh-routing"  # NAME=VALUE, ...
PRIORITY, STRICT_PRIORITY, RANK = b"x-dynamo-request-priority", b"x-dynamo-request-strict-priority", b"x-dynamo-dp-rank"
_SAYING = frozenset((HEADER, PRIORITY, STRICT_PRIORITY, RANK))
PRIORITY_MAX = 2**31 - 1  # what travels
EXPECTED_MAX = TARGET_MS_MAX = 2**32 - 1

Value = bool | int | float | str | None


class Hints(Struct):
    """Dynamo's hints of agents. There a larger priority goes first, here a smaller one."""

    priority: float | None = None
    strict_priority: float | None = None
    osl: float | None = None  # how many tokens its answer will have


class Targets(Struct):
    """Dynamo's service targets, in milliseconds."""

    ttft_target: float | None = None
    itl_target: float | None = None


class Nvext(Struct):
    """The part of Dynamo's extension that is about placing; the rest of it is not looked at."""

    agent_hints: Hints | None = None
    dp_rank: float | None = None
    router_config_override: dict[str, Value] | None = None
    router: Targets | None = None


class Manner(Struct, frozen=True):
    """How a request wants to be placed: the same for all of its prompts."""

    priority: int = 0
    strict_priority: int = 0
    expected_tokens: int = 0
    session: str = ""
    rank: int = -1
    overrides: dict[str, float] = {}
    first_token_ms: int = 0  # a service target, for a router of pools
    next_token_ms: int = 0


_routing = msgspec.json.Decoder(dict[str, Value])
_nvext = msgspec.json.Decoder(Nvext)
WHOLE = {  # what `routing` may say besides knobs, and its bounds
    "priority": (-PRIORITY_MAX, PRIORITY_MAX),
    "strict_priority": (-PRIORITY_MAX, PRIORITY_MAX),
    "expected_tokens": (0, EXPECTED_MAX),
    "rank": (-1, RANKS_MAX - 1),
    "first_token_ms": (0, TARGET_MS_MAX),
    "next_token_ms": (0, TARGET_MS_MAX),
}


def manner_of(demand: Demand, found: Headers) -> Manner:
    """How it wants to be placed. Raises ValueError with a sentence."""
    if not (demand.extra or _SAYING.intersection(found) or abs(demand.priority) > PRIORITY_MAX):
        return Manner(demand.priority, session=session_of(demand, found))
    said: dict[str, Value] = {"priority": demand.priority, "session": session_of(demand, found)}
    said |= _of_nvext(demand.extra) | _of_headers(found) | _of_field(demand.extra)
    values: dict[str, object] = {}
    for name, (least, most) in WHOLE.items():
        if (value := said.pop(name, None)) is not None:
            values[name] = _whole(name, value, least, most)
    session = said.pop("session", "")
    if not isinstance(session, str) or len(session) > NAME_CHARS_MAX:
        raise ValueError(f"session must be text of at most {NAME_CHARS_MAX} characters")
    knobs.overridden(knobs.DEFAULTS, said)
    overrides = {name: float(value) for name, value in said.items() if isinstance(value, bool | int | float)}
    return Manner(session=session, overrides=overrides, **values)  # type: ignore[arg-type]


def wish_of(
    manner: Manner, prompt: Sequence[int], card: Card, salt: str, digest: Digest, media: Sequence[Media] = ()
) -> Wish:
    """What a router is told of one prompt."""
    tokens = hashed_tokens(prompt, media) if media else prompt
    return Wish(
        hashes=pack(chain(tokens, card.block_tokens, root(salt, digest), digest)),
        tokens=len(prompt),
        block_tokens=card.block_tokens,
        media=list(dict.fromkeys(part.content for part in media))[:MEDIA_MAX],
        **structs.asdict(manner),
    )


def session_of(demand: Demand, found: Headers) -> str:
    """The conversation that a request says it is of."""
    return (headers.session(found).decode("latin-1") or demand.cache_key)[:NAME_CHARS_MAX]


# --- What was said ---------------------------------------------------------------------------------------


def _of_field(extra: Mapping[str, msgspec.Raw]) -> dict[str, Value]:
    if ROUTING not in extra:
        return {}
    try:
        return _routing.decode(extra[ROUTING])
    except msgspec.DecodeError as error:
        raise ValueError(f"`{ROUTING}` must be an object of numbers: {error}") from None


def _of_nvext(extra: Mapping[str, msgspec.Raw]) -> dict[str, Value]:
    if NVEXT not in extra:
        return {}
    try:
        nvext = _nvext.decode(extra[NVEXT])
    except msgspec.DecodeError as error:
        raise ValueError(f"`{NVEXT}`: {error}") from None
    hints = nvext.agent_hints or Hints()
    targets = nvext.router or Targets()
    found: dict[str, Value] = {
        "expected_tokens": hints.osl,
        "rank": nvext.dp_rank,
        "first_token_ms": targets.ttft_target,
        "next_token_ms": targets.itl_target,
    }
    for name, value in (("priority", hints.priority), ("strict_priority", hints.strict_priority)):
        found[name] = None if value is None else -value
    return {name: value for name, value in found.items() if value is not None} | (nvext.router_config_override or {})


def _of_headers(found: Headers) -> dict[str, Value]:
    said: dict[str, Value] = {}
    for header, name, sign in ((PRIORITY, "priority", -1), (STRICT_PRIORITY, "strict_priority", -1), (RANK, "rank", 1)):
        if header in found:
            said[name] = sign * _number(header, found[header])
    for pair in found.get(HEADER, b"").split(b","):
        name_part, separator, text = pair.partition(b"=")
        if separator:
            said[name_part.strip().decode("latin-1")] = _number(HEADER, text)
        elif pair.strip():
            raise ValueError(f"`{HEADER.decode()}` must be NAME=NUMBER, ...")
    return said


def _number(header: bytes, text: bytes) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"`{header.decode()}`: {text[:64].decode('latin-1')!r} is no number")
    return value


def _whole(name: str, value: Value, least: int, most: int) -> int:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
    if not least <= number <= most:
        raise ValueError(f"{name} is {value!r}: it must be a number between {least} and {most}")
    return round(number)
