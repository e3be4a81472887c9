"""Pure. The simulated engine, and what it does wrong by a plan."""

from nodes.contract.blocks import Digest
from nodes.contract.engine import Step
from nodes.engines.sim import Settings, SimEngine
from nodes.faults import Fault, Plan


class FaultyEngine(SimEngine):
    """A simulated engine with a plan."""

    def __init__(self, settings: Settings, digest: Digest, plan: Plan) -> None:
        super().__init__(settings, digest)
        self.plan = plan
        self.faults = 0
        self._steps = 0
        self._on = False

    def step(self) -> Step:
        self._steps += 1
        if self._steps == self.plan.step:
            self.toggle()
        return super().step()

    def toggle(self) -> None:
        """Begin to fail, or heal."""
        self._on = not self._on
        self.faults += self._on
        self.fault(self.plan.fault if self._on else Fault.NONE, self.plan.factor)
