"""Pure. What one tier has gained and lost, as routers are told of it."""

from nodes.contract.engine import BlockEvent


class Changes:
    """Events of one tier, in order, until somebody takes them."""

    def __init__(self) -> None:
        self.told = False  # nothing is noted before somebody listens
        self._events: list[BlockEvent] = []

    def __bool__(self) -> bool:
        return bool(self._events)

    def stored(self, name: int, parent: int) -> None:
        """A block is there now. Neighbours share an event."""
        if not self.told:
            return
        last = self._events[-1] if self._events else None
        if last is not None and last.kind == "stored" and last.hashes[-1] == parent:
            last.hashes.append(name)
        else:
            self._events.append(BlockEvent("stored", [name], parent))

    def removed(self, name: int) -> None:
        """It is not there any more."""
        if not self.told:
            return
        if self._events and self._events[-1].kind == "removed":
            self._events[-1].hashes.append(name)
        else:
            self._events.append(BlockEvent("removed", [name]))

    def take(self) -> list[BlockEvent]:
        """All since the last time."""
        events, self._events = self._events, []
        return events
