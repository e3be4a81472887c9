"""Pure. Which rank gets a prompt: a function of a snapshot, the knobs, and a Random that was given.

The order is: who may (the caller has narrowed the rows by node, pin and exclusion), who is too busy, what each costs,
what the session hints, which is cheapest. A tie goes to the fewest requests, then to who is done first with the prompt
that it computes now, then to a draw: equals share.
"""

from collections.abc import Sequence
from math import exp
from random import Random

from msgspec import Struct

from nodes.routing.cost import Prompt, Snapshot, costs
from nodes.routing.knobs import Knobs

ROUNDED = 1e-9  # costs are sums of fractions
EVEN = 0.005  # of the least cost: those that differ by less are equal. No prompt is measured that well
ROUNDING = 1e-300  # a weight that would be zero at a low temperature; one of them is always 1


class Choice(Struct, gc=False):
    """What was decided, and from what."""

    row: int  # -1: nobody
    costs: Sequence[float] = ()  # of every row
    busy: Sequence[bool] = ()  # empty: nobody is
    hinted: int = -1  # the row that the session made cheaper
    drawn: bool = False  # by temperature, or among equals
    refused: str = ""  # why nobody


def choose(snapshot: Snapshot, prompt: Prompt, knobs: Knobs, random: Random) -> Choice:
    """The row of the rank that should get the prompt."""
    if not snapshot.ranks:
        return Choice(-1, refused="no worker takes work")
    busy = overloaded(snapshot, knobs)
    if busy and all(busy):
        return Choice(-1, busy=busy, refused=f"all {len(busy)} that could take it are busy")
    price = costs(snapshot, prompt, knobs)
    hinted = _hinted(snapshot, knobs)
    if hinted >= 0:
        price[hinted] = max(0.0, price[hinted] - knobs.prefill_load_scale * knobs.session_credit * prompt.blocks)
    rows = [row for row in range(len(price)) if not busy[row]] if busy else range(len(price))
    if knobs.temperature:
        return Choice(_drawn(price, rows, knobs.temperature, random), price, busy, hinted, True)
    row, drawn = _cheapest(price, rows, snapshot, random)
    return Choice(row, price, busy, hinted, drawn)


def overloaded(snapshot: Snapshot, knobs: Knobs) -> list[bool]:
    """Which rows are over a threshold for busy; empty if there is no threshold."""
    if knobs.busy_decode_blocks is None and knobs.busy_prefill_tokens is None and knobs.busy_prefill_fraction is None:
        return []
    busy = [False] * len(snapshot.ranks)
    for row in range(len(busy)):
        prefill, total, step = snapshot.prefill_tokens[row], _at(snapshot.blocks_total, row), _step(snapshot, row)
        busy[row] = (
            _over(snapshot.blocks[row], knobs.busy_decode_blocks, total)
            or _over(prefill, knobs.busy_prefill_fraction, step)
            or (knobs.busy_prefill_tokens is not None and prefill > knobs.busy_prefill_tokens)
        )
    return busy


def all_queued(snapshot: Snapshot, knobs: Knobs) -> bool:
    """Whether every row has more prefill work queued than the threshold: then a request had better wait here."""
    threshold = knobs.queue_threshold
    if threshold is None or not snapshot.ranks:
        return False
    queued = snapshot.prefill_tokens
    return all(_over(queued[row], threshold, _step(snapshot, row)) for row in range(len(queued)))


def _over(value: float, fraction: float | None, whole: int) -> bool:
    """Whether a value is over a fraction of a whole that is known."""
    return fraction is not None and whole > 0 and value > fraction * whole


def _at(column: Sequence[int], row: int) -> int:
    return column[row] if column else 0


def _step(snapshot: Snapshot, row: int) -> int:
    return _at(snapshot.step_tokens, row)


def _hinted(snapshot: Snapshot, knobs: Knobs) -> int:
    """The session's row, unless another has more of the prompt in its cache: what is known beats what is hoped."""
    row = snapshot.session
    if row < 0 or not knobs.session_credit:
        return -1
    return row if snapshot.disk[row] >= max(snapshot.disk) else -1


def _cheapest(price: Sequence[float], rows: Sequence[int], snapshot: Snapshot, random: Random) -> tuple[int, bool]:
    least = min(price if len(rows) == len(price) else [price[row] for row in rows])
    equal = [row for row in rows if price[row] <= least + max(ROUNDED, EVEN * least)]
    for column in (snapshot.requests, snapshot.since):
        if len(equal) > 1 and column:
            first = min(column[row] for row in equal)
            equal = [row for row in equal if column[row] == first]
    return (equal[0], False) if len(equal) == 1 else (random.choice(equal), True)


def _drawn(price: Sequence[float], rows: Sequence[int], temperature: float, random: Random) -> int:
    """By softmax over costs scaled to 0..1."""
    least = min(price[row] for row in rows)
    span = max(price[row] for row in rows) - least
    if span <= ROUNDED:
        return random.choice(rows)
    weights = [max(ROUNDING, exp((least - price[row]) / span / temperature)) for row in rows]
    return random.choices(rows, weights)[0]
