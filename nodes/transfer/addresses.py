"""Shell. Where bulk links listen on one host: files in the mesh's private directory, and what killed ones leave."""

import errno
import os
import re
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

NEW_S = 60.0  # between bind and listen lie microseconds
_FILE = re.compile(r"[0-9a-f]{16}\.bulk")
_SCHEME = "ipc://"


def bulk_address(directory: str, node: int) -> str:
    """The ipc address of a node's bulk link, in the private directory of the mesh."""
    return f"{_SCHEME}{directory}/{node:016x}.bulk"


def sweep(addresses: Iterable[str]) -> None:
    """Remove what killed processes left beside our own ipc addresses: sockets that nobody listens at."""
    files = [address.removeprefix(_SCHEME) for address in addresses if address.startswith(_SCHEME)]
    for directory in dict.fromkeys(os.path.dirname(file) for file in files):
        with suppress(OSError):
            for name in os.listdir(directory):
                if _FILE.fullmatch(name) and _is_dead(f"{directory}/{name}"):
                    os.unlink(f"{directory}/{name}")


def _is_dead(path: str) -> bool:
    """A file that is bound but not listened at yet is a moment old."""
    if time.time() - os.stat(path).st_mtime < NEW_S:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED
