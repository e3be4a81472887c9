"""Nodes joined by a wire in memory: the real cores, the real codec, virtual time, and every frame in the test's hand.

    wire = Wire()
    client, worker = wire.client(), wire.worker()
    wire.meet(client, worker)
    request = wire.ask(client, ECHO, window=4)
    leg = wire.leg(worker)
    wire.tell(worker, Produced(leg, [b"one"]))
    wire.settle()
    assert wire.delivered(client, request) == [b"one"]

A session is ordered and without gap; `drop` ends one and loses what is under way on it. `hold` keeps a direction's
frames back until `release`, so that messages cross. Time moves in `advance` alone. `check` runs after every event.
"""

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any, NamedTuple, TypeVar

from mesh.core import (
    TICK,
    Ask,
    Close,
    Deliver,
    Effect,
    Event,
    Finish,
    Found,
    Heard,
    Leg,
    LinkDown,
    Open,
    Start,
    Transmit,
    Want,
)
from mesh.node import Node, Settings
from proto import codec
from proto.basics import Message
from proto.errors import Reason
from proto.messages import Offer, Role

ECHO = "demo.echo.run"  # cannot resume
COUNT = "demo.count.run"  # resumes
OFFERS = (Offer(ECHO), Offer(COUNT, resumable=True))
TURNS_MAX = 100_000  # of one `settle`: more is an endless conversation

Some = TypeVar("Some")


class Frame(NamedTuple):
    """One frame under way."""

    source: int
    session: int
    target: int
    data: bytes

    @property
    def zid(self) -> bytes:
        """The connection as the receiver names it."""
        return f"{self.source}/{self.session}".encode()


class Sent(NamedTuple):
    """A message that a node has put on a session."""

    source: int
    target: int
    message: Message


