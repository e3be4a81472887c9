"""Pure. Which endings a request may have, given what happened to it; and how often it may have moved."""

from typing import TYPE_CHECKING

from mesh.core import Finish
from mesh.simulation.plan import CHAIN
from mesh.simulation.streams import Stream
from mesh.simulation.violation import require
from proto.errors import Reason

if TYPE_CHECKING:
    from mesh.simulation.world import World

SLACK_S = 0.005  # clocks drift
REJECTS_MAX = 6  # as the owner has it
MOVED_PATIENCE_S = 30.0
EARLIER_S = 12.0  # a trouble that long ago may still explain a loss: a frozen process wakes up


def why_not(world: "World", stream: Stream, end: Finish) -> str | None:
    """Why a request may not end like this; None if it may."""
    rule = _RULES.get(end.reason)
    return rule(world, stream, end) if rule is not None else f"never a reason to end ({end.text})"


def _complete(world: "World", stream: Stream, end: Finish) -> str | None:
    if _told_to_fail(stream) and not stream.work.retryable:
        return "it was told to fail"
    return None if stream.position == len(stream.expected) else f"{len(stream.expected)} units were asked for"


def _asked(world: "World", stream: Stream, end: Finish) -> str | None:
    return None if end.reason in stream.asked else "nobody asked for that"


def _deadline(world: "World", stream: Stream, end: Finish) -> str | None:
    holders_s = max((process.jumped_s for process in world.processes()), default=0.0)  # each has its own clock
    return None if stream.process.local() >= stream.deadline - holders_s - SLACK_S else "before its deadline"


def _told_to_fail(stream: Stream) -> bool:
    return 0 <= stream.work.fail_at < stream.work.units


def _failed(world: "World", stream: Stream, end: Finish) -> str | None:
    if end.name == "Told" and _told_to_fail(stream):
        if stream.work.retryable and end.attempts > 1:
            return "the second attempt does not fail"
        return None if stream.position == stream.work.fail_at else f"it fails after {stream.work.fail_at} units"
    if end.name == "Inner" and stream.endpoint == CHAIN:
        return None
    return f"nothing failed: {end.name} {end.text}"


def _lost(world: "World", stream: Stream, end: Finish) -> str | None:
    if stream.resumable:
        return "it can resume"
    return _troubled(world, stream)


def _troubled(world: "World", stream: Stream) -> str | None:
    since = stream.newest.submitted_at - EARLIER_S
    places = (stream.process.place, stream.newest.place)
    if any(place >= 0 and world.troubles[place].last > since for place in places):
        return None
    return "nothing has happened to it"


def _waited(world: "World", stream: Stream) -> float:
    """At most since its last stop was heard of: it may have lost that place then. A unit of a feeder is no place."""
    return world.clock.now - stream.settled_at + stream.process.jumped_s


def _unavailable(world: "World", stream: Stream, end: Finish) -> str | None:
    if world.plan.profile == "calm":
        return "everybody is there"
    if stream.rejects >= REJECTS_MAX:
        return None  # the last of them because its instance was about to leave
    patience_s = stream.patience_s if not stream.attempt else MOVED_PATIENCE_S
    return None if _waited(world, stream) >= patience_s * 0.99 - SLACK_S else f"only {_waited(world, stream):.2f} s"


def _busy(world: "World", stream: Stream, end: Finish) -> str | None:
    if not stream.rejects:
        return "nobody was busy"
    if stream.rejects >= REJECTS_MAX or _waited(world, stream) >= MOVED_PATIENCE_S * 0.99:
        return None
    return f"only {stream.rejects} refusals"


def _draining(world: "World", stream: Stream, end: Finish) -> str | None:
    if stream.process.leaving or stream.rejects >= REJECTS_MAX:
        return None
    if stream.resumable:
        return "it can move"
    if not stream.begun:
        return "nothing of it had begun"
    return None if world.hurried else "nobody leaves in a hurry"


def _stalled(world: "World", stream: Stream, end: Finish) -> str | None:
    if stream.stall_s == 0 or stream.resumable:
        return "it must not"
    silent_s = world.clock.now - max(stream.last_unit, stream.newest.submitted_at)
    return None if silent_s >= stream.stall_s * 0.99 - SLACK_S else f"silent for {silent_s:.2f} s only"


def _moved(world: "World", stream: Stream, end: Finish) -> str | None:
    if end.attempts <= stream.moves_max:
        return f"only {end.attempts} attempts"
    causes = world.trouble_count + world.drain_count + stream.retried + _stalls(world, stream)
    return None if causes >= stream.moves_max else "it has hardly moved"


def _poison(world: "World", stream: Stream, end: Finish) -> str | None:
    return world.oracles.suspects.accused(world, stream, end)


_RULES = {
    Reason.COMPLETE: _complete,
    Reason.STOPPED: _asked,
    Reason.KILLED: _asked,
    Reason.DEADLINE: _deadline,
    Reason.FAILED: _failed,
    Reason.LOST: _lost,
    Reason.UNAVAILABLE: _unavailable,
    Reason.BUSY: _busy,
    Reason.DRAINING: _draining,
    Reason.STALLED: _stalled,
    Reason.MOVED_TOO_OFTEN: _moved,
    Reason.POISON: _poison,
}


def _stalls(world: "World", stream: Stream) -> int:
    """How often its caller may have lost patience."""
    return int((world.clock.now - stream.began + SLACK_S) / stream.stall_s) if stream.stall_s else 0


def moves(world: "World", stream: Stream) -> None:
    """Invariant 22: a request moves for a reason."""
    causes = stream.rejects + 2 * world.trouble_count + world.drain_count + stream.retried
    causes += _stalls(world, stream)
    name = f"{stream.process.label}/{stream.request}"
    fine = stream.attempt <= 1 + stream.advances + causes
    require(fine, "22 moves", f"{name} is at attempt {stream.attempt}, with {causes} causes")
