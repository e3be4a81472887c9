"""The core of the tiers: whatever happens in whatever order, nobody is given bytes that are not the block's."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.tiers.core import Core
from nodes.tiers.shelves import DISK, HOST, STORE, Block, Disk, Store
from nodes.tiers.work import QUIET_S, WAIT_S, Delete, Found, Lower, Read, Write

SIZE = 100  # bytes of a block


def chain(prompt: int, length: int, shared: int = 0) -> list[int]:
    """The names of a prompt's blocks; the first `shared` are those of every prompt."""
    draw = random.Random(0)
    common = [draw.getrandbits(64) for _ in range(shared)]
    draw = random.Random(prompt + 1)
    return common + [draw.getrandbits(64) for _ in range(length - shared)]


class World:
    """An engine, a disk and a store around a core. What a slot holds is the name of its block."""

    def __init__(self, slots: int = 8, uses: int = 1, disk_blocks: int = 6, lower: str = "disk store") -> None:
        self.disk, self.store = Disk(disk_blocks * SIZE), Store()
        tiers = [Lower(DISK, self.disk)] * ("disk" in lower) + [Lower(STORE, self.store)] * ("store" in lower)
        self.core = Core(slots, SIZE, uses, tiers)
        self.now = 0.0
        self.slots: dict[int, int] = {}
        self.files: dict[int, set[int]] = {DISK: set(), STORE: set()}
        self.work: list[Read | Write] = []

    def collect(self) -> None:
        for effect in self.core.take_effects():
            if isinstance(effect, Delete):
                self.files[effect.tier] -= {name for name, _ in effect.files}
            else:
                self.work.append(effect)
        self.core.check()

    def spill(self, name: int, parent: int = 0) -> bool:
        block = self.core.spill(name, parent)
        if block is not None:
            self.keep(block)
        self.collect()
        return block is not None

    def keep(self, block: Block) -> None:
        self.slots[block.slot] = block.name
        self.core.kept(block, self.now)

    def spill_all(self, names: list[int]) -> None:
        for parent, name in zip([0, *names], names, strict=False):
            self.spill(name, parent)

    def write_all(self, names: list[int]) -> None:
        """Like `spill_all`, by an engine that takes its time."""
        for parent, name in zip([0, *names], names, strict=False):
            self.spill(name, parent)
            self.do_all()

    def seek(self, key: str, names: list[int], here: int = 0) -> None:
        self.core.seek(key, 0, names, here, self.now)
        self.collect()

    def ready(self, key: str, names: list[int]) -> int:
        blocks = self.core.ready(key, names, self.now)
        assert [self.slots[block.slot] for block in blocks] == names[: len(blocks)], "the bytes are the block's"
        self.collect()
        return len(blocks)

    def do(self, work: Read | Write, outcome: str = "well") -> None:
        """Carry out a piece of work, well or badly."""
        self.work.remove(work)
        if isinstance(work, Write):
            self._write(work, outcome)
        else:
            self._read(work, outcome)
        self.collect()

    def _write(self, work: Write, outcome: str) -> None:
        if not self.core.behind.begun(work, self.now):
            return
        assert self.slots[work.block.slot] == work.block.name, "a block that is being written stays"
        if outcome == "well":
            self.files[work.tier].add(work.block.name)
        trouble = "" if outcome == "well" else "no room"
        self.core.behind.written(work, SIZE, self.now, trouble, outcome == "full")

    def _read(self, work: Read, outcome: str) -> None:
        found: list[Found] = []
        for block in work.blocks:
            there = block.name in self.files[work.tier]
            if found and found[-1] is not Found.HERE:
                found.append(Found.UNTRIED)
            elif not there:
                found.append(Found.MISSING)
            elif outcome == "well":
                found.append(Found.HERE)
                self.slots[block.slot] = block.name
            else:
                found.append(Found.CORRUPT if outcome == "full" else Found.FAILED)
                self.slots[block.slot] = -1
        self.core.read(work, found, self.now, "trouble")

    def do_some(self, at: int, outcome: str) -> None:
        if self.work:
            self.do(self.work[at % len(self.work)], outcome)

    def use(self, names: list[int]) -> None:
        for _, block in self.core.used(0, names, self.now):
            self.keep(block)

    def do_all(self, outcome: str = "well") -> None:
        while self.work:
            self.do(self.work[0], outcome)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.collect()


def test_what_the_cache_turned_out_comes_back_from_host_memory() -> None:
    world, names = World(lower=""), chain(0, 4)
    world.spill_all(names)
    world.seek("job", names)
    assert not world.core.waits("job"), "host memory keeps nobody waiting"
    assert world.ready("job", names) == 4
    count = world.core.counts[HOST]
    assert (count.asked, count.hit, count.hit_rate) == (4, 4, 1.0)


def test_what_comes_back_stays_while_it_is_copied() -> None:
    world, names = World(slots=4, lower=""), chain(0, 4)
    world.spill_all(names)
    assert world.ready("job", names) == 4
    assert not world.spill(chain(1, 1)[0]), "its room would be that of a block that is being copied"
    world.core.leave("job")
    world.core.leave("job")
    assert world.spill(chain(1, 1)[0])


