"""`wiremesh up` with processes that only play nodes: what it does when they die, load, hang, talk and leave."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from launch import up
from launch.codes import Complaint, Exit
from tests.real.processes import PATIENCE_S, ROOT, Child
from tests.terminal import Terminal

# A node that does what its flags say. As a frontend it answers the three requests that `up` makes.
NODE = """
import http.server, json, os, signal, sys, threading, time

role, port, *tricks = sys.argv[1:]
pace = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: None if "deaf" in tricks else sys.exit(0))

class Frontend(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.answer({"data": [{"id": "toy's"}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if "plain" in tricks and self.path.endswith("chat/completions"):
            return self.send_error(400, "no chat template")
        self.answer({"choices": []})
    def log_message(self, *words):
        print("asked", self.path, file=sys.stderr, flush=True)

if "broken" in tricks:
    sys.exit("the model cannot be read")
if "misled" in tricks:
    print("wiremesh: --model is wrong", file=sys.stderr)
    sys.exit(78)
print("loading: half of it", flush=True)
if "chatty" in tricks:
    print("x" * 200_000, flush=True)
if role == "frontend":
    class Server(http.server.ThreadingHTTPServer):
        allow_reuse_port = True
    server = Server(("127.0.0.1", int(port)), Frontend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"{role} is ready: node {os.getpid():016x} ({role}) serves", flush=True)
if "brief" in tricks:
    os.kill(os.getpid(), signal.SIGSEGV)
while True:
    time.sleep(60)
"""

DRIVER = """
import asyncio, sys
from launch import up
from mesh.options import Options
up.FORCED_S = 0.2
from nodes.places import Place

script, port, as_json, drain_s, *wanted = sys.argv[1:]
places = []
for word in wanted:
    name, *tricks = word.split("+")
    role = name.partition("-")[0]
    places.append(Place(name, role, (sys.executable, "-S", script, role, port, *tricks)))
url = f"http://127.0.0.1:{port}" if any(place.role == "frontend" for place in places) else ""
with asyncio.Runner() as runner:
    sys.exit(runner.run(up.Up(places, url, as_json == "json", Options(drain_s=float(drain_s))).run()))
"""


@pytest.fixture(autouse=True)
def alone(runtime: str) -> None:
    """Whoever is in a mesh here is in one of our own."""


@pytest.fixture
def port() -> Iterator[int]:
    """Kept for those who share it: somebody's connection could get it as its own."""
    with up.reserve("127.0.0.1", 0) as place:
        yield int(place.getsockname()[1])


class Play:
    """An `up` of played nodes."""

    def __init__(self, folder: Path, port: int, *wanted: str, form: str = "json", drain_s: float = 5.0) -> None:
        script = folder / "node.py"
        script.write_text(NODE)
        self.child = Child("-c", DRIVER, script, port, form, drain_s, *wanted)

    def __enter__(self) -> "Play":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()

    def event(self, name: str, event: str, count: int = 1) -> dict[str, Any]:
        """The `count`th event of a kind that a node had, waited for."""
        end = time.monotonic() + PATIENCE_S
        while True:
            whole = self.child.text.rpartition("\n")[0].splitlines()
            events = [json.loads(line) for line in whole if line.startswith('{"event"')]
            found = [line for line in events if line["event"] == event and line.get("name", "") == name]
            if len(found) >= count:
                return dict(found[count - 1])
            if not self.child._read(end - time.monotonic()):
                raise AssertionError(f"no {count} {event} of {name} in:\n{self.child.text}")


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # also between opening it and reading
        return False


def gone(*pids: int) -> bool:
    """Whether processes are gone, waited for."""
    end = time.monotonic() + PATIENCE_S
    while any(map(alive, pids)):
        if time.monotonic() > end:
            return False
        os.sched_yield()
    return True


def test_from_the_start_to_a_curl_that_works_to_a_clean_end(tmp_path: Path, port: int) -> None:
    with Play(tmp_path, port, "worker-1", "frontend-1") as play:
        assert play.event("worker-1", "loading")["text"] == "worker-1 loads: half of it"
        ready = play.event("worker-1", "ready")
        assert ready["node"] == f"{ready['pid']:016x}" and ready["after_s"] > 0
        served = play.event("", "serving")
        assert (served["url"], served["model"]) == (f"http://127.0.0.1:{port}", "toy's")
        done = subprocess.run(["bash", "-c", f"{served['curl']} -s"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"choices": []}
        play.child.line("frontend-1 | asked /v1/chat/completions")
        play.child.signal(signal.SIGINT)
        assert play.child.wait() == 0
        assert '"stopping"' in play.child.text and "killed" not in play.child.text
        assert play.child.text.splitlines()[-1] == '{"event":"stopped","text":"all nodes have left","code":0}'


def test_who_dies_is_started_again(tmp_path: Path, port: int) -> None:
    with Play(tmp_path, port, "worker-1", "frontend-1") as play:
        play.event("", "serving")
        pid = play.event("worker-1", "ready")["pid"]
        os.kill(pid, signal.SIGKILL)
        ended = play.event("worker-1", "ended")
        assert (ended["pid"], ended["code"]) == (pid, -9)
        assert "worker-1 was killed by SIGKILL after" in ended["text"]
        assert play.event("worker-1", "ready", 2)["pid"] != pid
        play.child.signal(signal.SIGTERM)
        assert play.child.wait() == 0


def test_who_keeps_dying_though_it_was_ready_is_started_with_growing_pauses(tmp_path: Path, port: int) -> None:
    with Play(tmp_path, port, "worker-1+brief") as play:
        assert "SIGSEGV" in play.event("worker-1", "ended", 4)["text"]
        play.child.signal(signal.SIGTERM)
        assert play.child.wait() == 0


@pytest.mark.parametrize(
    ("trick", "code", "said"),
    [
        ("broken", Exit.INTERNAL, "never became ready: 5 times in a row, the last time it ended with exit code 1"),
        ("misled", Exit.SETTING, "never became ready: ended with exit code 78"),
    ],
)
def test_who_never_gets_ready_ends_it_all(tmp_path: Path, port: int, trick: str, code: int, said: str) -> None:
    with Play(tmp_path, port, f"worker-1+{trick}", "frontend-1", form="text") as play:
        assert play.child.wait() == code
        assert said in play.child.text
        last_words = "the model cannot be read" if trick == "broken" else "wiremesh: --model is wrong"
        assert last_words in play.child.line("never became ready")


def test_nodes_die_with_a_killed_up(tmp_path: Path, port: int) -> None:
    with Play(tmp_path, port, "worker-1+deaf", "frontend-1") as play:
        play.event("", "serving")
        pids = [play.event(name, "ready")["pid"] for name in ("worker-1", "frontend-1")]
        play.child.signal(signal.SIGKILL)
        assert gone(*pids)


def test_a_second_interrupt_kills(tmp_path: Path, port: int) -> None:
    with Play(tmp_path, port, "worker-1+deaf", "frontend-1+deaf", drain_s=60) as play:
        play.event("", "serving")
        play.child.signal(signal.SIGINT)
        play.event("", "stopping")
        play.child.signal(signal.SIGINT)
        assert play.child.wait() == Exit.INTERRUPTED
        assert '"killed"' in play.child.text


def test_who_does_not_leave_in_time_is_killed(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Play(tmp_path, port, "worker-1+deaf", "frontend-1", drain_s=0.1) as play:
        play.event("", "serving")
        play.child.signal(signal.SIGINT)
        assert play.child.wait() == Exit.FAILED
        assert play.event("worker-1", "killed")["pid"] == play.event("worker-1", "ready")["pid"]


def test_a_reader_that_goes_away_ends_it(tmp_path: Path, port: int) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE)
    words = ["-c", DRIVER, str(script), str(port), "json", "1", "worker-1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = json.loads(process.stdout.readline())["pid"]
        process.stdout.close()
        assert alive(pid)
        assert process.wait(PATIENCE_S) == Exit.PIPE
    assert gone(pid)


def test_a_reader_that_sleeps_does_not_stop_the_nodes(tmp_path: Path, port: int) -> None:
    """Their words would fill the pipes, and a frontend that cannot write its log cannot answer."""
    with Play(tmp_path, port, "worker-1+chatty", "frontend-1") as play:
        wait_for_port(port).close()
        for _ in range(600):  # Each is a line of the log: more than the pipes between it and us hold.
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
                client.sendall(b"GET /" + b"y" * 400 + b" HTTP/1.0\r\n\r\n")
                while client.recv(4096):
                    pass
        play.child.signal(signal.SIGINT)
        assert play.child.wait() == 0


def wait_for_port(port: int) -> socket.socket:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        except ConnectionRefusedError:
            assert time.monotonic() < end


# --- On a terminal ---------------------------------------------------------------------------------------


def test_on_a_terminal_a_table_stays_below(tmp_path: Path, port: int) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE)
    words = ("-c", DRIVER, script, port, "text", 1, "worker-1", "frontend-1+plain")
    with closing(Terminal(*words, kind="xterm")) as terminal:
        terminal.until("/v1/completions -H")  # The model has no chat template.
        terminal.until("Ctrl-C stops")
        terminal.until("NAME")
        terminal.until("worker-1    ready")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
    assert "all nodes have left" in terminal.text
    assert "NAME" not in terminal.text.rpartition("\x1b[0J")[2], "the table is gone at the end"


# --- The port --------------------------------------------------------------------------------------------


def test_a_port_in_use_is_noticed_before_anything_starts() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the frontends of another `up`
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Complaint, match=f"port {port} .*--port") as caught:
            up.reserve("127.0.0.1", port)
    assert caught.value.code == Exit.UNAVAILABLE
    up.reserve("127.0.0.1", port).close()


def test_the_port_is_kept_for_those_who_share_it(port: int) -> None:
    with socket.socket() as stranger, socket.socket() as frontend:
        with pytest.raises(OSError):
            stranger.bind(("127.0.0.1", port))
        frontend.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        frontend.bind(("127.0.0.1", port))
        frontend.listen()
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(Complaint, match=r"192\.0\.2\.1"):
        up.reserve("192.0.2.1", 0)
