"""Shell. ZeroMQ sockets: one ROUTER that only receives, one DEALER per session that only sends.

A DEALER is a session: it never reconnects, and its descriptor tells of its death. ZeroMQ's descriptors tell only of
changes, and a call on a socket may swallow one: so the inbox is drained until it is empty. A DEALER needs no second
look after a send: one that swallows the news of a death fails for it. Nothing here knows what a frame means.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import MethodType
from typing import TYPE_CHECKING

import zmq

from mesh.discovery.machine import private_umask
from proto import limits
from proto.errors import Reason

if TYPE_CHECKING:
    from mesh.security import Key

FRAMES_PER_TURN_MAX = 256  # about a millisecond of work: timers and HTTP get their turn
SEND_FRAMES_MAX = 8_192  # a tripwire: credit keeps the queue far below that
RECEIVE_FRAMES_MAX = 1_000  # per connection; the rest waits at the sender
ANSWERS_BYTES_MAX = 4_096  # nothing is ever received on a DEALER
HEARTBEAT_MS = 1_000  # ZeroMQ's own: tells a dead host; a hung process is for `mesh.peers`
HEARTBEAT_TIMEOUT_MS = 3_000
HEARTBEAT_TTL_MS = 4_000
HANDSHAKE_MS = 5_000  # of ZeroMQ's own handshake: a connection that stays silent is closed
CONNECT_MS = 2_000
LOOKS = 8  # whether there is one more frame: with more of them the exception at the end is cheaper
BACKLOG = 512  # a whole mesh may dial a new node at once
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 30, 10, 3
BURST_S = 5.0  # a frozen reader is known within that time, so a queue cannot have taken longer to fill

TERM_S = 3.0  # for the last words to leave: a second more than the longest linger

Socket = zmq.Socket[bytes]
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)


def new_context() -> "zmq.Context[Socket]":
    """The context of one actor. No socket of it blocks its end."""
    context: zmq.Context[Socket] = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 65_535)
    context.set(zmq.BLOCKY, 0)
    return context


async def terminate(context: "zmq.Context[Socket]") -> None:
    """End a context whose sockets are closed; in a thread, because what lingers holds it up."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def end() -> None:
        context.term()
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=end, name="zmq end", daemon=True)
    thread.start()
    with suppress(TimeoutError):
        async with asyncio.timeout(TERM_S):
            await done.wait()
            thread.join()


def _profile(socket: Socket) -> None:
    """What all our sockets share."""
    socket.linger = 0
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TTL_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT)


def _set_family(socket: Socket, address: str) -> None:
    """IPv6 only where it was asked for: with it, 'localhost' is ::1, and 127.0.0.1 becomes ::ffff:127.0.0.1."""
    socket.setsockopt(zmq.IPV6, int(address.startswith("tcp://[")))


