"""Which interfaces are used, and why not the others."""

import pytest

from mesh.discovery.interfaces import Interface, NoInterface, advertise, bind_address, choose

LO = Interface("lo", "127.0.0.1")
LO6 = Interface("lo", "::1")
ETH = Interface("eth0", "192.0.2.2")
ETH_OTHER = Interface("eth0", "192.0.2.3")
ETH6 = Interface("eth0", "fd00::2")
LINK = Interface("eth0", "fe80::1")
IB = Interface("ib0", "10.0.0.2")
DOCKER = Interface("docker0", "172.17.0.1")
BRIDGE = Interface("br-12ab", "172.18.0.1")
ALL = (LO, LO6, DOCKER, LINK, ETH6, ETH, ETH_OTHER, IB, BRIDGE)


def test_what_leads_out_of_this_machine_is_chosen_and_the_rest_has_a_reason() -> None:
    choice = choose(ALL)
    assert choice.chosen == (ETH, IB, ETH6)
    assert {interface for interface, _ in choice.skipped} == {LO, LO6, DOCKER, ETH_OTHER, LINK, BRIDGE}
    assert all(reason for _, reason in choice.skipped)
    assert choice.describe() == "eth0 (192.0.2.2), ib0 (10.0.0.2), eth0 (fd00::2)"


def test_loopback_only_if_there_is_nothing_else_or_if_asked() -> None:
    assert choose((LO, LO6, DOCKER)).chosen == (LO,)
    assert choose(ALL, ["127.0.0.1"]).chosen == (LO,)
    assert choose((), ()).describe() == "no interface"


def test_names_globs_and_addresses() -> None:
    assert choose(ALL, ["ib*", "192.0.2.3"]).chosen == (IB, ETH_OTHER)
    assert choose(ALL, ["docker0"]).chosen == (DOCKER,)
    with pytest.raises(NoInterface, match=r"hsn.*this machine has: lo"):
        choose(ALL, ["hsn*"])


def test_a_record_has_room_for_all() -> None:
    many = [Interface(f"eth{index}", f"10.0.0.{index}") for index in range(20)]
    assert len(choose(many).chosen) == 7
    assert len(choose(many, ["eth*"]).chosen) == 7


def test_a_wildcard_is_published_as_the_addresses_behind_it() -> None:
    assert advertise("tcp://0.0.0.0:5", ALL) == ("tcp://192.0.2.2:5", "tcp://10.0.0.2:5")
    assert advertise("tcp://[::]:5", ALL) == ("tcp://192.0.2.2:5", "tcp://10.0.0.2:5", "tcp://[fd00::2]:5")
    assert advertise("tcp://192.0.2.3:5", ALL) == ("tcp://192.0.2.3:5",)
    assert advertise("ipc:///run/x", ALL) == ("ipc:///run/x",)


def test_where_to_bind() -> None:
    assert [bind_address(each) for each in (ETH, ETH6)] == ["tcp://192.0.2.2:0", "tcp://[fd00::2]:0"]
