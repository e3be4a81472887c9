"""Shell. How fast the data plane moves bytes, what that costs, and whether tokens notice.

    python -m bench.transfer [--mib 1 --mib 16 --mib 256] [--rounds 5] [--tokens]

Two processes, one owns the bytes, one pulls. Every round measures every transport once, each time in another order, so
that a busy machine, and what lies in the processor's cache, is unfair to all alike; small sizes have more rounds, and
ratios are of medians. CPU is that of both processes. What they are compared with is as fast as it can be written:

* memcpy: one call, between two private arrays of this process that have been touched, on huge pages where the kernel
  gives them. `memcpy shm` is the same between two shared memories, which Linux keeps in small pages: what is lost
  between the two is not ours.
* plain zmq: a thread of the owner waits in `recv`; asked, it sends 256 KiB frames from where they lie; the other side,
  with nothing else to do, copies each to its place. No loop, no thread to wake, no header, no credit, no end.

`--tokens` runs streams of small messages between the same two event loops, a token of each every 20 ms, and compares
the gaps between a stream's tokens at rest and while 1 GiB moves, again and again for as long as at rest.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np
import uvloop
import zmq

from bench.yardsticks import NixlReader, receive_plain, send_plain
from mesh import links
from mesh.security import Key, create_key
from nodes.transfer import Ending, Handle, Memory, Plane, PlaneSettings, Way
from nodes.transfer import memory as memories
from nodes.transfer.addresses import bulk_address
from nodes.transfer.handle import decode, encode
from nodes.transfer.mover import NICE
from proto.limits import MIB

WARM_UPS = 1
ROUNDS_MIB = 64  # a smaller size has so many times more rounds as it goes into this; noise does not shrink with it
ROUNDS_TIMES_MAX = 20
PATIENCE_S = 120.0
STREAMS = 32  # so many that a few seconds have a p99
PACE_S = 0.02  # between two tokens of a stream, as a fast engine makes them
REST_S = 1.0  # of each turn, at rest and beside transfers; these are repeated until it is over
TURNS = 3
TOKENS_MIB = 1024
TOKEN_BYTES = 64
LEASE_S = 3600.0
LINGER_MS = 1000


class Figure(msgspec.Struct):
    """One transport at one size."""

    transport: str
    mib: int
    gb_s: float  # median
    best_gb_s: float
    cpu_s_per_gib: float  # of both processes
    to_memcpy: float
    to_plain: float


class Gaps(msgspec.Struct):
    """The gaps between tokens while something else goes on."""

    during: str
    tokens: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    to_rest: float  # its p99 as a multiple of that at rest


# --- The owner's process --------------------------------------------------------------------------------


def own(folder: str, size: int, key: Key | None, nice: int, tell: Connection) -> None:
    """Own bytes until told to stop."""
    uvloop.run(_own(folder, size, key, nice, tell))


async def _own(folder: str, size: int, key: Key | None, nice: int, tell: Connection) -> None:
    loop = asyncio.get_running_loop()
    listen = (bulk_address(folder, 1), *(("tcp://127.0.0.1:0",) if key else ()))
    plane = await Plane(PlaneSettings(1, "here", listen, _ways(), nice), key).start()
    source = plane.allocate(size)
    source.array[:] = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    context = links.new_context()
    plain = context.socket(zmq.ROUTER)
    plain.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else it drops what does not fit
    plain.bind(f"ipc://{folder}/plain")
    sender = threading.Thread(target=send_plain, args=(plain, source.array.data), daemon=True)
    sender.start()
    outboxes = links.Outboxes(context, loop, lambda _link, _reason: None)
    tokens: asyncio.Task[None] | None = None
    tell.send("ready")
    while True:
        command, *arguments = await asyncio.to_thread(tell.recv)
        if command == "offer":
            tell.send(encode(plane.offer(source, [(0, arguments[0])], pulls=0, lease_s=LEASE_S).handle()))
        elif command == "cpu":
            tell.send(time.process_time())
        elif command == "tokens":
            outboxes.open(1, f"ipc://{folder}/tokens")
            tokens = loop.create_task(_stream(outboxes))
        else:
            break
    if tokens is not None:
        tokens.cancel()
    outboxes.close_all()
    sender.join(PATIENCE_S)
    plain.close(0)
    await plane.close()
    await links.terminate(context)


def _ways() -> tuple[Way, ...]:
    return (Way.SHARED, Way.NIXL, Way.BULK)


async def _stream(outboxes: links.Outboxes) -> None:
    """Tokens of all streams at their own times, whatever else happens."""
    loop = asyncio.get_running_loop()
    at = loop.time()
    while True:
        for stream in range(STREAMS):
            at += PACE_S / STREAMS
            await asyncio.sleep(max(0.0, at - loop.time()))
            outboxes.send(1, bytes([stream]) * TOKEN_BYTES)


# --- The puller's process ----------------------------------------------------------------------------------


class Bench:
    """What the measurements share."""

    def __init__(self, folder: str, owner: Connection, key: Key | None, nice: int) -> None:
        self.folder, self.owner, self.key, self.nice = folder, owner, key, nice
        self.nixl: NixlReader | None = None

    async def start(self, size: int) -> None:
        """Planes for each way, and buffers that have been touched."""
        self.planes: dict[str, tuple[Plane, Memory]] = {}
        wanted = {"shared": Way.SHARED, "nixl": Way.NIXL, "bulk": Way.BULK}
        if self.key is not None:
            wanted["bulk curve"] = Way.BULK
        for number, (name, way) in enumerate(wanted.items(), 2):
            host = "elsewhere" if name == "bulk curve" else "here"
            plane = await Plane(PlaneSettings(number, host, (), (way,), self.nice), self.key).start()
            memory = plane.allocate(size)
            memory.array[:] = 1
            self.planes[name] = plane, memory
        self.one, self.other = np.ones(size, np.uint8), np.ones(size, np.uint8)
        self.shared = [memories.allocate(0, number, size) for number in (1, 2)]
        for each in self.shared:
            each.array[:] = 1
        self.context = links.new_context()
        self.plain = self.context.socket(zmq.DEALER)
        self.plain.connect(f"ipc://{self.folder}/plain")

    async def stop(self) -> None:
        """Give everything back."""
        self.plain.send(b"0")
        self.plain.close(LINGER_MS)
        for each in self.shared:
            each.close()
        for plane, _ in self.planes.values():
            await plane.close()
        await links.terminate(self.context)

    async def handle(self, size: int) -> Handle:
        """The first `size` bytes of the owner."""
        self.owner.send(("offer", size))
        return decode(await asyncio.to_thread(self.owner.recv))

    async def owner_cpu_s(self) -> float:
        """What the owner's process has used."""
        self.owner.send(("cpu",))
        return float(await asyncio.to_thread(self.owner.recv))

    def possible(self, handle: Handle) -> list[str]:
        """The transports that lead from there to here."""
        return [name for name in self.planes if name != "nixl" or handle.remote is not None]

    async def pull(self, name: str, handle: Handle) -> None:
        """One transfer."""
        plane, memory = self.planes[name]
        end = await plane.fetch(handle, memory, [(0, handle.size)])
        assert end.ending is Ending.DONE, end

    async def copy_plain(self, size: int) -> None:
        """One plain ZeroMQ copy."""
        receive_plain(self.plain, self.other, size)

    async def read_nixl(self, handle: Handle) -> None:
        """One read of NIXL's own, as its benchmark does it: nothing around it."""
        remote = handle.remote
        assert remote is not None
        if self.nixl is None:
            self.nixl = NixlReader(self.other, remote.metadata)
        self.nixl.read(remote.memory, handle.size)

    async def copy_memory(self, size: int) -> None:
        """One memcpy."""
        np.copyto(self.other[:size], self.one[:size])

    async def copy_shared(self, size: int) -> None:
        """One memcpy between memories of the kind that two processes can see."""
        one, other = self.shared
        np.copyto(other.array[:size], one.array[:size])


