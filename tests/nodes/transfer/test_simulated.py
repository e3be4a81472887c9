"""Any offers, pulls, cancels, withdrawals, cuts, crashes and freezes: no wrong byte, one end each, nothing left."""

from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodes.transfer import moves, serving
from nodes.transfer.causes import Cause, Ending, Way
from tests.nodes.transfer.stage import RESTING_BEAT_S, World, small_limits

__all__ = ["small_limits"]

ALL_WAYS = ((Way.BULK,), (Way.SHARED,), (Way.SHARED, Way.BULK), (Way.NIXL, Way.BULK))
KINDS = ("offer", "offer", "pull", "pull", "pull", "advance", "cancel", "withdraw", "cut", "crash", "freeze", "puller")
REST_S = 90.0  # the longest lease, the longest silence, and the idle links
PLAIN = (("offer", "pull", "pull", "pull", "withdraw"), ("offer", "pull", "pull", "cancel", "advance"))
STORIES, SEEN_MIN = 24, 4  # of the plain kinds, which end in all of these ways


class Story:
    """A world and what happens in it."""

    def __init__(self, seed: int, kinds: tuple[str, ...]) -> None:
        self.random = Random(seed)
        self.kinds = kinds
        self.world = World(self.random, mapped=self.random.random() < 0.8, corrupt=self.random.choice((0.0, 0.0, 0.2)))
        self.checksum = self.world.corrupt > 0 or self.random.random() < 0.3
        self.names = 0
        self.told_ready: dict[int, int] = {}

    def run(self, events: int) -> World:
        for _ in range(events):
            self.world.run(self.world.now + self.random.choice((0.0, 0.01, 0.1, 0.1, 0.5)))
            getattr(self, self.random.choice(self.kinds))()
        self.world.run(self.world.now + 20.0)  # what is frozen thaws
        for number, ready in self.told_ready.items():
            if number in self.world.owner.opened and ready < len(self.world.owner.truth[number]):
                self.world.owner.advance(number, len(self.world.owner.truth[number]))
        self.world.beat_s = RESTING_BEAT_S
        self.world.run(self.world.now + REST_S)
        self.world.at_rest()
        return self.world

    def offer(self) -> None:
        owner = self.world.owner
        if owner.core.full or owner.frozen:
            return
        self.names += 1
        size = self.random.choice((0, 1, 15, 100, 300, 1500))
        ready = size if self.random.random() < 0.6 else self.random.randint(0, size)
        self.told_ready[self.names] = ready
        owner.offer(self.names, size, ready, self.random.choice((0.2, 2.0, 20.0)), self.random.randint(0, 2))

    def pull(self) -> None:
        open_offers = [number for number in self.world.owner.opened if number not in self.world.owner.freed]
        known = open_offers if open_offers and self.random.random() < 0.8 else list(self.world.owner.opened)
        if known and not self.world.core.full and self.world.now >= self.world.puller_frozen_until:
            self.names += 1
            timeout_s = self.random.choice((0.3, 5.0, float("inf")))
            ways = self.random.choice(ALL_WAYS)
            offer = self.random.choice(known)
            self.world.pull(self.names, offer, ways, timeout_s, self.checksum, self.random.choice((0, 0, 7)))

    def advance(self) -> None:
        growing = [n for n in self.world.owner.opened if self.told_ready[n] < len(self.world.owner.truth[n])]
        if growing and not self.world.owner.frozen:
            number = self.random.choice(growing)
            size = len(self.world.owner.truth[number])
            self.told_ready[number] = self.random.randint(self.told_ready[number], size)
            self.world.owner.advance(number, self.told_ready[number])

    def cancel(self) -> None:
        if self.world.begun:
            self.world.tell(moves.Cancel(self.random.choice(list(self.world.begun))))

    def withdraw(self) -> None:
        if self.world.owner.opened and not self.world.owner.frozen:
            number = self.random.choice(list(self.world.owner.opened))
            self.world.owner.tell(serving.Withdrawn(number))

    def cut(self) -> None:
        if self.world.connections:
            self.world.cut(self.random.choice(list(self.world.connections.values())))

    def crash(self) -> None:
        self.world.crash()

    def freeze(self) -> None:
        self.world.freeze_owner(self.random.choice((0.2, 2.0, 6.0)))

    def puller(self) -> None:
        self.world.freeze_puller(self.random.choice((0.2, 2.0, 6.0)), hung=self.random.random() < 0.5)


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), events=st.integers(1, 40), kinds=st.sets(st.sampled_from(KINDS[6:])))
def test_any_story_ends_well(seed: int, events: int, kinds: set[str]) -> None:
    Story(seed, (*KINDS[:6], *sorted(kinds))).run(events)


@pytest.mark.usefixtures("small_limits")
def test_the_stories_are_about_something() -> None:
    """Each kind of end is seen, and more than once; without this, stories that do nothing would pass."""
    seen: Counter[str] = Counter()
    for seed in range(STORIES):
        world = Story(seed, PLAIN[seed % len(PLAIN)]).run(40)
        seen.update(f"{end.ending} {end.cause.label}" for ends in world.ends.values() for end in ends)
    wanted = {f"failed {cause.label}" for cause in (Cause.EXPIRED, Cause.STALE, Cause.WITHDRAWN, Cause.UNKNOWN_OFFER)}
    rare = [name for name in ("done complete", "cancelled cancelled", *sorted(wanted)) if seen[name] < SEEN_MIN]
    assert not rare, (rare, seen)


@pytest.mark.usefixtures("small_limits")
def test_without_faults_every_pull_that_may_be_done_is_done() -> None:
    for seed in range(30):
        world = World(Random(seed))
        world.owner.offer(1, 300, 300, 20.0, 1)
        world.pull(2, 1, ALL_WAYS[seed % len(ALL_WAYS)], float("inf"), seed % 3 == 0, 0)
        world.run(REST_S)
        assert [end.ending for end in world.ends[2]] == [Ending.DONE], world.ends[2]
        assert world.owner.core.counts["offers.complete"] == 1
        world.at_rest()
