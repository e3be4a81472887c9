"""Workers, a simulated data plane between them, and whoever owns all requests: anything may happen in any order."""

from functools import partial
from math import inf
from random import Random

from xxhash import xxh3_64_intdigest

from mesh.core import Event, Failed, Finished, Go, Halt, Leg, Prepared, Start, Stepped, Yielded
from nodes import generation
from nodes.contract.blocks import chain, root
from nodes.contract.engine import Job
from nodes.engines.sim import continuation
from nodes.generation import Generation
from nodes.handing import Handing
from nodes.names import PREFILL
from nodes.paced import PacedHost
from nodes.routing.teller import Teller
from proto.errors import Reason
from tests.nodes.docks import Docks, SimDock
from tests.nodes.hosting import AT_ONCE, RANGE, engine_of

TURNS_MAX = 5_000


class Machine:
    """A worker: its engine, its host, its plane."""

    def __init__(
        self, number: int, docks: Docks, blocks: int, block_tokens: int, digest: str = "", cache: int = 96
    ) -> None:
        """`cache`: positions; when it is full, the last who came moves away."""
        self.number = number
        self.engine = engine_of(
            AT_ONCE, block_tokens=block_tokens, blocks=cache // block_tokens, slots=3, step_tokens=5, hand_over=True
        )
        layout = self.engine.start().layout
        assert layout is not None
        self.dock = SimDock(number, layout, blocks, docks)
        self.handing = Handing(layout, digest)
        self.handing.rooms.open(self.dock, blocks)
        self.host = PacedHost(self.engine, handing=self.handing)
        self.host.core.teller, self.host.core.cached = Teller(), self.cached

    def cached(self, job: Job) -> int:
        """As a worker knows it: by what its engine has told."""
        assert self.host.core.teller is not None
        size = self.engine.start().block_tokens
        names = chain(
            [*job.prompt, *job.generated][:-1], size, root(job.cache_salt, xxh3_64_intdigest), xxh3_64_intdigest
        )
        return self.host.core.teller.leading(names) * size

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
