"""Shell. `/v1/images/generations` and `/v1/videos`: each picture or clip is a request of the mesh.

Its units are its steps and its bytes. So several are spread over all workers, one whose worker dies is made by another,
and all end between two steps if the client goes. With `stream` each step is an event, and each picture as soon as it is
there.
"""

import asyncio
import secrets
import time
from functools import partial

from mesh.core import Ask
from nodes import names
from nodes.contract.pictures import IMAGE, UNITS_MAX, VIDEO, Step, encode
from nodes.frontend import headers, limits
from nodes.frontend.bodies import read_body
from nodes.frontend.exchange import Exchange
from nodes.frontend.frontend import LEAVING
from nodes.frontend.gallery import Gallery
from nodes.frontend.generation import CANCELLED
from nodes.frontend.routes import Path, header_of
from nodes.openai import errors, images
from nodes.openai.chunks import HEADERS
from nodes.openai.errors import Problem, invalid
from nodes.openai.images import Images

POLICY = "least_loaded"  # a picture takes long, and a worker makes one at a time
KINDS = {"/v1/images/generations": IMAGE, "/v1/videos": VIDEO}
WRITE_BYTES_MAX = limits.WRITE_BYTES_MAX  # of files; more becomes text in a thread


class Prepared:
    """What was asked for, checked."""

    __slots__ = ("asked", "until", "worker")

    def __init__(self, asked: Images, until: float, worker: int) -> None:
        self.asked = asked
        self.until = until
        self.worker = worker  # 0: any


async def imagine(exchange: Exchange) -> None:
    """The endpoint."""
    frontend = exchange.frontend
    if frontend.draining:
        await exchange.refuse(LEAVING)
        return
    body = await read_body(exchange.wire, frontend.settings.body_bytes_max)
    found = body if isinstance(body, Problem) else prepare(exchange, body)
    if isinstance(found, Problem):
        frontend.tally.count("refused_bodies")
        await exchange.refuse(found)
        return
    count = len(found.asked.scenes)
    wait_s = frontend.admission.begin(count)
    if wait_s:
        frontend.tally.count("overloads")
        await exchange.refuse(errors.busy(wait_s))
        return
    try:
        await (_stream(exchange, found) if found.asked.stream else _whole(exchange, found))
    finally:
        frontend.admission.end(count, frontend.now())


def prepare(exchange: Exchange, body: bytes) -> Prepared | Problem:
    """Everything that can be wrong with a request is found here, but for what only a model knows."""
    frontend, found = exchange.frontend, exchange.wire.headers
    kind, seed = KINDS[exchange.endpoint], secrets.randbits(images.SEED_BITS)
    asked = images.parse(body, seed, frontend.settings.body_bytes_max, kind)
    if isinstance(asked, Problem):
        return asked
    registry = frontend.registry
    if asked.model not in registry.pictures:
        if asked.model in registry.models.models:
            return invalid(f"The model `{asked.model}` makes no pictures and no clips.", "model", "model_not_supported")
        return errors.no_model(asked.model)
    exchange.model, exchange.stream = asked.model, asked.stream
    if not registry.pictures[asked.model].workers:
        return errors.no_worker(asked.model)
    timeout_s = headers.timeout_s(found, asked.stream, frontend.settings.timeout_s)
    if timeout_s is None:
        return invalid("`x-request-timeout-ms` must be milliseconds, more than 0.", "x-request-timeout-ms")
    worker = headers.worker(found)
    if worker is None:
        return invalid("`x-wiremesh-worker` must be a node's id, 16 hexadecimal digits.", "x-wiremesh-worker")
    return Prepared(asked, frontend.now() + timeout_s, worker)


# --- Its requests of the mesh ------------------------------------------------------------------------------


