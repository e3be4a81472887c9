"""Routers and workers on a network that loses, doubles and delays: what a router believes becomes what workers hold."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.contract.engine import BlockEvent
from nodes.routing.hashes import pack
from nodes.routing.index import Index
from nodes.routing.publisher import Publisher
from nodes.routing.seats import Seats
from nodes.routing.source import ANSWER_S, SILENT_S
from nodes.routing.sources import Sends, Sources
from proto import placing as wire
from proto.placing import Blocks, Change, Copy, Cut, Kind, Piece, Replay
from tests.nodes.routing.trees import blocks, content, naive

Message = Blocks | Cut | Piece


class Worker:
    """An engine with a cache that turns out whatever it likes, and its publisher."""

    def __init__(self, random: Random, room: int = 25) -> None:
        self.random = random
        self.room = room
        self.held: dict[int, None] = {}
        self.publisher = Publisher(ring_changes_max=random.choice((3, 20, 1000)), blocks=room)

    def step(self) -> None:
        random = self.random
        if random.random() < 0.02:
            self.held.clear()
            self.publisher.feed([BlockEvent("cleared")])
        path = [random.randrange(2) for _ in range(random.randrange(9))]
        salt = random.choice(("", "a"))
        parent = xxh3_64_intdigest(salt.encode()) if salt else 0
        events = []
        for name in blocks(path, salt):
            if name not in self.held:
                events.append(BlockEvent("stored", [name], parent))
                self.held[name] = None
            parent = name
        while len(self.held) > self.room:
            gone = random.choice(list(self.held))
            del self.held[gone]
            events.append(BlockEvent("removed", [gone]))
        self.publisher.feed(events)


class Mesh:
    """One router, some workers, and the links between them. Links keep their order unless they are `wild`."""

    def __init__(self, seed: int, workers: int = 3, wild: bool = False, loss: float = 0.1) -> None:
        self.random = Random(seed)
        self.wild = wild
        self.loss = loss
        self.now = 0.0
        self.seats = Seats()
        self.sources = Sources(Index(shard_bits=3), self.seats)
        self.workers: dict[int, Worker] = {}
        self.ways: dict[tuple[int, bool], list[Message | Replay | Copy]] = {}  # (node, to the router)
        self.next = 1
        for _ in range(workers):
            self.join()

    def join(self) -> None:
        self.workers[self.next] = Worker(self.random)
        for _ in range(self.random.randrange(20)):
            self.workers[self.next].step()
        self.send(self.sources.up(self.next, self.now))
        self.next += 1

    def leave(self, node: int) -> None:
        del self.workers[node]
        self.sources.down(node)
        self.seats.drop(node)

    def send(self, asks: Sends) -> None:
        for node, ask in asks:
            self.put(node, False, ask)

    def put(self, node: int, inward: bool, message: Message | Replay | Copy) -> None:
        if self.random.random() < self.loss:
            return
        way = self.ways.setdefault((node, inward), [])
        for _ in range(2 if self.random.random() < self.loss / 2 else 1):
            way.insert(self.random.randrange(len(way) + 1) if self.wild else len(way), message)

    def tell(self, beat: bool = False) -> None:
        for node, worker in self.workers.items():
            for message in worker.publisher.told() or ([worker.publisher.beat()] if beat else []):
                self.put(node, True, message)

    def deliver(self) -> bool:
        ways = [key for key, way in self.ways.items() if way]
        if not ways:
            return False
        node, inward = key = self.random.choice(ways)
        message = self.ways[key].pop(0)
        if inward:
            assert isinstance(message, Message)
            self.send(self.sources.received(node, message, self.now))
        elif node in self.workers:
            publisher = self.workers[node].publisher
            assert isinstance(message, Replay | Copy)
            answers = publisher.replay(message.after) if isinstance(message, Replay) else publisher.copy(message)
            for answer in answers if isinstance(answers, list) else [answers]:
                self.put(node, True, answer)
        return True

    def live(self, steps: int) -> None:
        for _ in range(steps):
            dice = self.random.random()
            self.now += self.random.choice((0.0, 0.01, 0.3))
            if dice < 0.35:
                self.random.choice(list(self.workers.values())).step()
                self.tell()
            elif dice < 0.9:
                self.deliver()
            elif dice < 0.95:
                self.send(self.sources.tick(self.now))
            elif dice < 0.96 and len(self.workers) > 1:
                self.leave(self.random.choice(list(self.workers)))
            elif dice < 0.97 and len(self.workers) < 5:
                self.join()
            self.sources.index.check()

    def heal(self) -> None:
        """Nothing is lost any more, and engines rest."""
        self.loss = 0.0
        for _ in range(200):
            self.tell(beat=True)
            while self.deliver():
                pass
            self.now += 40.0
            self.tell(beat=True)
            while self.deliver():
                pass
            self.send(self.sources.tick(self.now))
            if not any(self.ways.values()) and all(one.exact for one in self.sources.staleness(self.now)):
                return
        raise AssertionError(f"it does not converge: {self.sources.staleness(self.now)}")

    def check(self) -> None:
        """Every worker is credited for what it holds, no more and no less, and nothing is left over."""
        self.sources.index.sweep(8)
        found = [content(worker.publisher)[0] for worker in self.workers.values()]
        assert self.sources.index.blocks == len(set().union(*found))
        for _ in range(40):
            prompt = blocks([self.random.randrange(2) for _ in range(9)], self.random.choice(("", "a")))
            (column,) = self.sources.overlaps(prompt)
            for node, worker in self.workers.items():
                assert column[self.seats.find((node, 0))] == naive(set(worker.held), prompt)


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.booleans())
def test_it_converges_to_what_workers_hold(seed: int, wild: bool) -> None:
    mesh = Mesh(seed, wild=wild)
    mesh.live(150)
    mesh.heal()
    mesh.check()


def test_copies_in_many_pieces_converge_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes between the pieces of a copy, and caches that are cut anew during one."""
    monkeypatch.setattr(wire, "PIECE_BLOCKS_TARGET", 2)
    copies = 0
    for seed in range(40):
        mesh = Mesh(seed, workers=2, wild=seed % 4 == 0, loss=0.05)
        for worker in mesh.workers.values():
            worker.room = 60
        mesh.live(200)
        mesh.heal()
        mesh.check()
        copies += sum(one.copies for one in mesh.sources.staleness(mesh.now))
    assert copies > 40, "the test does not test copies"


