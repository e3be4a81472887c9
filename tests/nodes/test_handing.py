"""Handing over between hosts, in whatever order things happen: the same tokens, one end for each leg, no leaks."""

from functools import partial
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import Event, Failed, Finished, Go, Halt, Hint, Leg, Prepared, Start, Stepped, Yielded
from nodes import generation, parcels
from nodes.engines.sim import continuation
from nodes.generation import Generation
from nodes.handing import PATIENCE_S, Handing
from nodes.host_core import PacedHost
from nodes.names import PREFILL
from nodes.parcels import Parcel
from nodes.rooms import Room
from nodes.transfer.layout import Layout
from proto.errors import Reason
from tests.nodes.docks import Docks, SimDock
from tests.nodes.hosting import AT_ONCE, RANGE, engine_of

TURNS_MAX = 5_000


class Machine:
    """A worker: its engine, its host, its plane."""

    def __init__(self, number: int, docks: Docks, blocks: int, block_tokens: int, digest: str = "") -> None:
        self.number = number
        self.engine = engine_of(AT_ONCE, block_tokens=block_tokens, blocks=256 // block_tokens, slots=3, step_tokens=5)
        layout = self.engine.start().layout
        assert layout is not None
        self.dock = SimDock(number, layout, blocks, docks)
        self.handing = Handing(layout, digest)
        self.handing.rooms.open(self.dock, blocks)
        self.host = PacedHost(self.engine, handing=self.handing)

    def at_rest(self) -> None:
        load = self.engine.load()
        assert load.running == load.waiting == load.blocks_used == 0 and not self.host.core.runs
        assert not self.handing.sides and not self.handing.rooms.all, "a room is left"
        assert self.handing.rooms.bank.used == 0 and self.handing.deadline() == inf
        assert not self.dock.offers and not self.dock.pulls and not self.dock.closing


class Asked:
    """A request, and the legs that it has now."""

    def __init__(self, number: int, prompt: list[int], count: int) -> None:
        self.number, self.prompt, self.count = number, prompt, count
        self.tokens: list[int] = []
        self.feeder: tuple[Machine, Leg] | None = None
        self.holder: tuple[Machine, Leg] | None = None
        self.awaits = False
        self.fed_from = 0
        self.done = False


class World:
    """Some workers, and whoever owns all requests."""

    def __init__(self, random: Random, block_tokens: list[int], blocks: int) -> None:
        self.random = random
        self.docks: Docks = {}
        self.blocks, self.block_tokens = blocks, block_tokens
        self.machines = [Machine(number, self.docks, blocks, size) for number, size in enumerate(block_tokens)]
        self.asked: list[Asked] = []
        self.legs: dict[Leg, tuple[Asked, Machine]] = {}
        self.now, self.attempts = 100.0, 0

    # --- The owner ---

    def ask(self, prompt: list[int], count: int, apart: bool) -> None:
        asked = Asked(len(self.asked), prompt, count)
        self.asked.append(asked)
        self.place(asked, apart)

    def place(self, asked: Asked, apart: bool, handle: bytes = b"", without: Machine | None = None) -> None:
        machine = self.random.choice([one for one in self.machines if one is not without])
        asked.awaits = False
        if apart:
            asked.feeder = machine, self.start(asked, machine, PREFILL + "x", [], False)
        else:
            asked.holder = machine, self.start(asked, machine, "generate/x", [handle] if handle else [], False)

    def start(self, asked: Asked, machine: Machine, endpoint: str, handles: list[bytes], awaits: bool) -> Leg:
        self.attempts += 1
        leg = Leg(7, asked.number, self.attempts)
        self.legs[leg] = asked, machine
        payload = generation.encode(Generation(asked.count))
        tokens = list(asked.tokens)
        begin = Start(leg, endpoint, payload, asked.prompt, len(tokens), tokens, b"", inf, "", {}, handles, awaits)
        for event in machine.host.start(begin, self.now):
            self.post(machine, event)
        return leg

    def post(self, machine: Machine, event: Event) -> None:
        match event:
            case Stepped():
                for leg, tokens, _ in event.made:
                    if leg in self.legs:
                        asked = self.legs[leg][0]
                        assert not (asked.awaits and asked.holder and asked.holder[1] == leg), "a unit before Go"
                        asked.tokens += tokens
            case Prepared():
                self.prepared(event)
            case Finished() | Failed() | Yielded() if event.leg in self.legs:
                asked, _ = self.legs.pop(event.leg)
                self.ended(asked, event)

    def prepared(self, event: Prepared) -> None:
        asked, feeder = self.legs[event.leg]
        assert asked.feeder is None or asked.feeder[1] == event.leg
        asked.feeder = feeder, event.leg
        machine = self.random.choice([one for one in self.machines if one is not feeder])
        asked.awaits, asked.fed_from = True, len(asked.tokens)
        asked.holder = machine, Leg(7, asked.number, self.attempts + 1)
        self.start(asked, machine, "generate/x", [event.handle], True)

    def ended(self, asked: Asked, event: Finished | Failed | Yielded) -> None:
        assert not isinstance(event, Failed), event
        if asked.feeder is not None and asked.feeder[1] == event.leg:
            asked.feeder = None
            self.feeder_over(asked)
            return
        machine = asked.holder[0] if asked.holder else None
        asked.holder = None
        if isinstance(event, Finished):
            assert event.reason is Reason.LENGTH
            asked.done = True
            if asked.feeder is not None:
                self.forget(asked.feeder)
        elif asked.feeder is not None:  # halted while it was fed
            self.forget(asked.feeder)
            asked.feeder = None
            self.place(asked, False, event.handle, machine)
        else:
            self.place(asked, False, event.handle, machine)

    def feeder_over(self, asked: Asked) -> None:
        if asked.holder is not None:
            asked.awaits = False
            machine, leg = asked.holder
            machine.host.go(Go(leg, asked.fed_from, asked.tokens[asked.fed_from :]), self.now)
        elif not asked.done:
            self.place(asked, False)

    def forget(self, party: tuple[Machine, Leg]) -> None:
        """Kill a leg, and hear no more of it."""
        machine, leg = party
        self.legs.pop(leg, None)
        for event in machine.host.halt(Halt(leg), self.now):
            self.post(machine, event)

    # --- What may happen ---

    def halt(self, keep: bool) -> None:
        parties = [asked.holder for asked in self.asked if asked.holder is not None]
        if parties:
            machine, leg = self.random.choice(parties)
            machine.host.halt(Halt(leg, keep), self.now)

    def lose_feeder(self) -> None:
        fed = [asked for asked in self.asked if asked.feeder is not None]
        if fed:
            asked = self.random.choice(fed)
            assert asked.feeder is not None
            self.forget(asked.feeder)
            asked.feeder = None
            self.feeder_over(asked)

    def crash(self) -> None:
        """A worker dies, and another takes its place."""
        index = self.random.randrange(len(self.machines))
        dead = self.machines[index]
        del self.docks[dead.number]
        size = self.block_tokens[index]
        self.machines[index] = Machine(dead.number + 10, self.docks, self.blocks, size)
        for leg in [leg for leg, (_, machine) in self.legs.items() if machine is dead]:
            asked, _ = self.legs.pop(leg)
            if asked.feeder is not None and asked.feeder[1] == leg:
                asked.feeder = None
                self.feeder_over(asked)
            elif asked.holder is not None and asked.holder[1] == leg:
                asked.holder = None
                if asked.feeder is not None:
                    self.forget(asked.feeder)
                    asked.feeder = None
                self.place(asked, self.random.random() < 0.5)

    def turn(self, broken: float = 0.0) -> bool:
        """Everybody, in any order; whether anybody had something to do."""
        busy = False
        for machine in self.random.sample(self.machines, len(self.machines)):
            if machine.host.deadline() <= self.now and self.random.random() < 0.7:
                machine.host.turn(self.now, partial(self.post, machine))
            busy |= machine.dock.move(machine.handing, self.random, broken) or machine.host.deadline() <= self.now
            machine.host.check()
            machine.engine.check()
        if not busy:
            due = min([machine.host.deadline() for machine in self.machines])
            self.now = max(self.now, due) if due < inf else self.now
            return due < inf
        return True

    def expire(self) -> bool:
        """What nobody came for; whether there was something."""
        found = [machine for machine in self.machines if machine.dock.offers]
        for machine in found:
            machine.dock.expire(self.random)
        return bool(found)

    def finish(self) -> None:
        for _ in range(TURNS_MAX):
            if not self.turn() and not self.expire():
                break
        else:
            raise AssertionError("it never ends")
        for asked in self.asked:
            assert asked.done and asked.tokens == continuation(asked.prompt, asked.count, RANGE)
        for machine in self.machines:
            machine.at_rest()


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
                prompt = [random.randint(*RANGE) for _ in range(random.randint(1, 30))]
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


def feed(machine: Machine, parcel: bytes, awaits: bool = False, enforce: bool = False) -> list[Event]:
    host = PacedHost(machine.engine, handing=machine.handing, enforce=enforce)
    payload = generation.encode(Generation(4))
    handles = [parcel] if parcel else []
    return host.start(
        Start(Leg(1, 2, 3), "generate/x", payload, [20, 21], 0, [], b"", inf, "", {}, handles, awaits), 0.0
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
    [failed] = feed(machine, b"", awaits=True, enforce=True)
    assert isinstance(failed, Failed) and not machine.handing.sides
    assert feed(machine, parcel_of(None), enforce=True) == []