class Wire:
    """All nodes of a test, and what is between them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.nodes: dict[int, Node] = {}
        self.frozen: set[int] = set()
        self.sent: list[Sent] = []
        self.effects: list[tuple[int, Effect]] = []
        self._born: list[int] = []
        self._listening: dict[str, int] = {}
        self._sessions: dict[tuple[int, int], int] = {}  # (node, session): whom it reaches
        self._counts: dict[tuple[int, int], int] = {}  # (node, session): the last number sent
        self._forged: dict[tuple[int, int], int] = {}  # (node, session): how many of them are not the node's own
        self._frames: deque[Frame] = deque()
        self._refused: deque[tuple[int, int]] = deque()
        self._held: set[tuple[int, int]] = set()

    # --- Builders ------------------------------------------------------------------------------------

    def node(self, role: int = Role.COMPONENT, offers: Iterable[Offer] = (), **changes: Any) -> int:
        """A node with defaults for all that the test does not care about; its id."""
        node = int(changes.pop("node", len(self._born) + 1))
        aide = changes.pop("aide", None)
        settings: dict[str, Any] = {
            "name": f"node {node}",
            "mesh": "test",
            "tag": b"",
            "boot": node,
            "host": "here",
            "addresses": (f"ipc:///{node}",),
            "seed": 1,
        }
        made = Settings(node=node, role=int(role), offers=tuple(offers), **(settings | changes))
        self.nodes[node] = Node(made, self.now, aide)
        self._born.append(node)
        self._listening.update(dict.fromkeys(made.addresses, node))
        return node

    def client(self, **changes: Any) -> int:
        """A node that asks."""
        return self.node(Role.CLIENT, **changes)

    def worker(self, offers: Iterable[Offer] = OFFERS, **changes: Any) -> int:
        """A node that serves."""
        return self.node(Role.WORKER, offers, **changes)

    def meet(self, asking: int, *serving: int) -> None:
        """Let one node find others and want what they serve, and wait until they are up."""
        for endpoint in (ECHO, COUNT):
            self.tell(asking, Want(endpoint))
        for node in serving:
            self.tell(asking, Found(self.nodes[node].record()))
        self.settle()
        for node in serving:
            assert self.state(asking, node) == self.state(node, asking) == "up"

    def ask(self, owner: int, endpoint: str = ECHO, settle: bool = True, **changes: Any) -> int:
        """Begin a request; its number."""
        request = self.nodes[owner].next_request()
        self.tell(owner, Ask(request, endpoint, **changes))
        if settle:
            self.settle()
        return request

    # --- Moving frames and time ------------------------------------------------------------------------

    def tell(self, node: int, event: Event) -> list[Effect]:
        """Give a node one event and do what it wants done."""
        effects = self.nodes[node].handle(event, self.now)
        self.nodes[node].check()
        for effect in effects:
            self._execute(node, effect)
        return effects

    def deliver(self) -> bool:
        """Hand over the oldest frame that is not held back; whether there was one."""
        for index, frame in enumerate(self._frames):
            if (frame.source, frame.target) not in self._held and frame.target not in self.frozen:
                del self._frames[index]
                self._arrive(frame)
                return True
        return False

    def settle(self) -> None:
        """Deliver everything and let every turn end, until nobody has anything to say now."""
        for _ in range(TURNS_MAX):
            if self.deliver() or self._refuse() or self._tick_one():
                continue
            return
        raise AssertionError("they never stop talking")

    def advance(self, seconds: float) -> None:
        """Let time pass, with every timer at its moment."""
        end = self.now + seconds
        while True:
            self.settle()
            due = min((node.deadline() for number, node in self.nodes.items() if self._awake(number)), default=inf)
            if due > end:
                break
            self.now = max(self.now, due)
        self.now = end
        self.settle()

    def wait_for(self, node: int, peer: int, state: str, at_most_s: float = 60.0) -> None:
        """Let time pass until one node sees another in this state, to a hundredth of a second."""
        end = self.now + at_most_s
        while self.state(node, peer) != state:
            assert self.now < end, f"{self.state(node, peer)!r} for {at_most_s:g} s, never {state!r}"
            self.advance(0.01)

    def hold(self, source: int, target: int) -> None:
        """Keep back what goes from one node to another."""
        self._held.add((source, target))

    def release(self, source: int, target: int) -> None:
        """Let it go on, and settle."""
        self._held.discard((source, target))
        self.settle()

    def under_way(self, source: int, target: int) -> list[Message]:
        """What has been sent and not delivered."""
        frames = [frame for frame in self._frames if (frame.source, frame.target) == (source, target)]
        return [message for frame in frames if isinstance(message := codec.decode(frame.data)[1], Message)]

    # --- Faults ----------------------------------------------------------------------------------------

    def drop(self, source: int, target: int) -> None:
        """End the session from one node to another: what is under way is lost, and the sender notices."""
        for session in self.sessions(source, target):
            self._lose(source, session)
            if self._awake(source):
                self.tell(source, LinkDown(session))

    def crash(self, node: int) -> None:
        """A process is killed: nobody hears of it again but by their dead sockets."""
        del self.nodes[node]
        self._listening = {address: target for address, target in self._listening.items() if target != node}
        for source, session in list(self._sessions):
            if source == node:
                self._lose(source, session)
        for source in list(self.nodes):
            self.drop(source, node)

    def listen(self, address: str, node: int) -> None:
        """What dials this address reaches this node; 0: nobody."""
        self._listening[address] = node

    def freeze(self, node: int) -> None:
        """A process is stopped: its sockets stay, and what comes waits."""
        self.frozen.add(node)

    def thaw(self, node: int) -> None:
        """It goes on; the test says whether it noticed (`Overdue`)."""
        self.frozen.discard(node)

    def forge(self, source: int, target: int, message: Message, skip: int = 0) -> None:
        """Put a message on a node's session that the node itself never sent; `skip` leaves out that many numbers."""
        session = self.sessions(source, target)[-1]
        self._counts[source, session] += 1 + skip
        self._forged[source, session] = self._forged.get((source, session), 0) + 1 + skip
        self._send(source, session, codec.encode(self._counts[source, session], message))

    def knock(self, target: int, message: Message, zid: bytes = b"stranger", sequence: int = 1) -> None:
        """A frame on a connection that belongs to no node of this wire."""
        frame = codec.encode(sequence, message)
        number, decoded = codec.decode(frame)
        self.tell(target, Heard(zid, number, decoded, len(frame)))

    # --- Questions -------------------------------------------------------------------------------------

    def sessions(self, source: int, target: int) -> list[int]:
        """Open sessions from one node to another, oldest first."""
        return [session for (node, session), reached in self._sessions.items() if (node, reached) == (source, target)]

    def said(self, source: int, target: int, kind: type[Some]) -> list[Some]:
        """All messages of a kind that one node has sent to another."""
        found = [entry for entry in self.sent if (entry.source, entry.target) == (source, target)]
        return [entry.message for entry in found if isinstance(entry.message, kind)]

    def did(self, node: int, kind: type[Some]) -> list[Some]:
        """All effects of a kind of one node."""
        return [effect for number, effect in self.effects if number == node and isinstance(effect, kind)]

    def state(self, node: int, peer: int) -> str:
        """How one node sees another; empty if it does not know it."""
        peers = self.nodes[node].snapshot()["peers"]
        return next((str(entry["state"]) for entry in peers if entry["node"] == f"{peer:016x}"), "")

    def stat(self, node: int, name: str) -> int:
        """A counter."""
        return self.nodes[node].stats.get(name, 0)

    def leg(self, holder: int) -> Leg:
        """The newest leg that was started there."""
        return self.did(holder, Start)[-1].leg

    def delivered(self, owner: int, request: int) -> list[Any]:
        """All units that the caller got; fails on a gap or a repeat."""
        units: list[Any] = []
        for effect in self.did(owner, Deliver):
            if effect.request == request:
                assert effect.position == len(units), f"{effect.position} after {len(units)} units"
                units += [*effect.tokens, *effect.items]
        return units

    def finished(self, owner: int, request: int) -> Finish | None:
        """How a request ended; fails if it ended twice."""
        found = [effect for effect in self.did(owner, Finish) if effect.request == request]
        assert len(found) <= 1, found
        return found[0] if found else None

    def reason(self, owner: int, request: int) -> Reason | None:
        """Why a request ended; None if it goes on."""
        finish = self.finished(owner, request)
        return finish.reason if finish else None

    def quiet(self) -> bool:
        """Nobody has a request, a claim or a leg."""
        views = [node.snapshot() for node in self.nodes.values()]
        return not any(view[part] for view in views for part in ("requests", "claims", "legs", "running"))

    # --- Inside ----------------------------------------------------------------------------------------

    def _awake(self, node: int) -> bool:
        return node in self.nodes and node not in self.frozen

    def _execute(self, node: int, effect: Effect) -> None:
        match effect:
            case Open():
                target = self._listening.get(effect.address, 0)
                self._sessions[node, effect.session] = target
                self._counts[node, effect.session] = 0
                if not target:
                    self._refused.append((node, effect.session))
            case Transmit():
                sequence = effect.sequence + self._forged.get((node, effect.session), 0)
                assert sequence == self._counts[node, effect.session] + 1, "a gap of our own"
                self._counts[node, effect.session] = sequence
                target = self._sessions.get((node, effect.session), 0)
                self.sent.append(Sent(node, target, effect.message))
                self._send(node, effect.session, codec.encode(sequence, effect.message))
            case Close():
                self._sessions.pop((node, effect.session), None)  # what was sent before still arrives
            case _:
                self.effects.append((node, effect))

    def _send(self, source: int, session: int, data: bytes) -> None:
        target = self._sessions.get((source, session), 0)
        if target:
            self._frames.append(Frame(source, session, target, data))

    def _lose(self, source: int, session: int) -> None:
        self._sessions.pop((source, session), None)
        self._frames = deque(frame for frame in self._frames if (frame.source, frame.session) != (source, session))

    def _arrive(self, frame: Frame) -> None:
        if frame.target in self.nodes:
            sequence, message = codec.decode(frame.data)
            self.tell(frame.target, Heard(frame.zid, sequence, message, len(frame.data)))

    def _refuse(self) -> bool:
        """Nobody listens at an address: its session is dead."""
        while self._refused:
            node, session = self._refused.popleft()
            if self._sessions.pop((node, session), None) is not None and self._awake(node):
                self.tell(node, LinkDown(session, Reason.UNREACHABLE))
                return True
        return False

    def _tick_one(self) -> bool:
        for number, node in self.nodes.items():
            if self._awake(number) and node.deadline() <= self.now:
                self.tell(number, TICK)
                return True
        return False
