"""Shell. How long a slot stays taken after its client has closed the connection, and whether 10,000 such leave a trace.

    python -m bench.cancels [--peer dynamo] [--cancels 200] [--streams 1 64] [--step-ms 10] [--leftovers 10000]

`free` is the time from a close until the worker itself says that the slot is free (it is asked again and again over the
mesh: half a millisecond of each figure is the asking). `taken again` needs no such account, so the peer has it too: a
worker with as many slots as streams and one request more, which waits; the time from a close to the first token of who
waited, less the step that made the token. The moments of closing have nothing to do with those of steps, so there is
half a step of waiting for the next one in it. `all at once` closes all together, with as many waiting. Prompts take no
time in our simulated engine, and 2 ms in the peer's.

`--leftovers` begins and cancels so many requests at random moments, and then looks at every node's own account.
"""

import argparse
import asyncio
import json
import logging
import random
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import uvloop

from bench.figures import Spread, spread
from bench.processes import memory_mb
from bench.systems import MODEL, Shape, System, running
from bench.tinymodel import made
from bench.truth import Prompts, Truth, body
from mesh import connect
from mesh.client import Client as MeshClient
from nodes import names

READ_BYTES = 65_536
TOKENS = 30_000  # more than a stream can get before it is closed
PROMPT_TOKENS = 128
EVENT = b"\ndata: "
ANSWER_S = 30.0  # the longest that a first token may take
SETTLE_S = 10.0  # the longest that nodes may take to forget what was cancelled
POLL_S = 0.05
AT_ONCE = 64  # connections that cancel, where only the leftovers count
LIFE_S = 0.05  # the longest life of such a request: the shortest are closed before they have reached a worker
KEPT = ("requests", "claims", "legs", "running")  # of a node's account: what a cancelled request must leave


class Client:
    """One request on a connection of its own."""

    def __init__(self, system: System, prompt: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.create_connection(("127.0.0.1", system.port))
        self._socket.setblocking(False)
        asked = body(MODEL, prompt, TOKENS, True)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        self._socket.send(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(asked), asked))
        self._held = b""
        self.first: asyncio.Future[float] = self._loop.create_future()  # when its first event came
        self._loop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        now = time.perf_counter()
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self.first.done():
            self._held += data
            if EVENT in self._held:
                self.first.set_result(now)

    def close(self) -> float:
        """Go; returns when that was."""
        self._loop.remove_reader(self._socket)
        now = time.perf_counter()
        self._socket.close()
        if not self.first.done():
            self.first.cancel()
        return now


async def first(client: Client) -> float:
    """When its first token came, waited for."""
    return await asyncio.wait_for(asyncio.shield(client.first), ANSWER_S)


async def one_by_one(system: System, prompts: Prompts, streams: int, cancels: int, draw: random.Random) -> list[float]:
    """Seconds from a close to the first token of who waited, with the other streams running on."""
    step_s = system.shape.step_ms / 1e3
    clients = [Client(system, prompts.next()) for _ in range(streams)]
    for client in clients:
        await first(client)
    samples = []
    for _ in range(cancels):
        waiting = Client(system, prompts.next())
        await asyncio.sleep(step_s * (2 + draw.random()) + 0.01)
        assert not waiting.first.done(), "there was room for one more"
        leaving = clients.pop(draw.randrange(streams))
        closed = leaving.close()
        samples.append(await first(waiting) - closed)
        clients.append(waiting)
    for client in clients:
        client.close()
    return samples


async def free(system: System, prompts: Prompts, streams: int, cancels: int, draw: random.Random) -> list[float]:
    """Seconds from a close until the worker says that fewer run."""
    step_s = system.shape.step_ms / 1e3
    samples = []
    async with connect(join=f"dir:{system.folder}/mesh") as mesh:
        status = mesh.client(names.STATUS)
        await status.ready(len(system.processes), ANSWER_S)
        worker = mesh.client(names.CARD)
        [node] = await worker.ready(1, ANSWER_S)
        clients = [Client(system, prompts.next()) for _ in range(streams)]
        for _ in range(cancels):
            for client in clients:
                await first(client)
            before = await running_in(status, node)
            await asyncio.sleep(step_s * draw.random())
            closed = clients.pop(draw.randrange(streams)).close()
            while await running_in(status, node) >= before:
                pass
            samples.append(time.perf_counter() - closed)
            clients.append(Client(system, prompts.next()))
    for client in clients:
        client.close()
    return samples


async def running_in(status: MeshClient, node: int) -> int:
    """How many legs have a slot there, this question's own included."""
    [told] = await status.direct(None, node).all()
    return int(told["running"])


async def at_once(system: System, prompts: Prompts, streams: int, cancels: int, draw: random.Random) -> list[float]:
    """The same, of streams that all close together, each with one that waits."""
    step_s = system.shape.step_ms / 1e3
    clients = [Client(system, prompts.next()) for _ in range(streams)]
    for client in clients:
        await first(client)
    samples: list[float] = []
    while len(samples) < cancels:
        waiting = [Client(system, prompts.next()) for _ in range(streams)]
        await asyncio.sleep(step_s * (2 + draw.random()) + 0.1)
        closed = [client.close() for client in clients]
        firsts = [await first(client) for client in waiting]
        samples += [came - gone for came, gone in zip(sorted(firsts), closed, strict=True)]
        clients = waiting
    for client in clients:
        client.close()
    return samples


