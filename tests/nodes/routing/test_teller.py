"""A worker's word to routers: who hears what, when, and in which order."""

from random import Random

from mesh.aide import Surroundings
from nodes.contract.engine import BlockEvent
from nodes.routing.hashes import Hashes, unpack
from nodes.routing.index import Index
from nodes.routing.seats import Seats
from nodes.routing.sources import Sources
from nodes.routing.teller import BEAT_S, Teller
from proto.basics import Message
from proto.placing import Blocks, Copy, Cut, Piece, Place, Replay, Report


class Stage:
    """A teller, and what it has said to whom."""

    def __init__(self, teller: Teller) -> None:
        self.said: list[tuple[int, Message]] = []
        self.counts: list[str] = []
        self.teller = teller
        teller.attach(
            Surroundings(
                1, Random(1), lambda endpoint: [], lambda endpoint, policy, excluded: (0, ""), self.send,
                self.counts.append,
            )
        )  # fmt: skip

    def send(self, peer: int, message: Message, now: float) -> bool:
        self.said.append((peer, message))
        return True

    def take(self) -> list[tuple[int, Message]]:
        self.teller.check()
        said, self.said = self.said, []
        return said


def stored(*names: int, parent: int = 0) -> BlockEvent:
    return BlockEvent("stored", list(names), parent, [])


def test_nobody_listens_and_nothing_is_said() -> None:
    stage = Stage(Teller())
    stage.teller.feed([stored(1, 2)])
    stage.teller.tick(0.0)
    assert not stage.take() and stage.teller.deadline() == float("inf")


def test_what_is_fed_in_a_turn_leaves_as_one_message_to_each_router() -> None:
    stage = Stage(Teller())
    for router in (7, 8):
        assert stage.teller.received(router, Replay(0), 0.0)
    assert [peer for peer, _ in stage.take()] == [7, 8]
    stage.teller.feed([stored(1, 2)])
    stage.teller.feed([stored(3, parent=2)])
    assert stage.teller.deadline() < 0.0
    stage.teller.tick(0.0)
    said = stage.take()
    assert [peer for peer, _ in said] == [7, 8] and said[0][1] == said[1][1]
    message = said[0][1]
    assert isinstance(message, Blocks) and (message.first, message.newest) == (1, 2)
    assert [list(unpack(change.hashes)) for change in message.changes] == [[1, 2], [3]]
    assert stage.teller.deadline() == BEAT_S


def test_a_replay_in_the_middle_of_a_turn_is_told_everything_once() -> None:
    """The others hear first what is new: an answer must not overtake it, and who asked must not get it twice."""
    stage = Stage(Teller())
    stage.teller.received(7, Replay(0), 0.0)
    stage.take()
    stage.teller.feed([stored(1)])
    stage.teller.received(8, Replay(0), 0.0)
    said = stage.take()
    assert [(peer, message.first, len(message.changes)) for peer, message in said if isinstance(message, Blocks)] == [
        (7, 1, 1),
        (8, 1, 1),
    ]
    stage.teller.tick(0.0)
    assert not stage.take()


def test_beats_until_the_last_router_goes() -> None:
    stage = Stage(Teller(ranks=2))
    stage.teller.received(7, Replay(0), 0.0)
    stage.take()
    stage.teller.tick(BEAT_S)
    assert [(peer, type(message)) for peer, message in stage.take()] == [(7, Blocks)] * 2
    stage.teller.peer_down(7, 1.5)
    stage.teller.tick(2 * BEAT_S)
    assert not stage.take() and stage.teller.deadline() == float("inf")


def test_what_is_not_for_it_is_left_to_others() -> None:
    stage = Stage(Teller())
    assert not stage.teller.received(7, Place(1, 1, "generate/m"), 0.0)
    assert stage.teller.received(7, Replay(5), 0.0) and stage.counts == ["caches.no_rank"]
    assert not stage.take()


def test_loads_are_asked_for_each_time() -> None:
    loads = [Report(1, 2, 3, 4, 5, 6)]
    assert list(Teller(report=lambda: loads).reports()) == loads and not Teller().reports()


def test_levels_reach_a_router() -> None:
    """Blocks that move down are still counted on, on their level."""
    stage = Stage(Teller(levels=2))
    index, seats = Index(1000), Seats()
    seats.add((1, 0))
    sources = Sources(index, seats)
    asks = [ask for _, ask in sources.up(1, 0.0)]
    stage.teller.feed([stored(1, 2, 3)])
    stage.teller.feed([stored(1, 2, 3)], medium=1)
    stage.teller.feed([BlockEvent("removed", [3, 2])], medium=0)
    while asks:
        stage.teller.received(7, asks.pop(), 0.0)
        for _, message in stage.take():
            assert isinstance(message, Cut | Piece), "nobody listened, and nothing was written down"
            asks += [ask for _, ask in sources.received(1, message, 0.0)]
    assert sources.overlaps(Hashes("Q", [1, 2, 3])) == [[1], [3]]
    assert stage.teller.received(7, Copy(0, 0, 1), 0.0)
