"""Two parties, an owner and a holder, in every order that Hypothesis thinks of; and its fault plans in the simulator.

Frames move one at a time and in either direction, sessions die at any moment, handlers produce, end and obey whenever
they like. Every core checks itself after every event; at the end all must come to rest.
"""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.core import (
    TICK,
    Abandon,
    Checkpointed,
    Consumed,
    Departed,
    Failed,
    Finished,
    Halt,
    Leave,
    Leg,
    Produced,
    Start,
    Yielded,
)
from mesh.simulation import faults
from mesh.simulation.draw import draw
from mesh.simulation.plan import BUSIEST, Fault
from mesh.simulation.world import World
from proto.errors import Reason
from proto.messages import Role, Strength
from tests.pair import COUNT, ECHO, OFFERS, Wire

PLAIN, CHECKED = ECHO, COUNT
UNITS_MAX = 12
REST_S = 60.0


class Party(Wire):
    """A wire whose frames are handed over one by one."""

    def deliver_from(self, source: int, target: int) -> None:
        self._held.add((target, source))
        self.deliver()
        self._held.discard((target, source))

    def turn(self, node: int) -> None:
        if self.nodes[node].deadline() <= self.now:
            self.tell(node, TICK)


class Asked:
    """What a request ought to come to."""

    def __init__(self, number: int, tokens: bool, units: int, resumable: bool) -> None:
        self.number = number
        self.resumable = resumable
        self.units: list[Any] = [
            number * 100 + position if tokens else b"%d/%d" % (number, position) for position in range(units)
        ]
        self.tokens = tokens
        self.cancelled = False
        self.told_to_fail = False


