"""The network keeps the session contract: in order, without gaps, an unknown suffix lost at the end."""

from random import Random
from typing import Any

import pytest

from mesh.simulation.clock import Clock
from mesh.simulation.network import Link, Network


class Somebody:
    """A process, as the network knows it."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.label = f"somebody{place}"
        self.addresses = (f"ipc:///{place}",)
        self.got: list[bytes] = []
        self.down: list[Link] = []

    def wake(self, call: Any, *arguments: Any) -> None:
        call(*arguments)

    def receive(self, link: Link) -> None:
        if link.queue:
            self.got.append(link.queue.popleft())

    def link_down(self, link: Link) -> None:
        self.down.append(link)


@pytest.fixture
def mesh() -> tuple[Clock, Network, Any, Any]:
    clock = Clock()
    network = Network(clock, 1)
    one, two = Somebody(0), Somebody(1)
    two_anyhow: Any = two
    network.listeners[two.addresses[0]] = two_anyhow
    return clock, network, one, two


FRAMES = [b"%d" % number for number in range(200)]


def test_all_of_it_in_order(mesh: tuple[Clock, Network, Any, Any]) -> None:
    clock, network, one, two = mesh
    link = network.open(one, "ipc:///1")
    for frame in FRAMES:
        network.send(link, frame)
    clock.run(5.0, 10_000)
    assert two.got == FRAMES


def test_a_partition_holds_and_then_gives(mesh: tuple[Clock, Network, Any, Any]) -> None:
    clock, network, one, two = mesh
    link = network.open(one, "ipc:///1")
    network.block(0, 1)
    for frame in FRAMES[:100]:
        network.send(link, frame)
    clock.run(2.0, 10_000)
    assert two.got == []
    network.unblock(0, 1)
    for frame in FRAMES[100:]:
        network.send(link, frame)
    clock.run(5.0, 10_000)
    assert two.got == FRAMES


def test_links_that_a_partition_held_are_in_no_order_when_it_heals(mesh: tuple[Clock, Network, Any, Any]) -> None:
    clock, network, one, two = mesh
    links = [network.open(one, "ipc:///1") for _ in range(12)]
    network.block(0, 1)
    for link in links:
        for number in range(3):
            network.send(link, link.zid + b" %d" % number)
    clock.run(1.0, 10_000)
    network.unblock(0, 1)
    for link in links:
        network.send(link, link.zid + b" 3")
    clock.run(3.0, 10_000)
    firsts = [frame for frame in two.got if frame.endswith(b" 0")]
    assert sorted(firsts) == sorted(link.zid + b" 0" for link in links)
    assert firsts != [link.zid + b" 0" for link in links]
    for link in links:
        mine = [frame for frame in two.got if frame.startswith(link.zid + b" ")]
        assert mine == [link.zid + b" %d" % number for number in range(4)]


@pytest.mark.parametrize("seed", range(8))
def test_a_reset_loses_a_suffix_and_is_told(mesh: tuple[Clock, Network, Any, Any], seed: int) -> None:
    clock, network, one, two = mesh
    network._random = Random(seed)
    link = network.open(one, "ipc:///1")
    for frame in FRAMES:
        network.send(link, frame)
    clock.run(0.01, 10_000)
    network.break_(link)
    network.send(link, b"never")
    clock.run(5.0, 10_000)
    assert two.got == FRAMES[: len(two.got)]
    assert one.down == [link]


def test_a_death_is_told_unless_nothing_gets_through(mesh: tuple[Clock, Network, Any, Any]) -> None:
    clock, network, one, two = mesh
    link = network.open(one, "ipc:///1")
    network.block(1, 0)
    network.die(two, graceful=False)
    clock.run(1.0, 1000)
    assert one.down == []
    network.unblock(1, 0)
    clock.run(2.0, 1000)
    assert one.down == [link]
    nobody = network.open(one, "ipc:///1")
    network.send(nobody, b"into the void")
    clock.run(3.0, 1000)
    assert nobody.target is None and one.down == [link], "nobody says that nobody listens"


def test_the_clock_keeps_the_order_of_equal_times() -> None:
    clock, seen = Clock(), []
    for number in range(50):
        clock.at(1.0, seen.append, number)
    assert clock.run(1.0, 100)
    assert (seen, clock.now) == (list(range(50)), 1.0)
    for _ in range(10):
        clock.at(0.5, seen.append, -1)  # what is past happens now
    assert not clock.run(2.0, 55), "more steps than allowed"
