"""Pure. One leg that is held here: what it has produced, what it may send, and how it is to end."""

from collections import deque

from mesh.core import Leg as LegName
from mesh.core import Start
from proto import codec
from proto.errors import Reason, RemoteError
from proto.messages import Cancelled, End, Error, Fate, Migrate, Offer, Part, Resume, Strength, Submit
from proto.request import Leg

Stretch = tuple[int, list[int], list[bytes], bytes | None]  # position, tokens, items, checkpoint after them


class Held:
    """A leg from Submit to its last word."""

    __slots__ = (
        "awaits",
        "base",
        "cached",
        "checkpoint",
        "checkpoint_position",
        "deadline",
        "due",
        "end",
        "granted",
        "halting",
        "limit",
        "name",
        "noted",
        "offer",
        "orphan",
        "part",
        "paused",
        "pending",
        "position",
        "queued",
        "sent",
        "started",
        "state",
        "submit",
        "tokens",
    )  # fmt: skip

    def __init__(self, name: LegName, submit: Submit, offer: Offer, tokens: list[int], deadline: float) -> None:
        resume = submit.resume
        self.name = name
        self.submit = submit
        self.offer = offer
        self.state = Leg.SUBMITTED
        self.deadline = deadline
        self.position = resume.position if resume else 0  # of the next unit to be produced
        self.base = self.position  # what lies before was made elsewhere
        self.sent = self.position  # of the next unit to be sent
        self.awaits = submit.awaits  # another leg may still make units: none here before Fed
        self.granted = submit.limit
        self.limit = self.position if submit.awaits else submit.limit  # so a unit made too early is found out for free
        self.tokens = tokens  # generated so far, by earlier holders too
        self.checkpoint = resume.state if resume else b""  # the last one that was sent
        self.checkpoint_position = self.position
        self.pending: deque[Stretch] = deque()  # produced, not sent for want of credit
        self.part: Part | None = None  # its part of the chunk that is being gathered
        self.due: list[Strength] = []  # Cancels that wait for their answer
        self.queued = False  # it had to wait for its slot
        self.started = False  # its handler runs: the slot is taken
        self.paused = False
        self.halting: Reason | None = None  # why its handler was told to go
        self.end: tuple[Reason, str, str, bool] | None = None  # how its handler ended: reason, name, text, retryable
        self.orphan = False  # its owner is gone: nobody to tell
        self.cached = 0  # positions of its prompt that were found in a cache: told with its next part
        self.noted = False  # its tokens have items, which a hand-over cannot carry

    def produce(self, tokens: list[int], items: list[bytes]) -> None:
        """Append what the handler made."""
        assert not self.awaits, "a unit from a leg that awaits"
        assert not (tokens and items) or len(tokens) == len(items), "a token has one item"
        self.noted = self.noted or bool(tokens and items)
        self.pending.append((self.position, tokens, items, None))
        self.position += len(tokens) or len(items)
        self.tokens.extend(tokens)

    def grant(self, limit: int) -> None:
        """Credit: it may send so far, once it awaits nothing."""
        self.granted = max(self.granted, limit)
        if not self.awaits:
            self.limit = self.granted

    def fed(self, position: int, tokens: list[int]) -> None:
        """The leg before it is over, after these units: it goes on behind them."""
        if not self.awaits:
            raise RemoteError(Reason.ILLEGAL, "a leg is fed that awaits nothing")
        if tokens and position != self.position:
            raise RemoteError(Reason.ILLEGAL, f"fed from {position} on, with {self.position} units")
        self.awaits = False
        self.tokens.extend(tokens)
        self.position += len(tokens)
        self.base = self.sent = self.position
        self.grant(0)

    def take_stretch(self) -> Stretch | None:
        """The next stretch that credit allows, split if it must be."""
        if not self.pending:
            return None
        position, tokens, items, checkpoint = self.pending[0]
        room, size = self.limit - position, len(tokens) or len(items)
        if size <= room or size == 0:
            return self.pending.popleft()
        if room <= 0:
            return None
        self.pending[0] = (position + room, tokens[room:], items[room:], checkpoint)
        return position, tokens[:room], items[:room], None

    def resumable(self) -> bool:
        """Whether another holder could go on with it now."""
        return self.state is Leg.RUNNING and (self.offer.resumable or bool(self.submit.prompt))

    def start(self) -> Start:
        """The effect that runs it."""
        submit = self.submit
        return Start(
            leg=self.name,
            endpoint=submit.endpoint,
            payload=submit.payload,
            prompt=codec.unpack(submit.prompt),
            position=self.position,
            tokens=list(self.tokens),
            state=self.checkpoint,
            deadline=self.deadline,
            trace=submit.trace,
            metadata=submit.metadata,
            handles=submit.handles,
            awaits=self.awaits,
        )

    def too_early(self) -> bool:
        """Whether it had nothing to make, and others may still: it ends when they have."""
        well = self.end is not None and self.end[0] in (Reason.COMPLETE, Reason.LENGTH)
        return self.awaits and well and self.state is Leg.RUNNING

    def last_word(self) -> End | Error:
        """How it ended."""
        assert self.end is not None
        reason, exception, text, retryable = self.end
        name = self.name
        if reason in (Reason.COMPLETE, Reason.LENGTH, Reason.STOPPED):
            return End(name.request, name.attempt, self.sent, int(reason))
        return Error(name.request, name.attempt, self.sent, int(reason), retryable, exception, text)

    def migrate(self, reason: Reason, handle: bytes = b"") -> Migrate:
        """The message that hands it over, with the partial state, and where its cache lies."""
        return Migrate(self.name.request, self.name.attempt, self.sent, int(reason), self._partial_state(), handle)

    def _partial_state(self) -> Resume | None:
        if self.tokens:
            tokens = self.tokens[: self.sent] if self.noted else self.tokens
            return Resume(len(tokens), codec.pack(tokens)) if tokens else None
        if self.checkpoint or self.submit.resume is not None:
            return Resume(self.checkpoint_position, state=self.checkpoint)
        return None

    def answers(self) -> list[Cancelled]:
        """One for each Cancel."""
        name = self.name
        return [
            Cancelled(name.request, name.attempt, self.sent, int(Fate.FREED), int(strength)) for strength in self.due
        ]

    def check(self) -> None:
        """Assert what must hold between the fields."""
        assert self.sent <= max(self.limit, self.base), "beyond its credit"
        assert not self.awaits or (self.position == self.base and not self.pending), "a unit from a leg that awaits"
        assert self.checkpoint_position <= self.sent <= self.position
        assert self.pending or self.sent == self.position or self.state is Leg.KILLING
        assert bool(self.due) == (self.state in (Leg.STOPPING, Leg.KILLING)) or self.orphan, self.state
        assert not (self.started and self.end), "a handler that has ended holds no slot"
