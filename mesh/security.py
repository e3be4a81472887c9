"""Shell. The key of a mesh: its file, CURVE sockets, and the gatekeeper that lets only its holders in.

One key pair for the whole mesh: every inbox uses it as server key, every outgoing link as server and as client key, and
the gatekeeper accepts that client key alone. ZeroMQ lets everybody in who knows the public key when no gatekeeper is
there, so it starts before the first bind, lives as long as the context, and `self_test` proves that it works.
"""

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from mesh.discovery.plan import mesh_name

KIND = "wiremesh key 1"
FILE_BYTES_MAX = 4_096  # five lines of less than a hundred characters
TAG_BYTES = 8
KEY_CHARS = 40  # 32 bytes in Z85
ACCEPT_MAX = 4  # two during a rotation, and some room
SELF_TEST_S = 2.0  # it takes milliseconds; a loaded machine gets time
ZAP_ADDRESS = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"wiremesh"
_ZAP_FRAMES = 7  # version, request, domain, address, identity, mechanism, client key


class KeyRefused(Exception):
    """A key or an address cannot be used. The text says why and what to do."""


class GateOpen(Exception):
    """The gatekeeper does not do its work: starting would let strangers in."""


@dataclass(frozen=True, slots=True)
class Key:
    """A mesh's key. `accept` are the public keys let in: its own, and others during a rotation."""

    mesh: str
    public: bytes
    secret: bytes = field(repr=False)
    tag: bytes  # says which key it is, without saying the key
    created: str
    accept: tuple[bytes, ...]

    @property
    def tags(self) -> tuple[bytes, ...]:
        """The tags of all keys that are let in."""
        return tuple(tag_of(public, self.mesh) for public in self.accept)

    def public_of(self, tag: bytes) -> bytes:
        """The key of a node that shows this tag; our own if we know no better."""
        return dict(zip(self.tags, self.accept, strict=True)).get(tag, self.public)


def tag_of(public: bytes, mesh: str) -> bytes:
    """What discovery shows of a key."""
    return hashlib.blake2b(public + mesh.encode(), digest_size=TAG_BYTES, person=b"wiremesh tag").digest()


def rename_key(key: Key, mesh: str, by_job: bool = False) -> Key:
    """The key, for a mesh of this name. Only a job may rename it: a key made for another mesh is a mistake."""
    if key.mesh != mesh and not by_job:
        raise KeyRefused(f"this key is of mesh {key.mesh!r}, not {mesh!r}: use --mesh {key.mesh}, or another --key")
    return replace(key, mesh=mesh, tag=tag_of(key.public, mesh))


# --- The key file -----------------------------------------------------------------------------------


