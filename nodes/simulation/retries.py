"""Pure. Invariant 22: what fails in a way that may pass is tried again, but never more often than a budget allows."""

from typing import TYPE_CHECKING

from mesh.simulation.violation import require
from proto.messages import Error

if TYPE_CHECKING:
    from mesh.simulation.process import Process

BURST = 10.0  # retries that a quiet owner may make at once
PER_S = 10.0
PER_SUCCESS = 0.1
ROUNDING = 0.01


class Retries:
    """A bucket for each owner, filled by time and success, emptied by what it does."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # and when that was, by the label of the owner
        self._pending: tuple[str, Error] | None = None

    def ended_well(self, process: "Process") -> None:
        """A request has succeeded."""
        left, when = self._left.get(process.label, (BURST, process.local()))
        self._left[process.label] = (min(BURST, left + PER_SUCCESS), when)

    def heard(self, process: "Process", error: Error) -> None:
        """A failure of a current leg arrives."""
        self._pending = (process.label, error) if error.retryable else None

    def handled(self, process: "Process") -> None:
        """Its owner has dealt with it: does it go on with the request?"""
        if self._pending is None or self._pending[0] != process.label:
            return
        error, self._pending = self._pending[1], None
        if error.request not in process.node.owner.requests:
            return
        left, when = self._left.get(process.label, (BURST, process.local()))
        left = min(BURST, left + (process.local() - when) * PER_S)
        require(left >= 1.0 - ROUNDING, "22 retries", f"{process.label} tries again with {left:.2f} retries left")
        self._left[process.label] = (left - 1.0, process.local())
