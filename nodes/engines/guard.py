"""Shell. No process of an engine survives its owner, however that ends: a small child waits for it.

Engines run in processes of their own, which do not notice a SIGKILL of who started them: they keep their memory, their
GPU and their ports. The guard holds the other end of a pipe. When that closes without a word, it kills them: those that
it was told of, and those that inherited the mark, so that an engine which is still being started does not get away.
"""

import os
import secrets
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "WIREMESH_ENGINE_OF"  # in the environment of what is started: a number that only one guard knows
_RELEASED = "released"

# Nothing but what a shell has, so that nothing must be loaded. `read` fails when the pipe closes.
_SCRIPT = f"""
trap '' INT TERM HUP
mark=$1; shift
while read -r word; do [ "$word" = {_RELEASED} ] && exit 0; set -- "$@" "$word"; done
kill -9 "$@"
for file in /proc/[0-9]*/environ; do
    if grep -aq "$mark" "$file"; then process=${{file#/proc/}}; kill -9 "${{process%/environ}}"; fi
done
"""


def descendants(process: int | None = None) -> list[int]:
    """The processes that this one has started, and those that they did. Only Linux tells."""
    found: list[int] = []
    waiting = [os.getpid() if process is None else process]
    while waiting:
        for tasks in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                children = [int(word) for word in tasks.read_text().split()]
                found += children
                waiting += children
    return found


class Guard:
    """Watches over processes until it is released."""

    def __init__(self, processes: Iterable[int] = ()) -> None:
        self.processes: list[int] = []
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        self._child: subprocess.Popen[bytes] | None = None
        self.watch(processes)

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Over all that is started within this, too, and whatever that starts."""
        self._begin()
        os.environ[MARK] = self._mark.partition("=")[2]
        try:
            yield
        finally:
            os.environ.pop(MARK, None)

    def watch(self, processes: Iterable[int]) -> None:
        """Over these too."""
        new = [process for process in processes if self._child is None or process != self._child.pid]
        if not new:
            return
        self.processes += new
        stdin = self._begin().stdin
        assert stdin is not None
        with suppress(OSError):
            stdin.write(b"".join(b"%d\n" % process for process in new))
            stdin.flush()

    def _begin(self) -> "subprocess.Popen[bytes]":
        if self._child is None:
            # A session of its own: what ends our process group must not end it first.
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "guard", self._mark],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._child

    def release(self) -> None:
        """They have ended, or are ended here; twice is once."""
        if self._child is None:
            return
        for process in {*self.processes, *self._marked()}:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        self.processes = []
        child, self._child = self._child, None
        with suppress(OSError, subprocess.TimeoutExpired):
            child.communicate(f"{_RELEASED}\n".encode(), timeout=5)

    def _marked(self) -> Iterable[int]:
        mark = self._mark.encode()
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in file.read_bytes().split(b"\0"):
                    yield int(file.parent.name)
