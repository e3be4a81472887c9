"""What may be fetched, and what is fetched."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nodes.media import guard, limits
from nodes.media.content import MediaRefused
from nodes.media.fetch import Fetcher, fetch
from tests.nodes.media.samples import picture

PUBLIC = (guard.PUBLIC,)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://example.org", ("http", "example.org", 80, "/")),
        ("HTTPS://Example.ORG./a?b=c#d", ("https", "example.org", 443, "/a?b=c")),
        ("https://example.org?x", ("https", "example.org", 443, "/?x")),
        ("http://[2001:4860::8888]/x", ("http", "2001:4860::8888", 80, "/x")),
    ],
)
def test_a_url_is_taken_apart_once(url: str, found: tuple[str, str, int, str]) -> None:
    target = guard.target_of(url, PUBLIC)
    assert (target.scheme, target.host, target.port, target.path) == found


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://example.org/", "http://", "http:///x", "//example.org/", "gopher://x"),
        *("http://user@example.org/", "http://user:word@example.org/", "http://example.org\\@10.0.0.1/"),
        *("http://example.org/a b", "http://example.org/\r\nx: y", "http://exa mple.org", "http://example.org:0x50/"),
        *("http://example.org:8080/", "http://example.org:99999999/", "http://ex\u0430mple.org/"),
        "http://example.org/" + "a" * limits.URL_CHARS_MAX,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(MediaRefused):
        guard.target_of(url, PUBLIC)


def test_nothing_is_fetched_unless_somebody_said_so() -> None:
    for allowed in ((), (guard.OFF,), ("other.org",), ("example.org:8080",)):
        with pytest.raises(MediaRefused):
            guard.target_of("https://example.org/x", allowed)
    assert guard.target_of("https://example.org/x", ("example.org",)).named
    assert guard.target_of("http://example.org:8080/x", ("example.org:8080",)).named
    assert not guard.target_of("https://example.org/x", PUBLIC).named


@pytest.mark.parametrize(
    "number",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1"),
        *("fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:0a00:0001::", "64:ff9b::7f00:1"),
        *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "192.0.2.1", "240.0.0.1"),
    ],
)
def test_numbers_that_are_not_public_are_refused(number: str) -> None:
    assert not guard.may_connect(number, named=False)


def test_a_named_host_may_be_private_but_never_a_metadata_service() -> None:
    assert guard.may_connect("10.0.0.1", named=True) and guard.may_connect("127.0.0.1", named=True)
    for number in ("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "0.0.0.0", "224.0.0.1"):
        assert not guard.may_connect(number, named=True)
    assert guard.may_connect("8.8.8.8", named=False) and guard.may_connect("2001:4860::8888", named=False)
    assert guard.may_connect("::ffff:8.8.8.8", named=False), "it is that address"


# --- Over a socket -------------------------------------------------------------------------------------


class Pages(BaseHTTPRequestHandler):
    """A server that does what its path says."""

    def do_GET(self) -> None:
        name, _, rest = self.path[1:].partition("/")
        if name == "to":
            self.send_response(302)
            self.send_header("location", rest if rest.startswith("http") else "/" + rest)
            self.end_headers()
            return
        self.send_response(404 if name == "missing" else 200)
        content = picture() if name == "picture" else b"hello" * (2_000 if name == "large" else 1)
        if name == "cut":
            self.send_header("content-length", "500")
        elif name != "large":
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pages() -> Iterator[tuple[str, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        host = f"127.0.0.1:{server.server_port}"
        yield f"http://{host}", host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_named_host_is_fetched_from_within_limits() -> None:
    with pages() as (url, host):
        assert fetch(f"{url}/x", (host,), 100) == b"hello"
        assert fetch(f"{url}/to/to/x", (host,), 100) == b"hello"
        for path, words in (
            *(("large", "more than 9999 bytes"), ("missing", "status 404"), ("cut", "cut short|IncompleteRead")),
            *(("to/to/to/to/x", "leads on"), ("to/http://169.254.169.254/", "not fetched here")),
        ):
            with pytest.raises(MediaRefused, match=words):
                fetch(f"{url}/{path}", (host,), 9_999)
        with pytest.raises(MediaRefused, match="not fetched here"):
            fetch(f"{url}/x", PUBLIC, 100)


def test_a_name_that_leads_inside_is_refused() -> None:
    with pytest.raises(MediaRefused, match="not fetched here"):
        fetch("http://localhost/x", PUBLIC, 100)


def test_a_fetcher_refuses_before_it_waits() -> None:
    async def main() -> None:
        with pages() as (url, host):
            assert await Fetcher((host,), 100).fetch(f"{url}/x") == b"hello"
            with pytest.raises(MediaRefused):
                await Fetcher((), 100).fetch(f"{url}/x")
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(main())
