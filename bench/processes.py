"""Shell. The processes under measurement: started on cores of their own, watched in /proc, ended by their own handle.

Linux only, as the measurements are.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from mesh.process import spawn

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LEAVE_S = 10.0  # to end by itself when told to
POLL_S = 0.005  # how often a log is read again while a line is waited for


class Failed(Exception):
    """A process did not do what the measurement needs."""


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time of these processes, all their threads, user and system."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def memory_mb(pids: Sequence[int]) -> float:
    """Resident memory of these processes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def busy_s() -> float:
    """CPU time of the whole machine, all cores, whoever used it."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_S


class Process:
    """One process, pinned to `cores` (all, if none are named). It prints to `log` with `.out` and `.err` behind it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        cores: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.out, self.errors = (log.with_name(log.name + end) for end in (".out", ".err"))
        pinned = ["taskset", "-c", cores, *command] if cores else list(command)
        with self.out.open("ab") as out, self.errors.open("ab") as errors:
            self._begin = out.tell()
            self._process = spawn(pinned, environment, stdout=out, stderr=errors)
        self.pid = self._process.pid

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def said(self, part: str) -> str:
        """The first complete line of its output with `part` in it; empty if there is none yet."""
        with self.out.open("rb") as out:
            out.seek(self._begin)
            lines = out.read().decode().splitlines(keepends=True)
        return next((line.rstrip() for line in lines if part in line and line.endswith("\n")), "")

    def line(self, part: str, timeout_s: float) -> str:
        """That line, waited for."""
        until = time.monotonic() + timeout_s
        while True:
            alive = self.alive()
            if found := self.said(part):
                return found
            if not alive:
                raise Failed(f"{self.name} has ended; see {self.errors}")
            if time.monotonic() > until:
                raise Failed(f"{self.name} did not say {part!r} within {timeout_s:g} s; see {self.errors}")
            time.sleep(POLL_S)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Its exit code, waited for."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} does not end within {timeout_s:g} s; see {self.errors}") from None

    def end(self) -> None:
        """Ask it to end, and end it."""
        if not self.alive():
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
