"""Shell. How full each of vLLM's ranks is, as its scheduler says after each step; and its own metrics."""

from typing import Any

from nodes.contract.engine import EngineLoad
from nodes.engines.vllm.library import part

PREFIX = "vllm:"


class Figures:
    """The last word of each rank's scheduler."""

    def __init__(self) -> None:
        self._last: dict[int, Any] = {}

    def logger(self) -> Any:
        """A factory of what vLLM calls a stat logger."""
        last = self._last
        base: Any = part("v1.metrics.loggers").StatLoggerBase

        class Listener(base):  # type: ignore[misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                self._rank = engine_index

            def record(self, scheduler_stats: Any, iteration_stats: Any = None, *others: Any, **named: Any) -> None:
                if scheduler_stats is not None:
                    last[self._rank] = scheduler_stats

            def log_engine_initialized(self) -> None:
                pass

        return Listener

    def load(self, ranks: int, blocks: int) -> EngineLoad:
        """`blocks`: of one rank."""
        each = tuple(self._of(rank, blocks) for rank in range(ranks))
        running, waiting = sum(one.running for one in each), sum(one.waiting for one in each)
        used = sum(one.blocks_used for one in each)
        return EngineLoad(running, waiting, used, blocks * ranks, ranks=each if ranks > 1 else ())

    def _of(self, rank: int, blocks: int) -> EngineLoad:
        said = self._last.get(rank)
        if said is None:
            return EngineLoad(blocks_total=blocks)
        waiting = said.num_waiting_reqs + getattr(said, "num_skipped_waiting_reqs", 0)
        return EngineLoad(said.num_running_reqs, waiting, round(said.kv_cache_usage * blocks), blocks)


def families() -> list[Any]:
    """What vLLM tells Prometheus."""
    from prometheus_client import REGISTRY

    from nodes.exposition import families_of

    return families_of(REGISTRY.collect(), (PREFIX,))
