"""Pure. A worker's word to routers: what changed in its caches, the rest to who asks, and a beat when nothing did.

A router that asks with Replay listens from then on, until its session ends. What is fed leaves at the end of the turn,
as one message to each router, so that a step costs the same however many blocks it stored.
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf

from mesh.aide import Surroundings
from mesh.peer import Peer
from nodes.contract.engine import BlockEvent
from nodes.routing.publisher import Publisher
from proto.basics import Message
from proto.placing import Copy, Replay, Report

BEAT_S = 1.0  # a router that heard nothing for five of them believes us no more


def _no_reports() -> Sequence[Report]:
    return ()


class Teller:
    """The aide of a worker's node: one publisher for each data-parallel rank, and the routers that listen.

    `report` gives what each Pong says of the ranks' loads.
    """

    def __init__(
        self, ranks: int = 1, levels: int = 1, blocks: int = 0, report: Callable[[], Sequence[Report]] = _no_reports
    ) -> None:
        self.publishers = [Publisher(rank, ranks, levels, blocks) for rank in range(ranks)]
        self._report = report
        self._routers: dict[int, None] = {}  # that listen
        self._beat_at = inf
        self._fed = False
        self._heard = False  # whether a router listens, or has asked: else nothing is worked out
        self._listen(False)

    # --- From the engine ---------------------------------------------------------------------------------

    def feed(self, events: Sequence[BlockEvent], medium: int = 0) -> None:
        """What happened to the caches: 0 on the device, 1 in the host's memory, 2 on disk."""
        several = len(self.publishers) > 1
        for rank, publisher in enumerate(self.publishers):
            publisher.feed([event for event in events if event.rank == rank] if several else events, medium)
        self._fed = self._heard

    def leading(self, hashes: Iterable[int], rank: int = 0) -> int:
        """How many leading blocks of a prompt the cache has."""
        return self.publishers[rank].leading(hashes)

    # --- From the node -----------------------------------------------------------------------------------

    def attach(self, around: Surroundings) -> None:
        self._around = around

    def received(self, peer: int, message: Message, now: float) -> bool:
        if not isinstance(message, Replay | Copy):
            return False
        if message.rank >= len(self.publishers):
            self._around.count("caches.no_rank")
            return True
        publisher = self.publishers[message.rank]
        self._listen(True)
        self._tell(now)  # what the others hear now is in the answer too, and must not come to it twice
        if isinstance(message, Copy):
            self._around.send(peer, publisher.copy(message), now)
            return True
        self._around.count("caches.replays")
        self._routers[peer] = None
        answer = publisher.replay(message.after)
        for one in answer if isinstance(answer, list) else [answer]:
            self._around.send(peer, one, now)
        self._beat_at = min(self._beat_at, now + BEAT_S)
        return True

    def peer_up(self, peer: Peer, now: float) -> None:
        """Nothing: who wants to hear says so."""

    def peer_down(self, peer: int, now: float) -> None:
        self._routers.pop(peer, None)
        if not self._routers:
            self._beat_at = inf
            self._listen(False)

    def _listen(self, heard: bool) -> None:
        self._heard = heard
        for publisher in self.publishers:
            publisher.listen(heard)

    def deadline(self) -> float:
        return -inf if self._fed else self._beat_at

    def tick(self, now: float) -> None:
        self._tell(now)
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            self._say([publisher.beat() for publisher in self.publishers], now)

    def reports(self) -> Sequence[Report]:
        return self._report()

    def _tell(self, now: float) -> None:
        if self._fed:
            self._fed = False
            self._say([message for publisher in self.publishers for message in publisher.told()], now)

    def _say(self, messages: Sequence[Message], now: float) -> None:
        for router in self._routers:
            for message in messages:
                self._around.send(router, message, now)

    def check(self) -> None:
        for publisher in self.publishers:
            publisher.check()
        assert (self._beat_at < inf) == bool(self._routers)
