"""Pure. A leg that an engine has, or is about to get; and what the end of its job means for it."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from msgspec import Struct

from mesh.core import Event, Failed, Finished, Leg, Yielded
from nodes.commands import Cancel, Command, Land
from nodes.contract.engine import Ending, Job, Output
from nodes.contract.media import Media, Spot
from nodes.handing import Handing
from nodes.native import Rows
from proto.errors import Reason


class Desk(Protocol):
    """Where legs wait for the embeddings of what they show. `done` is called once, later, unless it is forgotten."""

    def embed(
        self, leg: Leg, spots: Sequence[Spot], handles: Sequence[bytes], done: Callable[[list[Media] | Failed], None]
    ) -> None: ...

    def forget(self, leg: Leg) -> None: ...

    def lay_out(self, media: Sequence[Media]) -> Rows:
        """For who goes on; nothing if there is no room."""
        ...


class Run(Struct):
    """A leg that the engine has, or is about to get."""

    length: int = 0  # positions of its sequence, when it began
    since_step: int = 0  # how many steps had been made then
    feeds: bool = False  # it computes a prompt for who goes on
    unfed: bool = False  # it must not begin before Go: who works for it, an encoder for one, is not done with its leg
    hinted: bool = False
    halted: bool = False
    rests: bool = False  # halted by us, because the engine is to sleep: it goes on elsewhere
    preempted: bool = False  # its engine has taken its room, and has a copy of its cache for who goes on
    cancelled_at: float = inf
    failed: Failed | None = None  # why it is cancelled, if nobody asked for it
    waits: Job | None = None  # for its embeddings, or for Go: the engine does not have it yet
    landing: Land | None = None  # for its embeddings: the engine has it, and was not told to go on
    job: Job | None = None  # one with spots
    spots: Sequence[Spot] = ()
    handles: Sequence[bytes] = ()


def rescue(output: Output, run: Run, handing: Handing, commands: list[Command]) -> bool:
    """Have the cache of a preempted job copied to where others can fetch it, if there is room: its end comes then."""
    if not output.kept:
        return False
    out = handing.save(output.key, output.kept) if run.cancelled_at == inf else None
    commands.append(Cancel(output.key, out))  # without room too: its engine need not keep it any longer
    if out is None:
        return False
    run.preempted, run.cancelled_at = True, 0.0
    return True


def freed_of(leg: Leg, run: Run, packed: bytes) -> tuple[str, Event]:
    """What it means for a leg that its room is free by now, as somebody wanted."""
    if run.halted or (run.preempted and not run.hinted):
        preempt = run.rests or run.preempted
        return "preempted" if run.preempted else "cancelled", Yielded(leg, Reason.PREEMPT if preempt else None, packed)
    return "stopped", Finished(leg)


def event_of(leg: Leg, ending: Ending | None, text: str, run: Run) -> tuple[str, Event]:
    """What a job's end means for its leg."""
    match ending:
        case Ending.STOP if not run.feeds:
            return "complete", Finished(leg)
        case Ending.LENGTH | Ending.STOP:
            return "length", Finished(leg, Reason.LENGTH)
        case Ending.PREEMPTED:
            return "preempted", Yielded(leg, Reason.PREEMPT)
        case Ending.REFUSED:
            return "refused", Failed(leg, Reason.INVALID, text=text)
        case Ending.FAILED:
            return "failed", Failed(leg, Reason.FAILED, text=text)
        case Ending.LOST:
            return "failed", Failed(leg, Reason.UNAVAILABLE, text=text, retryable=True)
        case _:
            return ("cancelled", Yielded(leg)) if run.halted or not run.hinted else ("stopped", Finished(leg))
