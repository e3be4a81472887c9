"""Addresses of nobody known: asked, asked again, and left alone while their node lives."""

from random import Random

import pytest

from mesh.seeds import Seeds
from proto import limits

HERE, THERE = "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"


class Probes:
    """Who was asked, and which sessions were closed."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed: list[int] = []
        self.seeds = Seeds(Random(1), self.probe, self.closed.append)

    def probe(self, address: str) -> int:
        self.asked.append(address)
        return len(self.asked)

    def wait(self, seconds: float, now: float = 0.0) -> float:
        """Tick at every deadline until then; the time."""
        end = now + seconds
        while self.seeds.deadline() <= end:
            now = max(now, self.seeds.deadline())
            self.seeds.tick(now)
            self.seeds.check()
        return end


@pytest.fixture
def probes() -> Probes:
    return Probes()


def test_a_seed_is_asked_at_once_and_only_once_however_often_it_is_given(probes: Probes) -> None:
    for _ in range(3):
        probes.seeds.add(HERE, 0.0)
    probes.seeds.tick(0.0)
    assert probes.asked == [HERE]
    assert probes.seeds.address_of(1) == HERE and not probes.seeds.address_of(2)


def test_an_answer_ends_the_probe(probes: Probes) -> None:
    probes.seeds.add(HERE, 0.0)
    probes.seeds.tick(0.0)
    assert probes.seeds.welcomed(1, node=7)
    assert probes.closed == [1]
    assert probes.seeds.addresses() == {HERE: 7}
    probes.wait(100.0)
    assert probes.asked == [HERE]


def test_an_answer_to_something_else_is_none(probes: Probes) -> None:
    probes.seeds.add(HERE, 0.0)
    probes.seeds.tick(0.0)
    assert not probes.seeds.welcomed(99, node=7)
    assert not probes.seeds.link_down(99, 0.0)
    assert probes.closed == []


def test_silence_ends_a_probe_and_another_one_follows(probes: Probes) -> None:
    probes.seeds.add(HERE, 0.0)
    probes.seeds.tick(0.0)
    probes.seeds.tick(limits.HANDSHAKE_S - 0.01)
    assert probes.closed == []
    now = probes.wait(limits.HANDSHAKE_S + limits.BACKOFF_BASE_S * 2)
    assert probes.closed == [1] and probes.asked == [HERE, HERE]
    assert not probes.seeds.welcomed(1, node=7), "too late"
    assert probes.seeds.link_down(2, now)
    assert probes.closed == [1, 2]


def test_a_dead_seed_is_asked_for_ever_but_ever_more_rarely(probes: Probes) -> None:
    probes.seeds.add(HERE, 0.0)
    probes.wait(300.0)
    pause = limits.HANDSHAKE_S + limits.BACKOFF_MAX_S
    assert 300 / pause <= len(probes.asked) <= 300 / (limits.HANDSHAKE_S + limits.BACKOFF_MAX_S / 4)


def test_when_its_node_is_gone_a_seed_is_asked_again(probes: Probes) -> None:
    """A node restarts under the same address with another id."""
    for address in (HERE, THERE):
        probes.seeds.add(address, 0.0)
    probes.seeds.tick(0.0)
    probes.seeds.welcomed(1, node=7)
    probes.seeds.welcomed(2, node=8)
    probes.seeds.peer_lost(7, 50.0)
    assert probes.seeds.addresses() == {HERE: 0, THERE: 8}
    probes.wait(limits.BACKOFF_BASE_S, now=50.0)
    assert probes.asked == [HERE, THERE, HERE]


def test_our_own_address_is_forgotten(probes: Probes) -> None:
    probes.seeds.add(HERE, 0.0)
    probes.seeds.tick(0.0)
    probes.seeds.forget(HERE)
    probes.seeds.forget(THERE)
    assert probes.closed == [1] and probes.seeds.addresses() == {}
    probes.wait(100.0)
    assert probes.asked == [HERE]


def test_seeds_are_bounded(probes: Probes) -> None:
    for number in range(limits.RECORDS_MAX + 5):
        probes.seeds.add(f"tcp://10.0.0.1:{number}", 0.0)
    assert len(probes.seeds.addresses()) == limits.RECORDS_MAX


def test_a_pause_of_our_own_is_no_silence_of_theirs(probes: Probes) -> None:
    probes.seeds.add(HERE, 0.0)
    probes.seeds.tick(0.0)
    probes.seeds.forgive(10.0, 11.0)
    probes.seeds.tick(11.0)
    assert probes.closed == []
