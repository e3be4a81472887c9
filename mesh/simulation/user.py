"""Shell. Users' own components in the simulator: their real handlers, in virtual time, on nodes that crash and freeze.

    Simulation(component).run("endpoint", requests=[...], seeds=range(50))

Every stream must equal the one that the handler yields when nobody disturbs it. A handler that reads a clock, draws
random numbers or keeps state outside of its checkpoints is found out.
"""

import inspect
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from msgspec import Struct

from mesh.component import Component
from mesh.context import Context
from mesh.core import Failed, Finished, Halt, Hint, Leg, Pause, Start, Unpause, Yielded
from mesh.endpoint import Checkpoint, Endpoint
from mesh.runner import Runner, encode_item
from mesh.schema import encode_request
from mesh.simulation import faults as fault_plans
from mesh.simulation import virtual
from mesh.simulation.plan import Call, Place, Plan, Work, to_json
from mesh.simulation.process import Process
from mesh.simulation.streams import ClientStream
from mesh.simulation.violation import Violation
from mesh.simulation.world import World
from proto.messages import Offer, Role

CPU_S = 1e-5  # virtual time that a step of a user's loop takes
HEAL_S = 8.0
CALLS_UNTIL_S = 4.0
NOT_FOR_USERS = (
    "hang",
    "forget_held",
    "forget_claim",
    "kill_acceptor",
)  # without an engine a hang is the handler's own


class Summary(Struct):
    """What the runs came to."""

    seeds: int = 0
    requests: int = 0
    items: int = 0
    faults: int = 0
    moves: int = 0
    reasons: dict[str, int] = {}


class Simulation:
    """A component on several simulated nodes, called by simulated clients."""

    def __init__(self, component: Component, *, holders: int = 3, clients: int = 1) -> None:
        self._component = component
        self._holders = holders
        self._clients = clients

    def run(
        self, endpoint: str, requests: Sequence[Any], *, seeds: Iterable[int] = range(50), faults: str = "chaos"
    ) -> Summary:
        """Call an endpoint with each request under the faults of each seed; raises at the first stream that differs.

        `faults`: "chaos", "drain" (every node is restarted, one after the other) or "calm".
        """
        name = endpoint if endpoint in self._component.endpoints else f"{self._component.name}.{endpoint}"
        served = self._component.endpoints[name]
        payloads = [encode_request(request) for request in requests]
        streams = [undisturbed(served, payload) for payload in payloads]
        summary = Summary()
        for seed in seeds:
            plan = self._plan(seed, name, len(payloads), faults)
            world = UserWorld(plan, served, payloads, streams)
            result = world.run()
            if result.failed:
                text = f"seed {seed}: {result.text}\nplan: {to_json(plan).decode()}"
                raise Violation(result.invariant, text)
            _count(summary, world)
        return summary

    def _plan(self, seed: int, endpoint: str, calls: int, profile: str) -> Plan:
        random = Random(f"{seed}/user")
        holders = [
            Place(f"holder{number}", int(Role.COMPONENT), [endpoint], slots=64, queue=64)
            for number in range(self._holders)
        ]
        clients = [Place(f"client{number}", int(Role.CLIENT), [], [endpoint]) for number in range(self._clients)]
        asked = [
            Call(random.uniform(0.1, CALLS_UNTIL_S), self._holders + random.randrange(self._clients), endpoint,
                 Work(number, 0))
            for number in range(calls)
        ]  # fmt: skip
        plan = Plan(seed, profile, [*holders, *clients], asked, [], heal_s=HEAL_S)
        if profile != "calm":
            drawn = fault_plans.draw(Random(f"{seed}/faults"), plan)
            plan.faults = [fault for fault in drawn if fault.kind not in NOT_FOR_USERS]
        return plan


def undisturbed(endpoint: Endpoint, payload: bytes) -> list[bytes]:
    """The items of a stream that nothing happens to."""

    async def collect() -> list[bytes]:
        made = endpoint.call(endpoint.read(payload), Context(), None)
        if inspect.isawaitable(made):
            made = await made
        if hasattr(made, "__aiter__"):
            return [encode_item(item) async for item in made if type(item) is not Checkpoint]
        if hasattr(made, "__next__"):
            return [encode_item(item) for item in made if type(item) is not Checkpoint]
        return [encode_item(made)]

    return virtual.run(collect)


