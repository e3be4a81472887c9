"""Whatever is sent to a real frontend: a clear 4xx, soon, and a stream that runs beside it stays exact."""

import asyncio
import gzip
import importlib.util
import json
import random
import re
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.real.garbage import BODIES, MB, but
from tests.real.processes import Child
from tests.real.raw_http import CHAT, COMPLETIONS, HOST, Answer, Told, answer, ask, request
from tests.real.serving import (
    AT_ONCE,
    MODEL,
    Frontend,
    Serving,
    chat,
    eventually,
    mesh,
    metric,
    node_of,
    says,
    served,
)

SLOW = "slow"
AT_MOST_S = 5.0  # on a quiet machine it takes 50 ms; ours may be busy
MUTANTS = 3000
PARTS = 2
MEMORY_MB_MAX = 500.0  # of a frontend that has seen bodies of 40 MB: some copies of one of them
SCHEMATHESIS_S = (10, 40, 160)  # a busy machine needs the first before it has made a case


class House(NamedTuple):
    """What all tests here share."""

    mesh: Serving
    front: Frontend


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with mesh(tmp_path_factory.mktemp("fuzz")) as there:
        there.worker("fast", *AT_ONCE)
        there.worker("slow", "--decode-ms", "0:20", serves=SLOW)  # for longer than any test here takes
        front = there.frontend()
        asyncio.run(served(front, 1))
        asyncio.run(served(front, 1, SLOW))
        yield House(there, front)


@asynccontextmanager
async def neighbour(front: Frontend) -> AsyncIterator[None]:
    """A stream beside what is done; in the end all that it has said is right, and it never stood still."""
    told = Told()
    times: list[float] = []
    body = {**chat("neighbour", 2000, stream=True), "model": SLOW}
    running = asyncio.create_task(told.run(front.port, CHAT, body))
    watching = asyncio.create_task(watch(told, times))
    await told.until(3)
    yield
    await told.until(len(told.events) + 3)
    running.cancel()
    watching.cancel()
    await asyncio.gather(running, watching, return_exceptions=True)
    (text,) = told.texts
    assert text == says("neighbour", 2000)[: len(text)] and told.error is None
    assert max(after - before for before, after in pairwise(times)) < AT_MOST_S
    front.lines()


async def watch(told: Told, times: list[float]) -> None:
    while not told.complete:
        await told.until(len(told.events) + 1)
        times.append(time.monotonic())


async def refused(port: int, path: str, body: bytes, **headers: str) -> Answer:
    """A 4xx with a clear error, soon, that repeats nothing long."""
    began = time.monotonic()
    found = await ask(port, path, body, **headers)
    took = time.monotonic() - began
    assert 400 <= found.status < 500, (found.status, found.body[:300])
    assert found.headers["content-type"] == "application/json" and len(found.body) < 1000
    assert found.error["type"] in ("invalid_request_error", "rate_limit_error")
    assert took < AT_MOST_S, took
    return found


# --- Bodies ------------------------------------------------------------------------------------------------


async def refusals(front: Frontend, names: Sequence[str]) -> None:
    async with neighbour(front):
        for name in names:
            path, body = BODIES[name]
            try:
                found = await refused(front.port, path, body, content_type="application/json")
            except AssertionError as error:
                raise AssertionError(name) from error
            assert found.status in (400, 404, 413), (name, found.status)


@pytest.mark.parametrize("part", range(PARTS))
def test_bodies(house: House, part: int) -> None:
    asyncio.run(refusals(house.front, list(BODIES)[part::PARTS]))
    assert peak_mb(house.front.child.pid) < MEMORY_MB_MAX


