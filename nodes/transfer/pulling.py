"""Pure. The puller's core: bring the bytes of an offer into memory of ours, and end exactly once.

Bulk pulls are sent piece by piece, within credit. Direct ones (shared memory, NIXL) are *moves* of the copying thread,
which looks at the generation after each step. Where all bytes are ready the owner hears of it afterwards, or when it
takes long; else a conversation tells us when more is ready. With checksums the owner's pieces, without their bytes, say
what to move and what its checksum must be. Where a way does not lead there, the next one is tried; where a link breaks,
a new one goes on.

A pull ends when nobody writes to its memory any more: an end that is decided while the copying thread is at work is
told when that has let go. What comes later is not heard, because it is not for a conversation that we know.
"""

from collections import deque
from collections.abc import Callable

from mesh.timers import Timers
from nodes.transfer import limits, wire
from nodes.transfer.causes import TEXTS, Cause, Ending
from nodes.transfer.lifecycle import PULL, Pull, PullVerb, after
from nodes.transfer.links import Links
from nodes.transfer.moves import (
    Begin,
    Cancel,
    Effect,
    Ended,
    Event,
    Halt,
    Heard,
    LinkDown,
    Move,
    Moved,
    Progressed,
    Store,
    Tick,
)
from nodes.transfer.state import State

DOUBLINGS_MAX = 6  # of the wait before a new link, while a move goes on without one


