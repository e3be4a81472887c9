"""Shell. `wiremesh nodes`: join for a moment, dial who serves something, and say what was seen."""

import argparse
import asyncio
import os
import sys
from typing import Any

import msgspec

from launch.codes import Exit
from launch.flags import NodesFlags
from mesh.client import connect
from mesh.core import Want
from mesh.options import Options, collect, options_of

LOOK_S = 0.05  # how often to see whether somebody new serves something
HEADER = ("NODE", "NAME", "STATE", "RUNNING", "WAITING", "ENDPOINTS")


def main(arguments: argparse.Namespace) -> int:
    """Print the nodes that answer; returns UNAVAILABLE if there are none."""
    options = options_of(arguments, os.environ)
    flags = collect(NodesFlags, vars(arguments), os.environ, "nodes")
    peers = sorted(asyncio.run(_look(options, flags.wait_s)), key=lambda peer: (peer["name"], peer["node"]))
    if not peers:
        print(f"wiremesh: nobody of mesh {options.mesh!r} was seen in {flags.wait_s:g} s", file=sys.stderr)
        return Exit.UNAVAILABLE
    print("\n".join(_lines(peers) if flags.json else table([row(peer) for peer in peers])))
    return Exit.OK


async def _look(options: Options, wait_s: float) -> list[dict[str, Any]]:
    """What our own node knows of the others, after `wait_s`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    wanted: set[str] = set()
    async with connect(options=options) as mesh:
        while True:
            peers: list[dict[str, Any]] = mesh.actor.node.snapshot()["peers"]
            for endpoint in {name for peer in peers for name in peer["endpoints"]} - wanted:
                wanted.add(endpoint)
                mesh.actor.post(Want(endpoint))
            if loop.time() >= end:
                return peers
            await asyncio.sleep(LOOK_S)


def row(peer: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    state = "draining" if peer["draining"] else peer["state"]
    running = f"{peer['running']}/{peer['slots']}" if peer["slots"] else str(peer["running"])
    endpoints = " ".join(sorted(peer["endpoints"])) or "-"
    return peer["node"], peer["name"] or "-", state, running, str(peer["waiting"]), endpoints


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows under a header, each column as wide as its widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(HEADER, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [HEADER, *rows]
    ]


def _lines(peers: list[dict[str, Any]]) -> list[str]:
    return [msgspec.json.encode(peer).decode() for peer in peers]
