"""Shell. The systems under measurement, each as real processes on this host: ours, and the peer that we compare with.

A system is up when a request has been answered. All of it ends when the `with` block does.
"""

import http.client
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from bench.processes import Failed, Process
from bench.truth import body

MODEL = "tiny"
ROOT = Path(__file__).resolve().parents[1]
READY_S = 60.0  # the peer needs up to 20 s on a busy machine
ASK_S = 0.02  # between two tries while a system starts
SERVERS, CLIENTS = "0", "1"  # cores


class Shape(Struct, frozen=True, kw_only=True):
    """What to start. `step_ms` 0: as fast as it can."""

    workers: int = 1
    routers: int = 0
    slots: int = 256
    step_ms: float = 0.0
    instant_prompts: bool = False  # ours only: prompts take no time, so that what else takes time is seen
    worker_flags: tuple[str, ...] = ()
    frontend_flags: tuple[str, ...] = ()
    router_flags: tuple[str, ...] = ()
    cores: str = SERVERS


class System:
    """What runs. `processes` by name: frontend, worker1, ..."""

    def __init__(self, name: str, shape: Shape, model: Path, folder: Path) -> None:
        self.name = name
        self.shape = shape
        self.model = model
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, Process] = {}
        self.start_s = 0.0

    def pids(self) -> dict[str, list[int]]:
        """By role, for the load generator."""
        roles: dict[str, list[int]] = {}
        for name, process in self.processes.items():
            roles.setdefault(name.rstrip("0123456789"), []).append(process.pid)
        return roles

    def start(self, name: str) -> Process:
        """Start one process; one of that name that was there before is replaced."""
        command, environment = COMMANDS[self.name](self, name)
        process = Process(name, command, self.folder / name, self.shape.cores, environment)
        self.processes[name] = process
        return process

    def end(self) -> None:
        """End all of its processes."""
        for process in self.processes.values():
            process.end()

    def ask(self, timeout_s: float = READY_S) -> int:
        """One request for one token; its status, 0 without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body(MODEL, "ready?", 1, False), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def await_ready(self) -> None:
        """Until as many requests in a row are answered as there are workers."""
        until = time.monotonic() + READY_S
        answered = 0
        while answered < self.shape.workers:
            if dead := [process for process in self.processes.values() if not process.alive()]:
                raise Failed(f"{dead[0].name} has ended; see {dead[0].errors}")
            if time.monotonic() > until:
                raise Failed(f"{self.name} answers no request within {READY_S:g} s; see {self.folder}")
            answered = answered + 1 if self.ask() == 200 else 0
            time.sleep(0 if answered else ASK_S)


Command = tuple[list[str], Mapping[str, str]]


def ours(system: System, name: str) -> Command:
    """A node of ours: sim workers, a frontend, perhaps a router."""
    shape = system.shape
    role = name.rstrip("0123456789")
    words = [role, "--join", f"dir:{system.folder}/mesh", "--name", name]
    if role == "worker":
        words += ["--engine", "sim", "--model", str(system.model), "--name-as", MODEL, "--slots", str(shape.slots)]
        words += ["--queue", str(max(256, shape.slots)), *our_pace(shape), *shape.worker_flags]
    if role == "router":
        words += shape.router_flags
    if role == "frontend":
        words += ["--port", str(system.port), "--log-format", "json", *shape.frontend_flags]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WIREMESH_")}
    return [sys.executable, "-P", "-m", "launch.cli", *words], clean | {"PYTHONPATH": str(ROOT)}


def our_pace(shape: Shape) -> list[str]:
    """Steps of the same length, however full the cache; prompts at ten times the formula's speed."""
    if not shape.step_ms:
        return ["--speedup", "0"]
    points = ("0:0",) if shape.instant_prompts else PREFILL_MS
    return ["--decode-ms", f"0:{shape.step_ms}", *(word for point in points for word in ("--prefill-ms", point))]


PREFILL_SPEEDUP = 10.0  # so that it is the decoding that is seen
PREFILL_MS = (
    "0:1.65",
    "2048:4.94",
    "4096:8.58",
    "8192:16.9",
)  # tokens and milliseconds: (4.21e-7 n² + 1.518e-2 n + 16.5) / 10 within 2 %
DECODE_MS = 5.74  # a step of the formula, where next to none of the cache is in use


def dynamo(system: System, name: str) -> Command:
    """The peer's frontend, or its mocker. Its speed-up of 0 is none at all: a large one makes it as fast as it can."""
    shape = system.shape
    if name == "frontend":
        words = ["frontend", "--http-port", str(system.port), "--router-mode", "round-robin", *shape.frontend_flags]
    else:
        words = ["mocker", "--model-path", str(system.model), "--model-name", MODEL]
        words += [*peer_pace(shape), "--max-num-seqs", str(shape.slots)]
        words += ["--num-gpu-blocks-override", str(PEER_BLOCKS), *shape.worker_flags]
    return [str(ROOT / "bench" / "dynamo.sh"), *words], {**os.environ, "PEER_STATE": str(system.folder / "peer")}


def peer_pace(shape: Shape) -> list[str]:
    """Likewise. Its second ratio slows the decoding alone."""
    if not shape.step_ms:
        return ["--speedup-ratio", f"{PEER_SPEEDUP:g}"]
    decode = DECODE_MS / shape.step_ms / PREFILL_SPEEDUP
    return ["--speedup-ratio", f"{PREFILL_SPEEDUP:g}", "--decode-speedup-ratio", f"{decode:.6f}"]


PEER_SPEEDUP = 1000.0  # the fastest of 100, 1,000 and 1,000,000, where they differed at all
PEER_BLOCKS = 262_144  # of 64 tokens: so many that the share in use, on which its steps depend, is next to nothing

COMMANDS = {"wiremesh": ours, "dynamo": dynamo}


@contextmanager
def running(name: str, shape: Shape, model: Path) -> Iterator[System]:
    """A system that answers requests. Its logs are kept if something goes wrong."""
    folder = Path(tempfile.mkdtemp(prefix="wmb"))
    (folder / "mesh").mkdir(mode=0o700)
    system = System(name, shape, model, folder)
    with ExitStack() as stack:
        stack.callback(system.end)
        names = [f"worker{index}" for index in range(1, shape.workers + 1)]
        names += [f"router{index}" for index in range(1, shape.routers + 1)]
        began = time.perf_counter()
        for one in [*names, "frontend"]:
            system.start(one)
        system.await_ready()
        system.start_s = time.perf_counter() - began
        yield system
    shutil.rmtree(folder)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
