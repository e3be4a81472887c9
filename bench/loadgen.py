"""Shell. A load generator that checks what it gets: closed loop, one request in flight on each connection.

    python -m bench.loadgen --url http://127.0.0.1:8000 --model tiny --connections 64 --seconds 10 \
                            --pid frontend=123 --pid worker=124

While its clock runs it only polls, reads and notes times, so that it is never what is measured; when the clock has
stopped, every response is taken apart (`bench.answers`), and with `--sim` compared, character for character, with what
our simulated engine must have said. Any response that is not right is counted and makes the exit code 1.

The window is the time between warm-up and end. Tokens count when they arrive in it, requests when they end in it; times
to the first token are of requests that began in it. CPU is what the named processes used in it.
"""

import argparse
import gc
import json
import resource
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from bench.answers import Answer, Expected, Recording, Wrong, check
from bench.figures import Mark, Result, result
from bench.processes import busy_s, cpu_s, memory_mb
from bench.tinymodel import FOLDER
from bench.truth import Prompts, Truth, body

READ_BYTES = 262_144
EVENTS_MAX = 1024  # of one poll
POLL_S = 0.1  # how exactly the window's borders are kept while nothing comes
CONNECT_S = 10.0
DRAIN_S = 60.0  # for what is in flight when the window ends
TROUBLES_MAX = 5  # kinds of wrong answers that are shown
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Load(Struct, frozen=True, kw_only=True):
    """What to ask, how often and for how long."""

    url: str
    model: str
    connections: int = 64
    tokens: int = 128  # of an answer
    prompt_tokens: int = 128
    seconds: float = 10.0
    warm_up_s: float = 2.0
    requests: int = 0  # so many in all, instead of a window
    stream: bool = True
    quick_acks: bool = False  # for servers that leave Nagle's algorithm on: hides what it costs their clients
    pids: dict[str, list[int]] = {}
    seed: int = 1
    temperature: float = -1.0  # below 0 nothing is said of it
    folder: str = str(FOLDER)
    sim: bool = False  # the engine is our simulated one: what it must say is known
    trace: str = ""  # a file for what happened to each request