class TwoParties(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 3), queue=st.integers(0, 2))
    def meet(self, slots: int, queue: int) -> None:
        self.wire = Party()
        self.owner = self.wire.client()
        self.holder = self.wire.node(Role.WORKER, OFFERS, slots=slots, queue=queue)
        self.asked: dict[int, Asked] = {}
        self.positions: dict[Leg, int] = {}  # handlers that run, and how far they are
        self.halted: dict[Leg, None] = {}
        self.seen = 0
        self.leaving = False
        self.dropped = False
        self.wire.meet(self.owner, self.holder)

    # --- What runs legs ------------------------------------------------------------------------------

    def look(self) -> None:
        """Handlers start and are halted by effects."""
        for node, effect in self.wire.effects[self.seen :]:
            if node == self.holder and isinstance(effect, Start):
                self.positions[effect.leg] = effect.position
                if effect.state:
                    assert int(effect.state) == effect.position, "a checkpoint under another position"
                assert len(effect.tokens) in (0, effect.position)
            elif node == self.holder and isinstance(effect, Halt):
                self.halted[effect.leg] = None
        self.seen = len(self.wire.effects)

    def legs(self) -> list[Leg]:
        self.look()
        return list(self.positions)

    def gone(self, leg: Leg) -> None:
        del self.positions[leg]
        self.halted.pop(leg, None)

    # --- Rules -----------------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(("plain", "checked", "tokens")),
        units=st.integers(0, UNITS_MAX),
        window=st.integers(1, UNITS_MAX),
    )
    def ask(self, kind: str, units: int, window: int) -> None:
        tokens = kind == "tokens"
        endpoint = PLAIN if kind == "plain" else CHECKED
        prompt = (1, 2, 3) if tokens else ()
        number = self.wire.ask(
            self.owner, endpoint, settle=False, window=window, prompt=prompt, patience_s=30.0, moves_max=1000
        )
        self.asked[number] = Asked(number, tokens, units, kind != "plain")

    @rule(forth=st.booleans(), frames=st.integers(1, 4))
    def deliver(self, forth: bool, frames: int) -> None:
        pair = (self.owner, self.holder) if forth else (self.holder, self.owner)
        for _ in range(frames):
            self.wire.deliver_from(*pair)

    @rule(holder=st.booleans())
    def turn(self, holder: bool) -> None:
        self.wire.turn(self.holder if holder else self.owner)

    @rule(seconds=st.sampled_from((0.01, 0.3, 0.6, 3.0)))
    def advance(self, seconds: float) -> None:
        self.wire.advance(seconds)

    @rule(forth=st.booleans())
    def drop(self, forth: bool) -> None:
        self.dropped = True
        self.wire.drop(*((self.owner, self.holder) if forth else (self.holder, self.owner)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), strength=st.sampled_from(Strength))
    def cancel(self, data: st.DataObject, strength: Strength) -> None:
        number = data.draw(st.sampled_from(sorted(self.asked)))
        self.asked[number].cancelled = True
        self.wire.tell(self.owner, Abandon(number, strength))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), units=st.integers(1, UNITS_MAX))
    def consume(self, data: st.DataObject, units: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.asked)))
        self.wire.tell(self.owner, Consumed(number, min(units, len(self.wire.delivered(self.owner, number)))))

    @precondition(lambda self: self.legs())
    @rule(data=st.data(), units=st.integers(1, 5))
    def produce(self, data: st.DataObject, units: int) -> None:
        leg = data.draw(st.sampled_from(self.legs()))
        asked, position = self.asked[leg.request], self.positions[leg]
        made = asked.units[position : position + units]
        if made:
            event = Produced(leg, tokens=made) if asked.tokens else Produced(leg, items=made)
            self.wire.tell(self.holder, event)
            self.positions[leg] += len(made)

    @precondition(lambda self: self.legs())
    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        leg = data.draw(st.sampled_from(self.legs()))
        asked = self.asked[leg.request]
        if asked.resumable and not asked.tokens:
            self.wire.tell(self.holder, Checkpointed(leg, b"%d" % self.positions[leg]))

    @precondition(lambda self: self.legs())
    @rule(data=st.data(), fails=st.integers(0, 9))
    def end(self, data: st.DataObject, fails: int) -> None:
        """Obey a halt, return if all is made, or raise now and then."""
        leg = data.draw(st.sampled_from(self.legs()))
        self.end_leg(leg, raises=fails == 0)

    def end_leg(self, leg: Leg, raises: bool = False) -> None:
        asked = self.asked[leg.request]
        if leg in self.halted:
            self.gone(leg)
            self.wire.tell(self.holder, Yielded(leg))
        elif self.positions[leg] == len(asked.units):
            self.gone(leg)
            self.wire.tell(self.holder, Finished(leg))
        elif raises:
            asked.told_to_fail = True
            self.gone(leg)
            self.wire.tell(self.holder, Failed(leg, name="Oops"))

    @precondition(lambda self: not self.leaving)
    @rule(seldom=st.integers(0, 9), grace_s=st.sampled_from((0.0, 1.0, 30.0)))
    def leave(self, seldom: int, grace_s: float) -> None:
        if seldom == 0:
            self.leaving = True
            self.wire.tell(self.holder, Leave(grace_s))

    # --- What always holds -------------------------------------------------------------------------------

    @invariant()
    def streams_are_true(self) -> None:
        if not hasattr(self, "asked"):
            return
        for number, asked in self.asked.items():
            got = self.wire.delivered(self.owner, number)
            assert got == asked.units[: len(got)]
            finish = self.wire.finished(self.owner, number)
            if finish is not None:
                self.may_end(asked, finish.reason, len(got))

    def may_end(self, asked: Asked, reason: Reason, got: int) -> None:
        if reason is Reason.COMPLETE:
            assert got == len(asked.units)
        elif reason in (Reason.STOPPED, Reason.KILLED):
            assert asked.cancelled
        elif reason is Reason.LOST:
            assert not asked.resumable
            assert self.dropped or self.leaving
        elif reason is Reason.POISON:
            assert self.dropped, "nobody may have died of it"
        elif reason is Reason.FAILED:
            assert asked.told_to_fail
        elif reason is Reason.DRAINING:
            assert self.leaving
        else:
            assert reason in (Reason.BUSY, Reason.UNAVAILABLE), reason

    @invariant()
    def nobody_breaks_the_protocol(self) -> None:
        if hasattr(self, "wire"):
            for node in self.wire.nodes.values():
                dropped = [name for name in node.stats if name.startswith("peers.dropped")]
                assert not dropped, dropped

    def teardown(self) -> None:
        """Let everything come to an end, and see that nothing is left."""
        if not hasattr(self, "wire"):
            return
        for _ in range(int(REST_S)):
            self.wire.advance(1.0)
            for leg in self.legs():
                asked, position = self.asked[leg.request], self.positions[leg]
                if leg not in self.halted and position < len(asked.units):
                    made = asked.units[position:]
                    self.wire.tell(
                        self.holder, Produced(leg, tokens=made) if asked.tokens else Produced(leg, items=made)
                    )
                    self.positions[leg] = len(asked.units)
                self.end_leg(leg)
            for number in self.asked:
                self.wire.tell(self.owner, Consumed(number, len(self.wire.delivered(self.owner, number))))
            if self.at_rest():
                break
        self.wire.advance(1.0)
        self.streams_are_true()
        assert all(self.wire.finished(self.owner, number) for number in self.asked), "a request has no end"
        assert self.at_rest(), [node.snapshot() for node in self.wire.nodes.values()]

    def at_rest(self) -> bool:
        """Nobody has anything left. Who has left the mesh may have left without its handlers."""
        if self.wire.did(self.holder, Departed):
            self.wire.nodes.pop(self.holder, None)
            self.positions.clear()
        return self.wire.quiet()


TestTwoParties = TwoParties.TestCase
TestTwoParties.settings = settings(
    max_examples=50, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


# --- The whole simulator -------------------------------------------------------------------------------

KINDS = tuple(dict.fromkeys(faults.SIMPLE))


@st.composite
def plots(draws: st.DrawFn) -> list[Fault]:
    """Any faults, at any time, in any order."""
    one = st.builds(
        Fault,
        at_s=st.sampled_from((0.05, 0.5, 1.0, 1.5, 2.0, 3.0)),
        kind=st.sampled_from(KINDS),
        place=st.sampled_from((BUSIEST, 0, 1)),
        other=st.integers(0, 1),
        for_s=st.sampled_from((0.05, 0.5, 1.2, 2.0)),
        amount=st.sampled_from((0.0, 1.0, 2.0)),
    )
    found = draws(st.lists(one, max_size=6))
    return sorted((fault for fault in found if fault.place != fault.other), key=lambda fault: fault.at_s)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 50), plot=plots())
def test_any_plot_over_the_whole_simulator(seed: int, plot: list[Fault]) -> None:
    plan = draw(seed, "calm")
    plan.profile, plan.faults = "chaos", plot
    result = World(plan).run()
    assert not result.failed, f"{result.invariant}: {result.text}"
