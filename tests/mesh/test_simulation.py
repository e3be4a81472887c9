"""The simulator's parts that judge: an oracle that was never seen to fail is none."""

from collections.abc import Callable
from typing import Any

import pytest

from mesh.core import Deliver, Finish, Transmit
from mesh.simulation import skew
from mesh.simulation.draw import PROFILES, draw
from mesh.simulation.plan import CHAIN, CHECKED, PLAIN, TOKENS, Fault, Work
from mesh.simulation.process import Process
from mesh.simulation.reference import expected
from mesh.simulation.world import World
from proto import codec
from proto.errors import Reason
from proto.messages import Bye, Ignored, Ping, Record, Submit

SEED = next(seed for seed in range(99) if len(draw(seed, "calm").calls) > 3 and not draw(seed, "calm").calls[0].cancel)


def tampered(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Process, Any], Any]) -> str:
    """Run a calm seed in which some effects of the cores are changed on their way; the invariant that broke."""
    real = getattr(Process, name)

    def tamper(self: Process, effect: Any) -> None:
        for changed in change(self, effect):
            real(self, changed)

    monkeypatch.setattr(Process, name, tamper)
    return World(draw(SEED, "calm")).run().invariant


def test_untouched_it_holds() -> None:
    assert World(draw(SEED, "calm")).run().invariant == ""


@pytest.mark.parametrize(
    ("name", "change", "invariant"),
    [
        ("_deliver", lambda process, effect: [effect, effect], "3 positions"),
        ("_deliver", lambda process, effect: [], "3 positions"),
        ("_deliver", lambda process, effect: [Deliver(effect.request, effect.position, [b"?"], [])], "2 values"),
        ("_finish", lambda process, effect: [effect, effect], "1 once"),
        ("_finish", lambda process, effect: [Finish(effect.request, Reason.LOST, effect.position)], "2 ending"),
        ("_finish", lambda process, effect: [Finish(effect.request, Reason.COMPLETE, 99)], "3 positions"),
        ("_transmit", lambda process, effect: [effect, effect], "9 sequence"),
        ("_transmit", lambda process, effect: _larger_limit(effect), "5 credit"),
        ("_transmit", lambda process, effect: _late(effect), "13 deadline"),
        ("_transmit", lambda process, effect: _bye_first(effect), "9 hello"),
        ("_start", lambda process, effect: [], "crash"),
        ("_instances", lambda process, effect: [], "18 peace"),
    ],
)
def test_what_is_wrong_is_seen(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Process, Any], Any], invariant: str
) -> None:
    found = tampered(monkeypatch, name, change)
    assert found == invariant or (invariant == "crash" and found != "")


def _larger_limit(effect: Transmit) -> list[Transmit]:
    if isinstance(effect.message, Submit):
        effect.message.limit += 1
    return [effect]


def _late(effect: Transmit) -> list[Transmit]:
    if isinstance(effect.message, Submit):
        effect.message.deadline_ms = 1_000_000
    return [effect]


def _bye_first(effect: Transmit) -> list[Transmit]:
    return [Transmit(effect.session, 1, Bye())] if effect.sequence == 1 else [effect]


def test_a_newer_version_is_understood() -> None:
    message = Ping(7, 1, 2)
    assert codec.decode(skew.newer(3, message)) == (3, message)
    sequence, strange = codec.decode(skew.strange(4))
    assert (sequence, isinstance(strange, Ignored)) == (4, True)
    record = Record(1, "m", b"", "n", 1, "h", [])
    assert codec.decode(skew.newer(1, Bye(5)))[1] == Bye(5)
    assert record.beat == 0


@pytest.mark.parametrize("endpoint", [PLAIN, CHECKED, TOKENS, CHAIN])
def test_references_differ_by_seed_and_place(endpoint: str) -> None:
    inner = CHECKED if endpoint == CHAIN else ""
    one, other = (expected(endpoint, Work(seed, 9, inner=inner), [1, 2]) for seed in (1, 2))
    assert len(one) == len(set(one)) == 9
    assert one != other


@pytest.mark.parametrize("profile", PROFILES)
def test_plans_are_sane(profile: str) -> None:
    for seed in range(50):
        plan = draw(seed, profile)
        assert plan == draw(seed, profile)
        for fault in plan.faults:
            assert fault.for_s >= 0
            if fault.kind not in ("drain", "kill_acceptor"):
                assert fault.at_s + fault.for_s <= plan.heal_s + 1e-6, fault
        for call in plan.calls:
            assert not plan.places[call.place].offers, "clients call"
            assert call.endpoint in plan.places[call.place].wants


def test_a_fault_that_is_left_out_changes_nothing_before_it() -> None:
    """Shrinking depends on it: draws are per purpose."""
    plan = next(plan for plan in map(draw, range(200)) if plan.faults and plan.faults[-1].at_s > 3.0)
    seen: list[list[str]] = []
    for faults in (plan.faults, plan.faults[:-1]):
        lines: list[str] = []
        plan.faults = faults
        world = World(plan, lambda process, event, effects, lines=lines: lines.append(f"{process.clock.now} {event}"))
        world.run()
        seen.append([line for line in lines if float(line.split()[0]) < 3.0])
    assert seen[0] == seen[1] and seen[0]


def test_an_unknown_kind_of_fault_is_a_crash_of_the_plan() -> None:
    plan = draw(0, "calm")
    plan.faults = [Fault(1.0, "earthquake")]
    assert World(plan).run().invariant == "crash"
