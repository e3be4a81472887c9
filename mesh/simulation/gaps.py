"""Pure. Invariant 17: how long a caller may wait for its next unit after a fault, if somebody healthy could go on.

The promise holds only while nothing else goes wrong: who was in trouble shortly before or since is no witness.
"""

from typing import TYPE_CHECKING

from mesh.simulation.streams import ClientStream
from mesh.simulation.violation import require

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

# The goals are 0.5, 4.5 and 6.5 s; the rest is three slow latencies of 0.3 s and a step.
CRASH_S = 1.5
FREEZE_S = 5.4
HANG_S = 7.5
CALM_BEFORE_S = 7.0  # an instance that lost the request not long ago is not tried again
SLOW_STEP_MS = 100.0


def watch(world: "World", victim: "Process", bound_s: float, owner_place: int = -1) -> None:
    """A fault strikes a holder: note where the streams are that it serves, and who could go on with them."""
    now = world.clock.now
    for stream in world.oracles.streams:
        mine = stream.holder == victim.label and not stream.feeders and stream.over is None and not stream.gone
        if mine and owner_place in (-1, stream.process.place) and _counts(stream):
            known = stream.process.instances.get(stream.endpoint, ())
            others = [other for other in world.processes() if other is not victim]
            witnesses = [other for other in others if other.node.settings.node in known]
            world.clock.at(now + bound_s, _look, world, stream, victim, witnesses, stream.position, now, bound_s)


def _counts(stream: object) -> bool:
    """Only streams that nothing but the fault can hold up."""
    return (
        isinstance(stream, ClientStream)
        and stream.resumable
        and stream.call.pinned < 0
        and stream.call.pace_ms == 0
        and stream.work.step_ms <= SLOW_STEP_MS
        and not stream.work.retryable
        and not stream.rejects
    )


def _look(
    world: "World",
    stream: ClientStream,
    victim: "Process",
    witnesses: list["Process"],
    position: int,
    since: float,
    bound_s: float,
) -> None:
    moved_on = stream.over is not None or stream.gone or stream.position > position
    if moved_on or stream.rejects or stream.retried:
        return
    holder = world.process_called(stream.holder)
    if holder is not None and holder.held_up_until > since:
        return  # what it needs does not come, which is nobody's death
    if stream.suspect and stream.newest.alone:
        return  # it seems to have killed two: it waits for a verdict
    elsewhere = stream.holder != victim.label
    in_trouble = world.troubles[stream.newest.place].calm_since > since - CALM_BEFORE_S
    if elsewhere and (in_trouble or not stream.newest.running):
        return  # it went to somebody else, who is in trouble too or makes it wait its turn
    owner = world.troubles[stream.process.place]
    same_fault = owner.count <= 1 and owner.last == since  # a cut has two ends
    if owner.calm_since > since - CALM_BEFORE_S and not same_fault:
        return
    if any(_could(world, process, since) for process in witnesses):
        name = f"{stream.process.label}/{stream.request} ({stream.endpoint})"
        require(False, "17 gap", f"{name} got nothing after {position} for {bound_s} s, and somebody could go on")


def _could(world: "World", process: "Process", since: float) -> bool:
    """Whether this process could have gone on all the time."""
    return (
        process.alive
        and not process.leaving
        and process.label not in world.oracles.suspects.hosts
        and world.troubles[process.place].calm_since <= since - CALM_BEFORE_S
        and process.could_start(since)
    )
