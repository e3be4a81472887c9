"""Pure. Before an engine sleeps its legs go on elsewhere, each with its cache where that can be had."""

from mesh.core import Event, Halt
from nodes.commands import Sleep
from nodes.host_core import HostCore


def rest(core: HostCore, level: int, now: float) -> list[Event]:
    """Let the engine sleep, or wake for 0. What comes between the two is refused, for its owner to try elsewhere."""
    events: list[Event] = []
    for leg, run in [*core.runs.items()] if level else ():
        run.rests = True
        events += core.halt(Halt(leg, keep=True), now)
    core.commands.append(Sleep(level))
    return events
