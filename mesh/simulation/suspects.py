"""Pure. Invariants 7 and 20: who may have killed its holder runs alone, and nobody is accused without a death.

A stream is a suspect when the link to its holder broke while it was running there and nothing had come of it yet, or
broke twice in a row before its owner heard that it runs; it stays one until its next unit. (proto/README.md, Poison.)
All of that is seen on the wire and at the links.
"""

from typing import TYPE_CHECKING, Any

from mesh.core import Finish, Leg
from mesh.simulation.violation import require
from proto.errors import Reason
from proto.messages import Grant, Migrate, Submit

if TYPE_CHECKING:
    from mesh.simulation.network import Link
    from mesh.simulation.process import Process
    from mesh.simulation.streams import Stream

UNHEARD_MAX = 2  # losses in a row before a holder's Accept: the first is bad luck


class Suspects:
    """Which legs are to run alone."""

    def __init__(self) -> None:
        self._legs: dict[Leg, None] = {}
        self._allowed: dict[Leg, None] = {}
        self._cleared: dict[Leg, None] = {}
        self.hosts: dict[str, None] = {}  # processes that had a suspect, by label: they send the others away

    def submitted(self, process: "Process", stream: "Stream", link: "Link", message: Submit) -> None:
        """A leg is placed: as a suspect if it is one, and only then."""
        name = f"{process.label}/{message.request} at attempt {message.attempt}"
        require(
            message.suspect == stream.suspect, "20 suspect", f"{name}: {message.suspect}, should be {stream.suspect}"
        )
        if message.suspect and link.target is not None:
            require(message.limit == message.position, "7 alone", f"{name} may begin before its owner says so")
            self._legs[Leg(process.node.settings.node, message.request, message.attempt)] = None
            self.hosts[link.target.label] = None

    def allowed(self, process: "Process", grant: Grant) -> None:
        """A leg gets credit; a suspect begins with it."""
        self._allowed[Leg(process.node.settings.node, grant.request, grant.attempt)] = None

    def link_lost(self, process: "Process", link: "Link") -> None:
        """The socket to a holder says that its connection is gone, before the core hears of it."""
        for stream in process.streams.values():
            for leg in stream.legs if stream.over is None else ():
                if leg.link is link and not leg.over and leg.fruitless and (leg.running or not leg.alone):
                    stream.unheard += not leg.running
                    stream.suspect |= leg.running or stream.unheard >= UNHEARD_MAX
                    stream.accused = leg.holder if leg.alone else ""

    def started(self, process: "Process", leg: Leg) -> None:
        """A handler begins."""
        name = f"{process.label} starts {leg} beside {list(process.handlers)}"
        others = [other for other in process.handlers if other != leg]
        require(not others or leg not in self._legs, "7 alone", name)
        begins = leg not in self._legs or leg in self._allowed
        require(begins, "7 alone", f"{process.label} starts {leg}, and its owner has not said so")
        require(not any(other in self._legs for other in others), "7 alone", name)

    def made(self, leg: Leg) -> None:
        """A handler is about to tell of a unit: it has not killed its process."""
        if leg in self._legs:
            del self._legs[leg]
            self._cleared[leg] = None

    def cleared(self, stream: "Stream") -> bool:
        """Whether it had made a unit when its holder died of somebody else, and only the news of it was lost."""
        return Leg(stream.process.node.settings.node, stream.request, stream.attempt) in self._cleared

    def migrates(self, process: "Process", message: Migrate) -> None:
        """A holder hands a leg over: it leaves, or it makes room for a suspect, or for what is more urgent."""
        crowded = process.hands_over or process.label in self.hosts
        fine = process.leaving or (message.reason == Reason.PREEMPT and crowded)
        require(fine, "22 moves", f"{process.label} migrates a leg although it stays")

    def accused(self, world: Any, stream: "Stream", end: Finish) -> str | None:
        """Why a request may not end as poison; None if it may."""
        if not stream.suspect:
            return "nobody has died of it"
        return "its holder lives" if world.process_called(stream.accused) is not None else None
