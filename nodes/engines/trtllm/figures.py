"""Shell. TensorRT-LLM's own metrics: its collector's, which its server would fill, and what we count beside it."""

from typing import Any

from nodes.engines.trtllm.library import part
from nodes.metrics import Family, counter

PREFIX = "trtllm_"
COUNTS = {
    "trtllm_num_aborted_requests_total": "Requests that were aborted.",
    "trtllm_kv_transfer_success_total": "Prompts that another worker computed, and that were gone on with.",
    "trtllm_kv_transfer_failed_total": "Prompts that another worker computed, and that were computed again.",
}


class Figures:
    """What happened, and what the package's collector makes of it."""

    def __init__(self, model: str) -> None:
        self.aborted = self.fetched = self.failed = 0
        self._collector = _collector({"model_name": model, "engine_type": "trtllm"})

    def step(self, stats: dict[str, Any]) -> None:
        """Its statistics of one step."""
        self._log(("log_iteration_stats",), stats)

    def request(self, result: Any) -> None:
        """A request is over."""
        found = getattr(result, "metrics_dict", None)
        if found:
            self._log(("log_request_metrics_dict", "log_metrics_dict"), found)

    def _log(self, names: tuple[str, ...], found: Any) -> None:
        """Whatever a version calls it."""
        log = next((log for name in names if (log := getattr(self._collector, name, None)) is not None), None)
        if log is not None:
            log(found)

    def families(self, gaps: int) -> list[Family]:
        """All of them."""
        from prometheus_client import REGISTRY

        from nodes.exposition import families_of

        numbers = (self.aborted, self.fetched, self.failed)
        ours = [counter(name, text, count) for (name, text), count in zip(COUNTS.items(), numbers, strict=True)]
        gapped = counter("trtllm_kv_event_id_gap_events_total", "Times that changes of the cache were missed.", gaps)
        return [*families_of(REGISTRY.collect(), (PREFIX,)), *ours, gapped]


def _collector(labels: dict[str, str]) -> Any:
    """None where a version has none, or where it stands already: its metrics are the process's."""
    try:
        return part("metrics").MetricsCollector(labels)
    except (ImportError, AttributeError, ValueError):
        return None
