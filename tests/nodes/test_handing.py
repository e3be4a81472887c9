"""Handing over between hosts, in whatever order things happen: the same tokens, one end for each leg, no leaks."""

from collections.abc import Sequence
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import Event, Failed, Finished, Halt, Hint, Leg, Prepared, Start
from nodes import generation, parcels
from nodes.engines.sim import continuation
from nodes.generation import Generation
from nodes.handing import PATIENCE_S
from nodes.names import PREFILL
from nodes.paced import PacedHost
from nodes.parcels import Parcel
from nodes.rooms import UNFETCHED_S, Room
from nodes.transfer.handle import Handle
from nodes.transfer.layout import Layout
from proto.errors import Reason
from tests.nodes.docks import Docks, SimDock
from tests.nodes.handing_world import TURNS_MAX, Asked, Machine, World
from tests.nodes.hosting import AT_ONCE, RANGE, engine_of

HAPPENINGS = ["ask", "turn", "turn", "turn", "halt", "keep", "lose_feeder", "crash", "expire", "cramped", "patience"]


@given(
    st.integers(0, 2**32), st.sampled_from([[4, 4], [4, 2, 8], [1, 4]]), st.sampled_from([3, 12, 60]),
    st.lists(st.sampled_from(HAPPENINGS), max_size=60),
)  # fmt: skip
@settings(max_examples=150)
def test_any_order_gives_the_same_tokens_and_leaks_nothing(
    seed: int, block_tokens: list[int], blocks: int, happenings: list[str]
) -> None:
    random = Random(seed)
    world = World(random, block_tokens, blocks)
    for what in ["ask", *happenings]:
        match what:
            case "ask":
                earlier = random.choice(world.asked).prompt if world.asked and random.random() < 0.5 else []
                fresh = [random.randint(*RANGE) for _ in range(random.randint(1, 12))]
                prompt = [*earlier[: random.randint(0, 24)], *fresh]
                world.ask(prompt, random.randint(1, 20), random.random() < 0.7)
            case "turn":
                world.turn(broken=0.1)
            case "halt" | "keep":
                world.halt(what == "keep")
            case "expire":
                random.choice(world.machines).dock.expire(random)
            case "cramped":
                dock = random.choice(world.machines).dock
                dock.refuses = not dock.refuses
            case "patience":
                world.now += PATIENCE_S
            case _:
                getattr(world, what)()
    world.finish()


# --- Each by itself -------------------------------------------------------------------------------------------


def through(world: World) -> Asked:
    world.finish()
    return world.asked[0]


def test_a_prompt_is_computed_once_and_its_cache_moves() -> None:
    world = World(Random(1), [4, 4], 60)
    prompt = list(range(20, 50))
    world.ask(prompt, 8, apart=True)
    assert world.asked[0].holder is not None, "the decode leg begins at once"
    feeds, fed = world.legs[Leg(7, 0, 1)][1], world.asked[0].holder[0]
    through(world)
    assert feeds.host.core.counts.prefilled_tokens == 30 and feeds.host.core.counts.generated_tokens == 1
    assert fed.host.core.counts.prefilled_tokens == 0 and fed.host.core.counts.generated_tokens == 7
    assert fed.handing.landed_positions == 30
    assert feeds.handing.counts["fetched"] == 1 == fed.handing.counts["pulled"]


@pytest.mark.parametrize("sizes", [[4, 4], [4, 2], [2, 4]])
def test_what_the_cache_has_is_not_pulled_again(sizes: list[int]) -> None:
    """A second turn of a conversation, between the same two: only what is new of it moves."""
    world = World(Random(1), sizes, 60)
    feeds, fed = world.machines
    prompt, moved = list(range(20, 50)), []
    for _ in range(2):
        asked = Asked(len(world.asked), prompt, 8)
        world.asked.append(asked)
        asked.feeder = feeds, world.start(asked, feeds, PREFILL + "x", [], False)
        world.finish()
        moved.append(fed.dock.pulled_bytes)
        assert fed.host.core.counts.prefilled_tokens == 0
        prompt = [*prompt, *asked.tokens, 60, 61, 62]
    block = fed.dock.layout.block_bytes // sizes[1]  # of a position
    assert block * 30 <= moved[0] <= block * 32, "30 positions in whole blocks"
    assert moved[1] - moved[0] <= block * 12, "41 positions, of which 36 were there"
    assert fed.handing.spared_positions >= 32 and fed.handing.landed_positions <= 30 + 9