def test_a_late_router_is_right_after_one_exchange() -> None:
    mesh = Mesh(1, workers=0, loss=0.0)
    for seed in range(3):
        worker = mesh.workers[seed + 1] = Worker(Random(seed), room=500)
        worker.publisher = Publisher(ring_changes_max=3)
        for _ in range(100):
            worker.step()
    for node in mesh.workers:
        mesh.send(mesh.sources.up(node, 0.0))
    while mesh.deliver():
        pass
    assert all(one.exact and one.copies == 1 for one in mesh.sources.staleness(0.0))
    mesh.check()


def lonely() -> tuple[Sources, Seats]:
    seats = Seats()
    sources = Sources(Index(shard_bits=2), seats)
    assert sources.up(5, 0.0) == [(5, Replay(0, 0))] and sources.up(5, 0.0) == []
    return sources, seats


PROMPT = blocks([0, 1, 0])


def change(begin: int, end: int, kind: Kind = Kind.STORED) -> Change:
    return Change(kind, pack(PROMPT[begin:end]))


def test_a_gap_asks_once_and_the_old_view_stays() -> None:
    sources, _ = lonely()
    assert sources.received(5, Blocks(0, 1, 1, [change(0, 2)]), 0.0) == []
    assert sources.exact == [True]
    assert sources.received(5, Blocks(0, 3, 3, [change(2, 3)]), 0.1) == [(5, Replay(0, 1))]
    assert sources.received(5, Blocks(0, 4, 4, [change(2, 3)]), 0.2) == [], "it has been asked"
    assert sources.exact == [False] and sources.overlaps(PROMPT) == [[2]]
    (stale,) = sources.staleness(0.5)
    assert (stale.behind, stale.gaps, stale.exact) == (3, 1, False) and stale.silent_s == pytest.approx(0.3)
    changes = [change(1, 2, Kind.REMOVED), change(2, 3), change(2, 3, Kind.REMOVED)]
    assert sources.received(5, Blocks(0, 2, 4, changes), 0.6) == []
    assert sources.exact == [True] and sources.overlaps(PROMPT) == [[1]]