def peak_mb(pid: int) -> float:
    """The most memory that a process ever had; 0 where that cannot be seen."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# --- Heads, and what is no HTTP ----------------------------------------------------------------------------

GOOD = json.dumps(chat(tokens=3)).encode()
HEADERS: dict[str, tuple[dict[str, str], bytes, int]] = {
    "no worker": ({"x_wiremesh_worker": "one"}, GOOD, 400),
    "no time": ({"x_request_timeout_ms": "-1"}, GOOD, 400),
    "no gzip": ({"content_encoding": "gzip"}, GOOD, 400),
    "half a gzip": ({"content_encoding": "gzip"}, gzip.compress(GOOD)[:-9], 400),
    "a gzip that grows": ({"content_encoding": "gzip"}, gzip.compress(b" " * (40 * MB)), 413),
    "a deflate that grows": ({"content_encoding": "deflate"}, zlib.compress(b" " * (40 * MB)), 413),
    "an unknown encoding": ({"content_encoding": "br"}, GOOD, 415),
    "a key of another request": ({"idempotency_key": "fuzz"}, GOOD.replace(b"hello", b"other"), 400),
}
RIGHT: dict[str, tuple[dict[str, str], bytes]] = {
    "gzip": ({"content_encoding": "gzip"}, gzip.compress(GOOD)),
    "a strange name": ({"x_request_id": 'a b"<script>\u00e9' + "z" * 5000}, GOOD),
    "a strange trace": ({"traceparent": "00-zz-yy-01"}, GOOD),
    "a long key": ({"idempotency_key": "k" * 5000}, GOOD),
    "an odd number": ({"last_event_id": "-5"}, GOOD),
    "no kind": ({"content_type": "text/plain"}, GOOD),
}


def test_headers(house: House) -> None:
    port = house.front.port

    async def main() -> None:
        assert (await ask(port, CHAT, GOOD, idempotency_key="fuzz")).status == 200
        async with neighbour(house.front):
            for name, (headers, body, status) in HEADERS.items():
                assert (await refused(port, CHAT, body, **headers)).status == status, name
            for name, (headers, body) in RIGHT.items():
                found = await ask(port, CHAT, body, **headers)
                assert found.status == 200 and len(found.headers["x-request-id"]) <= 128, name
                assert found.json["choices"][0]["message"]["content"] == says("hello world", 3)

    asyncio.run(main())


def test_methods_and_paths(house: House) -> None:
    port = house.front.port
    posts = (CHAT, COMPLETIONS, "/v1/embeddings", "/tokenize", "/v1/detokenize")
    gets = ("/", "/health", "/live", "/v1/models", "/metrics", "/version", "/openapi.json", "/docs")

    async def main() -> None:
        async with neighbour(house.front):
            for paths, wrong, allowed in ((posts, ("GET", "PUT", "DELETE", "PATCH"), "POST"), (gets, ("POST",), "GET")):
                for path in paths:
                    for method in wrong:
                        found = await ask(port, path, method=method)
                        assert found.status == 405 and found.error["code"] == "method_not_allowed", (method, path)
                        assert allowed in found.headers["allow"]
            for path in ("/v1/nothing", "//", "/v1/chat/completions/", "/%00", "/v1/models/" + "x" * 5000, "/..%2f.."):
                found = await ask(port, path, method="GET")
                assert found.status == 404 and found.error["message"] and len(found.body) < 1000, path
            for path in ("/v1/streams/x?from=-1", "/v1/streams/x?from=" + "9" * 400, "/v1/streams/" + "f" * 3000):
                assert (await ask(port, path, method="GET")).status in (400, 404), path

    asyncio.run(main())


NO_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
    b"GET / HTTP/1.1\r\na: " + b"b" * 200_000,
    b"GET /" + b"a" * 200_000,
)


def test_what_is_no_http(house: House) -> None:
    async def main() -> None:
        async with neighbour(house.front):
            for data in NO_HTTP:
                found = await answer(house.front.port, data)
                assert found.status in (400, 431) and found.error["type"] == "invalid_request_error", data[:60]

    asyncio.run(main())


def test_half_requests_hold_nobody_up(house: House) -> None:
    """Heads and bodies that do not come to their end, while others are served; and then their clients go."""
    port = house.front.port
    whole = request("POST", CHAT, GOOD)
    head = whole[: whole.index(b"\r\n\r\n") + 4]

    async def main() -> None:
        async with neighbour(house.front):
            pending = []
            for number in range(150):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.write((b"", whole[:9], head[:-3], head, head + b"{")[number % 5])
                pending.append(writer)
            for place in range(20):  # one byte at a time, between others
                pending[2].write(b"z")
                found = await ask(port, CHAT, GOOD.replace(b"hello world", b"question %d" % place))
                assert found.json["choices"][0]["message"]["content"] == says(f"question {place}", 3)
            for writer in pending:
                writer.transport.abort()
            node = node_of(house.front.child)
            name = "wiremesh_frontend_requests_in_flight"
            await eventually(lambda: metric(port, name, node=node), lambda found: found == 1)  # the neighbour

    asyncio.run(main())


# --- Chance ------------------------------------------------------------------------------------------------


def mutant(draw: random.Random) -> bytes:
    """A right request in which something is wrong."""
    body = bytearray(draw.choice([but()[1], but(COMPLETIONS)[1], but("/tokenize")[1], but(stream=True, n=2)[1]]))
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(body))
        match draw.randrange(5):
            case 0:
                body[place] = draw.randrange(256)
            case 1:
                del body[place : place + draw.randint(1, 9)]
            case 2:
                body[place:place] = body[: draw.randint(1, 40)]
            case 3:
                body[place:place] = draw.choice([b'"', b"{", b"[", b"null", b"-1", b"\\u0000", b"1e400", b","])
            case _:
                body[place:place] = draw.randbytes(3)
        body = body or bytearray(b"x")
    path = draw.choice([CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
    return request("POST", path, bytes(body))


def test_chance(house: House) -> None:
    """Requests with random mistakes are answered or refused, each of them; and nothing of them stays."""
    draw = random.Random(5)
    requests = [mutant(draw) for _ in range(MUTANTS)]

    async def main() -> None:
        async with neighbour(house.front):
            for start in range(0, MUTANTS, 20):
                found = await asyncio.gather(*(answer(house.front.port, one) for one in requests[start : start + 20]))
                for one, sent in zip(found, requests[start:], strict=False):
                    assert one.status == 200 or 400 <= one.status < 500, sent
                house.front.lines()

    asyncio.run(main())
    assert '"level":"error"' not in house.front.child.text


NO_CASES = "No test cases were generated"

# It leaves files where it is started.
SCHEMATHESIS = """
import os, sys
os.chdir(sys.argv[1])
os.execv(sys.executable, [sys.executable, "-m", "schemathesis.cli", *sys.argv[2:]])
"""


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_schemathesis(house: House) -> None:
    """What it makes of our own description is answered as that says. It is told a model that is there, or hardly
    anything would get further than its name."""
    front, place = house.front, house.mesh.folder / "openapi.json"
    checks = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
    words: list[object] = [
        *("run", place, "--url", f"http://{HOST}:{front.port}", "--checks", ",".join(checks)),
        *("--phases", "coverage,fuzzing", "--max-examples", 50, "--seed", 1),
        *("--suppress-health-check", "all", "--warnings", "off", "--generation-database", "none"),
    ]

    async def tried(seconds: int) -> str:
        with Child("-c", SCHEMATHESIS, house.mesh.folder, *words, "--max-time", seconds) as child:
            while not (ended := await asyncio.to_thread(over, child)):
                front.lines()
            assert ended == [0] or NO_CASES in child.text, child.text
            return child.text

    async def main() -> None:
        described = (await ask(front.port, "/openapi.json", method="GET")).json
        for name, schema in described["components"]["schemas"].items():
            if name.endswith("Request"):
                schema["properties"]["model"] = {"type": "string", "const": MODEL}
        place.write_text(json.dumps(described))
        for seconds in SCHEMATHESIS_S:
            if NO_CASES not in (text := await tried(seconds)):
                break
        assert re.search(r"\d+ generated, \d+ passed", text), text
        assert any(line["status"] == 200 and line.get("model") == MODEL for line in front.lines())

    asyncio.run(main())


def over(child: Child) -> list[int]:
    """The exit code, if it comes soon."""
    try:
        return [child.wait(timeout_s=0.2)]
    except AssertionError:
        return []
