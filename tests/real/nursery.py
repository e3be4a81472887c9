"""Shell. Commands of ours as processes that have imported all of Wiremesh before they begin.

Real processes would spend most of a test's time on their imports. One process does them once; a command is a fork of
it, in every other way a process as any: its own pid, environment, output, signals and end. What shares its imports
is not a test of how `wiremesh` starts: `up`, the demo, the examples and `wiremesh` itself are started as users do.

    python nursery.py FD    # a socket; its other end is a `Nursery`
"""

import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

COMMANDS = ("worker", "frontend", "router", "drain")  # which are born here
OURS = ("proto", "mesh", "nodes", "launch")
NOT_NEEDED = (  # by nodes whose engine is ours
    *("simulation", "launch.examples", "launch.demo_model", "nodes.diffusion", "engines.vllm", "engines.sglang"),
    *("engines.trtllm", "engines.transformers", "engines.llama"),
)
MESSAGE_MAX_BYTES = 131_072  # its words and its environment


# --- At the tests' side ----------------------------------------------------------------------------------------


class Born:
    """One process; looks as a `subprocess.Popen` does."""

    def __init__(self, door: socket.socket, words: Sequence[str], environment: Mapping[str, str]) -> None:
        readable, writable = os.pipe()
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(writable, "wb", buffering=0):
            socket.send_fds(door, [json.dumps([words, dict(environment)]).encode()], [writable, theirs.fileno()])
        self.stdout = open(readable, "rb", buffering=0)  # noqa: SIM115
        self.pid = int(self._told.recv(64))
        self._handle = os.pidfd_open(self.pid)  # nobody waits for it before we say so: its number is its own
        self._told.send(b"known")
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, as of `subprocess`: negative for a signal."""
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = int(self._told.recv(64))
            except TimeoutError:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from None
            self._told.close()
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Where they are born."""

    def __init__(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)

    def born(self, words: Sequence[str], environment: Mapping[str, str]) -> Born:
        return Born(self._door, words, environment)

    def close(self) -> None:
        self._door.close()
        self._process.wait()


# --- The process itself ----------------------------------------------------------------------------------------


def main(door: socket.socket) -> int:
    """Bear until the tests are over. In a child this returns as its command does."""
    prepare()
    alive: dict[int, tuple[int, socket.socket]] = {}  # by the handle of a process: its pid, and who waits for it
    with selectors.DefaultSelector() as selector, door:
        selector.register(door, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not door:
                    selector.unregister(key.fd)
                    bury(key.fd, *alive.pop(key.fd))
                    continue
                message, fds, _, _ = socket.recv_fds(door, MESSAGE_MAX_BYTES, 2)
                if not message:
                    return 0
                output, asker = fds[0], socket.socket(fileno=fds[1])
                pid = os.fork()
                if not pid:
                    for handle, (_, other) in alive.items():
                        os.close(handle)
                        other.close()
                    asker.close()
                    selector.close()
                    door.close()
                    return run(output, *json.loads(message))
                os.close(output)
                handle = os.pidfd_open(pid)
                alive[handle] = pid, asker
                selector.register(handle, selectors.EVENT_READ)
                asker.send(b"%d" % pid)
                asker.recv(64)


def prepare() -> None:
    """Import all that a node may need, and begin no thread."""
    for name in OURS:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not any(part in found.name for part in NOT_NEEDED):
                importlib.import_module(found.name)
    gc.collect()
    gc.freeze()  # a collection writes to what it looks at, and what is written to is no longer shared
    assert threading.active_count() == 1 == len(os.listdir("/proc/self/task")), "a thread does not survive a fork"


def bury(handle: int, pid: int, asker: socket.socket) -> None:
    """Tell how one has ended; nobody may want to know."""
    os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with asker, suppress(OSError):
        asker.send(b"%d" % code)


def run(output: int, words: list[str], environment: dict[str, str]) -> int:
    """What `wiremesh WORDS` does."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["wiremesh", *words]
    command: int = importlib.import_module("launch.cli").main(words)
    return command


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as a worker has it; and a thread would not survive a fork
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
