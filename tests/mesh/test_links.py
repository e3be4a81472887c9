"""Sockets: frames come in order and whole, a dead session is told once, and nothing else is."""

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import zmq

from mesh import links
from mesh.links import FRAMES_PER_TURN_MAX, Inbox, Outboxes, new_context, terminate
from mesh.security import Gatekeeper, create_key
from proto.errors import Reason

Down = list[tuple[int, Reason]]


@pytest.fixture
def place() -> Iterator[str]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="wm") as path:
        yield path


class Ends:
    """An inbox, and outboxes that reach it."""

    def __init__(self, context: Any, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        self.context = context
        self.inbox = Inbox(context)
        self.down: Down = []
        self.outboxes = Outboxes(context, loop, lambda session, reason: self.down.append((session, reason)), **options)
        self.frames: list[tuple[bytes, bytes]] = []
        self.garbled: list[bytes] = []

    def drain(self, frames_max: int = FRAMES_PER_TURN_MAX) -> bool:
        return self.inbox.drain(lambda zid, frame: self.frames.append((zid, frame)), self.garbled.append, frames_max)

    async def until(self, holds: Callable[[], object]) -> None:
        """Drain until something holds."""
        async with asyncio.timeout(20):
            while not holds():
                self.drain()
                await asyncio.sleep(0.001)


def using(body: Callable[[Ends], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def run() -> None:
        context = new_context()
        ends = Ends(context, asyncio.get_running_loop(), **options)
        try:
            await body(ends)
        finally:
            ends.outboxes.close_all()
            ends.inbox.close()
            await terminate(context)

    asyncio.run(run())


def test_frames_come_whole_and_in_order_and_each_session_has_its_name(place: str) -> None:
    async def body(ends: Ends) -> None:
        address, *_ = ends.inbox.bind([f"ipc://{place}/a.ipc"])
        for session in (1, 2):
            ends.outboxes.open(session, address)
            for number in range(500):
                assert ends.outboxes.send(session, b"%d/%d" % (session, number))
        await ends.until(lambda: len(ends.frames) == 1_000)
        names = {frame.split(b"/")[0]: zid for zid, frame in ends.frames}
        assert len(set(names.values())) == 2
        for session in (b"1", b"2"):
            mine = [frame for zid, frame in ends.frames if zid == names[session]]
            assert mine == [b"%s/%d" % (session, number) for number in range(500)]
        assert ends.down == [] and ends.garbled == []

    using(body)


def test_a_turn_has_an_end_and_says_whether_there_is_more(place: str) -> None:
    async def body(ends: Ends) -> None:
        (address,) = ends.inbox.bind([f"ipc://{place}/a.ipc"])
        ends.outboxes.open(1, address)
        for number in range(25):
            ends.outboxes.send(1, b"%d" % number)
        await asyncio.sleep(0.5)  # all of them are there
        assert ends.drain(10) and len(ends.frames) == 10
        assert ends.drain(10) and len(ends.frames) == 20
        assert not ends.drain(10) and len(ends.frames) == 25
        assert not ends.drain(10)

    using(body)


@pytest.mark.parametrize("parts", [[b"", b"x"], [b"a", b"b", b"c"]])
def test_a_message_of_other_than_one_frame_is_garbled_as_a_whole(place: str, parts: list[bytes]) -> None:
    async def body(ends: Ends) -> None:
        (address,) = ends.inbox.bind([f"ipc://{place}/a.ipc"])
        with ends.context.socket(zmq.DEALER) as stranger:
            stranger.linger = 0
            stranger.connect(address)
            stranger.send_multipart(parts)
            stranger.send(b"good")
            await ends.until(lambda: ends.frames)
        assert len(ends.garbled) == 1
        assert [frame for _, frame in ends.frames] == [b"good"]

    using(body)


@pytest.mark.parametrize("address", ["ipc://{place}/a.ipc", "tcp://127.0.0.1:0"])
def test_a_dead_session_is_told(place: str, address: str) -> None:
    async def body(ends: Ends) -> None:
        (bound,) = ends.inbox.bind([address.format(place=place)])
        ends.outboxes.open(1, bound)
        ends.outboxes.send(1, b"hello")
        await ends.until(lambda: ends.frames)
        assert ends.down == []
        ends.inbox.close()
        async with asyncio.timeout(20):
            while not ends.down:
                await asyncio.sleep(0.001)
        assert ends.down[0] == (1, Reason.LINK_LOST)
        assert not ends.outboxes.send(1, b"too late")

    using(body)


@pytest.mark.parametrize("trial", range(20))
def test_a_dead_session_is_told_whenever_it_was_last_sent_to(place: str, trial: int) -> None:
    """A send may swallow what the descriptor would have told: then it fails for it."""

    async def body(ends: Ends) -> None:
        (bound,) = ends.inbox.bind([f"ipc://{place}/a.ipc"])
        ends.outboxes.open(1, bound)
        ends.outboxes.send(1, b"hello")
        await ends.until(lambda: ends.frames)
        ends.inbox.close()
        for _ in range(trial * 50):  # The news comes somewhere in here, and the event loop has no turn.
            ends.outboxes.send(1, b"x")
        async with asyncio.timeout(20):
            while not ends.down:
                await asyncio.sleep(0.001)
        assert ends.down[0] == (1, Reason.LINK_LOST)

    using(body)


def test_a_session_to_nobody_does_no_harm(place: str) -> None:
    async def body(ends: Ends) -> None:
        with socket.socket(socket.AF_UNIX) as dead, socket.socket() as closed:
            dead.bind(f"{place}/stale.ipc")  # Its file stays when it is closed.
            closed.bind(("127.0.0.1", 0))
            refused = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        for session, address in enumerate([f"ipc://{place}/stale.ipc", refused, f"ipc://{place}/missing.ipc"]):
            ends.outboxes.open(session, address)
            assert ends.outboxes.send(session, b"hello"), "it waits in the queue; the handshake will time out"
        await asyncio.sleep(0.1)
        assert ends.down == []

    using(body)


@pytest.mark.parametrize("address", ["tcp://not a host:1", "ipc:///" + "x" * 200, "carrier://pigeon"])
def test_an_address_that_is_none_is_unreachable(address: str) -> None:
    async def body(ends: Ends) -> None:
        ends.outboxes.open(1, address)
        assert ends.down == [(1, Reason.UNREACHABLE)]
        ends.outboxes.close(1)
        assert len(ends.outboxes) == 0
        assert not ends.outboxes.send(1, b"x")

    using(body)


def test_a_full_session_is_told_as_full(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "BURST_S", 600.0)  # a busy machine takes its time to fill the queue

    async def body(ends: Ends) -> None:
        (address,) = ends.inbox.bind([f"ipc://{place}/a.ipc"])
        ends.outboxes.open(1, address)
        for _ in range(10_000):
            if not ends.outboxes.send(1, bytes(100_000)):
                break
        assert ends.down[0] == (1, Reason.OVERFLOW)

    using(body, send_frames_max=10)


def test_a_closed_session_is_silent_and_may_linger(place: str) -> None:
    async def body(ends: Ends) -> None:
        (address,) = ends.inbox.bind([f"ipc://{place}/a.ipc"])
        ends.outboxes.open(1, address)
        ends.outboxes.send(1, b"last words")
        ends.outboxes.close(1, linger_ms=1_000)
        ends.outboxes.close(1)
        await ends.until(lambda: ends.frames)
        assert [frame for _, frame in ends.frames] == [b"last words"]
        assert ends.down == []

    using(body)


def test_sockets_are_bound_for_their_owner_alone(place: str) -> None:
    async def body(ends: Ends) -> None:
        before = os.umask(0)
        try:
            ends.inbox.bind([f"ipc://{place}/a.ipc"])
        finally:
            assert os.umask(before) == 0, "the umask of the process is as it was"
        assert stat.S_IMODE(os.stat(f"{place}/a.ipc").st_mode) & 0o077 == 0

    using(body)


def test_with_a_key_tcp_is_for_its_holders_and_ipc_is_as_before(place: str) -> None:
    key = create_key(f"{place}/mesh.key", "m")
    stranger = create_key(f"{place}/other.key", "m")

    async def body(ends: Ends) -> None:
        loop = asyncio.get_running_loop()
        keeper = Gatekeeper(ends.context, key)
        keeper.start(loop)
        addresses = ["tcp://127.0.0.1:0", f"ipc://{place}/a.ipc"]
        visitors = [Outboxes(ends.context, loop, lambda *_: None, visitor) for visitor in (None, stranger, key)]
        try:
            tcp, ipc = ends.inbox.bind(addresses, key)
            assert tcp.startswith("tcp://127.0.0.1:") and not tcp.endswith(":0") and ipc == addresses[1]
            for visitor, name in zip(visitors, (b"nobody", b"stranger", b"holder"), strict=True):
                visitor.open(1, tcp)
                visitor.send(1, name + b" by tcp")
                visitor.open(2, ipc)
                visitor.send(2, name + b" by ipc")
            await ends.until(lambda: len(ends.frames) == 4)
            await asyncio.sleep(0.1)
            ends.drain()
            assert sorted(frame for _, frame in ends.frames) == [
                *(b"holder by ipc", b"holder by tcp", b"nobody by ipc", b"stranger by ipc")
            ]
        finally:
            for visitor in visitors:
                visitor.close_all()
            ends.inbox.close()
            keeper.close()

    using(body)


def test_frames_that_wait_leave_in_order_and_before_a_close(place: str) -> None:
    async def body(ends: Ends) -> None:
        (address,) = ends.inbox.bind([f"ipc://{place}/a.ipc"])
        ends.outboxes.open(1, address)
        for number in range(50):
            ends.outboxes.put(1, b"%d" % number)
        ends.outboxes.close(1, linger_ms=1_000)
        await ends.until(lambda: len(ends.frames) == 50)
        assert [frame for _, frame in ends.frames] == [b"%d" % number for number in range(50)]

    using(body)
