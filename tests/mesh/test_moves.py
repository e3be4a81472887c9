"""Requests whose holder dies, hangs, stalls or skips: they go on elsewhere, without a lost or repeated unit."""

import pytest

from mesh.core import (
    Checkpointed,
    Failed,
    Halt,
    Produced,
    Progressed,
    Start,
    Yielded,
)
from proto import limits
from proto.errors import Reason
from proto.messages import Cancel, Chunk, End, Part, Submit
from tests.mesh.parties import begin, finish, three
from tests.pair import COUNT, ECHO, Wire

PROMPT = [1, 2, 3]


# --- The holder dies -----------------------------------------------------------------------------------


def test_items_go_on_from_the_last_checkpoint_without_a_lost_or_repeated_one(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire)
    wire.tell(holder, Produced(leg, [b"0", b"1"]))
    wire.tell(holder, Checkpointed(leg, b"two"))
    wire.tell(holder, Produced(leg, [b"2", b"3"]))
    wire.settle()
    wire.crash(holder)
    wire.settle()
    start = wire.did(other, Start)[0]
    assert (start.leg.attempt, start.position, start.state) == (2, 2, b"two")
    wire.tell(other, Produced(start.leg, [b"2", b"3", b"4"]))
    wire.settle()
    finish(wire, other)
    assert wire.delivered(client, request) == [b"0", b"1", b"2", b"3", b"4"]
    ended = wire.finished(client, request)
    assert ended is not None
    assert (ended.reason, ended.attempts, ended.nodes) == (Reason.COMPLETE, 2, (holder, other))
    assert wire.quiet()


def test_without_a_checkpoint_a_resumable_request_begins_again(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire)
    wire.tell(holder, Produced(leg, [b"0", b"1"]))
    wire.settle()
    wire.crash(holder)
    wire.settle()
    assert wire.did(other, Start)[0].position == 0
    wire.tell(other, Produced(wire.leg(other), [b"0", b"1", b"2"]))
    wire.settle()
    assert wire.delivered(client, request) == [b"0", b"1", b"2"]
    finish(wire, other)
    assert wire.reason(client, request) is Reason.COMPLETE


@pytest.mark.parametrize("count", [1, limits.TOKENS_PACKED_MIN, 500])
def test_tokens_go_on_from_the_last_one_delivered(wire: Wire, count: int) -> None:
    """A request with a prompt resumes on any endpoint: its tokens are all the state there is."""
    client, holder, other, request, leg = begin(wire, ECHO, prompt=PROMPT, window=10_000)
    made = list(range(count))
    wire.tell(holder, Produced(leg, tokens=made))
    wire.settle()
    wire.hold(holder, client)
    wire.tell(holder, Produced(leg, tokens=[9_999]))  # lost with its session
    wire.settle()
    wire.crash(holder)
    wire.settle()
    start = wire.did(other, Start)[0]
    assert (list(start.prompt), start.position, list(start.tokens)) == (PROMPT, count, made)
    wire.tell(other, Produced(start.leg, tokens=[7]))
    wire.settle()
    assert wire.delivered(client, request) == [*made, 7]
    finish(wire, other)
    ended = wire.finished(client, request)
    assert ended is not None and ended.moved_at == (count,), "from here on the tokens are somebody else's"


def test_what_cannot_resume_ends_as_lost_and_says_why(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire, ECHO)
    wire.tell(holder, Produced(leg, [b"0"]))
    wire.settle()
    wire.crash(holder)
    wire.settle()
    ended = wire.finished(client, request)
    assert ended is not None and ended.reason is Reason.LOST
    assert f"{holder:016x} was lost (link_lost) and {ECHO} cannot resume" in ended.text
    assert wire.delivered(client, request) == [b"0"] and not wire.did(other, Start) and wire.quiet()


