"""Pure. Invariant 9: the two sessions of a pair that was up stand and fall together (proto/README.md, Sessions 3-5).

It is judged by what a node says. Who sends more than Hello and Welcome on its own session takes the pair for up: from
then on that session and the one that it welcomed there belong to each other, and neither may ever get another partner.
"""

from typing import TYPE_CHECKING

from mesh.simulation.violation import require
from proto.basics import Message
from proto.messages import Hello, Reset, Welcome

if TYPE_CHECKING:
    from mesh.simulation.network import Link

HANDSHAKE = (Hello, Welcome, Reset)


class Pairs:
    """Which sessions were joined, by what their owners said."""

    def __init__(self) -> None:
        self._probes: dict[int, None] = {}  # sessions that only ask who is there: they never get a partner
        self._welcomed: dict[Link, int] = {}  # on a session of the sender: the other's session that it accepted last
        self._joined: dict[Link, int] = {}
        self._meant: dict[Link, int] = {}  # the node that a session is for; who listens there may be another by now
        self._newest: dict[tuple[str, int], int] = {}  # session that a process has welcomed of a node
        self._partner: dict[tuple[str, int], Link] = {}  # by the label of who welcomed it, and the session

    def transmitted(self, link: "Link", message: Message) -> None:
        """A message leaves on this session."""
        if not isinstance(message, HANDSHAKE):
            self._speaks(link)
        elif isinstance(message, Hello):
            self._meant[link] = message.destination
            if not message.destination:
                self._probes[message.session] = None
        elif isinstance(message, Welcome) and message.session not in self._probes:
            self._welcome(link, message.session)

    def _welcome(self, link: "Link", session: int) -> None:
        joined = self._joined.get(link, session)
        require(joined == session, "9 pair", f"{link.name} was joined to {joined:x}, and welcomes {session:x}")
        partner = self._partner.get((link.source.label, session), link)
        require(partner is link, "9 pair", f"{link.name} welcomes {session:x}, which was void with {partner.name}")
        pair = (link.source.label, self._meant[link])
        newest = self._newest.get(pair, 0)
        require(session >= newest, "9 pair", f"{link.name} welcomes {session:x} after the younger {newest:x}")
        self._newest[pair] = session
        self._welcomed[link] = session

    def _speaks(self, link: "Link") -> None:
        if link not in self._joined:
            session = self._welcomed.get(link, 0)
            require(session != 0, "9 pair", f"{link.name} is used before a session of the other side was welcomed")
            self._joined[link] = session
            self._partner[link.source.label, session] = link
