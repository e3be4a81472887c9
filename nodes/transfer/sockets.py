"""Shell. The bulk links: a ROUTER for those who pull from us, a DEALER for each plane that we pull from.

They have a context of their own, so their thread is not the one that carries tokens, and it is less important. A link
carries both directions: who pulls connects, who owns the bytes answers on the same connection. Payloads are sent from
where they lie; a tracker tells when ZeroMQ has let go of them. Nothing here knows what a message means.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import zmq

from mesh import links
from mesh.discovery.machine import private_umask
from nodes.transfer import limits
from nodes.transfer.memory import keep_frames
from nodes.transfer.mover import lower_priority

if TYPE_CHECKING:
    from mesh.security import Key

FRAME_BYTES_MAX = limits.CHUNK_BYTES + limits.CONTROL_BYTES_MAX
CONTEXT_S = 5.0  # to make a context takes a millisecond
SEND_FRAMES_MAX = 1_000  # on a connection: credit keeps the queue far below that
LINGER_MS = 200  # for what is queued on a link that is closed
LAST_WORDS_MS = 2_000  # of a plane that closes: what it fetched is held until its owner, who may be busy, has let it in
FAILURES = zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
COPY_BYTES = 64 * 1024  # less is copied faster than ZeroMQ's thread says that it has let go of it
REBIND_S = 0.01
BLOCKED = (zmq.EAGAIN, zmq.EHOSTUNREACH)

Socket = links.Socket
Context = zmq.Context[Socket]
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


def new_context(nice: int, encrypted: bool) -> Context:
    """A context whose threads are less important than ours: they inherit that from who makes the first socket."""
    keep_frames()
    made: list[Context] = []

    def make() -> None:
        lower_priority(nice)
        context: Context = zmq.Context(io_threads=2 if encrypted else 1)  # CURVE works in these threads
        context.set(zmq.BLOCKY, 0)
        context.socket(zmq.DEALER).close(0)
        made.append(context)

    thread = threading.Thread(target=make, name="transfer context")
    thread.start()
    thread.join(CONTEXT_S)
    return made[0]


def _profile(socket: Socket) -> None:
    """What all sockets here share; the times are those of the control links."""
    socket.linger = 0
    socket.setsockopt(zmq.HEARTBEAT_IVL, links.HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, links.HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, links.HEARTBEAT_TTL_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, links.HANDSHAKE_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.SNDHWM, SEND_FRAMES_MAX)
    socket.setsockopt(zmq.RCVHWM, limits.RECEIVE_FRAMES_MAX)


class OwnerSocket:
    """Those who pull from us. `take(peer, frame)` and `garbled(peer)` are called in the event loop."""

    def __init__(
        self,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[bytes, bytes], None],
        garbled: Callable[[bytes], None],
    ) -> None:
        self._context, self._loop, self._take, self._garbled = context, loop, take, garbled
        self._key: Key | None = None
        self._addresses: tuple[str, ...] = ()
        self._socket = self._new()

    def _new(self) -> Socket:
        socket = self._context.socket(zmq.ROUTER)
        _profile(socket)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.CONTROL_BYTES_MAX)
        socket.setsockopt(zmq.BACKLOG, links.BACKLOG)
        socket.copy_threshold = 0  # a tracker of what was copied would say nothing about the chunks before it
        return socket

    def bind(self, addresses: Iterable[str], key: "Key | None") -> tuple[str, ...]:
        """Listen; returns the addresses with the kernel's ports. ipc comes before CURVE: a folder guards it."""
        addresses = tuple(addresses)
        self._key = key
        bound = {address: self._bind(address) for address in addresses if address.startswith("ipc://")}
        if key is not None:
            from mesh.security import curve_server  # Only a node that listens beyond this host needs it.

            curve_server(self._socket, key)
        bound |= {address: self._bind(address) for address in addresses if address not in bound}
        self._addresses = tuple(bound[address] for address in addresses)
        self._loop.add_reader(self._socket.FD, self._drain)
        self._drain()
        return self._addresses

    def _bind(self, address: str) -> str:
        self._socket.setsockopt(zmq.IPV6, int(address.startswith("tcp://[")))
        with private_umask():
            self._socket.bind(address)
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def reopen(self) -> None:
        """Drop every connection and what is queued for it, and listen again at the same addresses.

        ZeroMQ closes no single connection of a ROUTER, and its heartbeat does not see a peer that froze while our
        bytes fill the pipe to it. Whoever else was here comes back, and goes on where it was.
        """
        self._loop.remove_reader(self._socket.FD)
        self._socket.close(0)
        self._socket = self._new()
        self._bind_again()

    def _bind_again(self) -> None:
        """The kernel gives a port back when ZeroMQ's own thread has let go of it."""
        if self._socket.closed:
            return
        try:
            self.bind(self._addresses, self._key)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            self._socket.close(0)
            self._socket = self._new()
            self._loop.call_later(REBIND_S, self._bind_again)

    def send(self, peer: bytes, message: bytes, payload: "memoryview | None" = None) -> "zmq.MessageTracker | None":
        """Send. Raises BrokenPipeError if the connection is gone or takes no more.

        The tracker is that of the last chunk of a payload: chunks leave in order, and with a connection they all go.
        """
        send = self._socket.send
        try:
            send(peer, _MORE)
        except zmq.ZMQError as error:
            if error.errno in BLOCKED:
                raise BrokenPipeError from None
            raise
        if payload is None:
            send(message, _NOBLOCK)
            return None
        send(message, _MORE)
        if len(payload) < COPY_BYTES:
            send(payload, _NOBLOCK)
            return None
        last = (len(payload) - 1) // limits.CHUNK_BYTES * limits.CHUNK_BYTES
        for start in range(0, last, limits.CHUNK_BYTES):
            send(payload[start : start + limits.CHUNK_BYTES], _MORE, copy=False)
        return send(payload[last:], _NOBLOCK, copy=False, track=True)

    def look(self) -> None:
        """A send may have swallowed the news that something came: ask."""
        if self._socket.get(_EVENTS) & _POLLIN:  # type: ignore[operator]
            self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Stop listening; ZeroMQ leaves its files behind."""
        self._loop.remove_reader(self._socket.FD)
        self._socket.close(LINGER_MS)
        for address in self._addresses:
            if address.startswith("ipc://"):
                with suppress(FileNotFoundError):
                    os.unlink(address.removeprefix("ipc://"))

    def _drain(self) -> None:
        if self._socket.closed:
            return
        for _ in range(links.FRAMES_PER_TURN_MAX):
            try:
                frames = self._socket.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return
            if len(frames) == 2:
                self._take(frames[0], frames[1])
            else:
                self._garbled(frames[0])
        self._loop.call_soon(self._drain)


class PullerSockets:
    """The planes that we pull from. `take(link, message, payload)` and `down(link)` are called in the event loop."""

    def __init__(
        self,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[int, bytes, list[zmq.Frame]], None],
        down: Callable[[int], None],
        key: "Key | None",
    ) -> None:
        self._context, self._loop, self._take, self._down, self._key = context, loop, take, down, key
        self._sockets: dict[int, Socket] = {}
        self._monitors: dict[int, Socket] = {}

    def dial(self, link: int, address: str) -> None:
        """Connect. One that cannot be is told like one that breaks."""
        socket = self._sockets[link] = self._context.socket(zmq.DEALER)
        _profile(socket)
        socket.setsockopt(zmq.IPV6, int(address.startswith("tcp://[")))
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.IMMEDIATE, 0)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, links.CONNECT_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        if self._key is not None and not address.startswith("ipc://"):
            from mesh.security import curve_client  # Only a node that dials beyond this host needs it.

            curve_client(socket, self._key)
        monitor = self._monitors[link] = socket.get_monitor_socket(FAILURES)
        self._loop.add_reader(monitor.FD, self._failed, link)
        self._failed(link)  # a descriptor tells of changes, and only after it was asked once
        try:
            socket.connect(address)
        except zmq.ZMQError:
            self._loop.call_soon(self._tell_down, link)
            return
        self._loop.add_reader(socket.FD, self._drain, link)
        self._loop.call_soon(self._drain, link)

    def send(self, link: int, message: bytes) -> None:
        """Send, or find the link dead."""
        socket = self._sockets.get(link)
        if socket is None:
            return
        try:
            socket.send(message, _NOBLOCK)
        except zmq.Again:
            self._loop.call_soon(self._tell_down, link)
            return
        if socket.get(_EVENTS) & _POLLIN:  # type: ignore[operator]
            self._loop.call_soon(self._drain, link)  # the send may have swallowed the news

    def hang(self, link: int, linger_ms: int = LINGER_MS) -> None:
        """Close a link; what is queued is short, and gets a moment to leave."""
        socket = self._sockets.pop(link, None)
        if socket is None:
            return
        monitor = self._monitors.pop(link)
        for each in (monitor, socket):
            self._loop.remove_reader(each.FD)
        socket.disable_monitor()
        monitor.close(0)
        socket.close(linger_ms)

    def close(self) -> None:
        """Close every link."""
        for link in list(self._sockets):
            self.hang(link, LAST_WORDS_MS)

    def _drain(self, link: int) -> None:
        """A few frames, then others have their turn. A dead link is told when all that it brought is taken."""
        taken = 0
        for _ in range(limits.PIECES_PER_TURN):
            socket = self._sockets.get(link)
            if socket is None:
                return
            if taken >= limits.PIECE_BYTES:
                break
            try:
                frame = socket.recv(_NOBLOCK, False)
            except zmq.Again:
                if self._quiet(socket, link):
                    return
                continue
            message, payload = frame.bytes, []
            while frame.more:
                frame = socket.recv(_NOBLOCK, False)
                payload.append(frame)
                taken += len(frame)
            self._take(link, message, payload)
        self._loop.call_soon(self._drain, link)

    def _quiet(self, socket: Socket, link: int) -> bool:
        """Whether there is nothing to take. The question itself may swallow the news of what has just come."""
        events: int = socket.get(_EVENTS)  # type: ignore[assignment]
        if events & _POLLIN:
            return False
        if not events & _POLLOUT:
            self._tell_down(link)
        return True

    def _failed(self, link: int) -> None:
        """ZeroMQ says of a connection that it broke, but of one that never was only to who asks."""
        monitor = self._monitors.get(link)
        if monitor is not None and monitor.get(_EVENTS) & _POLLIN:  # type: ignore[operator]
            self._tell_down(link)

    def _tell_down(self, link: int) -> None:
        if link in self._sockets:
            self._down(link)
