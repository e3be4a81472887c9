"""Pure. The links to other planes: dialled when a pull needs one, kept a while after the last, each one session.

A link that breaks is not repaired: the next pull that needs one gets a new one, at the owner's next address.
"""

from msgspec import Struct

from mesh.timers import Timers
from nodes.transfer import limits
from nodes.transfer.moves import Dial, Effect, Forget, Hang, Tell
from nodes.transfer.wire import Message


class _Plane(Struct):
    """What we have of one other plane."""

    users: dict[int, None]  # pulls
    link: int = 0  # 0: none
    turn: int = 0  # which address the next dial takes


class Links:
    """All of them. Effects go to the list that it was given."""

    def __init__(self, out: list[Effect]) -> None:
        self._out = out
        self._planes: dict[int, _Plane] = {}
        self._by_number: dict[int, int] = {}
        self._dialled = 0
        self._idle: Timers[int] = Timers()

    def number_of(self, plane: int) -> int:
        """The link to a plane; 0 without one."""
        found = self._planes.get(plane)
        return found.link if found is not None else 0

    def need(self, plane: int, addresses: tuple[str, ...], pull: int) -> None:
        """A pull wants to speak. Without an address it stays silent: a direct move may do without a word."""
        found = self._planes.setdefault(plane, _Plane({}))
        found.users[pull] = None
        self._idle.clear(plane)
        if found.link or not addresses:
            return
        self._dialled += 1
        found.link = self._dialled
        self._by_number[found.link] = plane
        self._out.append(Dial(found.link, addresses[found.turn % len(addresses)]))

    def release(self, plane: int, pull: int, now: float) -> None:
        """A pull is over."""
        found = self._planes.get(plane)
        if found is not None and pull in found.users:
            del found.users[pull]
            if not found.users:
                self._idle.set(plane, now + limits.LINK_IDLE_S)

    def tell(self, plane: int, message: Message, late: bool = False) -> None:
        """Send, if there is a link."""
        link = self.number_of(plane)
        if link:
            self._out.append(Tell(link, message, late))

    def down(self, link: int, text: str, now: float) -> int | None:
        """A link is gone, or not to be used any more: to whom was it? `text` says what the owner did wrong.

        What is mapped of a dead process is given back with its last pull.
        """
        plane = self._by_number.pop(link, None)
        if plane is None:
            return None
        found = self._planes[plane]
        found.link = 0
        found.turn += 1
        self._out.append(Hang(link, text))
        if not found.users:
            self._idle.set(plane, now)
        return plane

    def deadline(self) -> float:
        """When a link has been idle for long enough."""
        return self._idle.deadline()

    def tick(self, now: float) -> None:
        """Close what is idle."""
        for plane in self._idle.due(now):
            found = self._planes.pop(plane)
            if found.link:
                del self._by_number[found.link]
                self._out.append(Hang(found.link))
            self._out.append(Forget(plane))

    def check(self) -> None:
        """Assert every invariant."""
        for link, plane in self._by_number.items():
            assert self._planes[plane].link == link
        linked = [plane for plane in self._planes.values() if plane.link]
        assert len(linked) == len(self._by_number)
        idle = [plane for plane in self._planes.values() if not plane.users]
        assert len(idle) == len(self._idle), "a link that nobody uses would never be closed"
