"""Shell. An asyncio loop in virtual time: no clock, no selector, no thread; it takes a step when it is told to.

`asyncio.sleep`, timeouts, events, queues and tasks work in it as they do everywhere; sockets, threads and subprocesses
do not exist.
"""

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, TypeVar

Value = TypeVar("Value")
STEPS_TO_END = 100  # for what is cancelled when the loop closes


class _NoSelector:
    """Nothing ever happens on a descriptor here."""

    def select(self, timeout: float | None) -> list[Any]:
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop whose time is what `clock` says."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._selector = _NoSelector()
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual seconds."""
        return self._clock()

    def step(self) -> None:
        """Run what is ready now, once."""
        before = events._get_running_loop()
        events._set_running_loop(None)
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(before)

    def next_at(self) -> float:
        """When the next step is wanted; inf if nothing waits for time to pass."""
        if self._ready:  # type: ignore[attr-defined]
            return self.time()
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return min((timer.when() for timer in timers if not timer.cancelled()), default=inf)

    def end(self) -> None:
        """Cancel what still runs, and close."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        for _ in range(STEPS_TO_END):
            if not asyncio.all_tasks(self):
                break
            self.step()
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.close()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is no other thread to be woken by."""


def run(make: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """Run a coroutine to its end, all its waiting in no time."""
    now = 0.0
    loop = VirtualLoop(lambda: now)
    try:
        task = loop.create_task(make())
        while not task.done():
            loop.step()
            now = max(now, loop.next_at()) if not task.done() else now
            if now == inf:
                raise RuntimeError("it waits for something that never happens in virtual time")
        return task.result()
    finally:
        now = 0.0 if now == inf else now
        loop.end()
