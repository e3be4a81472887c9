"""Shell. `wiremesh up`: a whole mesh on this host, each node a process, watched until it is told to stop.

What to do is decided in `nodes.supervision`; here are processes, pipes, signals, the clock and the port.
"""

import argparse
import asyncio
import os
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from random import Random
from shutil import get_terminal_size

from launch import screen
from launch.codes import MEANINGS, Complaint, Exit
from launch.flags_up import MESH_FLAGS, UpFlags
from launch.look import look
from launch.pen import Pen
from mesh import process
from mesh.options import Options, collect, flag_of, options_of
from nodes import places
from nodes.places import Effect, Event, Exited, Place, Probe, Probed, Said, Show, Signal, Spawn, Spawned, Tick, Topic
from nodes.supervision import Supervisor

FORCED_S = 8.0  # beyond what nodes have to drain: they wait 6 s for what ignores its end, and take leave of each other
HOPELESS = (Exit.USAGE, Exit.KEY, Exit.SETTING)  # what the user has to mend
LINE_BYTES_MAX = 65_536  # of a node that does not end its line
READ_BYTES = 65_536
LAST_READS = 4  # a pipe holds 64 KiB; more would come from a child of the dead process, which may live on
REDRAW_S = 1.0
SPLIT_VARIABLE = "WIREMESH_ROUTER_DISAGG_TOKENS"  # when a prompt is worth the trip to a prefill worker
FED = ("sglang",)  # engines whose decode workers compute no prompt: each must go to a prefill worker
HOST_CHARS_MAX = 64
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALS = {number.value: number.name for number in signal.Signals}


def main(arguments: argparse.Namespace) -> int:
    """Run a mesh until it is told to stop; returns the exit code."""
    options = options_of(arguments, os.environ)
    flags = collect(UpFlags, vars(arguments), os.environ, "up")
    process.raise_descriptor_limit()
    with reserve(flags.host, flags.port) as place:
        port = place.getsockname()[1]
        url = url_of(flags.host, port, os.environ)
        wanted = places_of(flags, port, mesh_words(arguments), tuple(arguments.worker_flags), _nickname())
        with asyncio.Runner() as runner:
            return runner.run(Up(wanted, url if flags.frontends else "", flags.json, options).run())


# --- What is wanted ---------------------------------------------------------------------------------------


def places_of(
    flags: UpFlags, port: int, shared: tuple[str, ...], for_workers: tuple[str, ...], nickname: str
) -> list[Place]:
    """A place for each node, with the command of its process."""
    end = for_workers.index("--") if "--" in for_workers else len(for_workers)
    own, engines = for_workers[:end], for_workers[end:]  # after a second -- they are for the engine
    shared_flags = [*_given("model", flags.model), *_given("engine", flags.engine)]

    def worker(role: str) -> list[str]:
        return [*shared_flags, *own, *_given("role", role), *engines]

    frontend = ["--host", flags.host, "--port", str(port)]
    router = _splitting(flags, own) if flags.count("prefill") else []
    kinds = [
        ("worker", "worker", "worker", flags.count("workers"), worker("")),
        ("decode", "worker", "worker", flags.count("decode"), worker("decode")),
        ("prefill", "prefill", "worker", flags.count("prefill"), worker("prefill")),
        ("encoder", "encoder", "worker", flags.count("encoders"), worker("encoder")),
        ("router", "router", "router", flags.count("routers"), router),
        ("frontend", "frontend", "frontend", flags.frontends, frontend),
    ]
    start = (sys.executable, "-P", "-m", "launch.cli")
    return [
        Place(f"{name}-{number}", role, (*start, command, "--name", f"{name}-{number}@{nickname}", *shared, *words))
        for name, role, command, count, words in kinds
        for number in range(1, count + 1)
    ]


def _splitting(flags: UpFlags, for_workers: Sequence[str]) -> list[str]:
    """When routers send a prompt to a prefill worker."""
    if (flags.engine or _value("engine", for_workers) or os.environ.get("WIREMESH_WORKER_ENGINE")) in FED:
        return ["--enforce-disagg"]
    if SPLIT_VARIABLE in os.environ:
        return []
    return ["--disagg-tokens", "0"]  # who asks for prefill workers wants to see them work, with short prompts too


