"""Shell. What a message costs on a link: CPU per frame, sent and received, over ipc, tcp and tcp with CURVE.

    python -m bench.links [--frames 200000]

Two processes. The sender encodes and sends; the receiver drains its inbox and decodes. `thread` is the CPU time of the
thread that runs Python, which is what the event loop pays; `process` adds ZeroMQ's own thread, where CURVE works.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import uvloop

from mesh import links
from mesh.security import Gatekeeper, Key, create_key
from proto import codec
from proto.errors import Reason
from proto.messages import Chunk, Part

TRANSPORTS = ("ipc", "tcp", "curve")
FULL_PAUSE_S = 0.0005  # the sender outruns the receiver: let it catch up
IDLE_S = 20.0  # a receiver that waits longer than that for a frame is broken


class Cost(msgspec.Struct):
    """CPU per frame on one side, in microseconds."""

    thread_us: float
    process_us: float
    frames_per_s: float


class Clock:
    """CPU and wall time since it was made."""

    def __init__(self) -> None:
        self._wall, self._thread, self._process = time.perf_counter(), time.thread_time(), time.process_time()

    def cost(self, frames: int) -> Cost:
        """Per frame."""
        thread, process = time.thread_time() - self._thread, time.process_time() - self._process
        return Cost(thread / frames * 1e6, process / frames * 1e6, frames / (time.perf_counter() - self._wall))


def message(number: int) -> Chunk:
    """A chunk with one item of 8 bytes: what a small component sends."""
    return Chunk([Part(1, 1, number, [], [b"8 bytes."])])


async def receive(transport: str, folder: str, frames: int, key: Key | None, tell: Connection) -> None:
    """Drain and decode `frames` frames."""
    loop = asyncio.get_running_loop()
    context = links.new_context()
    gatekeeper = Gatekeeper(context, key) if key else None
    if gatekeeper is not None:
        gatekeeper.start(loop)
    inbox = links.Inbox(context)
    listen = f"ipc://{folder}/inbox" if transport == "ipc" else "tcp://127.0.0.1:0"
    tell.send(inbox.bind([listen], key)[0])
    done: asyncio.Future[Clock] = loop.create_future()
    seen = 0
    clock: Clock | None = None

    def take(zid: bytes, frame: bytes) -> None:
        nonlocal seen, clock
        clock = clock or Clock()
        codec.decode(frame)
        seen += 1
        if seen == frames:
            done.set_result(clock)

    def drain() -> None:
        if inbox.drain(take, print, links.FRAMES_PER_TURN_MAX):
            loop.call_soon(drain)

    loop.add_reader(inbox.descriptor, drain)
    drain()
    tell.send((await asyncio.wait_for(done, IDLE_S)).cost(frames))
    loop.remove_reader(inbox.descriptor)
    inbox.close()
    if gatekeeper is not None:
        gatekeeper.close()
    await links.terminate(context)


async def send(frames: int, key: Key | None, receiver: Connection) -> dict[str, Cost]:
    """Encode and send `frames` frames; the time that the queue is full is idle, not CPU."""
    loop = asyncio.get_running_loop()
    context = links.new_context()
    outboxes = links.Outboxes(context, loop, _full, key)
    outboxes.open(1, await asyncio.to_thread(receiver.recv))
    clock = Clock()
    for number in range(frames):
        frame = codec.encode(number + 1, message(number))
        while not outboxes.send(1, frame):
            await asyncio.sleep(FULL_PAUSE_S)
    sent = clock.cost(frames)
    received = await asyncio.to_thread(receiver.recv)  # a session that ends may lose its tail
    outboxes.close_all()
    await links.terminate(context)
    return {"send": sent, "receive": received}


def _full(session: int, reason: Reason) -> None:
    """On a real node credit makes this impossible; here it is how we wait."""


def _receiver(transport: str, folder: str, frames: int, key: Key | None, tell: Connection) -> None:
    uvloop.run(receive(transport, folder, frames, key, tell))


def measure(transport: str, frames: int, folder: str) -> dict[str, Cost]:
    """Both sides of one transport."""
    key = create_key(Path(folder) / "bench.key", "bench", force=True) if transport == "curve" else None
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    receiver = processes.Process(target=_receiver, args=(transport, folder, frames, key, theirs))
    receiver.start()
    try:
        return uvloop.run(send(frames, key, ours))
    finally:
        receiver.join(IDLE_S)


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.links", description=__doc__)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--transport", choices=TRANSPORTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wiremesh-bench-") as folder:
        costs = {transport: measure(transport, options.frames, folder) for transport in options.transport or TRANSPORTS}
    if options.json:
        print(json.dumps(msgspec.to_builtins(costs)))
        return 0
    print(f"{'':8}{'':10}{'thread us':>12}{'process us':>12}{'frames/s':>12}")
    for transport, sides in costs.items():
        for side, cost in sides.items():
            print(f"{transport:8}{side:10}{cost.thread_us:12.2f}{cost.process_us:12.2f}{cost.frames_per_s:12,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
