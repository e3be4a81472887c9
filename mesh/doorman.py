"""Pure. Who may come in: what a connection without a session says is looked at here before anybody else sees it.

Only a small, valid Hello of our own mesh, or a Reset, gets past. Everything else is counted, and struck or refused.
"""

from collections.abc import Callable

from mesh import hellos
from mesh.core import Effect, Heard, Remark
from mesh.sessions import Sessions
from mesh.settings import Settings
from mesh.strangers import Strangers
from proto import limits
from proto.errors import Reason
from proto.messages import Hello, Record, Reset

TELL_OFF_S = 1.0  # a node is told about its void session at most that often
REFUSAL_LINGER_MS = 1_000  # time for a last word on a session that is closed right after


class Doorman:
    """The door of one node."""

    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        strangers: Strangers,
        out: list[Effect],
        count: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._strangers = strangers
        self._out = out
        self._count = count

    def look(self, event: Heard) -> Hello | Reset | None:
        """The message of a connection that is neither fenced nor muted, if it is one that may open a session."""
        message = event.message
        if self._strangers.muted(event.zid):
            self._count("frames.muted")
        elif isinstance(message, Hello) and event.sequence == 1 and event.size_bytes <= limits.HELLO_BYTES_MAX:
            return self._greet(event.zid, message)
        elif isinstance(message, Reset) and event.sequence == 1:
            return message
        else:
            self._count("frames.stranger")
            self._strangers.strike(event.zid)
        return None

    def ours(self, record: Record) -> bool:
        """Whether a record is of our mesh; if not, say once that we saw the other one."""
        if record.mesh == self._settings.mesh and record.tag == self._settings.tag:
            return True
        self._count("peers.other_mesh")
        why = "another key" if record.mesh == self._settings.mesh else "another name"
        text = f"saw a node of mesh {record.mesh!r} ({why}); it stays apart from ours, {self._settings.mesh!r}"
        self._out.append(Remark(f"other mesh {record.mesh} {why}", text))
        return False

    def tell_off(self, node: int, session: int, now: float) -> None:
        """A frame of a void session: its sender may not know yet."""
        peer = self._sessions.by_node.get(node)
        if peer is None or now - peer.told_off < TELL_OFF_S:
            return
        peer.told_off = now
        if peer.session:
            self._sessions.transmit(peer, Reset(session, int(Reason.FENCED)))
        elif not self._sessions.draining:
            self._sessions.dial(peer, now)  # the Hello alone says it

    def _greet(self, zid: bytes, hello: Hello) -> Hello | None:
        if hello.record.node == self._settings.node:
            return hello  # one of our own probes came back
        reason = hellos.refusal(hello, self._settings)
        if reason is None:
            return hello
        self._refuse(zid, hello, reason)
        return None

    def _refuse(self, zid: bytes, hello: Hello, reason: Reason) -> None:
        """Say no over a session that lives just for that; the connection gets no second hearing."""
        self._count(f"hellos.refused.{reason.label}")
        self._strangers.fence(zid, hello.record.node, hello.session)
        if reason is Reason.OTHER_MESH:
            self.ours(hello.record)
        address = hellos.choose_address(hello.record, self._settings.host, 0)
        if address is not None:
            text = hellos.explain(reason, hello, self._settings)
            refusal = Reset(hello.session, int(reason), text)
            self._sessions.once(address, hello.record.node, refusal, REFUSAL_LINGER_MS)