def _value(name: str, words: Sequence[str]) -> str:
    """What a flag among these words says: of the last, as argparse takes it."""
    flag, found = flag_of(name), ""
    for index, word in enumerate(words):
        given, separator, value = word.partition("=")
        if given == flag:
            found = value if separator else next(iter(words[index + 1 :]), "")
    return found


def mesh_words(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The flags of the mesh that were given, for every node; variables reach them by themselves."""
    given = [(name, getattr(arguments, name)) for name in MESH_FLAGS if hasattr(arguments, name)]
    return tuple(word for name, value in given for word in (flag_of(name), str(value)))


def _given(name: str, value: str) -> list[str]:
    return [flag_of(name), value] if value else []


def _nickname() -> str:
    """What tells our nodes from those of another `up`: a younger node of the same name would replace an older one."""
    return f"{socket.gethostname()[:HOST_CHARS_MAX]}-{os.getpid()}"


def url_of(host: str, port: int, environment: Mapping[str, str]) -> str:
    """Where to reach the frontends from this host."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    scheme = "https" if environment.get("WIREMESH_FRONTEND_TLS_CERT") else "http"
    return f"{scheme}://{f'[{reached}]' if ':' in reached else reached}:{port}"


def reserve(host: str, port: int) -> socket.socket:
    """A socket that holds the port for our frontends, which share it; it never listens. Raises Complaint."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as alone:  # Without SO_REUSEPORT it meets those who have it, too.
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        place = socket.socket(family)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(address)
    except OSError as error:
        reason = f"{error.strerror or error}".lower()
        cure = "end what listens there, or choose another with --port (0 takes any that is free)"
        raise Complaint(Exit.UNAVAILABLE, f"port {port} of {host!r} cannot be used ({reason}): {cure}") from None
    return place


def environment_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What nodes get: ours, except the name, which would be everybody's; and our own packages in reach."""
    passed = {name: value for name, value in environment.items() if name != "WIREMESH_NAME"}
    root = str(Path(screen.__file__).resolve().parents[1])
    if root not in site.getsitepackages():  # A checkout that may not be installed.
        passed["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    passed["PYTHONUNBUFFERED"] = "1"  # progress is of no use when it comes late
    return passed


# --- The processes ----------------------------------------------------------------------------------------


class Pipe:
    """One output stream of a process, as lines."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._rest = b""

    def lines(self) -> tuple[list[str], bool]:
        """The complete lines that are there, and whether there may be more later."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return [], True
        *whole, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or len(self._rest) > LINE_BYTES_MAX):
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode(errors="replace").rstrip("\r") for line in whole], bool(data)


