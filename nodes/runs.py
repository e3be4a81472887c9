"""Pure. A leg that an engine has, or is about to get; and what the end of its job means for it."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from msgspec import Struct

from mesh.core import Event, Failed, Finished, Leg, Yielded
from nodes.commands import Land
from nodes.engines.contract import Ending, Job
from nodes.engines.media import Media
from nodes.generation import Spot
from proto.errors import Reason


class Desk(Protocol):
    """Where legs wait for the embeddings of what they show. `done` is called once, later, unless it is forgotten."""

    def embed(
        self, leg: Leg, spots: Sequence[Spot], handles: Sequence[bytes], done: Callable[[list[Media] | Failed], None]
    ) -> None: ...

    def forget(self, leg: Leg) -> None: ...


class Run(Struct):
    """A leg that the engine has, or is about to get."""

    length: int = 0  # positions of its sequence, when it began
    since_step: int = 0  # how many steps had been made then
    feeds: bool = False  # it computes a prompt for who goes on
    hinted: bool = False
    halted: bool = False
    cancelled_at: float = inf
    failed: Failed | None = None  # why it is cancelled, if nobody asked for it
    waits: Job | None = None  # for its embeddings: the engine does not have it yet
    landing: Land | None = None  # for its embeddings: the engine has it, and was not told to go on
    job: Job | None = None  # one with spots
    spots: Sequence[Spot] = ()
    handles: Sequence[bytes] = ()


def event_of(leg: Leg, ending: Ending | None, text: str, run: Run) -> tuple[str, Event]:
    """What a job's end means for its leg."""
    match ending:
        case Ending.STOP if not run.feeds:
            return "complete", Finished(leg)
        case Ending.LENGTH | Ending.STOP:
            return "length", Finished(leg, Reason.LENGTH)
        case Ending.PREEMPTED:
            return "preempted", Yielded(leg, Reason.PREEMPT)
        case Ending.FAILED:
            return "failed", Failed(leg, Reason.FAILED, text=text)
        case _:
            return ("cancelled", Yielded(leg)) if run.halted or not run.hinted else ("stopped", Finished(leg))