def test_an_end_that_is_lost_with_its_session(wire: Wire) -> None:
    """All units are here, only the End is not: the next holder ends it again, after no further unit."""
    client, holder, other, request, leg = begin(wire)
    wire.tell(holder, Produced(leg, [b"0"]))
    wire.tell(holder, Checkpointed(leg, b"one"))
    wire.settle()
    wire.hold(holder, client)
    finish(wire, holder)
    assert isinstance(wire.under_way(holder, client)[-1], End)
    wire.crash(holder)
    wire.settle()
    start = wire.did(other, Start)[0]
    assert (start.position, start.state) == (1, b"one")
    finish(wire, other)
    assert wire.delivered(client, request) == [b"0"] and wire.reason(client, request) is Reason.COMPLETE


def test_a_submit_that_is_lost_with_its_session(wire: Wire) -> None:
    client, left, right = three(wire)
    for worker in (left, right):
        wire.hold(client, worker)
    request = wire.ask(client, COUNT)
    (holder,) = (worker for worker in (left, right) if wire.said(client, worker, Submit))
    other = left + right - holder
    wire.drop(client, holder)
    wire.release(client, other)
    assert wire.did(other, Start)[0].leg.attempt == 2 and not wire.did(holder, Start)
    assert wire.reason(client, request) is None


def test_the_owner_dies_while_two_hold_legs_of_it(wire: Wire) -> None:
    client, left, right = three(wire)
    for _ in range(4):
        wire.ask(client, COUNT)
    wire.crash(client)
    wire.settle()
    for worker in (left, right):
        legs = [start.leg for start in wire.did(worker, Start)]
        assert [halt.leg for halt in wire.did(worker, Halt)] == legs and len(legs) == 2
        for leg in legs:
            wire.tell(worker, Yielded(leg))
    assert wire.quiet()


def test_two_attempts_alive(wire: Wire) -> None:
    """A partition: the old holder goes on, the new one too, and the caller sees each position once."""
    client, old, new, request, leg = begin(wire)
    wire.hold(old, client)
    wire.hold(client, old)
    wire.advance(limits.DEAD_S + 0.6)
    (start,) = wire.did(new, Start)
    wire.tell(old, Produced(leg, [b"old 0", b"old 1"]))
    wire.tell(new, Produced(start.leg, [b"new 0"]))
    wire.settle()
    wire.release(old, client)
    wire.release(client, old)
    wire.advance(1.0)
    assert wire.did(old, Halt) == [Halt(leg)]
    wire.tell(old, Yielded(leg))
    wire.tell(new, Produced(start.leg, [b"new 1"]))
    wire.settle()
    finish(wire, new)
    assert wire.delivered(client, request) == [b"new 0", b"new 1"]
    wire.advance(10.0)
    assert wire.state(client, old) == "up" and wire.quiet()


def test_a_frozen_holder_that_wakes_is_told_and_frees_everything(wire: Wire) -> None:
    client, old, new, request, leg = begin(wire)
    wire.freeze(old)
    wire.advance(limits.DEAD_S + 1)
    assert wire.did(new, Start)
    wire.thaw(old)
    wire.tell(old, Produced(leg, [b"from the grave"]))
    wire.advance(2.0)
    assert wire.delivered(client, request) == [] and wire.did(old, Halt) == [Halt(leg)]


def test_a_request_that_loses_too_many_holders_gives_up(wire: Wire) -> None:
    client, holder, _, request, _ = begin(wire, moves_max=2)
    for _ in range(3):
        assert wire.reason(client, request) is None
        holder = next(
            node for node in (2, 3) if any(s.leg.attempt == attempt(wire, client) for s in wire.did(node, Start))
        )
        wire.drop(client, holder)
        wire.settle()
        wire.tell(holder, Yielded(wire.did(holder, Start)[-1].leg))
        wire.advance(6.0)
    ended = wire.finished(client, request)
    assert ended is not None and ended.reason is Reason.MOVED_TOO_OFTEN
    assert ended.text == "lost 3 instances, the last one because: link_lost" and ended.attempts == 3


def attempt(wire: Wire, client: int) -> int:
    """The newest attempt that a client has submitted."""
    return max(entry.message.attempt for entry in wire.sent if isinstance(entry.message, Submit))


