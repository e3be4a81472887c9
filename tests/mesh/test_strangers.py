"""Strikes and fences, and that neither table can be filled by who wants to."""

from mesh.strangers import Strangers
from proto import limits


def test_three_strikes_mute() -> None:
    strangers = Strangers()
    for _ in range(limits.STRIKES_MAX):
        assert not strangers.muted(b"z")
        strangers.strike(b"z")
    assert strangers.muted(b"z")
    assert not strangers.muted(b"y")


def test_a_flood_of_connections_is_forgotten_oldest_first() -> None:
    strangers = Strangers()
    for _ in range(limits.STRIKES_MAX):
        strangers.strike(b"first")
    for number in range(limits.STRANGERS_MAX - 1):
        strangers.strike(b"%d" % number)
    assert strangers.muted(b"first")
    strangers.strike(b"one more")
    assert not strangers.muted(b"first")
    strangers.check()


def test_who_goes_on_stays_remembered() -> None:
    strangers = Strangers()
    for number in range(2 * limits.STRANGERS_MAX):
        strangers.strike(b"%d" % number)
        if number % (limits.STRANGERS_MAX * 6 // 10) == 0:
            strangers.strike(b"loud")
    assert strangers.muted(b"loud")


def test_a_fence_knows_whose_session_it_was() -> None:
    strangers = Strangers()
    assert strangers.fenced(b"z") is None
    strangers.fence(b"z", 7, 70)
    assert strangers.fenced(b"z") == (7, 70)


def test_fences_are_bounded_oldest_first() -> None:
    strangers = Strangers()
    for number in range(limits.FENCES_MAX + 1):
        strangers.fence(b"%d" % number, number, number)
    assert strangers.fenced(b"0") is None
    assert strangers.fenced(b"1") == (1, 1)
    strangers.check()
