"""Pure. A record as the TXT entry of an mDNS service, and back.

The instance is named by the node id, which never changes; what people call the node is only an entry. What comes in
is junk until shown otherwise: `decode` gives a sighting or None and never raises.
"""

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from proto import limits
from proto.messages import Record

SERVICE = "_wiremesh._tcp.local."
TEXT_BYTES_MAX = 1_200  # with the other records it fits into one Ethernet frame
TEXT_BYTES_READ_MAX = 8_192  # the largest mDNS packet is not larger
ENTRIES_MAX = 64
ENTRY_BYTES_MAX = 255  # key, '=' and value: one length byte
NAME_BYTES_MAX = 63

_INSTANCE = re.compile(rf"([0-9a-f]{{16}})\.{re.escape(SERVICE)}")
_VERSIONS = re.compile(r"(\d{1,5})-(\d{1,5})")
_HEX = re.compile(r"[0-9a-f]{1,16}")


class Sighting(Struct, frozen=True):
    """What an mDNS instance says."""

    record: Record
    versions: tuple[int, int]


def instance_of(node: int) -> str:
    """The name of a node's service."""
    return f"{node:016x}.{SERVICE}"


def node_of(instance: str) -> int | None:
    """The node that a service is named after."""
    match = _INSTANCE.fullmatch(instance.lower())
    return int(match[1], 16) or None if match else None


def encode(record: Record, versions: tuple[int, int]) -> dict[bytes, bytes]:
    """The entries; endpoints that do not fit are left out, and `p` says so."""
    entries = {
        b"v": f"{versions[0]}-{versions[1]}".encode(),
        b"m": record.mesh.encode(),
        b"t": record.tag.hex().encode(),
        b"n": _cut(record.name, NAME_BYTES_MAX),
        b"b": f"{record.boot:x}".encode(),
        b"h": record.host.encode(),
    }
    addresses = [address for address in record.addresses if len(address) < ENTRY_BYTES_MAX - 3]
    entries |= {b"a%d" % index: address.encode() for index, address in enumerate(addresses)}
    lines, partial = _pack(record.endpoints, TEXT_BYTES_MAX - _size(entries))
    entries |= {b"e%d" % index: line for index, line in enumerate(lines)}
    return entries | {b"p": b"1"} if partial or record.partial else entries


def _pack(names: Sequence[str], room: int) -> tuple[list[bytes], bool]:
    """The names, comma by comma, in as few entries as possible; whether some did not fit."""
    lines: list[bytes] = []
    for name in names:
        encoded = name.encode()
        joined = lines[-1] + b"," + encoded if lines else encoded
        if not lines or len(joined) > ENTRY_BYTES_MAX - 4:
            joined, others = encoded, lines
        else:
            others = lines[:-1]
        if len(encoded) > ENTRY_BYTES_MAX - 4 or sum(len(line) + 5 for line in others) + len(joined) + 5 > room:
            return lines, True
        lines = [*others, joined]
    return lines, False


def _size(entries: Mapping[bytes, bytes]) -> int:
    return sum(len(key) + len(value) + 2 for key, value in entries.items())


def _cut(text: str, bytes_max: int) -> bytes:
    return text.encode()[:bytes_max].decode(errors="ignore").encode()


def decode(instance: str, entries: Mapping[bytes, bytes | None]) -> Sighting | None:
    """What an instance says, or None if it is no node of ours."""
    node = node_of(instance)
    if (
        node is None
        or len(entries) > ENTRIES_MAX
        or _size({k: v or b"" for k, v in entries.items()}) > TEXT_BYTES_READ_MAX
    ):
        return None
    fields = {_text(key): _text(value or b"") for key, value in entries.items()}
    versions = _VERSIONS.fullmatch(fields.get("v", ""))
    tag, boot = fields.get("t", ""), fields.get("b", "")
    if not versions or not _HEX.fullmatch(boot) or len(tag) % 2 or (tag and not _HEX.fullmatch(tag)):
        return None
    record = Record(
        node=node,
        mesh=fields.get("m", ""),
        tag=bytes.fromhex(tag),
        name=fields.get("n", "")[: limits.NAME_CHARS_MAX],
        boot=int(boot, 16),
        host=fields.get("h", "")[: limits.NAME_CHARS_MAX],
        addresses=_numbered(fields, "a")[: limits.ADDRESSES_MAX],
        endpoints=[name for line in _numbered(fields, "e") for name in line.split(",") if name][: limits.OFFERS_MAX],
        partial="p" in fields,
    )
    return Sighting(record, (int(versions[1]), int(versions[2])))


def _numbered(fields: Mapping[str, str], letter: str) -> list[str]:
    """The values of a0, a1, ... up to the first that is missing."""
    keys = (f"{letter}{index}" for index in range(ENTRIES_MAX))
    values: list[str] = []
    for key in keys:
        if key not in fields:
            break
        values.append(fields[key])
    return values


def _text(value: bytes) -> str:
    """The text, without anything that could confuse a terminal or a log."""
    return "".join(character for character in value.decode(errors="replace") if character.isprintable())
