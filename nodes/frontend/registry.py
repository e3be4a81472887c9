"""Shell. Fetches what the models' cards name, through the mesh, and builds texts of it. What to fetch: `models`."""

import asyncio
import logging
import time
from contextlib import suppress
from math import inf

from mesh.actor import Actor
from mesh.client import Client
from mesh.core import Want
from mesh.failures import MeshError
from mesh.logs import Remarks
from mesh.routing import ROUTER
from nodes import names
from nodes.card import FileRequest, ModelCard, Objection
from nodes.frontend import limits
from nodes.frontend.models import Effect, Fetch, FetchCard, Models, Note, Object
from nodes.frontend.painted import Painted, seen
from nodes.frontend.texts import Text, build
from nodes.openai import errors
from nodes.openai.errors import Problem

log = logging.getLogger("wiremesh.frontend")


class Registry:
    """The models of the mesh, kept up to date."""

    def __init__(self, actor: Actor) -> None:
        self.models: Models[Text] = Models()
        self.pictures: dict[str, Painted] = {}  # models that make some, by name
        self._actor = actor
        self._loop = actor.loop
        self._remarks = Remarks(log)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self) -> None:
        """Look, and keep looking."""
        self._cards = Client(self._actor, names.CARD, type=ModelCard)
        self._files = Client(self._actor, names.FILE, type=bytes)
        self._objects = Client(self._actor, names.OBJECT, type=str)
        self._actor.watch(self._changed)
        self._actor.post(Want(names.GENERATE))
        self._actor.post(Want(names.PREFILL))
        self._actor.post(Want(names.ENCODE))
        self._actor.post(Want(names.IMAGINE))
        self._actor.post(Want(ROUTER))
        self._changed()

    async def close(self) -> None:
        """Stop what is being fetched."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stranger(self, name: str) -> Problem:
        """Why a model that generates nothing here cannot be asked."""
        return errors.makes_pictures(name) if name in self.pictures else errors.no_model(name)

    # --- Carrying out ------------------------------------------------------------------------------------

    def _changed(self) -> None:
        if not self._closed:
            offered = self._actor.node.offered
            found = {**offered(names.GENERATE), **offered(names.PREFILL)}
            self._do(self.models.offered(found, self._loop.time()))
            self.pictures = seen(self.pictures, offered(names.IMAGINE), int(time.time()))

    def _tick(self) -> None:
        self._timer = None
        self._do(self.models.tick(self._loop.time()))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Note):
                self._say(effect)
            else:
                self._spawn(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.models.deadline()
        if due < inf and not self._closed:
            self._timer = self._loop.call_at(due, self._tick)

    def _say(self, note: Note) -> None:
        self._remarks.say(note.text, note.text, self._loop.time())

    def _spawn(self, effect: FetchCard | Fetch | Object) -> None:
        match effect:
            case FetchCard():
                work = self._card(effect.node)
            case Fetch():
                work = self._build(effect)
            case Object():
                work = self._object(effect)
        task = self._loop.create_task(work, name="fetch")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _card(self, node: int) -> None:
        try:
            card: ModelCard = await self._cards.direct(None, node, timeout_s=limits.CARD_S).first()
        except MeshError as error:
            self._do(self.models.card_failed(node, str(error), self._loop.time()))
            return
        self._do(self.models.card(node, card, self._loop.time()))

    async def _build(self, fetch: Fetch) -> None:
        digest = fetch.card.digest
        try:
            contents = {name: await self._file(fetch, name) for name, size in fetch.card.files.items() if size}
            text = await asyncio.to_thread(build, contents, fetch.card.files_digest)
        except (MeshError, ValueError, TypeError) as error:
            self._do(self.models.build_failed(digest, str(error), self._loop.time()))
            return
        self._do(self.models.built(digest, text, self._loop.time()))
        log.info("model %s is there: %d positions", fetch.card.model, fetch.card.engine.context)

    async def _object(self, effect: Object) -> None:
        """Whether it hears of it or not, it gets no requests."""
        objection = Objection(self._actor.node.settings.name, effect.text)
        with suppress(MeshError):
            await self._objects.direct(objection, effect.node, timeout_s=limits.CARD_S).first()

    async def _file(self, fetch: Fetch, name: str) -> bytes:
        size = fetch.card.files[name]
        if not 0 <= size <= limits.FILE_BYTES_MAX:
            raise ValueError(f"its file {name!r} has {size} bytes")
        content = bytearray()
        async for piece in self._files.direct(FileRequest(name), fetch.node, timeout_s=limits.FILES_S):
            content += piece
            if len(content) > size:
                raise ValueError(f"its file {name!r} is longer than its card says")
        return bytes(content)
