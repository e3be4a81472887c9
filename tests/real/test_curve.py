"""The gate of the mesh, on real sockets: who has no key gets nothing through, whatever it tries."""

import asyncio
import socket as plain
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from mesh import security
from mesh.security import Gatekeeper, GateOpen, Key, create_key, curve_client, curve_server, self_test

Context = zmq.Context[zmq.Socket[bytes]]
SOON_S = 30.0  # on a busy machine
GREETING = bytes([0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1]) + b"CURVE".ljust(20, b"\0") + bytes(32)

uvloop.run(asyncio.sleep(0))  # The first one opens a pipe that the process keeps.


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return create_key(tmp_path / "key", "lab")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    return asyncio.run if request.param == "asyncio" else uvloop.run


class House:
    """A context with a gatekeeper and a guarded inbox."""

    def __init__(self, key: Key, handshake_ms: int) -> None:
        self.key = key
        self.context: Context = zmq.Context()
        self.gatekeeper = Gatekeeper(self.context, key)
        self.gatekeeper.start(asyncio.get_running_loop())
        self.inbox = self.context.socket(zmq.ROUTER)
        self.inbox.linger = 0
        self.inbox.handshake_ivl = handshake_ms
        self.inbox.maxmsgsize = 1024
        curve_server(self.inbox, key)
        self.port = self.inbox.bind_to_random_port("tcp://127.0.0.1")

    async def receives(self, within_s: float) -> bytes | None:
        """The next message, or None if none comes."""
        try:
            async with asyncio.timeout(within_s):
                return (await security._receive(self.inbox))[-1]
        except TimeoutError:
            return None

    async def try_as(self, dress: Callable[[Any], None], within_s: float = 0.15) -> bytes | None:
        """Send one message from a socket that was dressed up; what arrives."""
        with self.context.socket(zmq.DEALER) as visitor:
            visitor.linger = 0
            dress(visitor)
            visitor.connect(f"tcp://127.0.0.1:{self.port}")
            visitor.send(b"let me in")
            return await self.receives(within_s)

    async def refuses(self, dress: Callable[[Any], None]) -> bool:
        """Whether the gatekeeper says no to a socket that was dressed up, and nothing of it arrives."""
        before = self.gatekeeper.refused
        with self.context.socket(zmq.DEALER) as visitor:
            visitor.linger = 0
            dress(visitor)
            visitor.connect(f"tcp://127.0.0.1:{self.port}")
            visitor.send(b"let me in")
            async with asyncio.timeout(SOON_S):
                while self.gatekeeper.refused == before:
                    await asyncio.sleep(0.005)
            return await self.receives(0.05) is None

    def close(self) -> None:
        self.inbox.close()
        self.gatekeeper.close()
        self.context.term()


@asynccontextmanager
async def house(key: Key, handshake_ms: int = 5000) -> AsyncIterator[House]:
    built = House(key, handshake_ms)
    try:
        yield built
    finally:
        built.close()


def with_secret(visitor: Any, key: Key, public: bytes, secret: bytes) -> None:
    visitor.curve_serverkey, visitor.curve_publickey, visitor.curve_secretkey = key.public, public, secret


def test_the_key_comes_in_and_nobody_else(key: Key, run: Callable[..., None]) -> None:
    stranger = zmq.curve_keypair()

    async def scenario() -> None:
        async with house(key) as ours:
            assert await ours.try_as(lambda visitor: curve_client(visitor, key), SOON_S) == b"let me in"
            assert await ours.try_as(lambda visitor: None) is None, "NULL"
            assert await ours.try_as(lambda visitor: visitor.set(zmq.PLAIN_USERNAME, b"admin")) is None, "PLAIN"
            assert await ours.refuses(lambda visitor: with_secret(visitor, key, *stranger)), "another key"
            assert ours.gatekeeper.refused == 1
            wrong_secret = (key.public, stranger[1])
            assert await ours.try_as(lambda visitor: with_secret(visitor, key, *wrong_secret)) is None
            assert await ours.try_as(lambda visitor: curve_client(visitor, key), SOON_S) == b"let me in"
            assert (ours.gatekeeper.admitted, ours.gatekeeper.refused) == (2, 1)

    run(scenario())


def test_the_second_key_of_a_rotation_comes_in(key: Key) -> None:
    public, secret = zmq.curve_keypair()
    newer = replace(key, public=public, secret=secret, accept=(public, key.public))

    async def scenario() -> None:
        async with house(replace(key, accept=(key.public, public))) as older_house:
            assert await older_house.try_as(lambda visitor: curve_client(visitor, newer, key.public), SOON_S)
        async with house(newer) as newer_house:
            assert await newer_house.try_as(lambda visitor: curve_client(visitor, key, public), SOON_S)

    asyncio.run(scenario())


def test_the_self_test_passes_in_milliseconds(key: Key, run: Callable[..., None]) -> None:
    async def scenario() -> None:
        async with house(key) as ours:
            await self_test(ours.context, key)  # The first use of a context starts its threads.
            started = asyncio.get_running_loop().time()
            await self_test(ours.context, key)
            assert asyncio.get_running_loop().time() - started < 1.5  # 5 ms here

    run(scenario())


