"""Pure. What the puller's core knows of one pull. `pulling` alone changes it."""

from collections import deque

from msgspec import Struct, field

from nodes.transfer import limits, wire
from nodes.transfer.causes import Cause, Ending, Way
from nodes.transfer.lifecycle import Pull
from nodes.transfer.moves import Begin


class State(Struct):
    """One transfer. `conversation` is 0 while there is none, `move` while the copying thread is not at work."""

    wanted: Begin
    position: int
    ready: int
    until: float  # the handle's lease, when it was taken up
    deadline: float
    heard: float  # last sign of life of the other end
    state: Pull = Pull.WAITING
    way: int = 0  # which of the ways
    conversation: int = 0
    limit: int = 0
    move: int = 0
    pieces: deque[wire.Piece] = field(default_factory=deque)  # told, to be moved and compared
    told: int = 0  # the end of the last of them
    tries: int = 0  # broken links since the last byte
    ending: Ending = Ending.DONE
    cause: Cause = Cause.COMPLETE

    @property
    def number(self) -> int:
        return self.wanted.pull

    @property
    def direct(self) -> bool:
        return self.wanted.ways[self.way] is not Way.BULK

    @property
    def whole(self) -> bool:
        """Whether it can be read without a word: nothing is left that only the owner knows."""
        return self.direct and self.ready == self.wanted.size and not self.wanted.checksum

    def silent_at(self) -> float:
        """When the other end's silence ends the pull. A direct move is no silence."""
        return float("inf") if self.move else self.heard + limits.STALL_S

    def overdue(self, now: float) -> Cause | None:
        """What ends it at a tick, if time does."""
        if now >= self.deadline:
            return Cause.DEADLINE
        if self.state is Pull.WAITING:
            return Cause.EXPIRED
        return Cause.STALLED if now >= self.silent_at() else None

    def check(self) -> None:
        """Assert what must hold between the fields."""
        assert self.state is not Pull.OVER
        assert self.state is not Pull.SETTLING or (self.move and not self.conversation)
        talks = self.state in (Pull.OPENING, Pull.MOVING)
        assert talks == bool(self.conversation), f"{self.state} with conversation {self.conversation}"
        assert self.wanted.start <= self.position <= self.wanted.size
        assert self.limit <= self.position + limits.WINDOW_BYTES, "more credit than a window"
