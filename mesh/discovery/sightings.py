"""Pure. Which of the records that discovery sees are worth telling, and when a file in a shared directory is stale.

`Sieve` keeps out other meshes, junk and floods, and says once what it keeps out. `Noticeboard` reads a directory:
a file lives while its content changes, measured on our own clock alone; no file time, no lock, no other clock counts.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mesh.core import Event, Found, Lost, Remark
from proto import limits
from proto.messages import Record

REPEAT_S = 15.0  # a node that is still seen is suggested again this often: the core forgets after FORGET_S
FOREIGN_MAX = 32  # other meshes remembered by name
FILE_BYTES_MAX = 64 * limits.KIB  # 128 endpoints of 256 characters and the rest
STALE_S = 20.0  # ten missed beats: discovery no longer suggests it
SWEEP_S = 120.0  # by then its owner is dead, or writes the file anew when it wakes
REREAD_S = 5.0  # where a directory shows no new inode although the file is new
ENTRIES_MAX = 4 * limits.RECORDS_MAX  # files looked at: our nodes, those of other meshes, their remains

_FILE = re.compile(r"([0-9a-f]{16})\.node")
_ADDRESS = re.compile(r"(?:tcp://[A-Za-z0-9._:\[\]-]+:\d{1,5}|ipc:///[\x21-\x7e]+)")
_NOWHERE = ("tcp://0.0.0.0:", "tcp://[::]:")

assert REPEAT_S * 2 < limits.FORGET_S

Outcome = Event | Remark


def file_of(node: int) -> str:
    """The name of a node's file."""
    return f"{node:016x}.node"


def node_of(name: str) -> int | None:
    """The node that a file is named after."""
    match = _FILE.fullmatch(name)
    return int(match[1], 16) or None if match else None


def is_sane(record: Record) -> bool:
    """Whether a record could be a node's: somewhere to dial, nothing that only means something elsewhere."""
    addresses = record.addresses
    numbers = max(record.node, record.boot, record.beat)  # JSON can hold more than 64 bits, the wire cannot
    return (
        bool(record.node and addresses)
        and numbers < 2**64
        and all(_ADDRESS.fullmatch(address) and not address.startswith(_NOWHERE) for address in addresses)
    )


class Sieve:
    """What gets through to the core: sane records of our own mesh, not too many, not too often."""

    def __init__(self, node: int, mesh: str, tags: Sequence[bytes]) -> None:
        self.node = node
        self.mesh = mesh
        self.tags = tuple(tags)
        self.stats = {"junk": 0, "foreign": 0, "flood": 0}
        self._known: dict[int, tuple[Record, float]] = {}
        self._remarked: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def see(self, record: Record, now: float) -> list[Outcome]:
        """A record was seen."""
        if record.node == self.node:
            return []
        if record.mesh != self.mesh or record.tag not in self.tags:
            return self._foreign(record)
        if not is_sane(record):
            self.stats["junk"] += 1
            return []
        if record.node not in self._known and len(self._known) >= limits.RECORDS_MAX:
            self.stats["flood"] += 1
            return self.once(
                "discovery.flood", f"more than {limits.RECORDS_MAX} nodes announce themselves; not all count"
            )
        return self._tell(record, now)

    def junk(self) -> None:
        """Something was seen that is no record."""
        self.stats["junk"] += 1

    def lose(self, node: int) -> list[Outcome]:
        """A node is no longer seen."""
        return [Lost(node)] if self._known.pop(node, None) else []

    def repeat(self, now: float) -> list[Outcome]:
        """What is still seen and was not told for a while."""
        return [told for record, _ in list(self._known.values()) for told in self._tell(record, now)]

    def once(self, topic: str, text: str) -> list[Outcome]:
        """A remark, the first time."""
        if text in self._remarked or len(self._remarked) >= FOREIGN_MAX:
            return []
        self._remarked[text] = None
        return [Remark(topic, text)]

    def _tell(self, record: Record, now: float) -> list[Outcome]:
        known = self._known.get(record.node)
        bare = replace(record, beat=0)
        if known and known[0] == bare and now < known[1] + REPEAT_S:
            return []
        self._known[record.node] = (bare, now)
        return [Found(record)]

    def _foreign(self, record: Record) -> list[Outcome]:
        self.stats["foreign"] += 1
        gone = self.lose(record.node)
        if record.mesh == self.mesh:
            text = f"saw nodes of a mesh that is called {self.mesh!r} too but has another key: kept apart"
        else:
            name = "".join(filter(str.isprintable, record.mesh))[:64]
            text = f"saw nodes of another mesh, {name!r}: kept apart from ours, {self.mesh!r}"
        return [*gone, *self.once("discovery.foreign", text)]


class _File(Struct):
    """A file, as last read."""

    mark: int
    read_at: float
    changed_at: float
    seen: Record | int | None = None  # its record, or the size of junk
    stale: bool = False


class Noticeboard:
    """A directory with one file for each node."""

    def __init__(self, sieve: Sieve) -> None:
        self.sieve = sieve
        self._files: dict[str, _File] = {}

    def look(self, listing: Mapping[str, int], now: float) -> tuple[list[Outcome], list[str]]:
        """A listing (name to inode) was taken: what has vanished, and which files to read."""
        outcomes: list[Outcome] = []
        for name in [name for name in self._files if name not in listing]:
            del self._files[name]
            outcomes += self.sieve.lose(node_of(name) or 0)
        wanted = [name for name, mark in listing.items() if self._wants(name, mark, now)]
        return outcomes, wanted[:ENTRIES_MAX]

    def read(self, name: str, mark: int, content: bytes, now: float) -> list[Outcome]:
        """A file was read."""
        record = _parse(content, node_of(name) or 0)
        seen = len(content) if record is None else record
        file = self._files.setdefault(name, _File(mark, now, now))
        file.mark, file.read_at = mark, now
        if seen == file.seen:
            return []
        file.seen, file.changed_at, file.stale = seen, now, False
        if record is None:
            self.sieve.junk()
            return []
        return self.sieve.see(record, now)

    def settle(self, now: float) -> tuple[list[Outcome], list[str]]:
        """After reading: which nodes no longer beat, and which files to remove."""
        outcomes: list[Outcome] = []
        for name, file in self._files.items():
            if not file.stale and now >= file.changed_at + STALE_S:
                file.stale = True
                outcomes += self.sieve.lose(node_of(name) or 0)
        return outcomes, [name for name, file in self._files.items() if _is_remains(file, now)]

    def _wants(self, name: str, mark: int, now: float) -> bool:
        if node_of(name) in (None, self.sieve.node):
            return False
        file = self._files.get(name)
        if file is None:
            return len(self._files) < ENTRIES_MAX
        return file.mark != mark or now >= file.read_at + REREAD_S


def _is_remains(file: _File, now: float) -> bool:
    """Whether a file is what a dead node left: a record or nothing. Other people's data is not ours to remove."""
    return now >= file.changed_at + SWEEP_S and (isinstance(file.seen, Record) or file.seen == 0)


def _parse(content: bytes, node: int) -> Record | None:
    if len(content) > FILE_BYTES_MAX:
        return None
    try:
        record = _DECODER.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return record if record.node == node else None


def write(record: Record) -> bytes:
    """A file's content."""
    return msgspec.json.encode(record)


_DECODER = msgspec.json.Decoder(Record)
