"""Shell. The HTTP server around an application: uvicorn, told how, with our own protocol and our own way to stop."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import ceil

import uvicorn

from mesh.options import OptionRefused
from nodes.frontend import limits
from nodes.frontend.protocol import Connection
from nodes.frontend.wire import Receive, Scope, Send

STOP_S = 2  # after a drain: what still hangs is cut off
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Listener:
    """A socket that listens, before anything else is started: a port that is taken is told at once."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # several frontends share one port
            self.socket.bind((host, port))
            self.socket.listen(limits.BACKLOG)
        except OSError as error:
            self.socket.close()
            raise OptionRefused(_refusal(host, port, error)) from None
        self.socket.setblocking(False)
        self.host, self.port = self.socket.getsockname()[:2]

    def url(self, secure: bool = False) -> str:
        """Where it is found."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if secure else 'http'}://{host}:{self.port}"


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port is {port}: another program listens there already; stop it, or choose another port"
    if error.errno == errno.EACCES:
        return f"--port is {port}: this user may not listen there; choose one above 1023"
    return f"--host is {host!r}: cannot listen there ({error.strerror or error})"


class Server(uvicorn.Server):
    """uvicorn's, but for the signals: those belong to the node."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """An application on a listener, until it is stopped."""

    def __init__(self, application: Application, listener: Listener, certificate: str = "", key: str = "") -> None:
        config = uvicorn.Config(
            application,
            http=Connection,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=limits.KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            backlog=limits.BACKLOG,
            ssl_certfile=certificate or None,
            ssl_keyfile=key or None,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or str(error)
            raise OptionRefused(f"--tls-cert and --tls-key cannot be used ({reason}): give PEM files") from None
        self._config = config
        self._server = Server(config)
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Accept connections."""
        self._task = self._loop.create_task(self._server.serve([self._listener.socket]), name="http")
        self._sweep()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._server.server_state.connections)

    def close(self, grace_s: float) -> None:
        """Accept no more; what is being answered may go on for the grace, and a moment."""
        self._config.timeout_graceful_shutdown = ceil(grace_s + STOP_S)
        self._server.should_exit = True

    async def stop(self) -> None:
        """Return when what was being answered has ended."""
        if not self._server.should_exit:
            self.close(0.0)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task
        self._listener.socket.close()

    def _sweep(self) -> None:
        """Close who sends too slowly."""
        now = self._loop.time()
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, Connection):
                connection.sweep(now)
        self._timer = self._loop.call_later(limits.SWEEP_S, self._sweep)
