"""Pure. From a plan that fails to a small one that fails likewise: delta debugging over its lists, then its numbers.

A plan is data and draws are per purpose, so leaving one fault or call out changes nothing else of the run.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from mesh.simulation.plan import Call, Fault, Plan

Item = TypeVar("Item")
RUNS_MAX = 2_000


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """A plan that still fails, from which nothing more can be left out."""
    budget = _Budget(fails)
    before = -1
    while before != budget.shrinks:
        before = budget.shrinks
        plan = _without(plan, budget, "faults")
        plan = _without(plan, budget, "calls")
        plan = _simpler(plan, budget)
    return plan


class _Budget:
    """Counts runs; when they are used up nothing fails any more."""

    def __init__(self, fails: Callable[[Plan], bool]) -> None:
        self._fails = fails
        self.runs = 0
        self.shrinks = 0

    def fails(self, plan: Plan) -> bool:
        self.runs += 1
        found = self.runs <= RUNS_MAX and self._fails(plan)
        self.shrinks += found
        return found


def _without(plan: Plan, budget: _Budget, field: str) -> Plan:
    """Leave out as many faults or calls as possible."""

    def attempt(kept: Sequence[object]) -> bool:
        return budget.fails(msgspec.structs.replace(plan, **{field: list(kept)}))

    return msgspec.structs.replace(plan, **{field: ddmin(getattr(plan, field), attempt)})


def ddmin(items: Sequence[Item], fails: Callable[[Sequence[Item]], bool]) -> list[Item]:
    """A part of the items that still fails, such that leaving out any one of them does not."""
    kept, parts = list(items), 2
    while kept:
        size = max(1, -(-len(kept) // parts))
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if fails(rest):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    return kept


def _simpler(plan: Plan, budget: _Budget) -> Plan:
    """Round times, shorten work, and take away what is special about places and calls."""
    for change in _changes(plan):
        simpler = change(plan)
        if simpler != plan and budget.fails(simpler):
            plan = simpler
    return plan


def _changes(plan: Plan) -> list[Callable[[Plan], Plan]]:
    changes: list[Callable[[Plan], Plan]] = [_all_true]
    for index, fault in enumerate(plan.faults):
        changes.append(partial(_fault, index=index, at_s=round(fault.at_s, 1)))
        changes.append(partial(_fault, index=index, for_s=round(fault.for_s, 1)))
    for index, call in enumerate(plan.calls):
        changes.extend(partial(_call, index=index, field=field, value=value) for field, value in _PLAIN_CALL.items())
        changes.append(partial(_call, index=index, field="at_s", value=round(call.at_s, 1)))
    for index in range(len(plan.places)):
        changes.extend(partial(_place, index=index, field=field) for field in ("clock_s", "drift", "born_s", "newer"))
    return changes


def _all_true(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, stale=0.0)


_PLAIN_CALL = {"cancel": "", "pace_ms": 0.0, "window": 256, "timeout_s": 0.0, "stall_s": 0.0, "policy": "round_robin"}


def _fault(plan: Plan, *, index: int, **fields: object) -> Plan:
    faults: list[Fault] = list(plan.faults)
    faults[index] = msgspec.structs.replace(faults[index], **fields)
    return msgspec.structs.replace(plan, faults=faults)


def _call(plan: Plan, *, index: int, field: str, value: object) -> Plan:
    calls: list[Call] = list(plan.calls)
    calls[index] = msgspec.structs.replace(calls[index], **{field: value})
    return msgspec.structs.replace(plan, calls=calls)


def _place(plan: Plan, *, index: int, field: str) -> Plan:
    places = list(plan.places)
    zero = False if field == "newer" else 0.0
    places[index] = msgspec.structs.replace(places[index], **{field: zero})
    return msgspec.structs.replace(plan, places=places)