def test_the_first_part_of_a_long_replay_is_not_the_whole() -> None:
    sources, _ = lonely()
    assert sources.received(5, Blocks(0, 1, 2, [change(0, 2)]), 0.0) == []
    assert sources.exact == [False]
    sources.received(5, Blocks(0, 2, 2, [change(2, 3)]), 0.0)
    assert sources.exact == [True]


def test_what_is_not_answered_is_asked_again_ever_more_rarely() -> None:
    sources, _ = lonely()
    asked = []
    for tenth in range(1200):
        asked += [tenth / 10 for _ in sources.tick(tenth / 10)]
    gaps = [after - before for before, after in pairwise(asked)]
    assert asked[0] == ANSWER_S and gaps == sorted(gaps) and max(gaps) == pytest.approx(30.0)


def test_a_worker_that_falls_silent_is_not_exact() -> None:
    sources, _ = lonely()
    sources.received(5, Blocks(0, 1, 1, [change(0, 3)]), 0.0)
    sources.tick(SILENT_S - 0.1)
    assert sources.exact == [True]
    sources.tick(SILENT_S)
    assert sources.exact == [False] and sources.overlaps(PROMPT) == [[3]], "out of date, but the best we have"
    sources.received(5, Blocks(0, 2, 1), SILENT_S)
    assert sources.exact == [True]


def test_a_worker_that_is_gone_holds_nothing() -> None:
    sources, seats = lonely()
    sources.received(5, Blocks(0, 1, 1, [change(0, 3)]), 0.0)
    sources.down(5)
    seats.drop(5)
    assert sources.overlaps(PROMPT) == [[0]] and sources.exact == [False] and sources.staleness(0.0) == []
    assert sources.received(5, Blocks(0, 2, 2, [change(0, 3)]), 0.0) == [], "word from the dead"


def test_ranks_are_caches_of_their_own() -> None:
    sources, seats = lonely()
    asks = sources.received(5, Blocks(0, 1, 1, [change(0, 1)], ranks=3), 0.0)
    assert asks == [(5, Replay(1, 0)), (5, Replay(2, 0))]
    sources.received(5, Blocks(2, 1, 1, [change(0, 2)], ranks=3), 0.0)
    assert sources.overlaps(PROMPT) == [[1, 0, 2]]
    assert [seats.find((5, rank)) for rank in range(4)] == [0, 1, 2, -1]
    assert sources.received(5, Blocks(9, 1, 1, [change(0, 2)]), 0.0) == [], "a rank that it does not have"


def test_levels_are_columns() -> None:
    sources, _ = lonely()
    changes = [Change(Kind.STORED, pack(PROMPT[:1]), 0), Change(Kind.STORED, pack(PROMPT[:3]), 2)]
    sources.received(5, Blocks(0, 1, 2, changes), 0.0)
    assert sources.overlaps(PROMPT) == [[1], [1], [3]]


def test_kinds_and_levels_of_a_newer_worker_are_passed_over() -> None:
    sources, _ = lonely()
    changes = [Change(9, pack(PROMPT)), Change(Kind.STORED, pack(PROMPT), 9), change(0, 1)]
    assert sources.received(5, Blocks(0, 1, 3, changes), 0.0) == []
    assert sources.overlaps(PROMPT) == [[1]] and sources.exact == [True]


def test_an_old_piece_is_asked_for_again() -> None:
    """A block that was removed after the piece was made must not come back with it."""
    sources, _ = lonely()
    assert sources.received(5, Cut(0, 5, 2), 0.0) == [(5, Copy(0, 0, 2))]
    assert sources.received(5, Blocks(0, 6, 6, [change(2, 3, Kind.REMOVED)]), 0.0) == []
    assert sources.received(5, Piece(0, 0, 2, 5, [pack(PROMPT)]), 0.0) == [(5, Copy(0, 0, 2))]
    assert sources.received(5, Piece(0, 0, 2, 6, [pack(PROMPT[:2])]), 0.0) == [(5, Copy(0, 1, 2))]
    assert sources.exact == [False]
    assert sources.received(5, Piece(0, 1, 2, 6, [b""]), 0.0) == []
    assert sources.exact == [True] and sources.overlaps(PROMPT) == [[2]]