class Showing:
    """A gallery that is being filled, and what of it a stream has not told yet."""

    def __init__(self, exchange: Exchange, prepared: Prepared) -> None:
        self.exchange = exchange
        self.prepared = prepared
        self.changed = asyncio.Event()
        self.events: list[bytes] = []
        scenes = prepared.asked.scenes
        self.gallery = Gallery(len(scenes), self.changed.set, self._went, self._came)
        self.streams = prepared.asked.stream

    def _went(self, index: int, step: Step) -> None:
        if self.streams:
            self.events.append(images.progress(self.prepared.asked.kind, index, step.made, step.steps))
            self.changed.set()

    def _came(self, index: int, content: bytes) -> None:
        if self.streams:
            asked = self.prepared.asked
            seed, now = asked.scenes[index].seed, int(time.time())
            self.events.append(images.completed(asked.kind, index, content, seed, now))
            self.changed.set()

    def begin(self) -> None:
        """Notice from now on that the client goes."""
        exchange, gallery = self.exchange, self.gallery
        frontend, wire = exchange.frontend, exchange.wire
        exchange.generation = gallery
        wire.gone_now = lambda: frontend.end_batch(gallery, CANCELLED)
        if headers.explains(wire.headers):
            wire.late = lambda: [(b"x-wiremesh-route", _route_of(exchange, gallery))]
        frontend.batches[gallery] = None
        wire.watch()

    async def next(self) -> None:
        """Ask for as many pictures as may be made, and return when something has changed."""
        self.changed.clear()
        actor = self.exchange.frontend.actor
        while (index := self.gallery.next()) >= 0:
            ask = self._ask_of(index)
            actor.ask(ask, self.gallery.begin(index, ask.request))
        if not self.gallery.done and not self.events:
            await self.changed.wait()

    def end(self) -> None:
        """It is over: nothing of it runs any longer."""
        exchange, gallery = self.exchange, self.gallery
        exchange.wire.unwatch()
        exchange.frontend.end_batch(gallery, CANCELLED)
        requests = [picture.request for picture in gallery.choices]
        exchange.frontend.names.add(exchange.name, exchange.client_id, requests)
        exchange.frontend.tally.count("pictures", sum(bool(content) for _, content in gallery.files))

    def _ask_of(self, index: int) -> Ask:
        """One picture as a request of the mesh."""
        exchange, prepared = self.exchange, self.prepared
        frontend, asked = exchange.frontend, prepared.asked
        return Ask(
            request=frontend.actor.node.next_request(),
            endpoint=names.IMAGINE + asked.model,
            payload=encode(asked.scenes[index]),
            policy=POLICY,
            pinned=prepared.worker,
            window=UNITS_MAX,
            timeout_s=max(prepared.until - frontend.now(), 0.001),
            patience_s=limits.PATIENCE_S,
            moves_max=frontend.settings.migrations_max,
            trace=exchange.trace,
            metadata={"id": exchange.name},
        )


# --- Answers -----------------------------------------------------------------------------------------------


async def _whole(exchange: Exchange, prepared: Prepared) -> None:
    showing = Showing(exchange, prepared)
    gallery = showing.gallery
    showing.begin()
    try:
        while not gallery.done:
            await showing.next()
    finally:
        showing.end()
    if exchange.wire.gone:
        _went(exchange)
    elif gallery.problem is not None:
        await exchange.refuse(gallery.problem)
    else:
        asked = prepared.asked
        seeds = [scene.seed for scene in asked.scenes]
        what = (gallery.files, seeds, asked.as_url, int(time.time()))
        write = partial(images.answer, *what)
        if asked.kind == VIDEO:
            write = partial(images.video, *what, exchange.name, asked.model)
        is_long = sum(len(content) for _, content in gallery.files) > WRITE_BYTES_MAX
        await exchange.answer(await asyncio.to_thread(write) if is_long else write())


async def _stream(exchange: Exchange, prepared: Prepared) -> None:
    """The head is sent with the first event, so that a refusal has a status."""
    showing, wire = Showing(exchange, prepared), exchange.wire
    gallery = showing.gallery
    showing.begin()
    try:
        while not gallery.done or showing.events:
            await showing.next()
            await _tell(exchange, showing)
    finally:
        showing.end()
    problem = gallery.problem
    if wire.gone:
        _went(exchange)
    elif problem is not None and not wire.started:
        await exchange.refuse(problem)
    else:
        if problem is not None:
            exchange.status, exchange.outcome = 200, problem.code or problem.type
        await wire.finish(errors.event(problem) if problem is not None else b"")


async def _tell(exchange: Exchange, showing: Showing) -> None:
    wire = exchange.wire
    events, showing.events = showing.events, []
    if not events or wire.gone:
        return
    if not wire.started:
        exchange.status = 200
        await wire.start(200, HEADERS)
    wire.write(b"".join(events))
    await wire.flush()


def _went(exchange: Exchange) -> None:
    exchange.frontend.tally.count("disconnects")
    exchange.status, exchange.outcome = CANCELLED.status, "disconnected"


def _route_of(exchange: Exchange, gallery: Gallery) -> bytes:
    """Where an answer comes from."""

    def path_of(request: int) -> Path | None:
        return None

    return header_of(exchange.frontend.actor.node.settings.node, gallery.choices, path_of)
