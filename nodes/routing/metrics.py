"""Pure. What a router's metrics say of its indexes, its loads and its company, each by endpoint."""

from collections.abc import Mapping

from nodes.metrics import Family, Sample
from nodes.routing.advisor import Advisor
from nodes.routing.source import Staleness

RANKS_MAX = 900  # with samples of their own: a family may have a thousand
GAUGE, COUNTER = "gauge", "counter"
ONE = (
    ("wiremesh_index_blocks", GAUGE, "Distinct blocks in the index.", lambda one: one.sources.index.blocks),
    ("wiremesh_index_pruned_blocks_total", COUNTER, "Blocks forgotten for want of room.", lambda one: _pruned(one)),
    ("wiremesh_router_tracked_requests", GAUGE, "Requests that count as running.", lambda one: len(one.tracking)),
    ("wiremesh_router_parked_requests", GAUGE, "Requests that wait for a worker.", lambda one: one.parked),
    ("wiremesh_router_untold_total", COUNTER, "Messages to routers dropped.", lambda one: one.outbox.dropped),
)
EACH = (
    ("wiremesh_index_behind_changes", GAUGE, "Changes known to be missed.", "behind"),
    ("wiremesh_index_silent_seconds", GAUGE, "Since a worker last spoke of its cache.", "silent_s"),
    ("wiremesh_index_exact_ratio", GAUGE, "1 where the view is what the worker holds.", "exact"),
    ("wiremesh_index_held_blocks", GAUGE, "Blocks that the rank is known to hold.", "blocks"),
    ("wiremesh_index_gaps_total", COUNTER, "Times that changes were missed.", "gaps"),
    ("wiremesh_index_replays_total", COUNTER, "Times that they were asked for.", "replays"),
    ("wiremesh_index_copies_total", COUNTER, "Times that all was copied.", "copies"),
)


def of(advisors: Mapping[str, Advisor], now: float) -> list[Family]:
    """All of them. How stale each rank's view is comes by worker and rank."""
    found = {name: Family(name, kind, help, []) for name, kind, help, _ in (*ONE, *EACH)}
    for endpoint, advisor in advisors.items():
        for name, _, _, look in ONE:
            found[name].samples.append(Sample({"endpoint": endpoint}, float(look(advisor))))
        for one in advisor.sources.staleness(now):
            for name, _, _, fact in EACH:
                if len(found[name].samples) < RANKS_MAX:
                    found[name].samples.append(_sample(endpoint, one, fact))
    return list(found.values())


def _sample(endpoint: str, one: Staleness, fact: str) -> Sample:
    labels = {"endpoint": endpoint, "worker": f"{one.node:016x}", "rank": str(one.rank)}
    return Sample(labels, float(getattr(one, fact)))


def _pruned(advisor: Advisor) -> int:
    return advisor.sources.index.pruned
