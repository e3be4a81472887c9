"""Pure. What a simulated engine is told to do wrong, and when: for tests, and to show what a mesh does about it."""

import re
from enum import StrEnum

from msgspec import Struct

SLOW_FACTOR = 10.0
FACTOR_MAX = 1e6
FORM = "crash, hang or slow[:FACTOR], and perhaps @STEP: 'crash', 'hang@200', 'slow:8@50'"
_FAULT = re.compile(r"(crash|hang|slow)(?::(\d+(?:\.\d+)?))?(?:@(\d+))?")


class Fault(StrEnum):
    """What can be wrong with it, on command."""

    NONE = "none"
    HANG = "hang"  # steps never end, nothing progresses
    CRASH = "crash"  # the next step raises
    SLOW = "slow"  # steps take `factor` times as long


class Plan(Struct, frozen=True):
    """One fault. Without a step it waits for somebody to call it up."""

    fault: Fault = Fault.NONE
    factor: float = 1.0
    step: int = 0  # the first that it spoils, counted from 1; 0: on demand


def parse(text: str) -> Plan:
    """The plan that a flag describes. Raises ValueError."""
    if not text:
        return Plan()
    found = _FAULT.fullmatch(text)
    if found is None or (found[2] and found[1] != Fault.SLOW):
        raise ValueError(f"it must be {FORM}")
    factor = min(float(found[2]), FACTOR_MAX) if found[2] else SLOW_FACTOR
    return Plan(Fault(found[1]), factor, int(found[3] or 0))
