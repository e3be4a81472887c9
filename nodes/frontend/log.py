"""Pure. The events of one kept stream: what a client that comes later, or comes back, still has to read."""

from collections.abc import Sequence

from nodes.frontend import limits


class Log:
    """Events by number, from the first that is still held."""

    __slots__ = ("bytes", "events", "first")

    def __init__(self) -> None:
        self.first = 0
        self.events: list[bytes] = []
        self.bytes = 0

    @property
    def end(self) -> int:
        """The number that the next event gets."""
        return self.first + len(self.events)

    @property
    def whole(self) -> bool:
        """Whether somebody who joins can read it from the start."""
        return self.first == 0

    @property
    def full(self) -> bool:
        """Whether it may not grow before somebody has read the oldest."""
        return self.bytes > limits.LOG_BYTES_MAX

    def add(self, events: Sequence[bytes]) -> None:
        """More events."""
        self.events += events
        self.bytes += sum(map(len, events))

    def since(self, number: int, bytes_max: int) -> list[bytes]:
        """The events from `number` on, at least one if there is one, up to so many bytes."""
        taken: list[bytes] = []
        total = 0
        for index in range(max(0, number - self.first), len(self.events)):
            event = self.events[index]
            if taken and total + len(event) > bytes_max:
                break
            taken.append(event)
            total += len(event)
        return taken

    def trim(self, number: int) -> None:
        """Everybody has read the events before `number`: a log that is too long gives them up."""
        cut = 0
        while self.full and self.first + cut < number:
            self.bytes -= len(self.events[cut])
            cut += 1
        del self.events[:cut]
        self.first += cut


def numbered(events: Sequence[bytes], first: int) -> bytes:
    """Events with their ids, in one piece."""
    return b"".join([b"id: %d\n%b" % (first + index, event) for index, event in enumerate(events)])
