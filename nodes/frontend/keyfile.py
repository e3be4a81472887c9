"""Shell. The file of API keys: read with the same distrust as a mesh's key, and again whenever its owner says so."""

import logging
import os
import secrets
import stat

from nodes.frontend import limits
from nodes.frontend.keys import Keyring, KeysRefused, parse

log = logging.getLogger("wiremesh.frontend")


def load(path: str) -> Keyring:
    """The keys of a file. Raises KeysRefused. Every check is on the file that was opened, not on its name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeysRefused(f"--api-keys {path} cannot be opened: {error.strerror}") from None
    try:
        refuse_status(path, os.fstat(descriptor), os.geteuid())
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(limits.KEY_FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > limits.KEY_FILE_BYTES_MAX:
        raise KeysRefused(f"{path} has more than {limits.KEY_FILE_BYTES_MAX} bytes: write one `name:key` on each line")
    return Keyring(parse(content, path), secrets.token_bytes(32))


def refuse_status(path: str, status: os.stat_result, user: int) -> None:
    """Refuse a file that others could read or have written. Raises KeysRefused."""
    if not stat.S_ISREG(status.st_mode):
        raise KeysRefused(f"{path} is not a regular file: write one `name:key` on each line of one")
    if status.st_uid not in (user, 0):
        raise KeysRefused(f"{path} belongs to user {status.st_uid}, not to us ({user}): run 'chown {user} {path}'")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise KeysRefused(f"{path} can be read by other users (mode {mode:04o}): run 'chmod 600 {path}'")


def again(path: str, now: Keyring | None) -> Keyring | None:
    """Read the file again; what cannot be read changes nothing."""
    try:
        found = load(path)
    except KeysRefused as refused:
        log.error("%s; the keys stay as they were", refused)
        return now
    log.info("%d API keys are in force", len(found))
    return found
