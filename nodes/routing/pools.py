"""Pure. Which pool of workers gets a request: by model, by what the client was promised, and by who is well.

A pool is a namespace with workers of one kind: small and quick, large and cheap, near and far. A table says which pool
serves which target: its axes are the length of the prompt, the time to the first token and the time between tokens that
the client wants; a value beyond an axis counts as its end, one that the client did not say as the middle. When the pool
that the table names cannot take the request, quicker ones are tried, the slowest of them first; then slower ones, if
that is allowed.
"""

from collections.abc import Mapping, Sequence
from math import prod

from msgspec import Struct

AXES = ("prompt_tokens", "first_token_ms", "next_token_ms")
STEPS_MAX = 64  # of an axis
RETRIES = ("none", "quicker", "any")


class Axis(Struct, frozen=True, forbid_unknown_fields=True):
    """One side of the table: `steps` equal steps from `least` to `most`."""

    name: str  # one of AXES
    least: float
    most: float
    steps: int

    def step(self, value: float | None) -> int:
        """Where a value falls."""
        if value is None:
            value = (self.least + self.most) / 2
        return max(0, min(self.steps - 1, int((value - self.least) / (self.most - self.least) * self.steps)))


class Pool(Struct, frozen=True, forbid_unknown_fields=True):
    """One pool."""

    name: str  # the namespace
    models: tuple[str, ...] = ()  # empty: all
    slowness: int = 0  # the quickest have the lowest


class Override(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests of these priorities go to this pool, whatever the table says."""

    least: int
    most: int
    pool: str


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """Pools, and which of them serves what. `cells` has one pool's name for each cell, the last axis fastest."""

    pools: tuple[Pool, ...]
    axes: tuple[Axis, ...] = ()
    cells: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()  # the first that fits counts
    retry: str = "quicker"  # one of RETRIES: what else is tried when a pool cannot take it

    def __post_init__(self) -> None:
        complaint = _complaint(self)
        if complaint:
            raise ValueError(complaint)


class Target(Struct, frozen=True):
    """What a request is, and what it was promised."""

    model: str
    prompt_tokens: int
    first_token_ms: float | None = None
    next_token_ms: float | None = None
    priority: int | None = None


class Health(Struct, frozen=True):
    """How a pool is."""

    ready: int = 0  # workers that take work
    busy: bool = False  # all of them are over their thresholds


class PoolChoice(Struct, frozen=True):
    """Where to try, in this order; and why."""

    pools: tuple[str, ...]
    why: str
    wanted: str = ""  # the one that the rules name


def choose_pool(table: Table, target: Target, health: Mapping[str, Health]) -> PoolChoice:
    """The pools that may serve a request, the best first; none if none can."""
    serving = [pool for pool in table.pools if not pool.models or target.model in pool.models]
    if not serving:
        return PoolChoice((), f"no pool serves {target.model}")
    wanted, why = _wanted(table, target, serving)
    ready = [pool for pool in _order(table, wanted, serving) if health.get(pool.name, _DEAD).ready]
    if not ready:
        return PoolChoice((), f"{why}, and no worker is ready there or wherever else it may go", wanted.name)
    order = sorted(ready, key=lambda pool: health[pool.name].busy)  # stable: the busy ones last, else as they were
    if order[0] != wanted:
        state = "is busy" if health.get(wanted.name, _DEAD).ready else "has no worker"
        why += f", but {wanted.name} {state}: {order[0].name}"
    return PoolChoice(tuple(pool.name for pool in order), why, wanted.name)


def _wanted(table: Table, target: Target, serving: Sequence[Pool]) -> tuple[Pool, str]:
    """The pool that the rules name. If that one does not serve the model, the nearest in slowness that does."""
    named = {pool.name: pool for pool in table.pools}
    name, why = _cell(table, target)
    for rule in table.overrides:
        if target.priority is not None and rule.least <= target.priority <= rule.most:
            name, why = rule.pool, f"priority {target.priority} goes to {rule.pool}"
            break
    if not name:
        return min(serving, key=lambda pool: pool.slowness), "the quickest pool"
    pool = named[name]
    if pool in serving:
        return pool, why
    nearest = min(serving, key=lambda other: abs(other.slowness - pool.slowness))
    return nearest, f"{why}, which does not serve {target.model}: {nearest.name}"


def _cell(table: Table, target: Target) -> tuple[str, str]:
    if not table.cells:
        return "", ""
    values = {
        "prompt_tokens": float(target.prompt_tokens),
        "first_token_ms": target.first_token_ms,
        "next_token_ms": target.next_token_ms,
    }
    place = 0
    for axis in table.axes:
        place = place * axis.steps + axis.step(values[axis.name])
    said = ", ".join(f"{axis.name} {values[axis.name]:g}" for axis in table.axes if values[axis.name] is not None)
    return table.cells[place], f"{said or 'no target'} goes to {table.cells[place]}"


def _order(table: Table, wanted: Pool, serving: Sequence[Pool]) -> list[Pool]:
    """The wanted pool, then quicker ones from the slowest on, then slower ones from the quickest on."""
    if table.retry == "none":
        return [wanted]
    others = [pool for pool in serving if pool != wanted]
    quicker = sorted((pool for pool in others if pool.slowness <= wanted.slowness), key=lambda pool: -pool.slowness)
    slower = sorted((pool for pool in others if pool.slowness > wanted.slowness), key=lambda pool: pool.slowness)
    return [wanted, *quicker, *(slower if table.retry == "any" else ())]


def _complaint(table: Table) -> str:
    """What is wrong with a table; empty if nothing is."""
    names = [pool.name for pool in table.pools]
    if not names or len(dict.fromkeys(names)) < len(names):
        return "there must be at least one pool, and no two of one name"
    for axis in table.axes:
        if axis.name not in AXES or not axis.least < axis.most or not 1 <= axis.steps <= STEPS_MAX:
            return f"axis {axis.name}: it must be one of {', '.join(AXES)}, rise, and have 1 to {STEPS_MAX} steps"
    if len(dict.fromkeys(axis.name for axis in table.axes)) < len(table.axes):
        return "an axis stands in the table twice"
    cells = prod(axis.steps for axis in table.axes) if table.axes else 0
    if len(table.cells) != cells:
        return f"the table has {len(table.cells)} cells: its axes make {cells}"
    unknown = [name for name in (*table.cells, *(rule.pool for rule in table.overrides)) if name not in names]
    if unknown:
        return f"there is no pool {unknown[0]!r}; there are {', '.join(names)}"
    if table.retry not in RETRIES:
        return f"retry is {table.retry!r}: it must be one of {', '.join(RETRIES)}"
    return ""


_DEAD = Health()
