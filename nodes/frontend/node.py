"""Shell. The process of a frontend: its node, its server, its signals, and its end, which loses no request."""

import asyncio
import ipaddress
import logging
import signal

from mesh import process
from mesh.actor import Actor
from mesh.component import EXIT_CRASHED, FORCED_S
from mesh.endpoint import define
from mesh.options import Options
from nodes import names
from nodes.endpoints import node_endpoints
from nodes.frontend import keyfile, streams
from nodes.frontend.app import app
from nodes.frontend.frontend import Frontend
from nodes.frontend.routes import Requests, RequestsQuestion
from nodes.frontend.scrape import ROLE
from nodes.frontend.server import Listener, Serving
from nodes.frontend.settings import Settings
from nodes.serving import introduction, spare_collector
from proto.messages import Role

log = logging.getLogger("wiremesh.frontend")


class Node:
    """A frontend, its node and its server."""

    def __init__(self, options: Options, settings: Settings, version: str, keys: str) -> None:
        self._keys = keys
        self._drains: asyncio.Task[None] | None = None
        giver = streams.FrontendGiver()
        endpoints = {
            **node_endpoints(ROLE, lambda: self.actor, lambda: self.frontend.families(), self.facts, self.drain),
            **streams.endpoint(giver),
            names.REQUESTS: define(names.REQUESTS, self.requests),
        }
        self.actor = Actor(options, Role.COMPONENT, endpoints, ROLE)
        self.frontend = giver.frontend = Frontend(self.actor, settings, version, options.log_format)
        if keys:
            self.frontend.keyring = keyfile.load(keys)

    def requests(self, question: RequestsQuestion) -> Requests:
        """Which requests of the mesh an answer is made of."""
        return Requests(self.actor.node.settings.node, list(self.frontend.names.get(question.id)))

    def facts(self) -> dict[str, object]:
        """What a frontend adds to its status."""
        models = self.frontend.registry.models
        return {
            "models": {model.name: len(model.workers) for model in models.live()},
            "sequences": self.frontend.admission.streams,
            "in_flight": self.frontend.tally.in_flight,
            "kept": len(self.frontend.board),
            "draining": self.frontend.draining,
        }

    async def run(self, listener: Listener, certificate: str, key: str) -> int:
        """Serve until told to leave; returns the exit code."""
        frontend = self.frontend
        self.serving = Serving(app(frontend), listener, certificate, key)
        await self.actor.start()
        try:
            frontend.start()
            self.serving.start()
            self._hear_signals()
            spare_collector()
            print(introduction(ROLE, self.actor, f"serves {listener.url(bool(certificate))}"), flush=True)
            await self.actor.departed
            await self._end(0.0)
        finally:
            await frontend.close()
            await self.actor.depart(0.0, FORCED_S)
        return 0 if self.actor.crashed is None else EXIT_CRASHED

    def drain(self, grace_s: float) -> None:
        """Accept nothing new, finish what runs, then leave the mesh."""
        if self._drains is None:
            self._drains = self.actor.loop.create_task(self._drain(grace_s), name="drain")

    async def _drain(self, grace_s: float) -> None:
        await self._end(grace_s)
        self.actor.leave(0.0)

    async def _end(self, grace_s: float) -> None:
        """Stop serving, once."""
        if not self.frontend.draining:
            self.serving.close(grace_s)
            await self.frontend.drain(grace_s)
        await self.serving.stop()

    def _hear_signals(self) -> None:
        loop, actor = self.actor.loop, self.actor
        process.on_signals(loop, lambda: self.drain(actor.options.drain_s), lambda: None)
        if self._keys:
            loop.add_signal_handler(signal.SIGHUP, self._reread)

    def _reread(self) -> None:
        self.frontend.keyring = keyfile.again(self._keys, self.frontend.keyring)


async def run(
    options: Options, settings: Settings, version: str, listener: Listener, keys: str, certificate: str, key: str
) -> int:
    """A frontend from its start to its end; returns the exit code."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it tells of itself, and of each bad request
    if not keys and not is_loopback(str(listener.host)):
        log.warning("whoever reaches %s may use this mesh: give --api-keys FILE", listener.url(bool(certificate)))
    return await Node(options, settings, version, keys).run(listener, certificate, key)


def is_loopback(host: str) -> bool:
    """Whether only this host reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
