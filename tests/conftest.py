"""What holds for every test: hypothesis is quiet and, in CI, the same every time; nothing is left behind.

A test that leaves a thread, a child process or a descriptor open fails: an actor that cannot be stopped cleanly
would hide here for months.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: what a worker has, and tests run beside others

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored

SETTLE_S = 20.0  # a thread ends just after it has said so, and ZeroMQ closes its descriptors in a thread of its own
POLL_S = 0.001  # to the others, who have something to close; a loop without a pause would keep a core from them
HELPERS = ("resource_tracker", "forkserver")  # multiprocessing keeps these until the end


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> None:
    """What is there before a file's first test stays: no collection has to walk through all modules once more."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves more open than it found."""
    before = left_open()
    yield
    assert not (left := settled(left_open, before)), f"left open: {sorted(left)}"


def settled(look: Callable[[], set[str]], before: set[str]) -> set[str]:
    """What is still there that was not before, once that has settled."""
    end, pause = time.monotonic() + SETTLE_S, threading.Event()
    while (left := look() - before) and time.monotonic() < end:
        gc.collect()  # What only a cycle still holds is not a leak.
        pause.wait(POLL_S)
    return left


def left_open() -> set[str]:
    """Names of the threads, children and descriptors that are there now."""
    return threads() | children() | descriptors()


def threads() -> set[str]:
    return {f"thread {thread.name}" for thread in threading.enumerate() if not thread.name.startswith("pydevd")}


def children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").glob("*/children"):
        for child in read(task).split():
            command = read(Path(f"/proc/{child}/cmdline")).replace("\0", " ").strip()
            if not any(helper in command for helper in HELPERS):
                found.add(f"process {child} {command}")
    return found


def descriptors() -> set[str]:
    found = set()
    for path in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if not target.endswith("/fd"):  # The one that lists this folder.
            found.add(f"descriptor {path.name} {target}")
    return found


def read(path: Path) -> str:
    """The text of a file that may vanish at any time."""
    try:
        return path.read_text()
    except OSError:
        return ""
