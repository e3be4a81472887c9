"""One held leg: what credit lets out, and what a next holder is told."""

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import Leg
from mesh.held import Held
from proto import codec
from proto.errors import Reason
from proto.messages import Cancelled, End, Error, Fate, Migrate, Offer, Resume, Strength, Submit

NAME = Leg(1, 2, 3)


def held(limit: int = 100, resume: Resume | None = None, **changes: Any) -> Held:
    submit = Submit(2, 3, 0, limit, "a.b.c", resume=resume, **changes)
    tokens = list(codec.unpack(resume.tokens)) if resume else []
    return Held(NAME, submit, Offer("a.b.c", resumable=True), tokens, inf)


def sent(leg: Held) -> list[tuple[int, list[int], list[bytes], bytes | None]]:
    """All that credit lets out now."""
    stretches = []
    while (stretch := leg.take_stretch()) is not None:
        stretches.append(stretch)
        position, tokens, items, checkpoint = stretch
        leg.sent = position + (len(tokens) or len(items))
        if checkpoint is not None:
            leg.checkpoint, leg.checkpoint_position = checkpoint, leg.sent
    return stretches


def test_a_stretch_is_cut_where_credit_ends() -> None:
    leg = held(limit=3)
    leg.produce([], [b"a", b"b", b"c", b"d"])
    assert sent(leg) == [(0, [], [b"a", b"b", b"c"], None)]
    leg.limit = 3
    assert sent(leg) == []
    leg.limit = 9
    assert sent(leg) == [(3, [], [b"d"], None)]
    leg.check()


def test_a_checkpoint_waits_for_the_units_before_it() -> None:
    leg = held(limit=1)
    leg.produce([], [b"a", b"b"])
    leg.pending.append((leg.position, [], [], b"state"))
    assert sent(leg) == [(0, [], [b"a"], None)]
    assert leg.checkpoint == b""
    leg.limit = 2
    assert sent(leg) == [(1, [], [b"b"], None), (2, [], [], b"state")]
    assert (leg.checkpoint, leg.checkpoint_position) == (b"state", 2)


def test_a_checkpoint_needs_no_credit_of_its_own() -> None:
    leg = held(limit=0)
    leg.pending.append((0, [], [], b"at once"))
    assert sent(leg) == [(0, [], [], b"at once")]


@given(st.lists(st.integers(0, 7)), st.lists(st.integers(0, 40)))
def test_nothing_is_lost_repeated_or_beyond_credit(batches: list[int], limits: list[int]) -> None:
    leg = held(limit=0)
    got: list[int] = []
    units = iter(range(10**6))
    made = 0
    for turn in range(max(len(batches), len(limits))):
        if turn < len(batches):
            leg.produce([next(units) for _ in range(batches[turn])], [])
            made += batches[turn]
        if turn < len(limits):
            leg.limit = max(leg.limit, limits[turn])
        for position, tokens, _, _ in sent(leg):
            assert position == len(got)
            got += tokens
        assert got == list(range(len(got)))
        assert len(got) == min(made, leg.limit)
        leg.check()


def test_it_goes_on_where_the_last_holder_stopped() -> None:
    leg = held(resume=Resume(3, [7, 8, 9]), prompt=[1, 2])
    start = leg.start()
    assert (start.position, start.tokens, start.prompt, start.state) == (3, [7, 8, 9], [1, 2], b"")
    leg.produce([10], [])
    assert sent(leg) == [(3, [10], [], None)]


def test_it_goes_on_from_a_checkpoint() -> None:
    start = held(resume=Resume(5, state=b"five")).start()
    assert (start.position, start.tokens, start.state) == (5, [], b"five")


def test_a_migrate_carries_what_credit_held_back() -> None:
    leg = held(limit=1, prompt=[1])
    leg.produce([7, 8, 9], [])
    sent(leg)
    leg.pending.clear()
    assert leg.migrate(Reason.DRAIN) == Migrate(2, 3, 1, int(Reason.DRAIN), Resume(3, [7, 8, 9]))


def test_a_migrate_carries_the_last_checkpoint_that_was_sent() -> None:
    leg = held(limit=2)
    leg.produce([], [b"a"])
    leg.pending.append((1, [], [], b"one"))
    leg.produce([], [b"b", b"c"])
    leg.pending.append((3, [], [], b"three"))
    sent(leg)
    leg.pending.clear()
    assert leg.migrate(Reason.DRAIN).resume == Resume(1, state=b"one")
    assert leg.migrate(Reason.DRAIN).position == 2


def test_a_migrate_of_what_never_started_carries_what_it_came_with() -> None:
    assert held().migrate(Reason.DRAIN).resume is None
    resume = Resume(5, state=b"five")
    assert held(resume=resume).migrate(Reason.DRAIN).resume == resume


@pytest.mark.parametrize(
    ("end", "word"),
    [
        ((Reason.COMPLETE, "", "", False), End(2, 3, 0, int(Reason.COMPLETE))),
        ((Reason.STOPPED, "", "", False), End(2, 3, 0, int(Reason.STOPPED))),
        (
            (Reason.FAILED, "ValueError", "no", True),
            Error(2, 3, 0, int(Reason.FAILED), True, "ValueError", "no"),
        ),
        ((Reason.DEADLINE, "", "", False), Error(2, 3, 0, int(Reason.DEADLINE))),
    ],
)
def test_its_last_word(end: tuple[Reason, str, str, bool], word: End | Error) -> None:
    leg = held()
    leg.end = end
    assert leg.last_word() == word


def test_each_cancel_has_its_answer() -> None:
    leg = held()
    leg.due = [Strength.STOP, Strength.KILL]
    assert leg.answers() == [
        Cancelled(2, 3, 0, int(Fate.FREED), int(Strength.STOP)),
        Cancelled(2, 3, 0, int(Fate.FREED), int(Strength.KILL)),
    ]


def test_who_can_resume() -> None:
    item = Held(NAME, Submit(2, 3, 0, 9, "a.b.c"), Offer("a.b.c"), [], inf)
    token = Held(NAME, Submit(2, 3, 0, 9, "a.b.c", prompt=[1]), Offer("a.b.c"), [], inf)
    assert not item.resumable() and not token.resumable(), "not yet running"
    for leg in (item, token):
        leg.state = type(leg.state).RUNNING
    assert not item.resumable() and token.resumable()