Action = Callable[[], Awaitable[None]]


async def throughput(bench: Bench, mib: int, rounds: int) -> list[Figure]:
    """All transports at one size, in turns."""
    size = mib * MIB
    handle = await bench.handle(size)
    actions: dict[str, Action] = {
        "memcpy": lambda: bench.copy_memory(size),
        "memcpy shm": lambda: bench.copy_shared(size),
        "plain zmq": lambda: bench.copy_plain(size),
    }
    if handle.remote is not None:
        actions["plain nixl"] = lambda: bench.read_nixl(handle)
    for name in bench.possible(handle):
        actions[name] = lambda name=name: bench.pull(name, handle)  # type: ignore[misc]
    walls: dict[str, list[float]] = {name: [] for name in actions}
    cpus = dict.fromkeys(actions, 0.0)
    names = list(actions)
    for turn in range(rounds * min(ROUNDS_TIMES_MAX, max(1, ROUNDS_MIB // mib)) + WARM_UPS):
        names.append(names.pop(0))
        for name in names if turn % 2 else names[::-1]:
            action = actions[name]
            there, here, begun = await bench.owner_cpu_s(), time.process_time(), time.perf_counter()
            await action()
            wall, cpu = time.perf_counter() - begun, time.process_time() - here + await bench.owner_cpu_s() - there
            if turn >= WARM_UPS:
                walls[name].append(wall)
                cpus[name] += cpu
    return [_figure(name, mib, walls, cpus[name]) for name in actions]


def _figure(name: str, mib: int, walls: dict[str, list[float]], cpu: float) -> Figure:
    middle = {each: statistics.median(found) for each, found in walls.items()}
    gb = mib * MIB / 1e9
    return Figure(
        *(name, mib, gb / middle[name], gb / min(walls[name]), cpu / len(walls[name]) * 1024 / mib),
        *(middle["memcpy"] / middle[name], middle["plain zmq"] / middle[name]),
    )


async def token_gaps(bench: Bench, mib: int) -> list[Gaps]:
    """The streams alone, and beside each transport, in turns."""
    loop = asyncio.get_running_loop()
    context = links.new_context()
    inbox = links.Inbox(context)
    inbox.bind([f"ipc://{bench.folder}/tokens"])
    arrivals: list[list[float]] = [[] for _ in range(STREAMS)]

    def drain() -> None:
        if inbox.drain(lambda _peer, token: arrivals[token[0]].append(time.perf_counter()), lambda _peer: None, 256):
            loop.call_soon(drain)

    loop.add_reader(inbox.descriptor, drain)
    drain()
    bench.owner.send(("tokens",))
    handle = await bench.handle(mib * MIB)
    found: dict[str, list[float]] = {}
    for name in ("rest", *bench.possible(handle)) * TURNS:
        await asyncio.sleep(5 * PACE_S)
        for times in arrivals:
            times.clear()
        moved, took = await _meanwhile(bench, name, handle)
        found.setdefault(name, []).extend(1e3 * (b - a) for times in arrivals for a, b in pairwise(times))
        print(f"  {name}: {took:.2f} s, {moved * mib} MiB", file=sys.stderr)
    loop.remove_reader(inbox.descriptor)
    inbox.close()
    await links.terminate(context)
    rest = sorted(found["rest"])
    return [_gaps(name, sorted(gaps), rest) for name, gaps in found.items()]


async def _meanwhile(bench: Bench, name: str, handle: Handle) -> tuple[int, float]:
    """Nothing, or 1 GiB and more until time is up: how many transfers, and how long that took."""
    begun, moved = time.perf_counter(), 0
    if name == "rest":
        await asyncio.sleep(REST_S)
    else:
        while moved * handle.size < TOKENS_MIB * MIB or time.perf_counter() - begun < REST_S:
            await bench.pull(name, handle)
            moved += 1
    return moved, time.perf_counter() - begun


def _gaps(name: str, gaps: Sequence[float], rest: Sequence[float]) -> Gaps:
    p99, at_rest = (found[int(len(found) * 0.99)] for found in (gaps, rest))
    return Gaps(name, len(gaps), gaps[len(gaps) // 2], p99, gaps[-1], p99 / at_rest)


# --- The command ---------------------------------------------------------------------------------------------


async def measure(options: argparse.Namespace, folder: str, key: Key | None, owner: Connection) -> dict[str, object]:
    """Everything that was asked for."""
    bench = Bench(folder, owner, key, options.nice)
    assert await asyncio.to_thread(owner.recv) == "ready"
    await bench.start(max(options.mib) * MIB)
    try:
        figures = [figure for mib in options.mib for figure in await throughput(bench, mib, options.rounds)]
        gaps = await token_gaps(bench, max(options.mib)) if options.tokens else []
    finally:
        owner.send(("stop",))
        await bench.stop()
    return {"throughput": figures, "gaps": gaps}


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.transfer", description=__doc__)
    parser.add_argument("--mib", type=int, action="append", help="a size; may be repeated (default: 1, 16 and 256)")
    parser.add_argument("--rounds", type=int, default=5, help="of 64 MiB and more; up to 20 times as many of less")
    parser.add_argument("--nice", type=int, default=NICE, help=f"how much our threads give way (default: {NICE})")
    parser.add_argument("--curve", action="store_true", help="measure the bulk link over TCP with CURVE, too")
    parser.add_argument("--tokens", action="store_true", help="see whether a stream of tokens notices")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.mib = options.mib or [1, 16, 256]
    with tempfile.TemporaryDirectory(prefix="wiremesh-bench-") as folder:
        key = create_key(Path(folder) / "bench.key", "bench") if options.curve else None
        processes = multiprocessing.get_context("spawn")
        ours, theirs = processes.Pipe()
        owner = processes.Process(target=own, args=(folder, max(options.mib) * MIB, key, options.nice, theirs))
        owner.start()
        try:
            results = uvloop.run(measure(options, folder, key, ours))
        finally:
            owner.join(PATIENCE_S)
    print(json.dumps(msgspec.to_builtins(results)) if options.json else table(results))
    return 0


def table(results: dict[str, object]) -> str:
    """For people."""
    lines = [f"{'':12}{'MiB':>5}{'GB/s':>8}{'best':>8}{'CPU s/GiB':>11}{'of memcpy':>11}{'of plain':>10}"]
    for figure in msgspec.convert(results["throughput"], list[Figure]):
        lines.append(
            f"{figure.transport:12}{figure.mib:5}{figure.gb_s:8.2f}{figure.best_gb_s:8.2f}"
            f"{figure.cpu_s_per_gib:11.2f}{figure.to_memcpy:11.0%}{figure.to_plain:10.0%}"
        )
    for gap in msgspec.convert(results["gaps"], list[Gaps]):
        lines.append(
            f"tokens beside {gap.during:12} p50 {gap.p50_ms:6.2f} ms  p99 {gap.p99_ms:6.2f} ms"
            f"  ({gap.to_rest:.0%} of rest)  max {gap.max_ms:6.2f} ms  ({gap.tokens} gaps)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
