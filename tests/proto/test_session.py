"""The life of a peer: the table, cell by cell, and what can be reached from where."""

import pytest

from proto.session import LIVE, PEER, Sign, State, step

DOWN = tuple(state for state in State if state not in LIVE)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("sign", Sign)
def test_every_cell(state: State, sign: Sign) -> None:
    """A sign that a state does not know changes nothing."""
    assert step(state, sign) is PEER.get((state, sign), state)


def reached(start: State) -> set[State]:
    found = {start}
    while True:
        more = {step(state, sign) for state in found for sign in Sign} - found
        if not more:
            return found
        found |= more


@pytest.mark.parametrize("state", State)
def test_from_everywhere_everything_can_be_reached(state: State) -> None:
    assert reached(state) == set(State)


@pytest.mark.parametrize("state", State)
def test_a_lost_session_is_never_live(state: State) -> None:
    assert step(state, Sign.LOST) in DOWN
    assert (step(state, Sign.LOST) is State.IDLE) == (state is State.IDLE)


@pytest.mark.parametrize("sign", Sign)
def test_only_a_handshake_makes_live(sign: Sign) -> None:
    for state in DOWN:
        assert step(state, sign) in DOWN or (state, sign) == (State.DIALLING, Sign.GREETED)


def test_only_progress_rehabilitates() -> None:
    assert {sign for sign in Sign if step(State.HUNG, sign) is State.UP} == {Sign.PROGRESS}


def test_any_message_ends_a_suspicion() -> None:
    assert {sign for sign in Sign if step(State.SUSPECT, sign) is State.UP} == {Sign.HEARD}


def test_a_dial_needs_a_rest_or_a_backoff_before_it() -> None:
    assert {state for state in State if step(state, Sign.DIAL) is State.DIALLING} == {
        State.IDLE,
        State.BACKOFF,
        State.DIALLING,
    }


# --- Two nodes that see each other --------------------------------------------------------------------


def test_two_views_of_a_pair_meet_again() -> None:
    """From every pair of views, signs that concern both, each at its own time, can bring both up."""
    pairs = {(State.IDLE, State.IDLE)}
    while True:
        more = {
            after for one, two in pairs for sign in Sign for after in ((step(one, sign), two), (one, step(two, sign)))
        } - pairs
        if not more:
            break
        pairs |= more
    assert len(pairs) == len(State) ** 2
    for one, two in pairs:
        lost = step(one, Sign.LOST), step(two, Sign.LOST)
        dialled = tuple(step(state, Sign.DIAL) for state in lost)
        assert tuple(step(state, Sign.GREETED) for state in dialled) == (State.UP, State.UP)
