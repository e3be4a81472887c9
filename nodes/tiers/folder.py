"""Shell. Blocks as files in a directory: one of our own, or one that many workers share.

A file is written under another name and then renamed, so nobody sees half of one. What a crash leaves behind of the
writing is removed by the next to come. What a crash of the machine leaves of a file is found by its checksum.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from xxhash import xxh3_64_intdigest

from nodes.tiers.files import HEADER_BYTES, checksum_in, disk_bytes, header, names_in, path_of
from nodes.tiers.work import Found

OWNERS_MAX = 64  # workers of one model with the same disk directory
UNFINISHED_S = 3600.0  # a shared directory's unfinished files may belong to somebody who still writes
UNFINISHED_MAX = 10_000  # looked at


class FolderRefused(ValueError):
    """This directory cannot be used. The text says why."""


class Folder:
    """A shelf of blocks of one size in a directory that exists."""

    def __init__(self, path: Path, shelf: bytes, block_bytes: int) -> None:
        self.path = path
        self._shelf = shelf
        self._block_bytes = block_bytes
        self._writing = path / "unfinished"
        self._written = 0
        self._lock = -1

    def read(self, name: int, parent: int, into: memoryview) -> Found:
        """Read a block. Raises OSError."""
        try:
            descriptor = os.open(self.path / path_of(name, parent), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Found.MISSING
        try:
            head = bytearray(HEADER_BYTES)
            count = os.readv(descriptor, [head, into])
            while 0 < count < HEADER_BYTES + len(into):  # a network's file system may give it in pieces
                more = os.preadv(descriptor, [into[max(0, count - HEADER_BYTES) :]], max(count, HEADER_BYTES))
                if not more or count < HEADER_BYTES:
                    break
                count += more
            with contextlib.suppress(OSError):
                os.utime(descriptor)  # the youngest is what was used last: for our next life, and for who tidies up
        finally:
            os.close(descriptor)
        checksum = checksum_in(bytes(head), self._shelf, name, len(into))
        if count < HEADER_BYTES + len(into) or checksum != xxh3_64_intdigest(into):
            return Found.CORRUPT
        return Found.HERE

    def write(self, name: int, parent: int, content: memoryview) -> int:
        """Write a block; returns the bytes that it takes. Raises OSError."""
        path = self.path / path_of(name, parent)
        self._written += 1
        unfinished = self._writing / f"{os.uname().nodename}-{os.getpid()}-{self._written}"
        try:
            self._fill(unfinished, name, parent, content)
            try:
                os.replace(unfinished, path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(unfinished, path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        return disk_bytes(len(content))

    def _fill(self, unfinished: Path, name: int, parent: int, content: memoryview) -> None:
        head = header(self._shelf, name, parent, len(content), xxh3_64_intdigest(content))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(unfinished, flags, 0o666)
        except FileNotFoundError:  # somebody has tidied up: begin anew
            self._writing.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(unfinished, flags, 0o666)
        try:
            rest = [memoryview(head), content]
            while rest:
                count = os.writev(descriptor, rest)
                while rest and count >= len(rest[0]):
                    count -= len(rest.pop(0))
                if rest:
                    rest[0] = rest[0][count:]
        finally:
            os.close(descriptor)

    def has(self, name: int, parent: int) -> bool:
        """Whether it is there already. Raises OSError."""
        return (self.path / path_of(name, parent)).exists()

    def delete(self, name: int, parent: int) -> None:
        """One that is not there is no error."""
        with contextlib.suppress(OSError):
            (self.path / path_of(name, parent)).unlink()

    def scan(self) -> Iterator[list[tuple[int, int, int]]]:
        """What is there: (name, parent, bytes), the youngest first, in steps that take little time each."""
        for number in range(256):
            files: list[tuple[float, int, int]] = []
            try:
                with os.scandir(self.path / f"{number:02x}") as entries:
                    for entry in entries:
                        names = names_in(entry.name)
                        if names is not None:
                            files.append((entry.stat().st_mtime, *names))
            except OSError:
                pass
            files.sort(reverse=True)
            yield [(name, parent, disk_bytes(self._block_bytes)) for _, name, parent in files]

    def tidy(self, older_than_s: float) -> None:
        """Remove what was never finished."""
        before = time.time() - older_than_s
        with contextlib.suppress(OSError), os.scandir(self._writing) as entries:
            for _, entry in zip(range(UNFINISHED_MAX), entries, strict=False):
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < before:
                        os.unlink(entry.path)

    def hold(self, descriptor: int) -> None:
        """This lock is ours until `close`."""
        self._lock = descriptor

    def close(self) -> None:
        """Somebody else may have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def own(root: Path, shelf: bytes, block_bytes: int) -> Folder:
    """A directory below `root` for this process alone: the first that nobody holds, so a restart finds its own.

    Raises FolderRefused.
    """
    try:
        for number in range(OWNERS_MAX):
            path = root / shelf.hex() / str(number)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)  # blocks tell of prompts
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            folder = Folder(path, shelf, block_bytes)
            folder.hold(lock)
            folder.tidy(-1.0)
            return folder
    except OSError as error:
        raise FolderRefused(f"{root} cannot be used for blocks: {error}") from None
    raise FolderRefused(
        f"{root} is used by {OWNERS_MAX} workers of this model already: give this one another directory"
    )


def shared(root: Path, shelf: bytes, block_bytes: int) -> Folder:
    """A directory that others write to as well. Raises FolderRefused."""
    path = root / shelf.hex()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderRefused(f"{root} cannot be used as a store: {error}") from None
    folder = Folder(path, shelf, block_bytes)
    folder.tidy(UNFINISHED_S)
    return folder