def test_who_leaves_hands_over_what_it_has() -> None:
    world = World(Random(2), [4, 8], 60)
    world.ask(list(range(20, 50)), 20, apart=False)
    while len(world.asked[0].tokens) < 7:
        world.turn()
    assert world.asked[0].holder is not None
    leaves = world.asked[0].holder[0]
    leaves.host.halt(Halt(world.asked[0].holder[1], keep=True), world.now)
    through(world)
    [other] = [machine for machine in world.machines if machine is not leaves]
    assert other.host.core.counts.prefilled_tokens == 0, "nothing is computed twice"
    assert leaves.handing.counts["fetched"] == 1


def test_who_loses_its_room_hands_over_what_it_had() -> None:
    """Two sequences of 40 positions meet in a cache of 64: one moves, and nothing of it is computed again."""
    world = World(Random(2), [4, 8], 60)
    crowded, other = world.machines
    crowded.engine = crowded.host.engine = engine_of(AT_ONCE, blocks=16, slots=3, hand_over=True)
    for number in range(2):
        asked = Asked(number, [20 + number] * 10, 30)
        world.asked.append(asked)
        asked.holder = crowded, world.start(asked, crowded, "generate/x", [], False)
    world.finish()
    assert crowded.host.core.counts.outcomes["preempted"] == 1 and crowded.handing.counts["fetched"] == 1
    assert other.host.core.counts.prefilled_tokens == 0 < other.handing.landed_positions


def test_who_loses_its_room_and_finds_none_to_save_it_moves_at_once() -> None:
    world = World(Random(2), [4, 4], 0)
    crowded, other = world.machines
    crowded.engine = crowded.host.engine = engine_of(AT_ONCE, blocks=16, slots=3, hand_over=True)
    for number in range(2):
        asked = Asked(number, [20 + number] * 10, 30)
        world.asked.append(asked)
        asked.holder = crowded, world.start(asked, crowded, "generate/x", [], False)
    world.finish()
    assert crowded.handing.counts["no_room"] == 1 and other.host.core.counts.prefilled_tokens > 10
    assert not crowded.engine._scheduler._kept, "nobody will ask for it"


def test_a_silent_pull_is_given_up() -> None:
    world = World(Random(3), [4, 4], 60)
    world.ask(list(range(20, 50)), 8, apart=True)
    asked = world.asked[0]
    assert asked.holder is not None and asked.feeder is not None
    holder, _ = asked.holder
    world.legs.pop(asked.feeder[1])  # frozen: nothing comes of it, and nothing ends
    world.machines.remove(asked.feeder[0])
    asked.feeder = None
    world.feeder_over(asked)
    begin = world.now
    for _ in range(TURNS_MAX):
        if asked.done:
            break
        world.turn()
    assert world.now == pytest.approx(begin + PATIENCE_S)
    assert holder.handing.counts["empty"] == 1 and asked.tokens == continuation(asked.prompt, 8, RANGE)


def test_a_leg_that_is_stopped_while_it_waits_ends_at_once() -> None:
    world = World(Random(4), [4, 4], 60)
    world.ask(list(range(20, 50)), 8, apart=True)
    assert world.asked[0].holder is not None
    machine, leg = world.asked[0].holder
    ends: list[Event] = []
    machine.host.hint(Hint(leg), world.now)
    assert [pull.cancelled for pull in machine.dock.pulls.values()] == [True]
    machine.host.turn(world.now, ends.append)
    assert Finished(leg) in ends and machine.dock.pulls, "the pull may still write"
    assert machine.handing.rooms.bank.used > 0


def test_what_a_killed_leg_offers_is_taken_back_at_once() -> None:
    world = World(Random(5), [4, 4], 60)
    world.ask(list(range(20, 50)), 8, apart=True)
    assert world.asked[0].feeder is not None
    machine, leg = world.asked[0].feeder
    machine.host.halt(Halt(leg), world.now)
    assert not machine.dock.offers and list(machine.dock.closing.values()) == ["withdrawn"]
    assert machine.handing.rooms.bank.used > 0, "the engine may still write"


def test_a_room_is_free_as_soon_as_its_leg_has_landed() -> None:
    world = World(Random(6), [4, 4], 60)
    world.ask(list(range(20, 50)), 20, apart=True)
    while len(world.asked[0].tokens) < 5:
        world.turn()
    assert world.asked[0].holder is not None
    assert world.asked[0].holder[0].handing.rooms.bank.used == 0
    through(world)


