"""Shell. The figures of a worker's data plane, as metrics."""

from typing import TYPE_CHECKING

from nodes.metrics import Family, counter, histogram

if TYPE_CHECKING:
    from nodes.dock import PlaneDock


def transfer_families(dock: "PlaneDock") -> list[Family]:
    """What was moved, how fast, and what went wrong."""
    name = "wiremesh_transfer_"
    plane: dict[str, float] = dict(dock.figures())
    return [
        counter(f"{name}received_bytes_total", "Bytes that were pulled, by transport.", dock.received_bytes, "way"),
        counter(f"{name}failures_total", "Pulls that did not complete, by why.", dock.failures, "cause"),
        histogram(f"{name}pull_seconds", "How long a complete pull took, with the wait for its owner.", dock.pull_s),
        counter(f"{name}plane_events_total", "What the data plane has counted.", plane, "event"),
    ]
