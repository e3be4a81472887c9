"""Shell. Blocks as objects of an S3-compatible store.

Two operations need no library: GET and PUT, each with one signature, over a connection for each thread. The keys come
from the environment, where every tool for such stores looks for them.
"""

import http.client
import os
import threading
import time
from hashlib import sha256

from xxhash import xxh3_64_intdigest

from nodes.tiers.files import HEADER_BYTES, checksum_in, header, path_of
from nodes.tiers.options import BucketAt
from nodes.tiers.signing import UNSIGNED, Credentials, quoted, signed
from nodes.tiers.work import Found

TIMEOUT_S = 5.0  # of connecting, and of each silence; a job gives up earlier
ERROR_BYTES_MAX = 64 << 10  # read of an answer that is none, to use the connection again
SHOWN_CHARS_MAX = 120


class BucketTrouble(OSError):
    """The store said no, or something that is no answer. The text says what."""


def credentials() -> Credentials | None:
    """From the environment; None: ask without."""
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    return Credentials(key, secret, os.environ.get("AWS_SESSION_TOKEN", "")) if key and secret else None


class Bucket:
    """A shelf of blocks of one size in a bucket."""

    def __init__(self, at: BucketAt, shelf: bytes, who: Credentials | None) -> None:
        self._at = at
        self._shelf = shelf
        self._who = who
        self._scheme, _, self._host = at.endpoint.partition("://")
        parts = [at.bucket if at.is_in_path else "", at.prefix, shelf.hex()]
        self._folder = "/" + "/".join(part for part in parts if part)
        self._threads = threading.local()
        self._open: dict[int, http.client.HTTPConnection] = {}  # by thread

    def read(self, name: int, parent: int, into: memoryview) -> Found:
        """Read a block. Raises OSError."""
        answer = self._ask("GET", name, parent)
        if answer.status == 404:
            self._drain(answer)
            return Found.MISSING
        if answer.status != 200:
            raise self._trouble(answer)
        head = answer.read(HEADER_BYTES)
        got = 0
        while got < len(into) and (count := answer.readinto(into[got:])):
            got += count
        if answer.read(1) or got < len(into):
            self._forget()
            return Found.CORRUPT
        return Found.HERE if checksum_in(head, self._shelf, name, got) == xxh3_64_intdigest(into) else Found.CORRUPT

    def write(self, name: int, parent: int, content: memoryview) -> int:
        """Write a block; returns its bytes. Raises OSError."""
        body = header(self._shelf, name, parent, len(content), xxh3_64_intdigest(content)) + content
        answer = self._ask("PUT", name, parent, body)
        if not 200 <= answer.status < 300:
            raise self._trouble(answer)
        self._drain(answer)
        return len(body)

    def has(self, name: int, parent: int) -> bool:
        """Whether it is there already. Raises OSError."""
        answer = self._ask("HEAD", name, parent)
        self._drain(answer)
        return answer.status == 200

    def delete(self, name: int, parent: int) -> None:
        """What is in a store stays there."""

    def close(self) -> None:
        """The threads are done."""
        for connection in [*self._open.values()]:
            connection.close()

    def _ask(self, method: str, name: int, parent: int, body: bytes = b"") -> http.client.HTTPResponse:
        path = quoted(f"{self._folder}/{path_of(name, parent)}")
        payload = UNSIGNED if self._scheme == "https" else sha256(body).hexdigest()
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = signed(method, self._host, path, payload, at, self._at.region, self._who)
        for attempt in (1, 2):  # an idle connection may have been closed at the other end
            connection, is_new = self._connection()
            try:
                connection.request(method, path, body or None, headers)
                return connection.getresponse()
            except TimeoutError:
                self._forget()
                raise
            except (OSError, http.client.HTTPException) as error:
                self._forget()
                if is_new or attempt == 2:
                    raise BucketTrouble(f"{self._at.endpoint}: {error or type(error).__name__}") from error
        raise AssertionError("unreachable")

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's, and whether it is a new one."""
        known = getattr(self._threads, "connection", None)
        if known is not None:
            return known, False
        kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
        self._threads.connection = self._open[threading.get_ident()] = made = kind(self._host, timeout=TIMEOUT_S)
        return made, True

    def _forget(self) -> None:
        connection = getattr(self._threads, "connection", None)
        if connection is not None:
            connection.close()
            self._threads.connection = None
            self._open.pop(threading.get_ident(), None)

    def _drain(self, answer: http.client.HTTPResponse) -> bytes:
        said = answer.read(ERROR_BYTES_MAX)
        if not answer.isclosed():
            self._forget()
        return said

    def _trouble(self, answer: http.client.HTTPResponse) -> BucketTrouble:
        said = self._drain(answer).decode("utf-8", "replace")
        shown = " ".join(said.split())[:SHOWN_CHARS_MAX]
        return BucketTrouble(f"{self._at.endpoint} answered {answer.status} {answer.reason}: {shown}")