def test_from_the_disk() -> None:
    world, names = World(slots=4, disk_blocks=10, lower="disk"), chain(0, 4)
    world.seek("first", names)
    world.write_all(names)
    world.core.leave("first")
    other = chain(1, 4)
    for _ in range(2):
        world.seek("other", other)
    world.write_all(other)
    assert not set(names) & set(world.core.host.blocks)
    world.do_all()
    world.seek("job", names)
    assert world.core.waits("job")
    world.do_all()
    assert not world.core.waits("job") and world.core.is_news
    assert world.ready("job", names) == 4
    assert world.core.counts[DISK].hit == 4 and world.core.counts[HOST].hit == 0


def test_a_store_is_asked_for_one_block_before_it_is_asked_for_more() -> None:
    world, names = World(slots=32, lower="store"), chain(0, 20)
    world.files[STORE] |= set(names)
    asked: list[int] = []
    world.seek("job", names)
    while world.work:
        (work, *_) = world.work
        assert isinstance(work, Read)
        asked.append(len(work.blocks))
        world.do(work)
    assert asked[0] == 1 and sum(asked) == 20 and len(asked) <= 6
    assert world.ready("job", names) == 20


def test_a_store_that_has_not_got_it_is_not_asked_again_at_once() -> None:
    world, names = World(slots=32, lower="store"), chain(0, 20)
    world.seek("job", names)
    world.do_all()
    assert world.ready("job", names) == 0
    world.seek("again", names)
    assert not world.work and not world.core.waits("again")
    assert not world.core.lower[0].reading.failures, "to have none is no failure"
    world.now += 60.0
    world.seek("later", names)
    assert world.work


def test_only_what_is_used_often_is_written() -> None:
    world, names = World(slots=16, uses=2), chain(0, 3)
    world.seek("first", names)
    world.do_all()
    world.spill_all(names)
    assert not world.work
    world.seek("second", names)
    assert world.ready("second", names) == 3
    assert {work.tier for work in world.work if isinstance(work, Write)} == {DISK, STORE}
    assert len(world.work) == 6


def test_what_many_use_goes_down_while_it_is_still_in_the_cache() -> None:
    world, names = World(slots=16, uses=2), chain(0, 3)
    world.seek("first", names, 3)
    assert world.core.used(0, names, world.now) == []
    world.seek("second", names, 3)
    wanted = world.core.used(0, names, world.now)
    assert [position for position, _ in wanted] == [0, 1, 2]
    for _, block in wanted:
        world.keep(block)
    world.collect()
    assert len(world.work) == 6
    assert [block.parent for _, block in wanted] == [0, names[0], names[1]]


def test_a_prompt_that_is_all_written_is_not_looked_through_each_time() -> None:
    world, names = World(slots=16, uses=1, disk_blocks=20, lower="disk"), chain(0, 3)
    for _ in range(2):
        world.seek("job", names, 3)
        for _, block in world.core.used(0, names, world.now):
            world.keep(block)
        world.collect()
        world.do_all()
    assert world.files[DISK] == set(names)
    other = chain(1, 16)
    for _ in range(2):
        world.seek("other", other, 16)
    world.spill_all(other)
    world.do_all()
    for name in names:
        world.disk.missed(name, world.now)
    assert world.core.used(0, names, world.now) == [], "it was right a moment ago"
    world.now += 61.0
    assert len(world.core.used(0, names, world.now)) == 3


def test_what_is_asked_for_once_turns_nothing_out_that_is_asked_for_often() -> None:
    world, names = World(slots=4, lower=""), chain(0, 4)
    for _ in range(3):
        world.seek("job", names)
    world.spill_all(names)
    world.core.leave("job")
    scan = chain(1, 4)
    world.seek("scan", scan)
    world.spill_all(scan)
    assert world.ready("job", names) == 4
    assert world.core.counts[HOST].declined == 4


def test_the_disk_is_bounded() -> None:
    world, names = World(slots=8, disk_blocks=3, lower="disk"), chain(0, 6)
    world.seek("job", names)
    for name in names:
        world.spill(name)
        world.do_all()
    assert world.files[DISK] == set(names[3:])
    assert world.disk.bytes == 3 * SIZE and world.disk.evictions == 3


@pytest.mark.parametrize("outcome", ["full", "failed"])
def test_a_disk_that_cannot_be_written_is_left_alone(outcome: str) -> None:
    world = World(slots=64, lower="disk")
    for prompt in range(8):
        names = chain(prompt, 4)
        world.seek("job", names)
        world.spill_all(names)
        world.do_all(outcome)
    count = world.core.counts[DISK]
    assert count.marked == 1 and count.dropped > 20
    assert count.failures[outcome] == (1 if outcome == "full" else 3)
    world.pass_time(2.0)
    world.ready("job", chain(7, 4))
    world.do_all()
    assert world.files[DISK], "it is tried again"
    assert not world.core.lower[0].writing.failures


