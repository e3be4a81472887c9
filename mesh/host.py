"""Shell. The contracts of what else may stand around an actor: the host of an engine, and the feed of a request.

Effects for its endpoint go to it, and what becomes of them comes back through `post`, as it does from `mesh.runner`:
each Start in exactly one of Finished, Failed or Yielded, which gives its room back.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from mesh.core import Event, Finish, Go, Halt, Hint, Leg, Start
from proto.messages import Offer


class Host(Protocol):
    """Runs legs. It need not heed Pause: what credit does not allow waits in the holder."""

    def offer(self) -> Offer:
        """What it serves."""
        ...

    def attach(self, post: Callable[[Event], None], loop: asyncio.AbstractEventLoop) -> None:
        """Where its events go; called once, before the first leg."""
        ...

    def holds(self, leg: Leg) -> bool:
        """Whether this leg runs here."""
        ...

    def start(self, start: Start) -> None:
        """Run a leg."""
        ...

    def go(self, go: Go) -> None:
        """A leg that awaits may make units now, after these."""
        ...

    def hint(self, hint: Hint) -> None:
        """End it soon, as if by itself."""
        ...

    def halt(self, halt: Halt) -> None:
        """End it now."""
        ...

    async def close(self) -> None:
        """The node is gone: end everything."""
        ...


class Feed(Protocol):
    """Takes what comes of one request of ours, in the loop's thread."""

    @property
    def request(self) -> int:
        """Its number."""
        ...

    @property
    def position(self) -> int:
        """Units that its caller has taken."""
        ...

    def deliver(self, position: int, items: Sequence[bytes], tokens: Sequence[int]) -> None:
        """Units from `position` on."""
        ...

    def end(self, finish: Finish) -> None:
        """The last that is said about it."""
        ...
