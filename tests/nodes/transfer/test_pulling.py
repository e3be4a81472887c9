"""The puller's core: how each way goes on, and how each end comes."""

from math import inf

import pytest

from nodes.transfer import limits, wire
from nodes.transfer.causes import Cause, Ending, Way
from nodes.transfer.moves import (
    Begin,
    Cancel,
    Dial,
    Effect,
    Ended,
    Event,
    Forget,
    Halt,
    Hang,
    Heard,
    LinkDown,
    Move,
    Moved,
    Store,
    Tell,
    Tick,
)
from nodes.transfer.pulling import Pulling

CHUNK = limits.PIECE_BYTES
SIZE = 4 * CHUNK


class Puller:
    """A core, its clock, and what it said last."""

    def __init__(self) -> None:
        self.core, self.now, self.link, self.talk = Pulling(), 0.0, 0, 0
        self.ends: list[Ended] = []
        self.moves: list[Move] = []

    def tell(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        self.core.check()
        for effect in effects:
            match effect:
                case Dial():
                    self.link = effect.link
                case Tell(message=wire.Pull() as message):
                    self.talk = message.pull
                case Ended():
                    self.ends.append(effect)
                case Move():
                    self.moves.append(effect)
        return effects

    def begin(
        self, *ways: Way, pull: int = 1, ready: int = SIZE, checksum: bool = False, **other: object
    ) -> list[Effect]:
        fields = {"size": SIZE, "lease_s": 30.0, "timeout_s": inf, "addresses": ("a", "b"), **other}
        fields |= {"offer": 5, "generation": 2, "ready": ready, "ways": ways, "checksum": checksum}
        return self.tell(Begin(pull, 9, **fields))  # type: ignore[arg-type]

    def hears(self, message: wire.Answered, payload_bytes: int = 0, intact: bool = True) -> list[Effect]:
        return self.tell(Heard(self.link, message, payload_bytes, intact))

    def piece(self, position: int, size: int = CHUNK, intact: bool = True) -> list[Effect]:
        return self.hears(wire.Piece(self.talk, position, size), size, intact)

    def ready(self, ready: int = SIZE) -> list[Effect]:
        return self.hears(wire.Ready(self.talk, ready, 1000))

    def after(self, seconds: float) -> list[Effect]:
        """Time passes, with every tick that is wanted."""
        end, seen = self.now + seconds, []
        while self.core.deadline() <= end:
            self.now = max(self.now, self.core.deadline())
            seen += self.tell(Tick())
        self.now = end
        return seen


@pytest.fixture
def puller() -> Puller:
    return Puller()


def test_bulk_goes_piece_by_piece_and_says_when_it_is_complete(puller: Puller) -> None:
    dialled, asked = puller.begin(Way.BULK)
    assert dialled == Dial(1, "a")
    assert asked == Tell(1, wire.Pull(1, 9, 5, 2, 0, SIZE, payload=True, checksum=False))
    for position in range(0, SIZE, CHUNK):
        effects = puller.piece(position)
        assert effects[0] == Store(1, position, position + CHUNK)
    assert effects[-2] == Tell(1, wire.Stop(1, complete=True), late=True), "whoever waits goes first"
    assert [(end.ending, end.position) for end in puller.ends] == [(Ending.DONE, SIZE)]
    assert puller.piece(SIZE) == [], "what comes late is not heard"


def test_a_piece_out_of_place_cuts_the_link_and_it_goes_on_over_another(puller: Puller) -> None:
    puller.begin(Way.BULK)
    puller.ready()
    puller.piece(0)
    for position, size, checksum in ((2 * CHUNK, CHUNK, None), (0, CHUNK, None), (CHUNK, 0, None), (CHUNK, CHUNK, 1)):
        effects = puller.hears(wire.Piece(puller.talk, position, size, checksum), size)
        assert isinstance(effects[0], Hang) and effects[0].text, (position, size, checksum)
        asked = next(effect.message for effect in puller.after(1.0) if isinstance(effect, Tell))
        assert isinstance(asked, wire.Pull) and asked.start == CHUNK
        puller.ready()
        puller.core._pulls[1].tries = 0
    assert not puller.ends


def test_a_payload_of_another_length_is_foul(puller: Puller) -> None:
    puller.begin(Way.BULK)
    puller.ready()
    assert isinstance(puller.hears(wire.Piece(puller.talk, 0, CHUNK), CHUNK - 1)[0], Hang)


def test_damaged_bytes_are_asked_for_again_and_again_but_not_for_ever(puller: Puller) -> None:
    puller.begin(Way.BULK, checksum=True)
    for _ in range(limits.TRIES_MAX + 1):
        assert not puller.ends
        puller.ready()
        puller.hears(wire.Piece(puller.talk, 0, CHUNK, checksum=1), CHUNK, intact=False)
        puller.after(1.0)
    assert [end.cause for end in puller.ends] == [Cause.CORRUPT]


def test_a_direct_move_needs_no_answer_and_more_follows_when_it_is_ready(puller: Puller) -> None:
    puller.begin(Way.SHARED, ready=CHUNK)
    assert [(move.start, move.stop) for move in puller.moves] == [(0, CHUNK)]
    puller.ready(2 * CHUNK)
    assert len(puller.moves) == 1, "one move at a time"
    puller.tell(Moved(1, puller.moves[0].move, CHUNK, over=True))
    assert (puller.moves[1].start, puller.moves[1].stop) == (CHUNK, 2 * CHUNK)
    puller.tell(Moved(1, puller.moves[1].move, 2 * CHUNK, over=True))
    assert len(puller.moves) == 2
    puller.ready()
    puller.tell(Moved(1, puller.moves[2].move, SIZE, over=True))
    assert puller.ends[0].ending is Ending.DONE


def test_what_is_all_there_is_read_first_and_its_owner_told_afterwards(puller: Puller) -> None:
    effects = puller.begin(Way.SHARED)
    assert effects == [Move(1, puller.moves[0].move, Way.SHARED, 0, SIZE, None)]
    effects = puller.tell(Moved(1, puller.moves[0].move, SIZE, over=True))
    assert [effect for effect in effects if isinstance(effect, Dial | Tell)] == [
        Dial(1, "a"),
        Tell(1, wire.Fetched(9, 5, 2), late=True),
    ]
    assert puller.ends[0].ending is Ending.DONE


def test_a_reading_that_lasts_tells_its_owner_and_goes_on(puller: Puller) -> None:
    puller.begin(Way.SHARED)
    effects = puller.after(limits.PULSE_S)
    assert effects == [Dial(1, "a"), Tell(1, wire.Pull(puller.talk, 9, 5, 2, 0, SIZE, payload=False))]
    puller.ready()
    effects = puller.tell(Moved(1, puller.moves[0].move, SIZE, over=True))
    assert Tell(1, wire.Stop(puller.talk, complete=True), late=True) in effects
    assert len(puller.moves) == 1 and puller.ends[0].ending is Ending.DONE


def test_what_was_read_in_vain_is_not_told(puller: Puller) -> None:
    puller.begin(Way.SHARED)
    effects = puller.tell(Moved(1, puller.moves[0].move, 0, over=True, cause=Cause.STALE))
    assert [type(effect) for effect in effects] == [Ended] and puller.ends[0].cause is Cause.STALE


def test_an_end_waits_until_the_copying_thread_has_let_go(puller: Puller) -> None:
    puller.begin(Way.SHARED)
    move = puller.moves[0].move
    assert Halt(1, move) in puller.tell(Cancel(1))
    assert not puller.ends
    puller.tell(Cancel(1))
    puller.tell(Moved(1, move, CHUNK, over=False))
    puller.tell(Moved(1, 99, SIZE, over=True))
    assert not puller.ends, "it may still write"
    puller.tell(Moved(1, move, CHUNK, over=True, cause=Cause.CANCELLED))
    puller.tell(Cancel(1))
    assert [end.ending for end in puller.ends] == [Ending.CANCELLED]


def test_with_checksums_the_owner_says_what_to_move(puller: Puller) -> None:
    puller.begin(Way.SHARED, checksum=True)
    puller.ready()
    assert not puller.moves
    for position in (0, CHUNK):
        puller.hears(wire.Piece(puller.talk, position, CHUNK, checksum=position + 7))
    assert [(move.start, move.stop, move.checksum) for move in puller.moves] == [(0, CHUNK, 7)]
    puller.tell(Moved(1, puller.moves[0].move, CHUNK, over=True))
    assert puller.moves[1].checksum == CHUNK + 7


def test_a_broken_link_is_not_replaced_while_a_piece_is_moved_and_compared(puller: Puller) -> None:
    """Its successor would be asked for the same piece again."""
    puller.begin(Way.SHARED, checksum=True)
    puller.ready()
    puller.hears(wire.Piece(puller.talk, 0, CHUNK, checksum=7))
    puller.tell(LinkDown(1))
    assert not [effect for effect in puller.after(1.0) if isinstance(effect, Dial)]
    puller.tell(Moved(1, puller.moves[0].move, CHUNK, over=True))
    asked = next(effect.message for effect in puller.after(5.0) if isinstance(effect, Tell))
    assert isinstance(asked, wire.Pull) and asked.start == CHUNK


def test_where_one_way_does_not_lead_the_next_one_does(puller: Puller) -> None:
    puller.begin(Way.SHARED, Way.BULK)
    effects = puller.tell(Moved(1, puller.moves[0].move, 0, over=True, cause=Cause.UNREACHABLE))
    (asked,) = [effect.message for effect in effects if isinstance(effect, Tell)]
    assert isinstance(asked, wire.Pull) and asked.payload
    puller.ready()
    puller.piece(0, SIZE)
    assert (puller.ends[0].ending, puller.ends[0].way) == (Ending.DONE, Way.BULK)


@pytest.mark.parametrize("cause", [Cause.STALE, Cause.UNREACHABLE])
def test_what_cannot_be_moved_fails(puller: Puller, cause: Cause) -> None:
    puller.begin(Way.SHARED)
    puller.tell(Moved(1, puller.moves[0].move, 0, over=True, cause=cause))
    assert [(end.ending, end.cause) for end in puller.ends] == [(Ending.FAILED, cause)]


def test_links_that_break_are_replaced_at_other_addresses_a_few_times(puller: Puller) -> None:
    puller.begin(Way.BULK)
    dialled = []
    for link in range(1, limits.TRIES_MAX + 2):
        assert not puller.ends
        puller.tell(LinkDown(link))
        dialled += [effect.address for effect in puller.after(1.0) if isinstance(effect, Dial)]
    assert dialled == ["b", "a", "b"]
    assert [end.cause for end in puller.ends] == [Cause.LOST]


def test_silence_ends_a_pull_but_pulses_keep_it(puller: Puller) -> None:
    puller.begin(Way.BULK, ready=0)
    for _ in range(20):
        puller.after(1.0)
        puller.ready(0)
    assert not puller.ends
    pulses = [effect for effect in puller.after(limits.STALL_S) if isinstance(effect, Tell)]
    assert len(pulses) >= 4
    assert [end.cause for end in puller.ends] == [Cause.STALLED]


def test_its_own_time_and_the_lease_end_a_pull(puller: Puller) -> None:
    puller.begin(Way.BULK, ready=0, timeout_s=1.5)
    puller.after(2.0)
    puller.begin(Way.BULK, pull=2, lease_s=0.0)
    assert [end.cause for end in puller.ends] == [Cause.DEADLINE, Cause.EXPIRED]


def test_the_owner_may_refuse_and_a_busy_one_is_asked_again(puller: Puller) -> None:
    puller.begin(Way.BULK)
    puller.hears(wire.Refused(puller.talk, Cause.BUSY))
    puller.after(0.5)
    assert not puller.ends
    puller.hears(wire.Refused(puller.talk, Cause.WITHDRAWN))
    assert [end.cause for end in puller.ends] == [Cause.WITHDRAWN]


def test_more_pulls_than_seats_wait_their_turn_and_empty_ones_cost_no_stack(puller: Puller) -> None:
    for pull in range(1, limits.PULLS_RUNNING_MAX + 1):
        puller.begin(Way.BULK, pull=pull)
    for pull in range(100, 100 + 3000):
        puller.core.handle(
            Begin(pull, 9, ("a",), 5, 2, 0, 0, 30.0, inf, (Way.BULK,)),
            puller.now,
        )
    assert puller.core.pulls == 3000 + limits.PULLS_RUNNING_MAX
    puller.tell(Cancel(1))
    assert puller.core.pulls == limits.PULLS_RUNNING_MAX - 1
    assert [end.ending for end in puller.ends[:2]] == [Ending.CANCELLED, Ending.DONE]


def test_credit_is_a_window_and_all_windows_are_bounded(puller: Puller) -> None:
    size = 2**40
    for pull in range(1, limits.PULLS_RUNNING_MAX + 1):
        puller.begin(Way.BULK, pull=pull, size=size, ready=size)
    states = puller.core._pulls.values()
    assert sum(state.limit for state in states) <= limits.WINDOWS_BYTES * 5 / 2  # those who came first have more
    assert next(state.limit for state in states) == limits.WINDOW_BYTES


def test_an_idle_link_is_closed_and_its_memory_given_back(puller: Puller) -> None:
    puller.begin(Way.BULK)
    puller.tell(Cancel(1))
    assert puller.after(limits.LINK_IDLE_S + 1) == [Hang(1), Forget(9)]
    assert puller.core.deadline() == inf


def test_memory_of_a_dead_process_is_given_back_at_once(puller: Puller) -> None:
    puller.begin(Way.BULK)
    puller.tell(Cancel(1))
    puller.tell(LinkDown(1))
    assert puller.after(0.0) == [Forget(9)]