def _count(summary: Summary, world: "UserWorld") -> None:
    summary.seeds += 1
    summary.requests += len(world.oracles.streams)
    summary.items += sum(stream.position for stream in world.oracles.streams)
    summary.faults += len(world.plan.faults)
    summary.moves += sum(max(0, stream.attempt - 1) for stream in world.oracles.streams)
    for reason, count in world.oracles.reasons.items():
        summary.reasons[reason] = summary.reasons.get(reason, 0) + count


class UserWorld(World):
    """A world in which the handlers are a user's."""

    def __init__(self, plan: Plan, endpoint: Endpoint, payloads: list[bytes], streams: list[list[bytes]]) -> None:
        super().__init__(plan)
        self.endpoint = endpoint
        self.payloads = payloads
        self.undisturbed = streams

    def _process(self, place: int, number: int, node: int, address: str) -> Process:
        return UserProcess(self, place, number, node, (address,))

    def _stream(self, process: Process, call: Call) -> ClientStream:
        return UserStream(process, call, self)

    def run(self) -> Any:
        """As every world; then the loops of all processes are closed."""
        try:
            return super().run()
        finally:
            for process in self.processes():
                process.ended()


class UserStream(ClientStream):
    """A request with a user's payload."""

    def __init__(self, process: Process, call: Call, world: UserWorld) -> None:
        super().__init__(process, call)
        self.payload = world.payloads[call.work.seed]
        self.expected = world.undisturbed[call.work.seed]
        self.resumable = world.endpoint.resumable


class UserRun:
    """What the books of a process hold for a leg that runs in its loop."""

    __slots__ = ("halting", "hinted", "inner", "leg")

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.inner = None
        self.hinted = self.halting = False

    def unhang(self) -> None:
        """Nothing of a user's hangs here."""


class UserProcess(Process):
    """A process that runs a user's handlers in a loop of its own."""

    def __init__(self, world: UserWorld, place: int, incarnation: int, node: int, addresses: tuple[str, ...]) -> None:
        self._endpoint = world.endpoint
        super().__init__(world, place, incarnation, node, addresses)
        self._loop = virtual.VirtualLoop(self.local)
        self._runner = Runner({world.endpoint.name: world.endpoint}, self._posted, self._loop)
        self._step_at = float("inf")

    def _offers(self) -> tuple[Offer, ...]:
        return tuple(self._endpoint.offer() for _ in self.spec.offers)

    def ended(self) -> None:
        """Its tasks end with it."""
        if not self._loop.is_closed():
            self._muted = True
            self._loop.end()

    _muted = False

    def _posted(self, event: Any) -> None:
        if self._muted:
            return
        if isinstance(event, Finished | Failed | Yielded):
            self.handlers.pop(event.leg, None)
        self.run(event)

    def _turn_loop(self) -> None:
        """Let the loop go on as soon as it wants to."""
        at = self._loop.next_at()
        if at < self._step_at:
            self._step_at = at
            self.after(max(CPU_S, at - self.local()), self._step, at)

    def _step(self, at: float) -> None:
        if at == self._step_at:
            self._step_at = float("inf")
            self._loop.step()
            self._turn_loop()

    def _start(self, effect: Start) -> None:
        run: Any = UserRun(effect.leg)
        self.handlers[effect.leg] = run
        self.oracles.started(self, run)
        self._runner.start(effect)
        self._turn_loop()

    def _hint(self, effect: Hint) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].hinted = True
        self._runner.hint(effect)
        self._turn_loop()

    def _halt(self, effect: Halt) -> None:
        if effect.leg in self.handlers:
            self.handlers[effect.leg].halting = True
        self._runner.halt(effect)
        self._turn_loop()

    def _pause(self, effect: Pause) -> None:
        self._runner.pause(effect)

    def _unpause(self, effect: Unpause) -> None:
        self._runner.unpause(effect)
        self._turn_loop()