def test_the_self_test_fails_closed(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with house(key) as ours:
            ours.gatekeeper.close()
            with pytest.raises(GateOpen, match="a stranger was let in"):
                await self_test(ours.context, key)
        async with house(key) as ours:
            asyncio.get_running_loop().remove_reader(ours.gatekeeper._socket.FD)
            with pytest.raises(GateOpen, match="does not answer"):
                await self_test(ours.context, key, timeout_s=0.1)
        async with house(key) as ours:
            monkeypatch.setattr(ours.gatekeeper, "_is_welcome", lambda request: True)
            with pytest.raises(GateOpen, match="a stranger was let in"):
                await self_test(ours.context, key)
        async with house(key) as ours:
            monkeypatch.setattr(ours.gatekeeper, "_is_welcome", lambda request: False)
            with pytest.raises(GateOpen, match="a holder of the key was refused"):
                await self_test(ours.context, key)
            second = Gatekeeper(ours.context, key)
            with pytest.raises(GateOpen, match="cannot watch"):
                second.start(asyncio.get_running_loop())
            second.close()

    asyncio.run(scenario())


def test_a_deaf_gatekeeper_lets_nobody_in(key: Key) -> None:
    async def scenario() -> None:
        async with house(key) as ours:
            asyncio.get_running_loop().remove_reader(ours.gatekeeper._socket.FD)
            assert await ours.try_as(lambda visitor: curve_client(visitor, key)) is None

    asyncio.run(scenario())


def test_many_knock_at_once(key: Key) -> None:
    async def scenario() -> None:
        async with house(key) as ours:
            visitors = [ours.context.socket(zmq.DEALER) for _ in range(50)]
            for visitor in visitors:
                visitor.linger = 0
                curve_client(visitor, key)
                visitor.connect(f"tcp://127.0.0.1:{ours.port}")
                visitor.send(b"hello")
            assert [await ours.receives(SOON_S) for _ in visitors] == [b"hello"] * 50
            for visitor in visitors:
                visitor.close()

    asyncio.run(scenario())


def test_raw_bytes_do_no_harm_and_are_thrown_out(key: Key) -> None:
    """Half a handshake, silence, junk and an oversize greeting: cut off in time, nothing delivered, others served."""
    attacks = [b"", GREETING[:5], GREETING, GREETING + b"\x04\xc8\x05HELLO" + bytes(194), b"GET / HTTP/1.1\r\n\r\n"]
    attacks += [b"\xff" * 100_000, GREETING + b"\x02" + (2**40).to_bytes(8, "big") + bytes(1000)]

    async def scenario() -> None:
        async with house(key, handshake_ms=200) as ours:
            strangers = [plain.create_connection(("127.0.0.1", ours.port)) for _ in attacks]
            for stranger, attack in zip(strangers, attacks, strict=True):
                stranger.setblocking(False)
                stranger.send(attack)
            assert await ours.try_as(lambda visitor: curve_client(visitor, key), SOON_S) == b"let me in"
            async with asyncio.timeout(SOON_S):
                for stranger in strangers:
                    await until_cut_off(stranger)
            assert await ours.receives(0.05) is None
            assert ours.gatekeeper.refused == 0

    asyncio.run(scenario())


async def until_cut_off(stranger: plain.socket) -> None:
    try:
        while await asyncio.get_running_loop().sock_recv(stranger, 4096):
            pass
    except ConnectionError:
        pass
    finally:
        stranger.close()


def answering(accept: bytes) -> Gatekeeper:
    """A gatekeeper without a socket."""
    gatekeeper = Gatekeeper.__new__(Gatekeeper)
    gatekeeper.admitted = gatekeeper.refused = 0
    gatekeeper._accept = frozenset((accept,))
    return gatekeeper


@pytest.mark.parametrize(("index", "value"), [(0, b"2.0"), (2, b""), (5, b"NULL"), (5, b"PLAIN"), (6, bytes(32))])
def test_one_wrong_frame_of_a_request_is_enough(key: Key, index: int, value: bytes) -> None:
    gatekeeper = answering(key.public)
    request = [b"1.0", b"7", b"wiremesh", b"127.0.0.1", b"", b"CURVE", z85.decode(key.public)]
    assert gatekeeper._answer(request)[1:3] == [b"7", b"200"]
    request[index] = value
    assert gatekeeper._answer(request)[1:3] == [b"7", b"400"]
    assert (gatekeeper.admitted, gatekeeper.refused) == (1, 1)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"1.0", b"wiremesh", b"CURVE", bytes(32)]), max_size=9))
def test_any_request_is_answered_and_refused(request: list[bytes]) -> None:
    gatekeeper = answering(b"x" * 40)
    answer = gatekeeper._answer(request)
    assert len(answer) == 6 and answer[2] == b"400" and gatekeeper.refused == 1