class Pulling:
    """All pulls of one plane."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.ended = 0
        self._pulls: dict[int, State] = {}
        self._waiting: deque[int] = deque()
        self._running = 0
        self._conversations: dict[int, State] = {}
        self._starting = False
        self._names = 0  # conversations and moves so far
        self._out: list[Effect] = []
        self._links = Links(self._out)
        self._timers: Timers[int] = Timers()
        self._handlers: dict[type, Callable[..., None]] = {
            Begin: self._begin,
            Cancel: self._cancel,
            Heard: self._hear,
            LinkDown: self._link_down,
            Moved: self._moved,
            Tick: self._tick,
        }

    @property
    def full(self) -> bool:
        """Whether another pull has no room."""
        return len(self._waiting) >= limits.PULLS_WAITING_MAX

    @property
    def pulls(self) -> int:
        """How many have not ended."""
        return len(self._pulls)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """The only mutator."""
        self._handlers[type(event)](event, now)
        out = self._out[:]
        self._out.clear()
        return out

    def deadline(self) -> float:
        """When the next Tick is wanted."""
        return min(self._timers.deadline(), self._links.deadline())

    # --- Events ---

    def _begin(self, event: Begin, now: float) -> None:
        assert event.pull not in self._pulls and event.ways and 0 <= event.start <= event.size
        until, deadline = now + event.lease_s, now + event.timeout_s
        pull = State(event, event.start, event.ready, until, deadline, now, told=event.start)
        self._pulls[event.pull] = pull
        if event.lease_s <= 0:
            self._end(pull, Ending.FAILED, Cause.EXPIRED, now)
        elif self._running < limits.PULLS_RUNNING_MAX:
            self._start(pull, now)
        else:
            self._waiting.append(event.pull)
            self._timers.set(event.pull, min(pull.until, pull.deadline))

    def _cancel(self, event: Cancel, now: float) -> None:
        pull = self._pulls.get(event.pull)
        if pull is not None and pull.state is not Pull.SETTLING:
            self._end(pull, Ending.CANCELLED, event.cause, now)

    def _hear(self, event: Heard, now: float) -> None:
        message = event.message
        pull = self._conversations.get(message.pull)
        if pull is None or self._links.number_of(pull.wanted.plane) != event.link:
            self._count("answers.late")
            return
        pull.heard = now
        match message:
            case wire.Ready():
                self._ready(pull, message, now)
            case wire.Piece():
                self._piece(pull, message, event, now)
            case wire.Refused():
                self._refused(pull, Cause.of(message.cause), now)

    def _link_down(self, event: LinkDown, now: float) -> None:
        self._lose(event.link, "", now)

    def _lose(self, link: int, text: str, now: float) -> None:
        plane = self._links.down(link, text, now)
        if plane is None:
            return
        self._count("links.lost")
        for pull in [pull for pull in self._conversations.values() if pull.wanted.plane == plane]:
            self._break(pull, Cause.LOST, now)

    def _moved(self, event: Moved, now: float) -> None:
        pull = self._pulls.get(event.pull)
        if pull is None or pull.move != event.move:
            return
        if pull.state is Pull.SETTLING:
            if event.over:
                self._settled(pull, now)
            return
        if event.position > pull.position:
            self._arrived(pull, event.position, now)
        if not event.over:
            return
        pull.move = 0
        if event.cause is None:
            self._go_on(pull, now)
        else:
            self._move_failed(pull, event.cause, now)

    def _tick(self, event: Tick, now: float) -> None:
        self._links.tick(now)
        for number in self._timers.due(now):
            pull = self._pulls[number]
            cause = pull.overdue(now)
            if cause is not None:
                self._end(pull, Ending.FAILED, cause, now)
            elif pull.state is Pull.READING:  # it lasts: an owner that knows renews its lease
                pull.state = after(PULL, pull.state, PullVerb.START)
                self._converse(pull, now)
            elif pull.state is Pull.BROKEN:
                self._retry(pull, now) if not pull.move else self._wait(pull, now)
            else:
                self._pulse(pull, now)

    # --- What the owner says ---

    def _ready(self, pull: State, message: wire.Ready, now: float) -> None:
        pull.state = after(PULL, pull.state, PullVerb.ANSWER)
        if message.ready > pull.wanted.size:
            self._foul(pull, "more is ready than there is", now)
            return
        pull.ready = max(pull.ready, message.ready)
        self._go_on(pull, now)

    def _piece(self, pull: State, message: wire.Piece, event: Heard, now: float) -> None:
        expected = pull.told if pull.direct else pull.position
        stop = message.position + message.size
        if (
            (pull.state, PullVerb.PIECE) not in PULL
            or message.position != expected
            or not message.position < stop <= pull.limit
            or event.payload_bytes != (0 if pull.direct else message.size)
            or (message.checksum is None) == pull.wanted.checksum
        ):
            self._foul(pull, f"a piece at {message.position} where {expected} was expected", now)
        elif not event.intact:
            self._break(pull, Cause.CORRUPT, now)
        else:
            pull.state = after(PULL, pull.state, PullVerb.PIECE)
            if pull.direct:
                pull.told = stop
                pull.pieces.append(message)
            else:
                self._out.append(Store(pull.number, message.position, stop))
                self._arrived(pull, stop, now)
            self._go_on(pull, now)

    def _refused(self, pull: State, cause: Cause, now: float) -> None:
        self._forget_conversation(pull)
        if cause is Cause.BUSY and pull.state is not Pull.BROKEN:
            self._broken(pull, cause, now)
        else:
            self._end(pull, Ending.FAILED, cause, now)

    # --- What follows ---

    def _start(self, pull: State, now: float) -> None:
        """Its turn. The lease counts at this moment only: from here on the generation says what is true."""
        self._running += 1
        pull.heard = now
        if pull.whole:
            pull.state = after(PULL, pull.state, PullVerb.READ)
            self._links.need(pull.wanted.plane, (), pull.number)
            self._wake(pull, now)
        else:
            pull.state = after(PULL, pull.state, PullVerb.START)
            self._converse(pull, now)
        self._go_on(pull, now)

    def _converse(self, pull: State, now: float) -> None:
        """Open a conversation, on a link that may have to be dialled first."""
        self._names += 1
        pull.conversation = self._names
        self._conversations[self._names] = pull
        pull.told = pull.position
        pull.limit = min(pull.wanted.size, pull.position + self._window())
        wanted = pull.wanted
        self._links.need(wanted.plane, wanted.addresses, pull.number)
        message = wire.Pull(
            *(pull.conversation, wanted.plane, wanted.offer, wanted.generation, pull.position, pull.limit),
            payload=not pull.direct,
            checksum=wanted.checksum,
        )
        self._links.tell(wanted.plane, message)
        self._wake(pull, now)

    def _go_on(self, pull: State, now: float) -> None:
        """Finish, move on, or give credit."""
        if pull.state is Pull.SETTLING or pull.move:
            return
        if pull.position == pull.wanted.size:
            self._end(pull, Ending.DONE, Cause.COMPLETE, now)
        elif not pull.direct:
            self._give_credit(pull)
        elif pull.wanted.checksum:
            if pull.pieces:
                piece = pull.pieces.popleft()
                self._move(pull, piece.position + piece.size, piece.checksum)
            self._give_credit(pull)
        elif pull.position < pull.ready:
            self._move(pull, pull.ready, None)

    def _move(self, pull: State, stop: int, checksum: int | None) -> None:
        self._names += 1
        pull.move = self._names
        way = pull.wanted.ways[pull.way]
        self._out.append(Move(pull.number, pull.move, way, pull.position, stop, checksum))

    def _give_credit(self, pull: State) -> None:
        window = self._window()
        limit = min(pull.wanted.size, pull.position + window)
        grown = limit - pull.limit
        enough = grown * 2 >= window or (grown > 0 and limit == pull.wanted.size)
        if pull.conversation and enough:
            pull.limit = limit
            self._links.tell(pull.wanted.plane, wire.Credit(pull.conversation, limit, pull.position))

    def _window(self) -> int:
        """What one pull may be owed, of what all may be owed."""
        return min(limits.WINDOW_BYTES, limits.WINDOWS_BYTES // max(1, self._running))

    def _arrived(self, pull: State, position: int, now: float) -> None:
        pull.position = position
        pull.tries = 0
        pull.heard = now
        self._out.append(Progressed(pull.number, position))

    def _move_failed(self, pull: State, cause: Cause, now: float) -> None:
        if cause is Cause.UNREACHABLE and pull.way + 1 < len(pull.wanted.ways):
            self._count(f"ways.failed.{pull.wanted.ways[pull.way]}")
            self._hang_up(pull)
            pull.way += 1
            if pull.state is not Pull.BROKEN:
                pull.state = after(PULL, pull.state, PullVerb.BREAK)
            self._retry(pull, now)
        elif cause is Cause.CORRUPT:
            self._break(pull, cause, now)
        else:
            self._end(pull, Ending.FAILED, cause, now)

    def _break(self, pull: State, cause: Cause, now: float) -> None:
        """This conversation is no good. Direct moves that need no word of the owner go on without it."""
        self._hang_up(pull)
        if pull.state is not Pull.BROKEN:
            self._broken(pull, cause, now)

    def _broken(self, pull: State, cause: Cause, now: float) -> None:
        pull.state = after(PULL, pull.state, PullVerb.BREAK)
        pull.tries += 1
        self._count(f"pulls.broken.{cause.label}")
        if pull.tries > limits.TRIES_MAX and not pull.move:
            self._end(pull, Ending.FAILED, cause, now)
        else:
            self._wait(pull, now)

    def _wait(self, pull: State, now: float) -> None:
        wait_s = limits.BACKOFF_S * 2 ** min(pull.tries, DOUBLINGS_MAX)
        self._timers.set(pull.number, min(pull.deadline, now + wait_s))

    def _retry(self, pull: State, now: float) -> None:
        pull.state = after(PULL, pull.state, PullVerb.RETRY)
        self._converse(pull, now)
        self._go_on(pull, now)

    def _foul(self, pull: State, text: str, now: float) -> None:
        """The owner broke the protocol: this link is cut, and everything on it."""
        self._count("links.fouled")
        self._lose(self._links.number_of(pull.wanted.plane), text, now)

    # --- Ends ---

    def _end(self, pull: State, ending: Ending, cause: Cause, now: float) -> None:
        """Decide the end; tell it when nobody writes any more."""
        self._hang_up(pull, ending is Ending.DONE)
        if pull.state is not Pull.WAITING:
            self._running -= 1
        elif pull.number in self._waiting:
            self._waiting.remove(pull.number)
        pull.ending, pull.cause = ending, cause
        if pull.move:
            pull.state = after(PULL, pull.state, PullVerb.HOLD)
            self._timers.clear(pull.number)
            self._out.append(Halt(pull.number, pull.move))
        else:
            pull.state = after(PULL, pull.state, PullVerb.END)
            self._over(pull, now)
        self._start_next(now)

    def _settled(self, pull: State, now: float) -> None:
        pull.state = after(PULL, pull.state, PullVerb.SETTLED)
        self._over(pull, now)

    def _over(self, pull: State, now: float) -> None:
        del self._pulls[pull.number]
        self._timers.clear(pull.number)
        self._links.release(pull.wanted.plane, pull.number, now)
        self.ended += 1
        self._count(f"pulls.{pull.ending}.{pull.cause.label}")
        way = pull.wanted.ways[pull.way]
        self._out.append(Ended(pull.number, pull.ending, pull.cause, TEXTS[pull.cause], pull.position, way))

    def _start_next(self, now: float) -> None:
        """Fill the empty seats. One that ends as it starts leaves its seat to this same loop."""
        if self._starting:
            return
        self._starting = True
        while self._waiting and self._running < limits.PULLS_RUNNING_MAX:
            self._start(self._pulls[self._waiting.popleft()], now)
        self._starting = False

    # --- Leaves ---

    def _hang_up(self, pull: State, complete: bool = False) -> None:
        wanted = pull.wanted
        if pull.conversation:
            self._links.tell(wanted.plane, wire.Stop(pull.conversation, complete), late=complete)
        elif complete:
            self._links.need(wanted.plane, wanted.addresses, pull.number)
            self._links.tell(wanted.plane, wire.Fetched(wanted.plane, wanted.offer, wanted.generation), late=True)
        self._forget_conversation(pull)

    def _forget_conversation(self, pull: State) -> None:
        self._conversations.pop(pull.conversation, None)
        pull.conversation = 0
        pull.pieces = deque()

    def _pulse(self, pull: State, now: float) -> None:
        if pull.conversation:
            credit = wire.Credit(pull.conversation, pull.limit, pull.position, pulse=True)
            self._links.tell(pull.wanted.plane, credit)
        self._wake(pull, now)

    def _wake(self, pull: State, now: float) -> None:
        self._timers.set(pull.number, min(pull.deadline, pull.silent_at(), now + limits.PULSE_S))

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def check(self) -> None:
        """Assert every invariant."""
        running = [pull for pull in self._pulls.values() if pull.state not in (Pull.WAITING, Pull.SETTLING)]
        assert len(running) == self._running <= limits.PULLS_RUNNING_MAX
        waiting = [pull.number for pull in self._pulls.values() if pull.state is Pull.WAITING]
        assert sorted(waiting) == sorted(self._waiting)
        assert not self._waiting or self._running == limits.PULLS_RUNNING_MAX, "a pull waits beside an empty seat"
        for pull in self._pulls.values():
            pull.check()
            assert not pull.conversation or self._conversations[pull.conversation] is pull
        assert len(self._conversations) == sum(1 for pull in self._pulls.values() if pull.conversation)
        self._links.check()
