"""Pure. Which network interfaces to use, and how an address that we bound is called from outside.

The wrong interface is the most common failure of discovery on a LAN, so the choice and its reasons are data that
can be shown.
"""

import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from mesh.discovery.plan import JoinRefused
from proto import limits

VIRTUAL = (
    "docker*",
    "br-*",
    "veth*",
    "virbr*",
    "cni*",
    "lxc*",
    "lxd*",
    "vboxnet*",
    "vmnet*",
    "flannel*",
    "cali*",
    "podman*",
)
LISTEN_MAX = limits.ADDRESSES_MAX - 1  # one is for ipc


class Interface(Struct, frozen=True):
    """One address of one interface."""

    name: str
    address: str  # without a scope


class Choice(Struct, frozen=True):
    """The interfaces to use, and why not the others."""

    chosen: tuple[Interface, ...]
    skipped: tuple[tuple[Interface, str], ...] = ()

    def describe(self) -> str:
        """`eth0 (192.0.2.2), ib0 (10.0.0.2)`."""
        return ", ".join(f"{interface.name} ({interface.address})" for interface in self.chosen) or "no interface"


class NoInterface(JoinRefused):
    """None of the machine's interfaces is the wanted one."""


def choose(interfaces: Sequence[Interface], wanted: Sequence[str] = ()) -> Choice:
    """The interfaces to use: those wanted by name, glob or address; otherwise all that lead out of this machine."""
    if wanted:
        return _choose_wanted(interfaces, wanted)
    reasons = [(interface, _objection(interface)) for interface in interfaces]
    usable = [interface for interface, reason in reasons if not reason]
    skipped = [(interface, reason) for interface, reason in reasons if reason]
    if not usable:
        usable = [interface for interface in interfaces if interface.address == "127.0.0.1"]
        skipped = [(interface, reason) for interface, reason in skipped if interface not in usable]
    chosen, rest = _first_of_each(usable)
    return Choice(chosen, (*skipped, *((interface, "one address of an interface is enough") for interface in rest)))


def _choose_wanted(interfaces: Sequence[Interface], wanted: Sequence[str]) -> Choice:
    chosen = []
    for pattern in wanted:
        matches = [each for each in interfaces if each.address == pattern or fnmatchcase(each.name, pattern)]
        if not matches:
            names = ", ".join(f"{each.name} ({each.address})" for each in interfaces) or "none"
            raise NoInterface(f"no interface is called {pattern!r} or has that address; this machine has: {names}")
        chosen += [each for each in matches if each.address == pattern or not _link_local_six(each.address)]
    unique = tuple(dict.fromkeys(chosen))[:LISTEN_MAX]
    return Choice(unique, tuple((each, "not asked for") for each in interfaces if each not in unique))


def _objection(interface: Interface) -> str:
    """Why an interface is not used by default."""
    if ipaddress.ip_address(interface.address).is_loopback:
        return "loopback"
    if any(fnmatchcase(interface.name, pattern) for pattern in VIRTUAL):
        return "of containers or virtual machines"
    if _link_local_six(interface.address):
        return "an IPv6 link-local address means nothing on another machine"
    return ""


def _link_local_six(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.version == 6 and parsed.is_link_local


def _first_of_each(usable: Sequence[Interface]) -> tuple[tuple[Interface, ...], list[Interface]]:
    """One IPv4 and one IPv6 address of each interface, IPv4 first, no more than a record can hold."""
    firsts: dict[tuple[int, str], Interface] = {}
    for interface in usable:
        firsts.setdefault((ipaddress.ip_address(interface.address).version, interface.name), interface)
    chosen = tuple(firsts[key] for key in sorted(firsts, key=lambda key: key[0]))[:LISTEN_MAX]
    return chosen, [interface for interface in usable if interface not in chosen]


def bind_address(interface: Interface) -> str:
    """Where to bind on this interface; the kernel picks the port."""
    return f"tcp://{_bracketed(interface.address)}:0"


def advertise(bound: str, interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """What to publish for an address that is bound: a wildcard becomes the concrete addresses behind it."""
    host, _, port = bound.removeprefix("tcp://").rpartition(":")
    if not bound.startswith("tcp://") or host not in ("0.0.0.0", "*", "[::]"):
        return (bound,)
    four_only = host == "0.0.0.0"
    usable = [each for each in choose(interfaces).chosen if not (four_only and ":" in each.address)]
    return tuple(f"tcp://{_bracketed(each.address)}:{port}" for each in usable)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