def fills(machine: Machine, number: int, now: float) -> bool:
    """Whether a prompt of 40 positions that is computed here for another lies on offer then."""
    payload = generation.encode(Generation(4))
    begin = Start(Leg(1, number, 1), PREFILL + "x", payload, [number] * 40, 0, [], b"", inf, "", {}, [], False)
    events = machine.host.start(begin, now)
    while machine.host.core.runs:
        machine.host.turn(now, events.append)
    random = Random(number)
    while machine.dock.closing:
        machine.dock.move(machine.handing, random)
    machine.handing.check()
    return any(isinstance(event, Prepared) for event in events)


def test_what_nobody_fetches_makes_way_for_who_finds_no_room() -> None:
    """Who was to decode it was ended before it could begin, or has no staging memory."""
    [machine] = World(Random(7), [4], 20).machines
    assert fills(machine, 20, 100.0) and fills(machine, 21, 101.0)
    assert not fills(machine, 22, 102.0), "both places are taken"
    assert not fills(machine, 23, 103.0) and not fills(machine, 24, 103.0 + UNFETCHED_S - 1)
    assert machine.handing.counts["withdrawn"] == 0, "somebody may still come"
    assert not fills(machine, 25, 103.0 + UNFETCHED_S), "it is free in a moment"
    assert machine.handing.counts["withdrawn"] == 2
    assert fills(machine, 26, 103.1 + UNFETCHED_S) and fills(machine, 27, 103.1 + UNFETCHED_S)


def test_what_is_being_fetched_is_not_taken_back() -> None:
    machine, other = World(Random(7), [4, 4], 10).machines
    assert fills(machine, 20, 100.0)
    [room] = machine.handing.rooms.all.values()
    wanted = Handle(0, machine.number, room.number, 1, 1, 160, 160, 60_000, "here", [], b"", layout=machine.dock.layout)
    other.dock.pull(Room(9, "leg", 0, 10), wanted)
    assert not any(fills(machine, 21 + late, 101.0 + late * UNFETCHED_S) for late in range(4))
    other.dock.pulls.clear()
    assert not any(fills(machine, 25 + late, 151.0 + late) for late in range(3)), "its time begins anew"
    assert not fills(machine, 29, 152.0 + UNFETCHED_S) and fills(machine, 30, 153.0 + UNFETCHED_S)


def feed(
    machine: Machine, parcel: bytes, awaits: bool = False, enforce: bool = False, made: Sequence[int] = ()
) -> list[Event]:
    host = PacedHost(machine.engine, handing=machine.handing, enforce=enforce)
    payload = generation.encode(Generation(4))
    handles = [parcel] if parcel else []
    return host.start(
        Start(Leg(1, 2, 3), "generate/x", payload, [20, 21], len(made), [*made], b"", inf, "", {}, handles, awaits), 0.0
    )


def parcel_of(layout: Layout | None, digest: str = "", first: int = 0) -> bytes:
    docks: Docks = {}
    dock = SimDock(5, layout or Layout(4, 1, 1, 1, "float32", parts=1), 4, docks)
    handle = dock.offer(Room(1, "leg", 0, 1), True, 5.0)
    assert handle is not None
    return parcels.encode(Parcel(parcels.BLOCKS, handle, digest, first, 2))


@pytest.mark.parametrize(
    ("parcel", "count", "text"),
    [
        (b"rubbish", "foreign", "this is no parcel"),
        (parcel_of(None, digest="other"), "foreign", "another model"),
        (parcel_of(None, first=4), "foreign", "another model"),
        (parcel_of(Layout(4, 2, 1, 1, "float32", parts=1)), "mismatched", "their cache has 2 layers, ours 1"),
        (parcel_of(Layout(3, 1, 1, 1, "float32", parts=1)), "mismatched", "their blocks hold 3 tokens, ours 4"),
    ],
)
def test_what_does_not_fit_is_computed_here_and_said(parcel: bytes, count: str, text: str) -> None:
    machine = Machine(0, {}, 8, 4)
    assert feed(machine, parcel) == []
    assert machine.handing.counts[count] == 1 and text in machine.dock.complaints[0]
    assert not machine.handing.sides, "it lands nothing"


def test_a_worker_that_only_takes_what_was_computed_refuses_the_rest() -> None:
    machine = Machine(0, {}, 8, 4)
    [failed] = feed(machine, b"", enforce=True)
    assert isinstance(failed, Failed) and not failed.retryable and failed.reason is Reason.UNAVAILABLE
    assert "--enforce-disagg" in failed.text
    [failed] = feed(machine, b"", enforce=True, made=[22])
    assert isinstance(failed, Failed) and failed.retryable, "its prefill worker had no room to hand it over in"
    [failed] = feed(machine, b"", awaits=True, enforce=True)
    assert isinstance(failed, Failed) and not machine.handing.sides
    assert feed(machine, parcel_of(None), enforce=True) == []