def test_a_moved_request_waits_for_a_restart_longer_than_a_new_one(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.meet(client, worker)
    moved = wire.ask(client, COUNT)
    wire.crash(worker)
    fresh = wire.ask(client, COUNT)
    wire.advance(2.5)
    assert wire.reason(client, fresh) is Reason.UNAVAILABLE and wire.reason(client, moved) is None
    again = wire.worker()
    wire.meet(client, again)
    assert [start.leg.request for start in wire.did(again, Start)] == [moved]


def test_with_nobody_left_a_moved_request_ends(wire: Wire) -> None:
    client, worker = wire.client(), wire.worker()
    wire.meet(client, worker)
    request = wire.ask(client, COUNT)
    wire.crash(worker)
    wire.advance(31.0)
    assert wire.reason(client, request) is Reason.UNAVAILABLE


# --- Hangs, stalls, gaps and errors that may be retried ---------------------------------------------------


def test_a_hung_engine_loses_what_can_move_and_keeps_what_cannot(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire)
    wire.tell(holder, Progressed())
    fixed = [wire.ask(client, ECHO, pinned=holder, policy="direct") for _ in range(2)]
    wire.advance(limits.HUNG_S + 1.5)
    assert [start.leg.request for start in wire.did(other, Start)] == [request]
    assert [cancel.reason for cancel in wire.said(client, holder, Cancel)] == [Reason.MOVED]
    assert all(wire.reason(client, number) is None for number in fixed)
    wire.tell(holder, Yielded(leg))
    wire.tell(holder, Progressed())
    wire.advance(1.0)
    assert wire.state(client, holder) == "up"


def test_a_stalled_leg_moves(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire, stall_s=1.0)
    for _ in range(5):
        wire.advance(0.9)
        wire.tell(holder, Produced(leg, [b"x"]))
        wire.settle()
    assert not wire.did(other, Start)
    wire.advance(1.1)
    assert [start.leg.attempt for start in wire.did(other, Start)] == [2]
    assert wire.did(holder, Halt) == [Halt(leg)] and wire.reason(client, request) is None


def test_a_stalled_leg_that_cannot_move_ends(wire: Wire) -> None:
    client, holder, _, request, leg = begin(wire, ECHO, stall_s=1.0)
    wire.advance(1.1)
    assert wire.reason(client, request) is Reason.STALLED and wire.did(holder, Halt) == [Halt(leg)]


def test_a_gap_moves_the_request(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire)
    wire.forge(holder, client, Chunk([Part(request, 1, 1, [], [b"skipped one"])]))
    wire.settle()
    assert wire.delivered(client, request) == [] and wire.stat(client, "requests.gaps") == 1
    assert wire.did(other, Start) and wire.did(holder, Halt) == [Halt(leg)]


def test_an_end_after_units_that_never_came_is_a_gap(wire: Wire) -> None:
    client, holder, other, request, _ = begin(wire)
    wire.forge(holder, client, End(request, 1, 5))
    wire.settle()
    assert wire.reason(client, request) is None
    assert sum(submit.attempt == 2 for worker in (holder, other) for submit in wire.said(client, worker, Submit)) == 1


def test_a_repeat_is_dropped_and_an_overlap_is_cut(wire: Wire) -> None:
    client, holder, _, request, leg = begin(wire)
    wire.tell(holder, Produced(leg, [b"0", b"1"]))
    wire.settle()
    wire.forge(holder, client, Chunk([Part(request, 1, 0, [], [b"0"])]))
    wire.forge(holder, client, Chunk([Part(request, 1, 1, [], [b"1", b"2"])]))
    wire.settle()
    assert wire.delivered(client, request) == [b"0", b"1", b"2"]
    assert wire.stat(client, "requests.duplicates") == 1


def test_an_error_that_may_be_retried_is(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire)
    wire.tell(holder, Failed(leg, Reason.FAILED, "OutOfMemory", retryable=True))
    wire.settle()
    assert wire.reason(client, request) is None and wire.did(other, Start)[0].leg.attempt == 2
