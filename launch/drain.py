"""Shell. `wiremesh drain NODE`: tell a node to leave, and wait until it has left."""

import argparse
import asyncio
import os
import time

from launch.codes import Complaint, Exit
from launch.flags_drain import DrainFlags
from mesh.actor import Actor
from mesh.client import Mesh, connect
from mesh.core import Want
from mesh.options import Options, collect, options_of
from nodes.endpoints import Drain
from nodes.names import DRAIN
from nodes.whom import Nobody, Seen, Several, choose, is_certain

LOOK_S = 0.02  # how often to see whether it is there, or still there
ANSWER_S = 5.0  # a node that does not even answer by then cannot be told


def main(arguments: argparse.Namespace) -> int:
    """Drain one node; returns the exit code."""
    options = options_of(arguments, os.environ)
    flags = collect(DrainFlags, vars(arguments), os.environ, "drain")
    return asyncio.run(_drain(arguments.node, flags, options))


async def _drain(wanted: str, flags: DrainFlags, options: Options) -> int:
    async with connect(options=options) as mesh:
        mesh.actor.post(Want(DRAIN))
        node = await _found(mesh.actor, wanted, flags.wait_s)
        began = time.monotonic()
        await _tell(mesh, node, flags)
        print(f"{node.name} ({node.id}) is leaving", flush=True)
        while _is_there(mesh.actor, node):  # It leaves at the end of its grace, whatever runs there.
            await asyncio.sleep(LOOK_S)
        print(f"{node.name} ({node.id}) has left the mesh after {time.monotonic() - began:.1f} s", flush=True)
    return Exit.OK


async def _found(actor: Actor, wanted: str, wait_s: float) -> Seen:
    """The node that is meant, once it can be spoken to."""
    end = time.monotonic() + wait_s
    while True:
        seen = _seen(actor)
        late = time.monotonic() >= end
        if late or is_certain(wanted, seen):
            node = _chosen(wanted, seen)
            if node.live:
                return node
            if late:
                raise Complaint(Exit.UNAVAILABLE, _why_not(node, wait_s))
        await asyncio.sleep(LOOK_S)


def _chosen(wanted: str, seen: list[Seen]) -> Seen:
    try:
        return choose(wanted, seen)
    except Nobody as error:
        raise Complaint(Exit.UNAVAILABLE, str(error)) from None
    except Several as error:
        raise Complaint(Exit.USAGE, str(error)) from None


def _why_not(node: Seen, wait_s: float) -> str:
    if DRAIN not in node.endpoints:
        return f"{node.name} ({node.id}) cannot be told over the mesh: send its process a SIGTERM, which drains it"
    return f"{node.name} ({node.id}) was announced but did not answer in {wait_s:g} s: is its process alive?"


async def _tell(mesh: Mesh, node: Seen, flags: DrainFlags) -> None:
    request = Drain(flags.grace_s if flags.grace_s >= 0 else None)
    async for _ in mesh.client(DRAIN).direct(request, node.node, timeout_s=ANSWER_S):
        pass


def _seen(actor: Actor) -> list[Seen]:
    peers = actor.node.peers.by_node.values()
    return [
        Seen(
            peer.node, peer.name, tuple(peer.offers) or tuple(peer.record.endpoints), peer.live and DRAIN in peer.offers
        )
        for peer in peers
    ]


def _is_there(actor: Actor, node: Seen) -> bool:
    return any(seen.node == node.node and seen.live for seen in _seen(actor))