def test_a_tier_that_keeps_a_job_waiting_is_left_alone_and_what_came_is_used() -> None:
    world, names = World(slots=128, disk_blocks=100, lower="disk"), chain(0, 100)
    world.files[DISK] |= set(names)
    world.core.scanned(DISK, [(name, 0, SIZE) for name in names])
    world.seek("job", names)
    first, *others = world.work
    assert others
    world.do(first)
    assert world.core.waits("job")
    world.pass_time(world.core.deadline() - world.now)
    assert not world.core.waits("job") and world.core.waits_over == 1
    assert isinstance(first, Read)
    assert world.ready("job", names) == len(first.blocks)
    world.core.leave("job")
    assert world.core.counts[DISK].marked == 1
    world.seek("next", names)
    assert not world.core.waits("next") or world.core.lower[0].reads, "it is not asked for more"
    world.do_all()
    assert world.ready("next", names) >= len(first.blocks), "what came late is not lost"


def test_blocks_that_keep_coming_are_waited_for_but_not_for_ever() -> None:
    world, names = World(slots=700, disk_blocks=640, lower="disk"), chain(0, 640)
    world.files[DISK] |= set(names)
    world.core.scanned(DISK, [(name, 0, SIZE) for name in names])
    world.seek("job", names)
    while world.core.waits("job"):
        assert world.now <= WAIT_S
        world.pass_time(0.9 * QUIET_S)
        if world.work:
            world.do(world.work[0])
    assert 0 < world.ready("job", names) < 640


def test_a_corrupt_block_costs_itself_and_what_follows() -> None:
    world, names = World(lower="disk"), chain(0, 4)
    world.files[DISK] |= set(names)
    world.core.scanned(DISK, [(name, 0, SIZE) for name in names])
    world.seek("job", names)
    world.do_all("full")
    assert world.ready("job", names) == 0 and not world.core.waits("job")
    assert world.core.counts[DISK].failures["corrupt"] == 1 and names[0] not in world.disk.files
    assert not world.core.lower[0].reading.is_marked(world.now), "one bad file is no bad disk"


def test_routers_hear_of_every_change_and_a_late_listener_of_all() -> None:
    world, names = World(slots=4, lower="disk"), chain(0, 4)
    world.seek("job", names)
    world.write_all(names)
    world.core.leave("job")
    assert world.core.events() == [], "nobody listens"
    world.do_all()
    world.core.tell()
    told = dict(world.core.events())
    assert [event.hashes for event in told[HOST]] == [names] and told[HOST][0].parent == 0
    assert [event.hashes for event in told[DISK]] == [names]
    other = chain(1, 1)
    world.seek("other", other)
    world.seek("other", other)
    world.spill(other[0])
    ((tier, events),) = world.core.events()
    assert tier == HOST
    assert [(event.kind, event.hashes) for event in events] == [("removed", names[:1]), ("stored", other)]


def test_of_a_prompt_the_end_goes_before_the_start() -> None:
    world, names = World(slots=4, lower=""), chain(0, 4)
    world.spill_all(names)
    world.ready("job", names)
    world.core.leave("job")
    world.spill(chain(1, 1)[0])
    assert world.ready("job", names) == 3


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(MOVES := ["spill", "seek", "ready", "leave", "used", "do", "fail", "full", "wait"]),
            st.integers(0, 5),
            st.integers(0, 9),
        ),
        max_size=60,
    ),
    st.integers(1, 2),
)
def test_in_any_order(moves: list[tuple[str, int, int]], uses: int) -> None:
    world = World(slots=6, uses=uses, disk_blocks=5)
    world.core.tell()
    told: dict[int, set[int]] = {HOST: set(), DISK: set()}
    steps: dict[str, Callable[[int, int], object]] = {
        "spill": lambda prompt, at: world.spill(chain(prompt, 10, 3)[at]),
        "seek": lambda prompt, at: world.seek(f"job{at}", chain(prompt, 10, 3)[: at + 1]),
        "ready": lambda prompt, at: world.ready(f"job{at}", chain(prompt, 10, 3)),
        "leave": lambda prompt, at: world.core.leave(f"job{at}"),
        "used": lambda prompt, at: world.use(chain(prompt, 10, 3)[:at]),
        "do": lambda prompt, at: world.do_some(at, "well"),
        "fail": lambda prompt, at: world.do_some(at, "failed"),
        "full": lambda prompt, at: world.do_some(at, "full"),
        "wait": lambda prompt, at: world.pass_time(0.2 * at),
    }
    for move, prompt, at in moves:
        steps[move](prompt, at)
        world.collect()
        for tier, events in world.core.events():
            for event in events:
                told[tier] = told[tier] | {*event.hashes} if event.kind == "stored" else told[tier] - {*event.hashes}
        assert told[HOST] == {name for name, block in world.core.host.blocks.items() if block.is_filled}
        assert told[DISK] == set(world.disk.files)
    for at in range(10):
        world.core.leave(f"job{at}")
    world.do_all()
    assert not any(block.pins for block in world.core.host.blocks.values()), "nothing is kept for nobody"
    assert not any(tier.reads or tier.queued for tier in world.core.lower)
    assert world.files[DISK] >= set(world.disk.files)
