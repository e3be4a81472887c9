"""Pure. What a role adds to the core of its node: a router the knowledge of caches, a worker the word about its own.

An aide is driven by its node and speaks through it. It never raises for what a peer said.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from mesh.peer import Peer
from proto.basics import Message
from proto.placing import Report


class Surroundings(Struct, frozen=True):
    """What an aide sees of its node."""

    node: int
    random: Random
    serving: Callable[[str], list[Peer]]  # live peers, by endpoint
    choose: Callable[[str, str, tuple[int, ...]], tuple[int, str]]  # by a plain policy: see mesh.routing
    send: Callable[[int, Message, float], bool]  # peer, message, now: False if the peer is not live
    count: Callable[[str], None]


class Aide(Protocol):
    """What its node tells it, and asks it."""

    def attach(self, around: Surroundings) -> None:
        """Called once, before all else."""
        ...

    def received(self, peer: int, message: Message, now: float) -> bool:
        """A message; False if it is none of ours."""
        ...

    def peer_up(self, peer: Peer, now: float) -> None:
        """A peer is there, or something about it has changed."""
        ...

    def peer_down(self, peer: int, now: float) -> None:
        """It is not; what it said is void."""
        ...

    def deadline(self) -> float:
        """When `tick` is wanted; the past if there is something to say at the end of this turn."""
        ...

    def tick(self, now: float) -> None:
        """Say what is to be said."""
        ...

    def reports(self) -> Sequence[Report]:
        """What our Pongs say of an engine's ranks."""
        ...

    def check(self) -> None:
        """Assert every invariant."""
        ...