WAYS = {  # how, how many steps to take off, whether it needs several streams, whether the peer has it
    "free": (free, 0, False, False),
    "taken again": (one_by_one, 1, False, True),
    "taken again, all at once": (at_once, 1, True, True),
}


def measure(name: str, streams: int, options: argparse.Namespace) -> dict[str, Spread]:
    """All ways, on a system of its own."""
    shape = Shape(slots=streams, step_ms=options.step_ms, instant_prompts=True)
    draw = random.Random(options.seed)
    found: dict[str, Spread] = {}
    with running(name, shape, made()) as system:
        prompts = Prompts(Truth(system.model), PROMPT_TOKENS, time.time_ns())
        step_s = options.step_ms / 1e3
        for title, (way, less_s, many, peer) in WAYS.items():
            if (peer or name == "wiremesh") and (streams > 1 or not many):
                samples = uvloop.run(way(system, prompts, streams, options.cancels, draw))
                found[f"{streams} streams, {title}"] = spread([sample - less_s * step_s for sample in samples])
    return found


# --- What is left ----------------------------------------------------------------------------------------


async def cancel_many(system: System, prompts: Prompts, count: int, draw: random.Random) -> None:
    """So many requests, each closed at a random moment of its youth."""
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            client = Client(system, prompts.next())
            await asyncio.sleep(draw.random() ** 2 * LIFE_S)
            client.close()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def accounts(status: MeshClient) -> dict[str, dict[str, Any]]:
    """What each node says of itself, by its name. The call that asks is a leg as well, the same each time."""
    found = {}
    for node in status.instances():
        [told] = await status.direct(None, node).all()
        load = told.get("load") or {}
        engine = {f"engine {key}": load[key] for key in ("running", "waiting") if key in load}
        found[str(told["name"])] = {key: told[key] for key in KEPT} | engine
    return found


async def leftovers(system: System, count: int, seed: int) -> tuple[dict[str, Any], dict[str, Any], float]:
    """The accounts before and after, and how long it took until they were equal (or until patience ended)."""
    prompts = Prompts(Truth(system.model), PROMPT_TOKENS, time.time_ns())
    async with connect(join=f"dir:{system.folder}/mesh") as mesh:
        status = mesh.client(names.STATUS)
        await status.ready(len(system.processes), ANSWER_S)
        before = await accounts(status)
        await cancel_many(system, prompts, count, random.Random(seed))
        began = time.perf_counter()
        while (after := await accounts(status)) != before and time.perf_counter() < began + SETTLE_S:
            await asyncio.sleep(POLL_S)
        return before, after, time.perf_counter() - began


def check_leftovers(options: argparse.Namespace) -> bool:
    """Whether nothing was left."""
    with running("wiremesh", Shape(step_ms=options.step_ms, slots=16, routers=1), made()) as system:
        pids = {role: pids for role, pids in system.pids().items() if role != "router"}
        uvloop.run(cancel_many(system, Prompts(Truth(system.model), PROMPT_TOKENS, 1), 1000, random.Random(1)))
        memory = {role: memory_mb(pids[role]) for role in pids}
        before, after, settled_s = uvloop.run(leftovers(system, options.leftovers, options.seed))
        grown = {role: memory_mb(pids[role]) - memory[role] for role in pids}
        healthy = system.ask() == 200
    print(f"{options.leftovers:,} cancels: all accounts as before after {settled_s:.2f} s: {after == before}")
    print("memory grew by " + ", ".join(f"{megabytes:.1f} MB ({role})" for role, megabytes in grown.items()))
    for name in before:
        if before[name] != after.get(name):
            print(f"{name}: {after.get(name)} instead of {before[name]}", file=sys.stderr)
    return healthy and after == before


def table(found: dict[str, dict[str, Spread]], step_ms: float) -> str:
    """Markdown."""
    lines = [f"| ms at steps of {step_ms:g} ms, p50 / p99 / max | " + " | ".join(found) + " |"]
    lines.append("|---|" + "---|" * len(found))
    for title in next(iter(found.values()), {}):
        cells = [shown(by_title[title]) if title in by_title else "-" for by_title in found.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(found: Spread) -> str:
    """Three quantiles."""
    return f"{found.p50:.1f} / {found.p99:.1f} / {found.max:.1f}"


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.cancels", description=__doc__)
    parser.add_argument("--peer", choices=("dynamo",), help="measure this one too")
    parser.add_argument("--cancels", type=int, default=200)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--leftovers", type=int, default=10_000, help="0: leave it out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    logging.getLogger("wiremesh").setLevel(logging.ERROR)  # a mesh without a key is what we want here
    systems: Sequence[str] = ["wiremesh", *([options.peer] if options.peer else [])]
    found: dict[str, dict[str, Spread]] = {name: {} for name in systems}
    for streams in options.streams:
        for name in systems:
            found[name] |= measure(name, streams, options)
    print(json.dumps(msgspec.to_builtins(found)) if options.json else table(found, options.step_ms))
    return 0 if not options.leftovers or check_leftovers(options) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
