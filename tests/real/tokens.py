"""Token streams for tests: a client on the mesh that asks for tokens as a frontend does, and keeps what it gets."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from mesh.actor import Actor
from mesh.client import connect
from mesh.core import Abandon, Ask, Consumed, Finish, Want
from mesh.routing import ROUTER
from nodes import generation
from nodes.generation import Generation
from nodes.names import GENERATE, endpoint_of
from proto.messages import Strength

PATIENCE_S = 60.0


class Tokens:
    """One request: its tokens, their items, and its end."""

    def __init__(self, actor: Actor, prompt: Sequence[int]) -> None:
        self.request = actor.node.next_request()
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.items: list[bytes] = []
        self._actor = actor
        self._end: asyncio.Future[Finish] = actor.loop.create_future()
        self._changed = asyncio.Event()

    @property
    def position(self) -> int:
        return len(self.tokens)

    def deliver(self, position: int, items: Sequence[bytes], tokens: Sequence[int]) -> None:
        assert position == len(self.tokens), "a gap or a repeat"
        assert not self._end.done()
        self.tokens += tokens
        self.items += items
        self._actor.loop.call_soon(self._actor.post, Consumed(self.request, self.position))
        self._changed.set()

    def end(self, finish: Finish) -> None:
        self._end.set_result(finish)

    async def until(self, count: int) -> None:
        """Wait for so many tokens."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.tokens) < count:
                self._changed.clear()
                await self._changed.wait()

    async def done(self) -> Finish:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.shield(self._end)

    def kill(self) -> None:
        self._actor.post(Abandon(self.request, Strength.KILL))


def ask(actor: Actor, model: str, prompt: Sequence[int], wanted: Generation | bytes, **options: Any) -> Tokens:
    """Begin a request for tokens."""
    tokens = Tokens(actor, prompt)
    payload = wanted if isinstance(wanted, bytes) else generation.encode(wanted)
    actor.ask(Ask(tokens.request, endpoint_of(model), payload, tokens.prompt, **options), tokens)
    return tokens


async def workers(actor: Actor, model: str, count: int = 1) -> tuple[int, ...]:
    """Wait until so many workers serve a model."""
    async with asyncio.timeout(PATIENCE_S):
        while len(found := actor.node.offered(GENERATE).get(endpoint_of(model), ())) < count:
            await asyncio.sleep(0.01)
        return found


def play(join: str, body: Callable[[Actor], Coroutine[Any, Any, None]]) -> None:
    """Run a client in a loop of its own."""

    async def main() -> None:
        async with connect(join=join) as mesh:
            mesh.actor.post(Want(GENERATE))
            mesh.actor.post(Want(ROUTER))
            await body(mesh.actor)

    asyncio.run(main())
