"""Pure. Modelled feeders: handlers that hand something over, and then make one token or none."""

from typing import TYPE_CHECKING

from mesh.core import Finished, Prepared, Start
from mesh.simulation.handlers import Handler
from mesh.simulation.plan import FEEDERS, PREFILL
from proto.errors import Reason

if TYPE_CHECKING:
    from mesh.simulation.process import Process


class Feeder(Handler):
    """Hands over at once, after a step, or never; a prefill makes the next token then."""

    __slots__ = ("handed",)

    def begin(self) -> None:
        """Set out."""
        self.handed = self.work.seed % 5 == 4  # that one never does
        if self.work.seed % 2:
            self._hand()
        super().begin()

    def _hand(self) -> None:
        if not self.handed:
            self.handed = True
            self.process.run(Prepared(self.leg, self.handle()))

    def _step(self) -> None:
        self.armed = False
        if self.over or self.halting or self.paused or self.process.hung:
            return
        work = self.work
        self.process.oracles.stepped(self)
        self.process.progressed()
        fails = 0 <= work.fail_at <= self.position
        if not self.handed:
            self._hand()
            self.arm()
        elif self.endpoint == PREFILL and self.position == self.began_at < work.units and not fails:
            self._produce(self.position + 1)
            self.arm()
        else:
            self._gone()
            self.process.run(Finished(self.leg, Reason.LENGTH))


def handler(process: "Process", start: Start) -> Handler:
    """What runs a leg."""
    return Feeder(process, start) if start.endpoint in FEEDERS else Handler(process, start)