class Up:
    """Carries out what the supervisor decides."""

    def __init__(self, wanted: list[Place], url: str, as_json: bool, options: Options) -> None:
        self._url = url
        self._json = as_json
        self._options = options
        self._live = not as_json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._supervisor = Supervisor(
            wanted, Random(), options.drain_s + FORCED_S, hopeless=HOPELESS, begin=time.monotonic()
        )
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._pipes: dict[str, list[tuple[Pipe, bool]]] = {}
        self._served: screen.Served | None = None
        self._loads: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._redraw: asyncio.TimerHandle | None = None
        self._broken = False

    async def run(self) -> int:
        """Until all nodes have left."""
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[int] = self._loop.create_future()
        self._environment = environment_of(os.environ)
        self._out = Pen(sys.stdout, self._broken_pipe)
        both = self._live and sys.stderr.isatty()  # then one thread must write both, or they would mix
        self._log = self._out if both else Pen(sys.stderr, lambda: None)
        for number in STOPPING:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                self._loop.add_signal_handler(number, self._tell, places.Stop())
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            self._tell(Tick())
            code = await self._over
        finally:
            await self._close()
        return Exit.PIPE if self._broken else code

    async def _close(self) -> None:
        for timer in (self._timer, self._redraw):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name in list(self._children):  # Only after a mistake of ours, or of the system's.
            self._children[name].kill()
            self._forget(name)
        for number in (*STOPPING, signal.SIGCHLD):
            self._loop.remove_signal_handler(number)
        self._out.draw(())
        self._out.close()
        if self._log is not self._out:
            self._log.close()

    def _broken_pipe(self) -> None:
        """In the thread of a pen."""
        self._loop.call_soon_threadsafe(self._nobody_reads)

    def _nobody_reads(self) -> None:
        """A pipe that nobody reads is the end of us, as of any command."""
        self._broken = True
        self._tell(places.Stop())

    # --- Events and effects --------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        effects = self._supervisor.handle(event, time.monotonic())
        for effect in effects:
            self._carry_out(effect)
        if effects and self._live:
            self._draw()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait = self._supervisor.deadline() - time.monotonic()
        if wait < float("inf"):
            self._timer = self._loop.call_later(max(0.0, wait), self._tell, Tick())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Spawn(place):
                self._spawn(place)
            case Signal(name, hard=hard):
                self._children[name].send_signal(signal.SIGKILL if hard else signal.SIGTERM)
            case Show():
                self._show(effect)
            case Probe():
                self._begin(self._probe())
            case places.Exit(code) if not self._over.done():
                self._over.set_result(code)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _spawn(self, place: Place) -> None:
        try:
            child = process.spawn(place.command, self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            how = f"could not be started ({error.strerror})"
            self._loop.call_soon(self._tell, Exited(place.name, 0, Exit.INTERNAL, how))
            return
        assert child.stdout is not None and child.stderr is not None
        self._children[place.name] = child
        self._pipes[place.name] = [(Pipe(child.stdout.fileno()), False), (Pipe(child.stderr.fileno()), True)]
        self._loop.call_soon(self._tell, Spawned(place.name, child.pid))
        for pipe, log in self._pipes[place.name]:
            self._loop.add_reader(pipe.fd, self._read, place.name, child.pid, pipe, log)

    def _read(self, name: str, pid: int, pipe: Pipe, log: bool) -> bool:
        """Pass on what is there; False at the end."""
        lines, more = pipe.lines()
        for line in lines:
            self._tell(Said(name, pid, line, log))
        if not more:
            self._loop.remove_reader(pipe.fd)
        return more

    def _reap(self) -> None:
        """Some child is gone; what it said last comes before its end."""
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            for pipe, log in self._pipes[name]:
                for _ in range(LAST_READS):
                    self._read(name, child.pid, pipe, log)
            self._forget(name)
            how = screen.how_it_ended(code, {key.value: text for key, text in MEANINGS.items()}, SIGNALS)
            self._tell(Exited(name, child.pid, code, how))

    def _forget(self, name: str) -> None:
        child = self._children.pop(name)
        for pipe, _ in self._pipes.pop(name):
            self._loop.remove_reader(pipe.fd)
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        child.stderr.close()
        child.wait()

    # --- Looking -------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        try:
            self._served = await look(self._url, self._served)
        except OSError as error:
            self._tell(Probed(False, str(error)))
        else:
            self._tell(Probed(True))

    async def _watch(self) -> None:
        """Learn what each node does, as long as the mesh lets us look."""
        from launch.watch import watch  # It loads ZeroMQ: only when the nodes no longer need all of the machine.
        from mesh.failures import MeshError

        charges = self._supervisor.charges.values()
        seen = watch(self._options, lambda: {one.place.name: one.node for one in charges})
        try:
            async for self._loads in seen:
                pass
        except (MeshError, OSError, ValueError) as error:  # The nodes run; only their loads are not shown.
            self._log.say(f"the load of the nodes cannot be shown: {error}")
        finally:
            await seen.aclose()

    # --- Showing -------------------------------------------------------------------------------------------

    def _show(self, show: Show) -> None:
        pen = self._log if show.topic is Topic.LOG else self._out
        per_node = show.topic in screen.PER_NODE
        if show.topic is Topic.SERVING:
            self._announce(show)
        elif show.topic is Topic.LOG and self._options.log_format == "json":
            pen.say(show.text, may_be_lost=True)
        elif self._json and show.topic is not Topic.LOG:
            pen.say(screen.as_json(show), may_be_lost=per_node)
        elif not (self._live and show.topic in screen.TABLED):
            pen.say(screen.plain(show), may_be_lost=per_node)

    def _announce(self, show: Show) -> None:
        if self._json:
            self._out.say(screen.announce_json(show, self._served))
            return
        for line in screen.announce(show, self._served):
            self._out.say(line)
        if self._live:
            self._begin(self._watch())

    def _draw(self) -> None:
        """Now, and again when a second has passed."""
        if self._redraw is not None:
            self._redraw.cancel()
        size = get_terminal_size()
        charges = self._supervisor.charges.values()
        self._out.draw(screen.table(charges, self._loads, time.monotonic(), size.columns, size.lines))
        self._redraw = self._loop.call_later(REDRAW_S, self._draw)
