"""Pure. One leg of a request, as the messages showed it to somebody who believes no core."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.simulation.network import Link
    from mesh.simulation.process import Process


class Seen:
    """A leg, from its Submit to what its owner heard last of it."""

    __slots__ = (
        "alone", "attempt", "awaits", "endpoint", "fruitless", "handed", "holder", "limit", "link", "over", "place",
        "running", "start", "stopped",
        "submitted_at",
    )  # fmt: skip

    def __init__(self, attempt: int = 0, holder: str = "", place: int = -1, link: "Link | None" = None) -> None:
        self.attempt = attempt
        self.holder = holder
        self.place = place
        self.link = link  # the session of its Submit
        self.endpoint = ""
        self.submitted_at = 0.0
        self.start = 0  # units that its owner had
        self.limit = 0
        self.awaits = False  # it is owed a Fed
        self.alone = False  # so it runs by itself
        self.running = False  # its owner has been told so
        self.fruitless = True  # nothing has come of it
        self.handed = False
        self.stopped = False  # its owner has asked it to finish
        self.over = False  # its owner has heard so, or has killed it

    def lives(self, owner: "Process") -> bool:
        """Whether its owner must count on it."""
        return not self.over and self.link in owner.links.values()
