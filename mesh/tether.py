"""Shell. Ties a process to its parent. Also a program: `python tether.py PARENT COMMAND...` becomes the command.

It imports next to nothing, because every child of ours passes through it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Be killed when the parent dies. With `parent`: exit now if it has died already. Only Linux can do it."""
    parent = os.getppid() if parent is None else parent
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # It died before the request was in place.
        os._exit(128 + signal.SIGKILL)


def become(parent: int, command: list[str]) -> None:
    """Tie this process to its parent, then replace it by the command."""
    die_with_parent(parent)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        os._exit(127)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
