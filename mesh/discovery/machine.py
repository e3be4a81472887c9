"""Shell. What discovery needs of this machine: its interfaces, and a private directory for sockets.

The directory is 0700 and ours: a socket in it is out of reach for other users, whatever their umask and ours are.
"""

import asyncio
import errno
import hashlib
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from mesh.discovery import sightings
from mesh.discovery.interfaces import Interface

SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108 on Linux and 104 elsewhere, with its final zero
SOCKET_NAME_BYTES = 1 + 16 + 4  # '/', the node in hex, '.ipc'


class DirectoryRefused(OSError):
    """A directory cannot hold private sockets. The text says why and what to do."""


class RuntimeDirectory(Struct, frozen=True):
    """Where the sockets of this host's nodes lie; `note` says when it is not the expected place."""

    path: str
    note: str = ""


def runtime_directory(mesh: str, environment: Mapping[str, str]) -> RuntimeDirectory:
    """The private directory of a mesh on this host; made if it is not there. Raises DirectoryRefused."""
    base, note = _base(environment)
    path = base / mesh
    if len(os.fsencode(path)) + SOCKET_NAME_BYTES > SOCKET_PATH_BYTES_MAX:
        short = hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
        base = _fallback()
        note = f"sockets are in {base / short}: paths below {path} would be too long for sockets"
        path = base / short
    for directory in (base, path):
        make_private(directory)
    return RuntimeDirectory(str(path), note)


def _base(environment: Mapping[str, str]) -> tuple[Path, str]:
    """Below the user's own runtime directory if there is one, also when the environment forgot to name it."""
    named = environment.get("XDG_RUNTIME_DIR", "")
    for candidate in (named, f"/run/user/{os.geteuid()}"):
        if candidate.startswith("/") and _is_ours(candidate):
            return Path(candidate) / "wiremesh", ""
    note = f"XDG_RUNTIME_DIR is {named!r}, which is not a directory of this user: using {_fallback()}" if named else ""
    return _fallback(), note


def _fallback() -> Path:
    return Path(f"/tmp/wiremesh-{os.geteuid()}")


def _is_ours(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and os.access(path, os.W_OK | os.X_OK)


def make_private(path: Path) -> None:
    """Make a directory that is only ours, or see that it is. Raises DirectoryRefused."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise DirectoryRefused(f"cannot make the directory {path}: {error.strerror}") from error
    refuse_directory(path, os.lstat(path), os.geteuid())


def refuse_directory(path: Path, status: os.stat_result, user: int) -> None:
    """Refuse a directory that somebody else could reach into. Raises DirectoryRefused."""
    if stat.S_ISLNK(status.st_mode):
        raise DirectoryRefused(f"{path} is a symbolic link; sockets go only into a real directory: remove the link")
    if not stat.S_ISDIR(status.st_mode):
        raise DirectoryRefused(f"{path} is not a directory: remove it")
    if status.st_uid != user:
        raise DirectoryRefused(f"{path} belongs to user {status.st_uid}, not to us ({user}): remove it")
    if status.st_mode & 0o077:
        raise DirectoryRefused(f"{path} is open to other users: run 'chmod 700 {path}'")


def socket_address(directory: str, node: int) -> str:
    """The ipc address of a node."""
    return f"ipc://{directory}/{node:016x}.ipc"


@contextmanager
def private_umask() -> Iterator[None]:
    """Nothing made in here is open to others; wrapped around the bind of an ipc socket."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def sweep_sockets(directory: str, suspects: frozenset[str]) -> frozenset[str]:
    """Remove the sockets of dead nodes and return new suspects.

    A socket is removed when nobody listens on it and it has no node file, twice in a row: a node that has just
    bound its socket has not listened for an instant, and not published for a while.
    """
    dead = frozenset(name for name in _names(directory) if name.endswith(".ipc") and _is_dead(directory, name))
    for name in dead & suspects:
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
    return dead - suspects


def _is_dead(directory: str, name: str) -> bool:
    node_file = name.removesuffix(".ipc") + ".node"
    if sightings.node_of(node_file) is None or os.path.lexists(f"{directory}/{node_file}"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(f"{directory}/{name}") == errno.ECONNREFUSED


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def watched(task: asyncio.Task[None]) -> asyncio.Task[None]:
    """A task whose failure is reported at once: nobody awaits it until the end."""

    def report(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            facts = {"message": f"{done.get_name()} has failed", "exception": done.exception(), "task": done}
            done.get_loop().call_exception_handler(facts)

    task.add_done_callback(report)
    return task


def read_interfaces() -> tuple[Interface, ...]:
    """All addresses of this machine. IPv6 scopes are dropped: they mean nothing elsewhere."""
    import ifaddr  # Comes with zeroconf; a node on one host never needs it.

    return tuple(
        Interface(adapter.name, address.ip if isinstance(address.ip, str) else address.ip[0])
        for adapter in ifaddr.get_adapters()
        for address in adapter.ips
    )
