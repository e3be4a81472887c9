"""Shell. Memory that other processes of this host can read, and theirs, read from here.

What is allocated here lives in a nameless file (memfd). Another process of the same user opens it through
`/proc/PROCESS/fd/NUMBER`, for reading only. There is no name in any directory, so nothing is left behind by a process
that is killed, and the kernel keeps the bytes as long as somebody has them mapped. What was opened is looked at before
it is believed: it must be the very memory that the handle speaks of, because numbers of processes are used again, and
it must be sealed against shrinking, because reading beyond the end of a file kills a process.
"""

import ctypes
import fcntl
import mmap
import os
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.process import BOOT_ID
from nodes.transfer import limits
from nodes.transfer.handle import Shared
from proto.limits import NAME_CHARS_MAX

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
SHAREABLE = hasattr(os, "memfd_create")
LEDGER = 0  # its number among the memories of a plane
_SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class MemoryRefused(ValueError):
    """This cannot be used as memory of transfers. The text says why."""


class Unreachable(Exception):
    """Memory of another process cannot be read from here. The text says why."""


class Memory:
    """Bytes of ours that can be offered and pulled into. `array` sees all of them."""

    def __init__(self, number: int, array: Bytes, descriptor: int = -1) -> None:
        self.number = number
        self.array = array
        self.descriptor = descriptor  # -1: no other process can read it
        self.registration: object = None  # NIXL's

    @property
    def size(self) -> int:
        """In bytes."""
        return self.array.nbytes

    def close(self) -> None:
        """Nobody else can open it from here on; the bytes live as long as somebody looks at them."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def host() -> str:
    """Equal in two processes if and only if each can open descriptors of the other: kernel, user, process numbers."""
    try:
        machine = BOOT_ID.read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return ""
    return f"{machine} {os.geteuid()} {space}"[:NAME_CHARS_MAX]


def process() -> int:
    """Ours, as others see it."""
    return os.getpid()


def allocate(plane: int, number: int, size: int) -> Memory:
    """New memory, all zeros; readable for other processes where the system can do that."""
    if not 0 < size <= limits.MEMORY_BYTES_MAX:
        raise MemoryRefused(f"cannot allocate {size} bytes: it must be between 1 and {limits.MEMORY_BYTES_MAX}")
    if not SHAREABLE:
        return Memory(number, np.zeros(size, np.uint8))
    descriptor = os.memfd_create(_name(plane, number), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _wanted_seals())
        mapped = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED)
    except (OSError, ValueError) as error:
        os.close(descriptor)
        raise MemoryRefused(f"cannot allocate {size} bytes: {error}") from None
    return Memory(number, np.frombuffer(mapped, np.uint8), descriptor)


def keep_frames() -> None:
    """Have the C library use the memory of a frame again instead of giving it back to the kernel.

    Fresh pages must be cleared by the kernel and found by the processor: a fifth of what bulk costs. It stays with the
    process: what was under way at once, and never more than the windows of all pulls.
    """
    with suppress(OSError, AttributeError):  # another C library decides for itself
        tune = ctypes.CDLL(None).mallopt
        tune(_M_MMAP_THRESHOLD, 4 * limits.PIECE_BYTES)
        tune(_M_TRIM_THRESHOLD, limits.WINDOWS_BYTES)


def wrap(buffer: Any) -> Bytes:
    """Any buffer in one piece, as bytes. Raises MemoryRefused."""
    try:
        view = memoryview(buffer)
    except TypeError:
        raise MemoryRefused(
            f"{type(buffer).__name__} is no buffer: give an array, a bytearray or a memoryview"
        ) from None
    if not view.c_contiguous:
        raise MemoryRefused("this array is not in one piece: offer its parts as pieces of the array that it comes from")
    return np.frombuffer(view.cast("B"), np.uint8)


def open_foreign(shared: Shared, plane: int, number: int) -> Bytes:
    """Memory of another process, for reading. Raises Unreachable."""
    descriptor_there = shared.ledger if number == LEDGER else shared.memory
    path = f"/proc/{shared.process}/fd/{descriptor_there}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unreachable(f"cannot open {path}: {error.strerror}") from None
    try:
        _believe(descriptor, plane, number)
        size = os.fstat(descriptor).st_size
        mapped = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise Unreachable(f"cannot map {path}: {error}") from None
    finally:
        os.close(descriptor)
    return np.frombuffer(mapped, np.uint8)


def _believe(descriptor: int, plane: int, number: int) -> None:
    """See that this is the memory that was meant, and that it cannot shrink under our hands."""
    found = os.readlink(f"/proc/self/fd/{descriptor}")
    if found.removesuffix(" (deleted)") != f"/memfd:{_name(plane, number)}":
        raise Unreachable(f"this is {found}, not memory {number} of plane {plane:016x}: the process is another one")
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _wanted_seals() != _wanted_seals():
        raise Unreachable("this memory could shrink while we read it")


def _wanted_seals() -> int:
    """By name: only some systems have them."""
    seals = 0
    for name in _SEALS:
        seals |= int(getattr(fcntl, name))
    return seals


def _name(plane: int, number: int) -> str:
    return f"wiremesh-{plane:016x}-{number}"
