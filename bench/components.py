"""Shell. What a component's caller feels: round trips, throughput, and how soon a death is known.

    python -m bench.components [--calls 3000] [--items 100000] [--kills 40] [--freezes 5]

Each measurement uses real processes on this host: this one calls, `python -m bench.components --serve` answers.
`round trip` is a request with one item, one after the other. `stream` is one request with many items. `kill -9` and
`SIGSTOP` are the times from the signal until the caller's node no longer counts the instance as one to ask.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence

import uvloop

from mesh import Component, connect
from mesh.client import Client

MESH = f"bench-{os.getpid()}"
READY_S = 20.0
WARM_UP = 200  # calls that are not counted

echo = Component("bench.echo")


@echo.endpoint
async def count(request: int) -> AsyncIterator[int]:
    """The first numbers."""
    for number in range(request):
        yield number


def serve(mesh: str) -> subprocess.Popen[bytes]:
    """An instance in a process of its own."""
    command = [sys.executable, "-m", "bench.components", "--serve"]
    return subprocess.Popen(command, env={**os.environ, "WIREMESH_MESH": mesh}, stdout=subprocess.DEVNULL)


def quantiles(samples: Sequence[float], unit_s: float) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {
        name: round(ordered[min(last, int(len(ordered) * share))] / unit_s, 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


async def round_trips(client: Client, calls: int) -> dict[str, float]:
    """Milliseconds of a request with one item."""
    samples = []
    for _ in range(calls + WARM_UP):
        began = time.perf_counter()
        await client.generate(1).all()
        samples.append(time.perf_counter() - began)
    return quantiles(samples[WARM_UP:], 1e-3)


async def stream(client: Client, items: int) -> dict[str, float]:
    """Items per second of one request, and the caller's CPU for each."""
    began, cpu = time.perf_counter(), time.process_time()
    async for _ in client.generate(items):
        pass
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {"items_per_s": round(items / wall_s), "caller_cpu_us_per_item": round(cpu_s / items * 1e6, 2)}


async def time_to_notice(mesh: str, client: Client, number: signal.Signals) -> float:
    """Seconds from a signal to an instance until it is not asked any more."""
    process = serve(mesh)
    try:
        await client.ready(1, READY_S)
        await client.generate(1).all()
        began = time.perf_counter()
        process.send_signal(number)
        while client.instances():
            await client.changed()
        return time.perf_counter() - began
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All of it."""
    results: dict[str, dict[str, float]] = {}
    async with connect(mesh=MESH) as mesh:
        client = mesh.client("bench.echo.count")
        process = serve(MESH)
        try:
            await client.ready(1, READY_S)
            results["round trip, ms"] = await round_trips(client, options.calls)
            results["stream"] = await stream(client, options.items)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
        kills = [await time_to_notice(MESH, client, signal.SIGKILL) for _ in range(options.kills)]
        freezes = [await time_to_notice(MESH, client, signal.SIGSTOP) for _ in range(options.freezes)]
    if kills:
        results["kill -9 noticed, ms"] = quantiles(kills, 1e-3)
    if freezes:
        results["SIGSTOP noticed, s"] = quantiles(freezes, 1.0)
    return results


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.components", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="be the instance")
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--freezes", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.serve:
        echo.run()
    results = uvloop.run(measure(options))
    if options.json:
        print(json.dumps(results))
    else:
        for name, figures in results.items():
            print(f"{name:22}", "  ".join(f"{key} {value:,}" for key, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
