"""Shell. Two ways of discovery that only combine or pass on: known contacts, and several ways at once."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from mesh.discovery import Discovery
from proto.messages import Record

STOP_S = 2.0


class Seeds:
    """Contacts that somebody named. The core dials them, and again when they are lost; peers gossip the rest."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def start(
        self,
        record: Record,
        found: Callable[[Record], None],
        lost: Callable[[int], None],
        seed: Callable[[str], None],
        remark: Callable[[str, str], None],
    ) -> None:
        """Name each contact once."""
        for address in self._addresses:
            seed(address)

    async def publish(self, record: Record) -> None:
        """Nothing to publish: peers learn of changes from us."""

    async def stop(self) -> None:
        """Nothing to withdraw."""

    def describe(self) -> str:
        """The contacts."""
        return f"seeds {', '.join(self._addresses)}"


class Several:
    """Ways side by side. A node is lost when none sees it; a way that does not work here is said and left out."""

    def __init__(self, ways: Sequence[Discovery]) -> None:
        self._ways = list(ways)
        self._seen: dict[int, set[int]] = {}  # node to the ways that see it

    async def start(
        self,
        record: Record,
        found: Callable[[Record], None],
        lost: Callable[[int], None],
        seed: Callable[[str], None],
        remark: Callable[[str, str], None],
    ) -> None:
        """Start each; raises OSError only if none could."""
        self._found, self._lost = found, lost
        errors = []
        for index, way in enumerate(list(self._ways)):
            try:
                await way.start(record, self._finder(index), self._loser(index), seed, remark)
            except OSError as error:
                errors.append(error)
                self._ways.remove(way)
                await way.stop()
                remark("discovery.way", f"a way to find others does not work here and is left out: {error}")
        if errors and not self._ways:
            raise errors[0]

    async def publish(self, record: Record) -> None:
        """Publish everywhere."""
        for way in self._ways:
            await way.publish(record)

    async def stop(self) -> None:
        """Stop all at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(*(way.stop() for way in self._ways))

    def describe(self) -> str:
        """All of them."""
        return "; ".join(way.describe() for way in self._ways)

    def _finder(self, index: int) -> Callable[[Record], None]:
        def find(record: Record) -> None:
            self._seen.setdefault(record.node, set()).add(index)
            self._found(record)

        return find

    def _loser(self, index: int) -> Callable[[int], None]:
        def lose(node: int) -> None:
            seers = self._seen.get(node, set())
            seers.discard(index)
            if not seers:
                self._seen.pop(node, None)
                self._lost(node)

        return lose
