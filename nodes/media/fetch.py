"""Shell. Fetches the bytes behind a link: over a connection to a number that was checked, with limits on everything.

No proxy, no cookies, no authentication, no environment. It runs in threads; `guard` decides what may be fetched.
"""

import asyncio
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from nodes.media import guard, limits
from nodes.media.content import MediaRefused
from nodes.media.guard import Target

REDIRECTS = (301, 302, 303, 307, 308)
PIECE_BYTES = 64 * 1024
HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "wiremesh", "connection": "close"}


class Fetcher:
    """All that a frontend fetches."""

    def __init__(self, allowed: Sequence[str], bytes_max: int) -> None:
        self._allowed = tuple(allowed)
        self._bytes_max = bytes_max
        self._room = asyncio.Semaphore(limits.FETCHES_MAX)

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a link. Raises MediaRefused."""
        guard.target_of(url, self._allowed)  # what is refused waits for nothing
        try:
            async with asyncio.timeout(limits.FETCH_S):
                async with self._room:
                    return await asyncio.to_thread(fetch, url, self._allowed, self._bytes_max)
        except TimeoutError:
            raise MediaRefused(f"fetching it takes longer than {limits.FETCH_S:g} seconds") from None


def fetch(url: str, allowed: Sequence[str], bytes_max: int) -> bytes:
    """The bytes behind a link, and behind what it leads to. Raises MediaRefused."""
    end = time.monotonic() + limits.FETCH_S
    for _ in range(limits.REDIRECTS_MAX + 1):
        target = guard.target_of(url, allowed)
        try:
            found = _get(target, bytes_max, end)
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            raise MediaRefused(f"it cannot be fetched ({type(error).__name__})") from None
        if isinstance(found, bytes):
            return found
        url = _joined(target, found)
    raise MediaRefused(f"it leads on more than {limits.REDIRECTS_MAX} times")


def _get(target: Target, bytes_max: int, end: float) -> bytes | str:
    """The bytes of one answer, or where it leads."""
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = connected = _connect(target, end)
    # A server that sends a byte now and then is never late for any of our reads.
    watch = threading.Timer(_left_s(end), _cut, [connected])
    watch.start()
    try:
        connection.request("GET", target.path, headers={"host": target.authority, **HEADERS})
        answer = connection.getresponse()
        if answer.status in REDIRECTS:
            return answer.getheader("location") or ""
        if answer.status != 200:
            raise MediaRefused(f"fetching it was answered with status {answer.status}")
        return _read(answer, bytes_max)
    finally:
        watch.cancel()
        connection.close()


def _cut(connected: socket.socket) -> None:
    """Whoever reads from it gets an end."""
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _connect(target: Target, end: float) -> socket.socket:
    """A connection to the first number of the host that may be connected to and answers."""
    numbers = [str(found[4][0]) for found in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)]
    allowed = [number for number in dict.fromkeys(numbers) if guard.may_connect(number, target.named)]
    if len(allowed) < len(dict.fromkeys(numbers)) or not allowed:
        raise MediaRefused("links to this host are not fetched here")  # also if only one of its numbers is inside
    connected = socket.create_connection((allowed[0], target.port), min(limits.CONNECT_S, _left_s(end)))
    if target.scheme == "https":
        try:
            return ssl.create_default_context().wrap_socket(connected, server_hostname=target.host)
        except BaseException:
            connected.close()
            raise
    return connected


def _read(answer: http.client.HTTPResponse, bytes_max: int) -> bytes:
    """A body, whatever its header says of its length."""
    pieces: list[bytes] = []
    total = 0
    while True:
        piece = answer.read1(PIECE_BYTES)
        if not piece:
            if answer.length:
                raise MediaRefused("fetching it was cut short")
            return b"".join(pieces)
        total += len(piece)
        if total > bytes_max:
            raise MediaRefused(f"it has more than {bytes_max} bytes")
        pieces.append(piece)


def _left_s(end: float) -> float:
    left_s = end - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _joined(target: Target, location: str) -> str:
    """Where a redirect leads: a whole URL, or a path on the same host."""
    if location.startswith("/") and not location.startswith("//"):
        return f"{target.scheme}://{target.authority}{location}"
    return location
