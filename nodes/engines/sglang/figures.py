"""Shell. What SGLang says of itself: how full it is, its own metrics, and which of its processes compute."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nodes.contract.engine import EngineLoad


def load_of(told: Any, page: int) -> EngineLoad:
    """Of one rank, as its scheduler has left it in shared memory."""
    return EngineLoad(
        int(told.num_running_reqs),
        int(told.num_waiting_reqs),
        -(-int(told.num_used_tokens) // page),
        int(told.max_total_num_tokens) // page,
        int(told.num_waiting_uncached_tokens),
    )


def together(each: list[EngineLoad]) -> EngineLoad:
    """Of all ranks."""
    return EngineLoad(
        sum(one.running for one in each),
        sum(one.waiting for one in each),
        sum(one.blocks_used for one in each),
        sum(one.blocks_total for one in each),
        sum(one.prefill_tokens for one in each),
        tuple(each) if len(each) > 1 else (),
    )


def families() -> list[Any]:
    """Of all its processes: they write into one folder."""
    from prometheus_client import CollectorRegistry, multiprocess

    from nodes.exposition import families_of

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return families_of(registry.collect(), ("sglang:",))


def schedulers_of(processes: Iterable[int]) -> list[int]:
    """Those of its processes that compute, and run."""
    found = []
    for process in processes:
        with suppress(OSError):
            if b"scheduler" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found
