"""Pure. What may be broken for a while and must be mended soon: looked at when it is due, and again after a trouble.

A killed leg's room, the legs of a dead owner, a stop that was asked for, a deadline, a caller's patience with silence.
"""

from math import inf
from typing import TYPE_CHECKING

from mesh.core import Leg
from mesh.simulation.legs import Seen
from mesh.simulation.streams import Stream
from mesh.simulation.violation import require

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

CANCEL_S = 1.5  # until a killed leg's room is free: two latencies, and a handler that takes its time
TROUBLED_CANCEL_S = 5.0  # the same when the pair must first find out that it is cut
ORPHAN_S = 1.0  # until the legs of a crashed owner are gone
AFTER_DEADLINE_S = 1.0


class Obligations:
    """All that was promised for later."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._clock = world.clock

    def keeps_deadline(self, stream: Stream) -> None:
        """It has to end with its deadline."""
        delay_s = stream.deadline - stream.process.local() + AFTER_DEADLINE_S
        self._clock.at(self._clock.now + delay_s, self._look_at_deadline, stream)

    def _look_at_deadline(self, stream: Stream) -> None:
        process = stream.process
        if stream.over is not None or not process.alive:
            return
        late = self._world.troubles[process.place].calm_since > self._clock.now - AFTER_DEADLINE_S
        if process.frozen or process.slow or late:
            self._clock.at(self._clock.now + AFTER_DEADLINE_S, self._look_at_deadline, stream)
            return
        require(False, "19 deadline", f"{process.label}/{stream.request} is still open after its deadline")

    def is_impatient(self, stream: Stream) -> None:
        """Its caller does not want to wait in silence for the current leg."""
        now = self._clock.now
        patience_s = stream.stall_s * (1 + len(stream.feeders)) + 1.0  # each feeder may hold it up in its turn
        self._clock.at(now + patience_s, self._stalls, stream, stream.attempt, stream.position, now)

    def _stalls(self, stream: Stream, attempt: int, position: int, since: float) -> None:
        same = stream.attempt == attempt and stream.position == position and stream.over is None and not stream.gone
        calm = self._world.troubles[stream.process.place].calm_since < since
        request = stream.process.node.owner.requests.get(stream.request)
        calm = calm and request is not None and request.claim is not None
        told = stream.newest.limit == stream.position  # by its own reader
        require(not (same and calm) or told, "19 stall", f"{stream.process.label}/{stream.request} waits in silence")

    def owner_died(self, process: "Process") -> None:
        """A process is gone: nobody may go on working for it."""
        for holder in self._world.processes():
            for leg in holder.node.holder.legs:
                if leg.owner == process.node.settings.node:
                    self.must_go(leg, process, holder, ORPHAN_S, "16 orphan")

    def must_stop(self, stream: Stream) -> None:
        """A stop was asked for: the handler must hear of it."""
        now = self._clock.now
        for leg in stream.living():
            self._clock.at(now, self._look_if_told, stream, leg)
            self._clock.at(now + CANCEL_S, self._look_at_stop, stream, leg, now)

    def _look_if_told(self, stream: Stream, leg: Seen) -> None:
        told = leg.stopped or not leg.lives(stream.process) or stream.over is not None or self._world.forgetful
        require(told, "15 stop", f"{leg.holder} is not told that {stream.request} was stopped")

    def _look_at_stop(self, stream: Stream, leg: Seen, since: float) -> None:
        holder = self._world.process_called(leg.holder)
        if stream.over is not None or stream.gone or leg.over or holder is None:
            return
        places = (stream.process.place, holder.place)
        if any(self._world.troubles[place].calm_since >= since for place in places):
            return
        handler = holder.handlers.get(Leg(stream.process.node.settings.node, stream.request, leg.attempt))
        told = handler is None or handler.hinted or handler.halting
        require(told, "15 stop", f"{holder.label} never heard that {stream.request} was stopped")

    def must_go(
        self, leg: Leg, owner: "Process", holder: "Process", in_s: float = CANCEL_S, invariant: str = "15 cancel"
    ) -> None:
        """This leg must be gone soon, sooner if nothing else goes wrong."""
        since = self._clock.now
        self._clock.at(since + in_s, self._look_at_leg, leg, owner, holder, since, invariant)

    def _look_at_leg(self, leg: Leg, owner: "Process", holder: "Process", since: float, invariant: str) -> None:
        if not holder.alive or leg not in holder.node.holder.legs:
            return
        troubles = self._world.troubles
        calm_since = max(troubles[holder.place].calm_since, troubles[owner.place].calm_since if owner.alive else -inf)
        soon = calm_since + TROUBLED_CANCEL_S
        if calm_since > since and self._clock.now < soon:
            again = soon if soon < inf else self._clock.now + TROUBLED_CANCEL_S
            self._clock.at(again, self._look_at_leg, leg, owner, holder, since, invariant)
            return
        require(False, invariant, f"{leg} is still on {holder.label}, {self._clock.now - since:.1f} s later")
