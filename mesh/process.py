"""Shell. What a process asks of the operating system: limits, signals, its parent, its children, its identity."""

import hashlib
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from mesh import tether
from mesh.tether import die_with_parent as die_with_parent

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TETHER = Path(tether.__file__).resolve()

File = int | IO[bytes] | None


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it. Each peer costs three descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # Some systems say "infinite" and refuse it.
        return soft
    return hard


def disable_core_dumps() -> None:
    """Write no core file: keys and prompts are in memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    stdin: File = subprocess.DEVNULL,
    stdout: File = None,
    stderr: File = None,
) -> "subprocess.Popen[bytes]":
    """Start a child that dies with us, in a process group of its own: a Ctrl-C in the terminal reaches only us.

    The kernel ties the child to the thread that started it, so only the main thread, which dies last, may do it. The
    child passes through `mesh/tether.py`, because code between fork and exec is not safe beside other threads.
    """
    assert threading.current_thread() is threading.main_thread(), "only the main thread may start children"
    tether = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
    return subprocess.Popen(
        [*tether, *command], env=environment, stdin=stdin, stdout=stdout, stderr=stderr, process_group=0
    )


def on_signals(loop: "AbstractEventLoop", drain: Callable[[], None], leave_now: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT drains; the second one ends the process at once, also when the loop hangs.

    Python's own handlers are used and not those of the loop: a loop that hangs would never run the second. The loop's
    are set too, to nothing: that makes it wake up, where a signal just before it falls asleep would wait for the next.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            loop.call_soon_threadsafe(drain)
            return
        try:
            leave_now()
        finally:
            os._exit(128 + number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, _nothing)
        signal.signal(number, handle)


def _nothing() -> None:
    """What the loop does by itself when a signal comes."""


def host_identity(directory: str = "/tmp") -> str:
    """Equal in two processes if and only if each can use ipc sockets of the other in `directory`.

    Same kernel, same user, and the same directory: containers on one host share the first, often the second, and only
    sometimes the third.
    """
    try:
        machine = BOOT_ID.read_text().strip()
    except OSError:
        machine = socket.gethostname()
    status = os.stat(directory)
    facts = f"{machine} {os.geteuid()} {directory} {status.st_dev} {status.st_ino}"
    return hashlib.blake2b(facts.encode(), digest_size=8, person=b"wiremesh host").hexdigest()


def new_node_id() -> int:
    """A random name for this process; 0 means nobody."""
    return secrets.randbelow(2**64 - 1) + 1


def wall_clock_ns() -> int:
    """For `Settings.boot`."""
    return time.time_ns()
