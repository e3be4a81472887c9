"""The judge of session pairs: what is fine passes, and each way of keeping half of a void pair is noticed."""

from typing import Any

import pytest

from mesh.simulation.network import Link
from mesh.simulation.pairs import Pairs
from mesh.simulation.violation import Violation
from proto.basics import Message
from proto.messages import Bye, Hello, Record, Welcome


class Somebody:
    def __init__(self, label: str) -> None:
        self.label = label


ONE: Any = Somebody("one")
OTHER: Any = Somebody("other")
RECORD = Record(node=1, mesh="m", tag=b"", name="one", boot=1, host="h", addresses=[], endpoints=[])


def hello(session: int, destination: int = 2) -> Hello:
    return Hello(b"", 1, 1, session, destination, 1, RECORD, [], [], 500)


def welcome(session: int) -> Welcome:
    return Welcome(1, session, 1)


def said(*what: tuple[int, Message]) -> Pairs:
    """One says these to the other, each on the session of that number."""
    pairs, links = Pairs(), [Link(f"one>other#{number}", ONE, OTHER) for number in range(3)]
    for number, message in what:
        pairs.transmitted(links[number], message)
    return pairs


def test_what_is_fine() -> None:
    said((0, hello(5)), (0, welcome(7)), (0, Bye(0)))
    said((0, hello(5)), (0, welcome(7)), (0, welcome(8)), (0, Bye(0)))  # it dialled again before the pair was up
    said((0, hello(5)), (0, welcome(7)), (1, hello(6)), (1, welcome(7)), (1, Bye(0)))  # so did we
    said((0, hello(5)), (0, welcome(7)), (0, Bye(0)), (1, hello(6)), (1, welcome(8)), (1, Bye(0)))


def test_a_probe_never_gets_a_partner() -> None:
    pairs = said((1, hello(9, destination=0)), (0, hello(5)), (0, welcome(7)), (0, Bye(0)), (0, welcome(9)))
    assert not [session for session in pairs._newest.values() if session == 9]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ([(0, hello(5)), (0, Bye(0))], "before a session"),
        ([(0, hello(5)), (0, welcome(7)), (0, Bye(0)), (0, welcome(8))], "was joined"),
        ([(0, hello(5)), (0, welcome(7)), (0, Bye(0)), (1, hello(6)), (1, welcome(7))], "was void"),
        ([(0, hello(5)), (0, welcome(7)), (0, welcome(6))], "after the younger"),
    ],
)
def test_what_is_not(what: list[tuple[int, Message]], told: str) -> None:
    with pytest.raises(Violation, match=told):
        said(*what)
