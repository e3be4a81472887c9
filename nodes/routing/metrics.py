"""Pure. What a router's metrics say of its index, its loads and its company."""

from nodes.metrics import Family, Sample
from nodes.routing.advisor import Advisor
from nodes.routing.source import Staleness

RANKS_MAX = 900  # with samples of their own: a family may have a thousand


def families(advisor: Advisor, now: float) -> list[Family]:
    """All of them. How stale each rank's view is comes by worker and rank."""
    sources = advisor.sources.staleness(now)[:RANKS_MAX]
    index = advisor.sources.index
    return [
        _one("wiremesh_index_blocks", "gauge", "Distinct blocks in the index", index.blocks),
        _one("wiremesh_index_pruned_blocks_total", "counter", "Blocks forgotten for want of room", index.pruned),
        _one("wiremesh_router_tracked_requests", "gauge", "Requests that count as running", len(advisor.tracking)),
        _one("wiremesh_router_parked_requests", "gauge", "Requests that wait for a worker", advisor.parked),
        _one("wiremesh_router_untold_total", "counter", "Messages to other routers dropped", advisor.outbox.dropped),
        _each("wiremesh_index_behind_changes", "gauge", "Changes known to be missed", sources, "behind"),
        _each("wiremesh_index_silent_seconds", "gauge", "Since a worker last spoke of its cache", sources, "silent_s"),
        _each("wiremesh_index_exact_ratio", "gauge", "1 where the view is what the worker holds", sources, "exact"),
        _each("wiremesh_index_held_blocks", "gauge", "Blocks that the rank is known to hold", sources, "blocks"),
        _each("wiremesh_index_gaps_total", "counter", "Times that changes were missed", sources, "gaps"),
        _each("wiremesh_index_replays_total", "counter", "Times that they were asked for", sources, "replays"),
        _each("wiremesh_index_copies_total", "counter", "Times that all was copied", sources, "copies"),
    ]


def _one(name: str, kind: str, help: str, value: float) -> Family:
    return Family(name, kind, help, [Sample(value=float(value))])


def _each(name: str, kind: str, help: str, sources: list[Staleness], field: str) -> Family:
    samples = [
        Sample({"worker": f"{one.node:016x}", "rank": str(one.rank)}, float(getattr(one, field))) for one in sources
    ]
    return Family(name, kind, help, samples)
