"""Pure. Invariant 30: in peace nothing is done twice. What falls back to another way gives right tokens, and hides why.

A prompt is computed once for a request, wherever its legs run; what was handed over is pulled whole; a picture is read
once by a process, and by no worker where there are encoders. Engines that have no room are excused.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mesh.core import Leg
from mesh.simulation.violation import require
from nodes.engines.scheduler import Plan
from nodes.simulation.plan import ENCODER
from nodes.simulation.worker import Worker

if TYPE_CHECKING:
    from nodes.simulation.caller import ServingStream

UNUSED = ("foreign", "mismatched")  # what became of parcels that nobody could use


class Thrift:
    """What the engines of one run have computed."""

    def __init__(self) -> None:
        self._computed: dict[Leg, int] = {}  # positions of prompts
        self._on: dict[Leg, Worker] = {}
        self._short: dict[str, None] = {}  # workers that lacked room
        self._broken: list[tuple[str, Leg]] = []  # pulls that did not bring everything

    def computes(self, worker: Worker, plan: Plan) -> None:
        """An engine begins a step."""
        for part in plan.parts:
            leg: Leg = part.running.key  # type: ignore[assignment]
            self._computed[leg] = self._computed.get(leg, 0) + part.count
            self._on[leg] = worker

    def lacks_room(self, worker: Worker) -> None:
        """Its engine has turned somebody's blocks out, or lets somebody wait."""
        self._short[worker.label] = None

    def broke(self, worker: Worker, leg: Leg) -> None:
        """A pull has ended before everything was there, and nobody has cancelled it."""
        self._broken.append((worker.label, leg))

    def judge(self, processes: Sequence[Any], streams: Sequence[Any]) -> None:
        """At the end of a run without faults: all that live, and all that was asked."""
        workers = [process for process in processes if isinstance(process, Worker)]
        encoders = any(process.spec.kind == ENCODER for process in processes)
        torn = any(stream.order.pictures and len(stream.legs) > 2 and _ends_early(stream) for stream in streams)
        others_look = encoders and not torn and all(map(_moves, workers))
        for process in processes:
            if isinstance(process, Worker):
                counts = process.host.core.handing.counts
                broken = [name for name in UNUSED if counts[name]]
                require(not broken, "30 twice", f"without a fault {process.label} counts {', '.join(broken)} parcels")
            _look_at_eyes(process, others_look)
        for stream in streams:
            self._look_at_prompt(stream)
            self._look_at_pulls(stream)

    def _look_at_prompt(self, stream: "ServingStream") -> None:
        owner = stream.process.node.settings.node
        legs = [leg for leg in self._computed if (leg.owner, leg.request) == (owner, stream.request)]
        workers = [self._on[leg] for leg in legs]
        if any(worker.label in self._short or not _moves(worker) for worker in workers):
            return
        computed = sum(self._computed[leg] for leg in legs)
        text = f"{computed} positions of a prompt of {len(stream.prompt)} by {len(legs)} legs"
        name = f"{stream.process.label}/{stream.request}"
        require(computed <= len(stream.prompt), "30 twice", f"without a fault {name} took {text}")

    def _look_at_pulls(self, stream: "ServingStream") -> None:
        owner = stream.process.node.settings.node
        broken = [label for label, leg in self._broken if (leg.owner, leg.request) == (owner, stream.request)]
        name = f"{stream.process.label}/{stream.request}"
        require(
            _ends_early(stream) or not broken,
            "30 twice",
            f"without a fault {broken} had not all of the cache of {name}",
        )


def _ends_early(stream: "ServingStream") -> bool:
    """Whether a prefill worker may give it up: then nobody needs what it had computed."""
    return bool(stream.order.cancel or stream.order.wrong or not stream.order.max_tokens)


def _moves(worker: Worker) -> bool:
    """Whether it always had room to hand over in."""
    handing = worker.host.core.handing
    return handing.rooms.dock is not None and not handing.counts["no_room"]


def _look_at_eyes(process: Any, others_look: bool) -> None:
    """`others_look`: there are encoders, and what prefill workers have seen of them always comes over as blocks."""
    embedder = getattr(process, "embedder", None)
    if embedder is None:
        return
    encoded, known = embedder.figures["encoded"], len(embedder.shelf)
    require(encoded <= known, "30 twice", f"{process.label} has read {encoded} pictures, and there are {known}")
    looks = isinstance(process, Worker) and encoded
    require(not (others_look and looks), "30 twice", f"{process.label} has read what an encoder should have")