class Inbox:
    """The one socket that hears everybody."""

    def __init__(self, context: "zmq.Context[Socket]") -> None:
        self._socket = socket = context.socket(zmq.ROUTER)
        _profile(socket)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_FRAMES_MAX)
        socket.setsockopt(zmq.SNDHWM, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
        socket.setsockopt(zmq.BACKLOG, BACKLOG)
        self._receive = socket.recv
        self._get = socket.get
        self.descriptor: int = socket.FD

    def bind(self, addresses: Iterable[str], key: "Key | None" = None) -> tuple[str, ...]:
        """Listen at each address; returns them with the ports that the kernel gave.

        ZeroMQ copies a socket's options when it binds, so ipc is bound before the socket turns to CURVE: the directory
        guards it.
        """
        addresses = tuple(addresses)
        bound = {address: self._bind(address) for address in addresses if address.startswith("ipc://")}
        if key is not None:
            from mesh.security import curve_server  # Only a node that listens beyond this host needs it.

            curve_server(self._socket, key)
        bound |= {address: self._bind(address) for address in addresses if address not in bound}
        return tuple(bound[address] for address in addresses)

    def _bind(self, address: str) -> str:
        _set_family(self._socket, address)
        with private_umask():
            self._socket.bind(address)
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def drain(self, take: Callable[[bytes, bytes], None], garbled: Callable[[bytes], None], frames_max: int) -> bool:
        """Hand over what has come, at most `frames_max` frames; whether there may be more.

        The descriptor fires for a few frames most of the time, and an exception costs as much as nine looks: so the
        first one is taken on trust, the next are looked for, and only a queue that holds many is drained to its end.
        """
        receive, get = self._receive, self._get
        for count in range(frames_max):
            try:
                zid = receive(_NOBLOCK)
            except zmq.Again:
                return False
            frame = receive(_NOBLOCK, False)
            if frame.more:
                self._discard()
                garbled(zid)
            else:
                take(zid, frame.bytes)
            if count < LOOKS and not get(_EVENTS) & _POLLIN:  # type: ignore[operator]
                return False
        return True

    def _discard(self) -> None:
        """The rest of a message of too many frames."""
        while self._receive(_NOBLOCK, False).more:
            pass

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class _Dealer:
    """One session's socket."""

    __slots__ = ("burst", "burst_at", "descriptor", "send", "socket")

    def __init__(self, socket: Socket, now: float) -> None:
        self.socket = socket
        self.send = MethodType(zmq.backend.Socket.send, socket)  # the wrapper around it costs as much again
        self.descriptor: int = socket.FD
        self.burst = 0  # frames since `burst_at`: tells a full queue from a dead link
        self.burst_at = now


class Outboxes:
    """All sessions that we opened. `down` is told when one is dead; it is closed by whoever opened it."""

    def __init__(
        self,
        context: "zmq.Context[Socket]",
        loop: asyncio.AbstractEventLoop,
        down: Callable[[int, Reason], None],
        key: "Key | None" = None,
        send_frames_max: int = SEND_FRAMES_MAX,
    ) -> None:
        self._context = context
        self._loop = loop
        self._down = down
        self._key = key
        self._send_frames_max = send_frames_max
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._dealers: dict[int, _Dealer] = {}

    def __len__(self) -> int:
        return len(self._dealers)

    def open(self, session: int, address: str) -> None:
        """A new session. An address that cannot be connected to is told as a dead link, like one that is refused."""
        dealer = _Dealer(self._context.socket(zmq.DEALER), self._loop.time())
        self._dealers[session] = dealer
        self._configure(dealer.socket, address)
        try:
            dealer.socket.connect(address)
        except zmq.ZMQError:
            self._down(session, Reason.UNREACHABLE)
            return
        self._loop.add_reader(dealer.descriptor, self._look, session)

    def _configure(self, socket: Socket, address: str) -> None:
        _profile(socket)
        _set_family(socket, address)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.IMMEDIATE, 0)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        socket.setsockopt(zmq.SNDHWM, self._send_frames_max)
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, ANSWERS_BYTES_MAX)
        if self._key is not None and not address.startswith("ipc://"):
            from mesh.security import curve_client  # Only a node that dials beyond this host needs it.

            curve_client(socket, self._key)

    def put(self, session: int, frame: bytes) -> None:
        """Send a frame at the next `flush`: ZeroMQ's thread is then woken once, not for each."""
        self._waiting.append((session, frame))

    def flush(self) -> None:
        """Send what waits. A session that breaks meanwhile may bring more."""
        while self._waiting:
            self.send(*self._waiting.popleft())

    def send(self, session: int, frame: bytes) -> bool:
        """Put a frame on a session. False if it is dead or full, which is then also told to `down`."""
        dealer = self._dealers.get(session)
        if dealer is None:
            return False
        try:
            dealer.send(frame, _NOBLOCK)
        except zmq.Again:
            self._tell(session, dealer)
            return False
        dealer.burst += 1
        if dealer.burst > self._send_frames_max:
            self._renew(dealer)
        return True

    def _renew(self, dealer: _Dealer) -> None:
        """So many frames that the queue may be full, unless they took their time."""
        now = self._loop.time()
        if now - dealer.burst_at > BURST_S:
            dealer.burst, dealer.burst_at = 0, now

    def _look(self, session: int) -> None:
        dealer = self._dealers.get(session)
        if dealer is not None and not dealer.socket.get(_EVENTS) & _POLLOUT:  # type: ignore[operator]
            self._tell(session, dealer)

    def _tell(self, session: int, dealer: _Dealer) -> None:
        """ZeroMQ does not say whether a queue that takes no more is full or nobody's."""
        full = dealer.burst >= self._send_frames_max
        self._down(session, Reason.OVERFLOW if full else Reason.LINK_LOST)

    def close(self, session: int, linger_ms: int = 0) -> None:
        """Close a session; what is queued gets `linger_ms` to leave."""
        self.flush()
        dealer = self._dealers.pop(session, None)
        if dealer is not None:
            self._loop.remove_reader(dealer.descriptor)
            dealer.socket.close(linger_ms)

    def close_all(self) -> None:
        """Close every session."""
        for session in list(self._dealers):
            self.close(session)
