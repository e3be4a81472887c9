"""Shell. Threads with room for recursion: the library reads grammars recursively, and 64 KiB of brackets or references
overflow the usual stack of 8 MB, which ends the process. Measured: 64 MB are enough for the worst that was found."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from proto.limits import MIB

T = TypeVar("T")

STACK_BYTES = 512 * MIB  # of addresses, not of memory: what is not touched costs nothing
THREADS_MAX = 2  # guides that are read at once: a flood of them takes no more of the machine


class _Threads:
    """They go when there is nothing to do."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.running = 0

    def take(self) -> tuple["Future[Any]", Callable[[], Any]] | None:
        """The next work; None: the thread ends."""
        with self.lock:
            if self.waiting:
                return self.waiting.popleft()
            self.running -= 1
            return None

    def start(self) -> None:
        """One more thread. The size is the process's: it is for the thread that starts here."""
        before = threading.stack_size(STACK_BYTES)
        try:
            threading.Thread(target=self.run, name="guides", daemon=True).start()
            self.running += 1
        finally:
            threading.stack_size(before)

    def run(self) -> None:
        """What one thread does."""
        while (found := self.take()) is not None:
            future, work = found
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # It is for who waits.
                future.set_exception(error)
            del future, work, found


_threads = _Threads()


def deeply(work: Callable[[], T]) -> "Future[T]":
    """Do it in such a thread."""
    future: Future[T] = Future()
    with _threads.lock:
        if _threads.running < THREADS_MAX:
            _threads.start()
        _threads.waiting.append((future, work))
    return future
