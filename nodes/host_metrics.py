"""Pure. The figures of an engine host and of what it hands over, as metrics."""

from nodes.contract.engine import EngineLoad
from nodes.handing import Handing
from nodes.metrics import Family, Histogram, counter, gauge, histogram

STEP_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # beyond 5 s it is hung
OUTCOMES = ("complete", "length", "stopped", "cancelled", "preempted", "failed", "refused", "full")


class Counts:
    """What happened here, in plain numbers."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.started = 0
        self.prompt_tokens = 0
        self.resumed_tokens = 0
        self.cached_tokens = 0
        self.computed_tokens = 0
        self.prefilled_tokens = 0
        self.generated_tokens = 0
        self.steps = 0
        self.step_s = Histogram(STEP_BOUNDS_S)
        self.cancels = 0
        self.cancel_s = Histogram(STEP_BOUNDS_S)
        self.faults = 0


def families(counts: Counts, load: EngineLoad) -> list[Family]:
    """The metrics of an engine host."""
    name = "wiremesh_engine_"
    outcomes: dict[str, float] = dict(counts.outcomes)
    running = {"running": load.running, "waiting": load.waiting}
    blocks = {"used": load.blocks_used, "free": load.blocks_total - load.blocks_used}
    tokens = {
        "prompt": counts.prompt_tokens,
        "resumed": counts.resumed_tokens,
        "cached": counts.cached_tokens,
        "computed": counts.computed_tokens,
        "prefilled": counts.prefilled_tokens,
        "generated": counts.generated_tokens,
    }
    return [
        counter(f"{name}requests_total", "Requests that the engine host has ended, by how.", outcomes, "outcome"),
        counter(f"{name}tokens_total", "Tokens, by what was done with them.", tokens, "kind"),
        counter(f"{name}steps_total", "Forward passes.", counts.steps),
        histogram(f"{name}step_seconds", "How long a forward pass took.", counts.step_s),
        gauge(f"{name}active_requests", "Requests in the engine.", running, "state"),
        gauge(f"{name}blocks", "Blocks of the key-value cache.", blocks, "state"),
        gauge(f"{name}asleep", "How deep the engine sleeps: 1 without its cache, 2 without its weights.", load.asleep),
        counter(f"{name}cancels_total", "Requests that were cancelled, stopped or moved away.", counts.cancels),
        histogram(f"{name}cancel_seconds", "From a cancel to the room that is free.", counts.cancel_s),
        counter(f"{name}faults_total", "Faults that were put in on command.", counts.faults),
    ]


def handing_families(handing: Handing) -> list[Family]:
    """The metrics of what is handed over."""
    name = "wiremesh_transfer_"
    happened: dict[str, float] = dict(handing.counts)
    rooms = handing.rooms
    return [
        counter(
            f"{name}handovers_total", "Caches that were offered or pulled, by what became of them.", happened, "event"
        ),
        counter(f"{name}landed_tokens_total", "Positions that came from other workers.", handing.landed_positions),
        counter(f"{name}spared_tokens_total", "Positions that were here and did not.", handing.spared_positions),
        gauge(f"{name}staging_blocks", "Blocks of the staging memory.", rooms.blocks(), "state"),
        gauge(f"{name}leaked_blocks", "Blocks of the staging memory that are lost.", rooms.leaked),
    ]
