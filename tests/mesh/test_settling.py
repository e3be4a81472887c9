"""What owners tell routers of requests: soon, in batches, and only to who placed them."""

from mesh.settling import BATCH_S, Settling
from proto.basics import LegName, Message
from proto.placing import ENTRIES_MAX, Settled


class Told:
    """Two routers; those in `dead` are not there."""

    def __init__(self) -> None:
        self.said: list[tuple[int, Settled]] = []
        self.dead: set[int] = set()

    def send(self, router: int, message: Message, now: float) -> bool:
        assert isinstance(message, Settled)
        if router in self.dead:
            return False
        self.said.append((router, message))
        return True


def test_only_what_a_router_placed_is_told_and_only_to_it() -> None:
    settling, told = Settling(lambda: [7, 8]), Told()
    settling.placed(7, 1, 1, 0.0)
    settling.first(1, 1, 0.0)
    settling.first(2, 1, 0.0)
    settling.over(2, 0.0)
    assert settling.deadline() == 0.0
    settling.tick(0.0, told.send)
    settling.over(1, 1.0)
    settling.over(1, 1.0)
    settling.tick(1.0, told.send)
    assert told.said == [(7, Settled([LegName(1, 1)])), (7, Settled(freed=[LegName(1, 1)]))]
    assert not len(settling) and settling.deadline() == float("inf")


def test_what_follows_soon_after_is_gathered() -> None:
    settling, told = Settling(lambda: [7]), Told()
    for request in range(3):
        settling.placed(7, request, 1, 0.0)
    settling.over(0, 0.0)
    settling.tick(0.0, told.send)
    settling.over(1, 0.001)
    settling.over(2, 0.002)
    assert settling.deadline() == BATCH_S
    settling.tick(0.003, told.send)
    assert len(told.said) == 1
    settling.tick(BATCH_S, told.send)
    assert told.said[1] == (7, Settled(freed=[LegName(1, 1), LegName(2, 1)]))


def test_a_request_that_another_router_places_is_over_at_the_first() -> None:
    settling, told = Settling(lambda: [7, 8]), Told()
    settling.placed(7, 1, 1, 0.0)
    settling.placed(8, 1, 2, 0.0)
    settling.first(1, 1, 0.0)
    settling.first(1, 2, 0.0)
    settling.tick(0.0, told.send)
    assert told.said == [(8, Settled([LegName(1, 2)])), (7, Settled(freed=[LegName(1, 1)]))]


def test_when_its_router_is_gone_another_one_hears() -> None:
    settling, told = Settling(lambda: [7, 8]), Told()
    settling.placed(7, 1, 1, 0.0)
    told.dead.add(7)
    settling.over(1, 0.0)
    settling.tick(0.0, told.send)
    assert told.said == [(8, Settled(freed=[LegName(1, 1)]))]


def test_a_flood_is_cut() -> None:
    settling, told = Settling(lambda: [7]), Told()
    for request in range(ENTRIES_MAX + 1):
        settling.placed(7, request, 1, 0.0)
        settling.over(request, 0.0)
    settling.tick(0.0, told.send)
    assert [len(message.freed) for _, message in told.said] == [ENTRIES_MAX, 1]