class Connection:
    """One connection and what is in flight on it."""

    __slots__ = ("chunked", "left", "recording", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, CONNECT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.recording: Recording | None = None
        self.chunked = False
        self.left = -1  # bytes of a body that says its length; -1: the head is not complete

    def send(self, data: bytes, prompt: str) -> Recording:
        """A request; its recording begins."""
        self.recording = Recording(time.perf_counter(), [], [], prompt=prompt)
        self.chunked, self.left = False, -1
        sent = self.socket.send(data)
        if sent < len(data):
            self.socket.settimeout(CONNECT_S)
            self.socket.sendall(data[sent:])
            self.socket.setblocking(False)
        return self.recording

    def complete(self, data: bytes) -> bool:
        """Whether the response ends with these bytes, which are noted already."""
        assert self.recording is not None
        if self.chunked:
            return data.endswith(LAST_CHUNK) if len(data) > 6 else self._whole().endswith(LAST_CHUNK)
        if self.left >= 0:
            self.left -= len(data)
            return self.left <= 0
        return self._headed()

    def _whole(self) -> bytes:
        assert self.recording is not None
        return b"".join(self.recording.parts)

    def _headed(self) -> bool:
        """Read the head, if it is there; whether the response is complete with it."""
        head, found, rest = self._whole().partition(b"\r\n\r\n")
        if not found:
            return False
        lowered = head.lower()
        self.chunked = b"transfer-encoding: chunked" in lowered
        if self.chunked:
            return (b"\r\n" + rest).endswith(LAST_CHUNK)
        self.left = int(lowered.partition(b"content-length:")[2].split(b"\r\n")[0] or 0) - len(rest)
        return self.left <= 0


class Run:
    """One run of a load; `recordings` is what came."""

    def __init__(self, load: Load, prompts: Prompts) -> None:
        parts = urlsplit(load.url)
        self._load = load
        self._prompts = prompts
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._head = (
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._poll = select.epoll()
        self._open: dict[int, Connection] = {}
        self.recordings: list[Recording] = []
        self.marks: list[Mark] = []

    def run(self) -> None:
        """All of it; the garbage collector waits until the clock has stopped."""
        allow_files(self._load.connections)
        for _ in range(self._load.connections):
            self._connect()
        gc.collect()
        gc.disable()
        try:
            self._measure()
        finally:
            gc.enable()
            for connection in self._open.values():
                connection.socket.close()
            self._poll.close()

    def _measure(self) -> None:
        load = self._load
        began = time.perf_counter()
        borders = [began + load.warm_up_s, began + load.warm_up_s + load.seconds]
        if load.requests:
            borders = [began, inf]
        for connection in list(self._open.values()):
            self._ask(connection, borders[1])
        while any(connection.recording for connection in self._open.values()):
            until = time.perf_counter() + POLL_S
            while (now := time.perf_counter()) < until:
                if len(self.marks) < 2 and now >= borders[len(self.marks)]:
                    self.marks.append(self._mark())
                for descriptor, _ in self._poll.poll(POLL_S, EVENTS_MAX):
                    self._read(self._open[descriptor], borders[1])
            if now > borders[1] + DRAIN_S:
                self._give_up()
        while len(self.marks) < 2:
            self.marks.append(self._mark())

    def _mark(self) -> Mark:
        cpu = {name: cpu_s(pids) for name, pids in self._load.pids.items()}
        memory = {name: round(memory_mb(pids), 1) for name, pids in self._load.pids.items()}
        return Mark(time.perf_counter(), cpu, time.process_time(), busy_s(), memory)

    def _give_up(self) -> None:
        for connection in self._open.values():
            if connection.recording is not None:
                connection.recording.trouble = f"not complete {DRAIN_S:g} s after the end"
                connection.recording = None

    def _connect(self) -> Connection:
        connection = Connection(self._address)
        self._open[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _close(self, connection: Connection) -> None:
        del self._open[connection.socket.fileno()]
        self._poll.unregister(connection.socket.fileno())
        connection.socket.close()

    def _ask(self, connection: Connection, end: float) -> None:
        """The next request, if there is to be one."""
        load = self._load
        if len(self.recordings) >= load.requests if load.requests else time.perf_counter() >= end:
            return
        prompt = self._prompts.next()
        asked = body(load.model, prompt, load.tokens, load.stream, load.temperature)
        self.recordings.append(connection.send(b"%b%d\r\n\r\n%b" % (self._head, len(asked), asked), prompt))
        if load.quick_acks:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _read(self, connection: Connection, end: float) -> None:
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(connection, str(error), end)
            return
        now = time.perf_counter()
        recording = connection.recording
        if not data or recording is None:
            self._lost(connection, "the connection was closed before the end of the response", end)
            return
        recording.parts.append(data)
        recording.times.append(now)
        if self._load.quick_acks:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if connection.complete(data):
            recording.ended = now
            connection.recording = None
            self._ask(connection, end)

    def _lost(self, connection: Connection, trouble: str, end: float) -> None:
        """A connection has ended: what was in flight is lost, the next request gets a new connection."""
        if connection.recording is not None:
            connection.recording.trouble = trouble
        self._close(connection)
        self._ask(self._connect(), end)


def allow_files(connections: int) -> None:
    """So many connections, and what a process has open anyway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < connections + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 100), hard))


# --- When the clock has stopped ------------------------------------------------------------------------


def verdicts(load: Load, truth: Truth, recordings: Sequence[Recording]) -> tuple[list[Answer | None], Counter[str]]:
    """Each recording's answer, or None where it is wrong, and what is wrong with those."""
    answers: list[Answer | None] = []
    troubles: Counter[str] = Counter()
    for recording in recordings:
        text = truth.text(recording.prompt, load.tokens) if load.sim else None
        try:
            answers.append(check(recording, Expected(load.tokens, text, stream=load.stream)))
        except Wrong as wrong:
            answers.append(None)
            troubles[str(wrong)] += 1
    return answers, troubles


class Trace(Struct):
    """What happened to one request; times are of the monotonic clock, which all processes of a host share."""

    id: str
    began: float
    ended: float
    arrivals: list[float]  # of its events with text; empty if it was wrong


def measure(load: Load) -> Result:
    """Run a load, and judge it."""
    truth = Truth(Path(load.folder))
    run = Run(load, Prompts(truth, load.prompt_tokens, load.seed))
    run.run()
    answers, troubles = verdicts(load, truth, run.recordings)
    if load.trace:
        traces = [traced(*pair) for pair in zip(run.recordings, answers, strict=True)]
        Path(load.trace).write_bytes(msgspec.msgpack.encode(traces))
    return result(run.marks, run.recordings, answers, dict(troubles.most_common(TROUBLES_MAX)))


def traced(recording: Recording, answer: Answer | None) -> Trace:
    """Of one request."""
    if answer is None:
        return Trace("", recording.began, recording.ended, [])
    return Trace(answer.id, recording.began, recording.ended, answer.arrivals)


def loaded(arguments: list[str]) -> Load:
    """The load that a command line describes; or, of a single argument that is JSON, that one."""
    if len(arguments) == 1 and arguments[0].startswith("{"):
        return msgspec.json.decode(arguments[0], type=Load)
    parser = argparse.ArgumentParser(prog="python -m bench.loadgen", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    for name in ("connections", "tokens", "prompt_tokens", "requests", "seed"):
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    for name in ("seconds", "warm_up_s", "temperature"):
        parser.add_argument("--" + name.replace("_", "-"), type=float)
    parser.add_argument("--folder", help="the model's directory (default: what bench.tinymodel makes)")
    parser.add_argument("--sim", action="store_const", const=True, help="the engine is our simulated one")
    parser.add_argument("--no-stream", dest="stream", action="store_const", const=False)
    parser.add_argument("--quick-acks", action="store_const", const=True)
    parser.add_argument("--pid", dest="pids", action="append", metavar="NAME=PID", help="whose CPU to count")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    pids = [pair.partition("=") for pair in given.pop("pids", [])]
    return Load(**given, pids={name: [int(pid) for pid in listed.split(",")] for name, _, listed in pids})


def main(arguments: list[str]) -> int:
    """The command."""
    found = measure(loaded(arguments))
    print(json.dumps(msgspec.to_builtins(found), indent=1))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
