"""Pure. A run as plain data: the places where processes run, the calls of clients, the faults. A plan is all there is.

What is drawn from a seed is drawn before the run; a plan that failed is kept as JSON, because a seed means something
else as soon as the drawing changes. `draw.py` and `faults.py` make plans, `world.py` runs them, `shrink.py` cuts them.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

PLAIN = "sim.work.plain"  # items, each a function of its index; cannot resume
CHECKED = "sim.work.checked"  # items that depend on all before them; resumes from checkpoints
TOKENS = "sim.work.tokens"  # each token depends on the prompt and all before it; resumes from tokens
PREFILL = "sim.feed.prefill"  # a feeder of TOKENS: its first token, and a handle
ENCODE = "sim.feed.encode"  # a feeder that makes nothing but a handle
FEEDERS = (ENCODE, PREFILL)
CHAIN = "sim.middle.chain"  # passes on what an inner request yields
RESUMABLE = (CHECKED, TOKENS)

BUSIEST = -1  # as the place of a fault: whoever holds most legs then; as the other end: who owns one of them


class Work(Struct, array_like=True):
    """What a handler is asked to do; it travels as the payload."""

    seed: int
    units: int
    step_ms: float = 20.0
    batch: int = 1  # units of a step
    every: int = 4  # units between checkpoints
    fail_at: int = -1  # raise before this unit; -1: never
    retryable: bool = False  # the failure goes away when tried again
    halt_ms: float = 1.0  # how long it takes to obey a Halt
    heeds: bool = True  # a stop ends it early
    inner: str = ""  # of a chain: the endpoint behind it


class Place(Struct):
    """Where one process after another runs."""

    name: str
    role: int
    offers: list[str] = []
    wants: list[str] = []
    slots: int = 4
    queue: int = 4
    engine: bool = False  # reports progress itself, so that a hang can be seen
    newer: bool = False  # speaks versions 1 to 2: unknown fields and messages
    mesh: str = "sim"
    born_s: float = 0.0
    clock_s: float = 0.0  # offset of its monotonic clock
    drift: float = 0.0
    seeds: list[int] = []  # places whose address it is given; with none it is told by discovery


class Call(Struct):
    """One request of a client."""

    at_s: float
    place: int
    endpoint: str
    work: Work
    prompt: int = 0  # tokens of it
    policy: str = "round_robin"
    pinned: int = -1  # a place
    window: int = 256
    pace_ms: float = 0.0  # time that the reader takes for a unit
    timeout_s: float = 0.0
    stall_s: float = 0.0
    patience_s: float = 8.0
    cancel: str = ""  # stop or kill
    when: str = ""  # at: `value` seconds after the call; position: with that unit; end: when the holder sends its end
    value: float = 0.0
    needs: list[str] = []  # the stops before the last


class Fault(Struct, omit_defaults=True):
    """Something that goes wrong at a time. `kind` is the name of a method of `mesh.simulation.nemesis`."""

    at_s: float
    kind: str
    place: int = 0
    other: int = BUSIEST
    for_s: float = 0.0
    amount: float = 0.0


class Plan(Struct):
    """Everything that happens in a run from outside."""

    seed: int
    profile: str
    places: Sequence[Place]
    calls: Sequence[Call]
    faults: list[Fault]
    heal_s: float = 8.0  # from here on nothing goes wrong any more
    discovery: bool = True  # if not, only seeds and gossip
    stale: float = 0.0  # share of discovery's words that are out of date or told twice
    note: str = ""  # why it is kept


def to_json(plan: Plan) -> bytes:
    """A plan as a file holds it."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1)


def from_json(text: bytes, kind: type[Plan] = Plan) -> Plan:
    """The plan of a file."""
    return msgspec.json.decode(text, type=kind)
