"""A runner on a stage: effects go in by hand, and the events that it posts are there to be looked at."""

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import msgspec

from mesh.core import (
    Event,
    Failed,
    Finished,
    Leg,
    Produced,
    Start,
    Yielded,
)
from mesh.endpoint import define
from mesh.runner import Runner

LEG = Leg(owner=7, request=1, attempt=2)
NAME = "test.runner.it"


class Stage:
    """A runner, what it posts, and shorthands for the effects of a core."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.events: list[Event] = []
        self.on_post: Callable[[Event], None] = lambda event: None
        self.runner = Runner({NAME: define(NAME, handler)}, self.post, asyncio.get_running_loop())

    def post(self, event: Event) -> None:
        self.events.append(event)
        self.on_post(event)

    def start(self, request: Any = None, leg: Leg = LEG, **changes: Any) -> None:
        fields = {"leg": leg, "endpoint": NAME, "payload": msgspec.msgpack.encode(request), "deadline": inf}
        fields |= {"prompt": [], "position": 0, "tokens": [], "state": b"", "trace": "", "metadata": {}}
        self.runner.start(Start(**(fields | changes)))

    @property
    def items(self) -> list[Any]:
        return [
            msgspec.msgpack.decode(data) for event in self.events if type(event) is Produced for data in event.items
        ]

    @property
    def ends(self) -> list[Event]:
        return [event for event in self.events if type(event) in (Finished, Failed, Yielded)]

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0)

    async def end(self) -> Event:
        """The one event that gives the room back."""
        await self.until(lambda: self.ends)
        for _ in range(5):
            await asyncio.sleep(0)
        (end,) = self.ends
        assert self.events[-1] is end and len(self.runner) == 0
        return end


def play(handler: Callable[..., Any], body: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await body(Stage(handler))

    asyncio.run(run())