def default_key_path(mesh: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the key of a mesh lies if nobody says otherwise."""
    configured = environment.get("XDG_CONFIG_HOME", "")
    home = Path(environment.get("HOME") or Path.home())
    base = Path(configured) if configured.startswith("/") else home / ".config"
    return base / "wiremesh" / f"{mesh_name(mesh)}.key"


def create_key(path: str | Path, mesh: str, force: bool = False) -> Key:
    """Make a key and its file. Raises KeyRefused if there is one already, unless forced."""
    path, mesh = Path(path), mesh_name(mesh)
    public, secret = zmq.curve_keypair()
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    key = Key(mesh, public, secret, tag_of(public, mesh), created, (public,))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = path.with_name(f".{path.name}.{os.getpid()}.new") if force else path
    try:
        _write_new(target, _format(key))
    except FileExistsError:
        raise KeyRefused(f"{path} exists already: use it, or replace it with --force on every host") from None
    if force:
        os.replace(target, path)
    return key


def _format(key: Key) -> str:
    accept = "".join(f"accept {public.decode()}\n" for public in key.accept if public != key.public)
    lines = (
        f"mesh {key.mesh}",
        f"created {key.created}",
        f"public {key.public.decode()}",
        f"secret {key.secret.decode()}",
    )
    return "\n".join((KIND, *lines, accept))


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)  # The umask can only have taken bits away, but a default ACL can add some.
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def load_key(path: str | Path) -> Key:
    """Read a key file. Raises KeyRefused. Every check is on the file that was opened, not on its name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyRefused(_cannot_open(path, error)) from None
    try:
        refuse_status(path, os.fstat(descriptor), os.geteuid())
        content = os.read(descriptor, FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    return parse_key(content, path)


def _cannot_open(path: str | Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return f"{path} is a symbolic link: name the key file itself"
    if error.errno == errno.ENOENT:
        return f"there is no key file {path}: make one with 'wiremesh keygen', or copy the mesh's"
    return f"the key file {path} cannot be opened: {error.strerror}"


def refuse_status(path: str | Path, status: os.stat_result, user: int) -> None:
    """Refuse a key file that others could read or have written. Raises KeyRefused."""
    if not stat.S_ISREG(status.st_mode):
        raise KeyRefused(f"{path} is not a regular file: name a key file, as made by 'wiremesh keygen'")
    if status.st_uid != user:
        raise KeyRefused(f"{path} belongs to user {status.st_uid}, not to us ({user}): run 'chown {user} {path}'")
    if status.st_mode & 0o077:
        raise KeyRefused(
            f"{path} can be reached by other users (mode {stat.S_IMODE(status.st_mode):04o}): run 'chmod 600 {path}', "
            "and make a new key if somebody may have read it"
        )


def parse_key(content: bytes, path: str | Path) -> Key:
    """Read a key file's content. Raises KeyRefused; no text of it contains anything of the file's secrets."""
    if len(content) > FILE_BYTES_MAX:
        raise KeyRefused(f"{path} is too large for a key file: name one made by 'wiremesh keygen'")
    lines = content.decode("ascii", errors="replace").splitlines()
    if not lines or lines[0].strip() != KIND:
        raise KeyRefused(_other_kind(lines, path))
    entries = [line.partition(" ")[::2] for line in lines[1:] if line.strip()]
    fields = {name: value.strip() for name, value in entries}
    missing = [name for name in ("mesh", "created", "public", "secret") if not fields.get(name)]
    if missing:
        raise KeyRefused(f"{path} is cut short ({', '.join(missing)} missing): copy it again from where it was made")
    public, secret = (_key_bytes(fields[name], name, path) for name in ("public", "secret"))
    if zmq.curve_public(secret) != public:
        raise KeyRefused(
            f"{path}: the public key does not belong to the secret one: copy it again from where it was made"
        )
    others = [_key_bytes(value.strip(), name, path) for name, value in entries if name == "accept"]
    if len(others) >= ACCEPT_MAX:
        raise KeyRefused(f"{path} accepts {len(others)} more keys; {ACCEPT_MAX - 1} is the most: remove the old ones")
    mesh = _checked_mesh(fields["mesh"], path)
    accept = tuple(dict.fromkeys((public, *others)))
    return Key(mesh, public, secret, tag_of(public, mesh), fields["created"], accept)


def _other_kind(lines: list[str], path: str | Path) -> str:
    first = lines[0] if lines else ""
    if not first.strip():
        return f"{path} is empty: copy the key again from where it was made"
    if first.startswith("wiremesh key "):
        return f"{path} is a key file of another version: make a new one with this 'wiremesh keygen'"
    kind = "an SSH or TLS key" if first.startswith(("-----BEGIN", "ssh-", "ecdsa-")) else "no key file of a mesh"
    return f"{path} is {kind}: name one made by 'wiremesh keygen'"


def _key_bytes(text: str, name: str, path: str | Path) -> bytes:
    """A key as ZeroMQ takes it. Its decoder raises whatever its arithmetic does, so the alphabet is checked first."""
    value = text.encode()
    if len(value) != KEY_CHARS or not set(value) <= set(z85.Z85CHARS):
        raise KeyRefused(f"{path}: its {name} key is damaged: copy it again from where it was made")
    return value


def _checked_mesh(name: str, path: str | Path) -> str:
    try:
        return mesh_name(name)
    except ValueError as error:
        raise KeyRefused(f"{path}: {error}") from None


# --- Sockets ------------------------------------------------------------------------------------------


def curve_server(socket: "zmq.Socket[bytes]", key: Key) -> None:
    """Make a socket that others connect to; before its first bind."""
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public)


def curve_client(socket: "zmq.Socket[bytes]", key: Key, server: bytes | None = None) -> None:
    """Make a socket that connects to others; before its connect. `server`: the peer's key if it is not ours."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, server or key.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public)


def refuse_listen(address: str, key: Key | None) -> None:
    """Refuse to listen where a stranger could come in. Raises KeyRefused."""
    if address.startswith("ipc:///"):
        return
    if not address.startswith("tcp://"):
        raise KeyRefused(f"cannot listen at {address!r}: write tcp://ADDRESS:PORT or ipc:///PATH")
    if key is None:
        raise KeyRefused(
            f"will not listen at {address} without a key, not even on loopback, which all users of this host share: "
            "make one with 'wiremesh keygen', and give it to every node"
        )


class Gatekeeper:
    """Answers ZeroMQ's question who may come in. Never closed before the sockets that it guards."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", key: Key) -> None:
        self.admitted = 0
        self.refused = 0
        self._accept = frozenset(key.accept)
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the place of the handler; before any bind. Raises GateOpen if there is another one."""
        try:
            self._socket.bind(ZAP_ADDRESS)
        except zmq.ZMQError as error:
            self._socket.close()
            raise GateOpen(f"cannot watch over this context: {error.strerror}") from None
        self._loop = loop
        loop.add_reader(self._socket.FD, self._drain)
        self._drain()

    def close(self) -> None:
        """Only after every guarded socket is closed: from here on ZeroMQ lets everybody in."""
        if not self._socket.closed:
            self._loop.remove_reader(self._socket.FD)
            self._socket.close()

    def _drain(self) -> None:
        """The descriptor tells only of the first request, so all are taken."""
        while True:
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._socket.send_multipart(self._answer(request), zmq.NOBLOCK)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        welcome = self._is_welcome(request)
        self.admitted += welcome
        self.refused += not welcome
        number = request[1] if len(request) > 1 else b""
        status = (b"200", b"OK", b"mesh") if welcome else (b"400", b"not of this mesh", b"")
        return [b"1.0", number, *status, b""]

    def _is_welcome(self, request: list[bytes]) -> bool:
        if len(request) != _ZAP_FRAMES or request[0] != b"1.0" or request[2] != ZAP_DOMAIN or request[5] != b"CURVE":
            return False
        return len(request[6]) == 32 and z85.encode(request[6]) in self._accept


# --- The self-test ------------------------------------------------------------------------------------


async def self_test(context: "zmq.Context[zmq.Socket[bytes]]", key: Key, timeout_s: float = SELF_TEST_S) -> None:
    """Prove that a stranger is refused and a holder of the key let in. Raises GateOpen."""
    public, secret = zmq.curve_keypair()
    stranger = replace(key, public=public, secret=secret)
    with closing(context.socket(zmq.PULL)) as door:
        door.linger = 0
        curve_server(door, key)
        port = door.bind_to_random_port("tcp://127.0.0.1")
        address = f"tcp://127.0.0.1:{port}"
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        with closing(door.get_monitor_socket(events)) as monitor:
            try:
                refused = await _knock(context, address, monitor, stranger, key.public, timeout_s)
                let_in = await _knock(context, address, monitor, key, key.public, timeout_s)
            finally:
                door.disable_monitor()
    if refused != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        raise GateOpen(f"a stranger was {_outcome(refused)}, not refused: will not listen")
    if let_in != zmq.EVENT_HANDSHAKE_SUCCEEDED:
        raise GateOpen(f"a holder of the key was {_outcome(let_in)}, not let in: will not listen")


async def _knock(
    context: "zmq.Context[zmq.Socket[bytes]]",
    address: str,
    monitor: "zmq.Socket[bytes]",
    visitor: Key,
    server: bytes,
    timeout_s: float,
) -> int:
    """What the door says of a visitor: a handshake event, or 0 for silence."""
    with closing(context.socket(zmq.PUSH)) as socket:
        socket.linger = 0
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        curve_client(socket, visitor, server)
        socket.connect(address)
        try:
            async with asyncio.timeout(timeout_s):
                return int(parse_monitor_message(await _receive(monitor))["event"])
        except TimeoutError:
            return 0


async def _receive(socket: "zmq.Socket[bytes]") -> list[bytes]:
    """One message, on the event loop."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            readable = asyncio.Event()
            loop.add_reader(socket.FD, readable.set)
            try:
                # It may have come before we watched.
                if not socket.get(zmq.EVENTS) & zmq.POLLIN:  # type: ignore[operator, arg-type]
                    await readable.wait()
            finally:
                loop.remove_reader(socket.FD)


def _outcome(event: int) -> str:
    if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        return "let in"
    return "refused" if event else "left waiting: the gatekeeper does not answer"
