"""Shell. `wiremesh explain REQUEST`: ask routers why a request went where it went."""

import argparse
import asyncio
import os
import re
from typing import Any

import msgspec

from launch.codes import Complaint, Exit
from launch.flags_explain import ExplainFlags
from mesh.client import Mesh, connect
from mesh.core import Want
from mesh.failures import MeshError
from mesh.options import Options, collect, options_of
from nodes.frontend.routes import NAMES_MAX, Requests, RequestsQuestion
from nodes.names import EXPLAIN, REQUESTS
from nodes.router import Names
from nodes.routing.itinerary import Told, lines, unique

LOOK_S = 0.05  # how often to see whether somebody new could know
ANSWER_S = 2.0  # of one node
OWN_NAME = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")  # as components see their requests: an answer's id is longer


def main(arguments: argparse.Namespace) -> int:
    """Print what routers know of a request; returns the exit code."""
    options = options_of(arguments, os.environ)
    flags = collect(ExplainFlags, vars(arguments), os.environ, "explain")
    told, names = asyncio.run(_explained(arguments.request, flags.wait_s, options))
    for one in told:
        print(msgspec.json.encode(one).decode() if flags.json else "\n".join(lines(one, names)))
    return Exit.OK


async def _explained(name: str, wait_s: float, options: Options) -> tuple[list[Told], dict[int, str]]:
    """What all routers say, and the names of nodes. Raises Complaint if nobody knows the request."""
    async with connect(options=options) as mesh:
        for wish in (REQUESTS, EXPLAIN):
            mesh.actor.post(Want(wish))
        told = await Search(mesh, name).run(wait_s)
        return told, {peer.node: peer.record.name for peer in mesh.actor.node.peers.by_node.values()}


class Search:
    """Asks every node once, as it comes up."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self._mesh = mesh
        self._name = name
        self._asked: dict[int, None] = {}
        found = OWN_NAME.fullmatch(name)
        self._keys: list[int] = [unique(int(found.group(1), 16), int(found.group(2)))] if found else []

    async def run(self, wait_s: float) -> list[Told]:
        """Until somebody knows it, or time is up."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            late = loop.time() >= end
            if not self._keys:
                await self._look_up()
            told = [one for router in self._instances(EXPLAIN) for one in await self._told(router)]
            if told:
                return sorted(told, key=lambda one: (one.request, one.attempt, one.router))
            if late:
                raise Complaint(Exit.UNAVAILABLE, self._why_not(wait_s))
            await asyncio.sleep(LOOK_S)

    def _instances(self, endpoint: str) -> tuple[int, ...]:
        return self._mesh.actor.node.instances(endpoint)

    async def _look_up(self) -> None:
        """Ask frontends which requests are meant."""
        for node in self._instances(REQUESTS):
            if node not in self._asked:
                self._asked[node] = None
                for found in await self._ask(REQUESTS, node, RequestsQuestion(self._name), Requests):
                    self._keys += [unique(found.node, number) for number in found.numbers]

    async def _told(self, router: int) -> list[Told]:
        """What a router says, asked once for all requests."""
        if not self._keys or router in self._asked:
            return []
        self._asked[router] = None
        answers = await self._ask(EXPLAIN, router, Names(self._keys), list[Told])
        return [told for answer in answers for told in answer]

    async def _ask(self, endpoint: str, node: int, question: Any, kind: Any) -> list[Any]:
        try:
            return await self._mesh.client(endpoint, type=kind).direct(question, node, timeout_s=ANSWER_S).all()
        except MeshError:
            return []  # it has just left, or is too busy to be of use

    def _why_not(self, wait_s: float) -> str:
        if not self._instances(EXPLAIN):
            return f"no router was seen in {wait_s:g} s: only they know; check --join and --mesh, or start one"
        if not self._keys:
            return f"no frontend knows a request {self._name!r}: they remember the last {NAMES_MAX} names"
        return f"no router placed {self._name!r}, or it is too long ago: routers remember some thousand answers"
