"""Pure. Which addresses may be fetched: nothing, named hosts, or what is public. Names are checked, and then numbers.

A URL is taken apart once, here, and what is connected to is what was checked: a name is resolved once, each number is
judged, and the connection goes to the number. A redirect is a new URL.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

from nodes.media import limits
from nodes.media.content import MediaRefused

OFF, PUBLIC = "off", "public"
PORTS = {"http": 80, "https": 443}
# Nothing else: what two readers could read differently (backslashes, spaces, user names, controls) is out.
_URL = re.compile(
    r"(https?)://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?(/[!-~]*|\?[!-~]*)?", re.I
)
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_NAT64 = "64:ff9b::"


class Target(Struct, frozen=True):
    """A URL, taken apart."""

    scheme: str
    host: str  # without brackets
    port: int
    path: str  # with its query, without a fragment
    named: bool  # whether whoever runs this has named the host

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def refuse_rule(rule: str) -> None:
    """Raise ValueError for what is neither `off`, `public` nor a host."""
    if rule not in (OFF, PUBLIC) and _HOST.fullmatch(rule) is None:
        raise ValueError(f"{rule!r} is none of: off, public, HOST, HOST:PORT")


def target_of(url: str, allowed: Sequence[str]) -> Target:
    """A URL that may be fetched, if its numbers may. Raises MediaRefused."""
    if not allowed or allowed == (OFF,):
        raise MediaRefused("it is a link, and links are not fetched here: send the bytes as a data: URL")
    plain = url.partition("#")[0]
    found = _URL.fullmatch(plain) if len(plain) <= limits.URL_CHARS_MAX and "\\" not in plain else None
    if found is None:
        raise MediaRefused("it is no http or https URL that could be fetched")
    scheme, host = found[1].lower(), found[2].strip("[]").lower().rstrip(".")
    port = int(found[3] or PORTS[scheme])
    path = found[4] or "/"
    path = path if path.startswith("/") else "/" + path
    usual = port == PORTS[scheme]
    hosts = [rule.lower() for rule in allowed]
    shown = f"[{host}]" if ":" in host else host
    named = f"{shown}:{port}" in hosts or (usual and shown in hosts)
    if not named and not (PUBLIC in hosts and usual):
        raise MediaRefused("links to this host are not fetched here")
    return Target(scheme, host, port, path, named)


def may_connect(number: str, named: bool) -> bool:
    """Whether this number may be connected to. A host that was named may be a private one; a cloud's metadata never."""
    address = unwrapped(ip_address(number.partition("%")[0]))
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    return named or address.is_global


def unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if int(address) in _nat64():
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _nat64() -> range:
    """Numbers that a NAT64 gateway turns into IPv4."""
    first = int(IPv6Address(_NAT64))
    return range(first, first + 2**32)
