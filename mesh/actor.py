"""Shell. The actor: a `Node`, the pure core, and all that carries out what it decides.

A turn is: take what came, let the node handle each, and at its end let it flush. `handle` is never entered twice: an
event that comes up while effects are carried out waits in a queue. Nothing here waits for anything on the hot path, and
nothing here decides: events go in, effects are carried out.
"""

import asyncio
import logging
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING, Any

from mesh import core, links
from mesh.aide import Aide
from mesh.discovery import parse_join
from mesh.discovery.ladder import Arrangement, addresses_of, arrange
from mesh.endpoint import Endpoint
from mesh.host import Feed, Host
from mesh.logs import Remarks
from mesh.node import Node, Settings
from mesh.options import Options
from mesh.process import new_node_id, wall_clock_ns
from mesh.runner import Runner
from proto import limits
from proto.codec import decode, encode
from proto.errors import Reason, RemoteError
from proto.messages import Offer, Role, Strength

if TYPE_CHECKING:
    from mesh.client import Mesh
    from mesh.security import Key
    from mesh.stream import Feed as StreamFeed

TICKS_PER_TURN_MAX = 4  # a node that wants still more gets the next turn
TIMER_S_MIN = 0.001  # the resolution of uvloop's clock: a shorter timer may fire before its time
HANDLERS_S = 1.0  # at the end: time for handlers to take notice
HOST_CHARS_MAX = 64
GONE = "this node has left the mesh"

log = logging.getLogger("wiremesh")


class Actor:
    """One node of the mesh in this process."""

    def __init__(
        self,
        options: Options,
        role: Role,
        endpoints: Mapping[str, Endpoint] | None = None,
        title: str = "client",
        host: Host | None = None,
        aide: Aide | None = None,
        **settings: Any,  # of mesh.settings: slots, queue, policy
    ) -> None:
        self.options = options
        self.endpoints = endpoints or {}
        self._host, self._aide = host, aide
        self._more = settings if host is None else {"engine": host.offer().endpoint, **settings}
        self._role = role
        self._title = title
        self._feeds: dict[int, Feed] = {}
        self._watchers: dict[str, list[asyncio.Future[None]]] = {}
        self._queue: deque[core.Event] = deque()
        self._busy = self._turn_due = self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._remarks = Remarks(log)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closers = ExitStack()
        self.crashed: Exception | None = None
        self.seen: set[str] = set()  # endpoints that had an instance, some time
        self._watch: list[Callable[[], None]] = []

    # --- Beginning and end -----------------------------------------------------------------------------

    async def start(self, mesh: "Mesh | None" = None) -> None:
        """Listen, and find others. Raises what `arrange` raises, and OSError."""
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._time = self.loop.time
        self.departed: asyncio.Future[None] = self.loop.create_future()
        self.runner = Runner(self.endpoints, self.post, self.loop, mesh)
        if self._host is not None:
            self._host.attach(self.post, self.loop)
        self._do = self._effects()
        number, options = new_node_id(), self.options
        join = parse_join(options.join, options.mesh, os.environ)
        self.arrangement = arrange(join, number, options.key, options.listen)
        self._context = links.new_context()
        try:
            await self._listen(number, self.arrangement)
            self._running = True
            self.loop.add_reader(self._inbox.descriptor, self._readable)
            if self._host is not None:
                self.post(core.Progressed(0))  # There is an engine: from now on only its steps are progress.
            self._readable()
            await self._join()
        except BaseException:
            await self.stop()
            raise

    async def _listen(self, number: int, plan: Arrangement) -> None:
        if plan.key is not None:
            await self._guard(plan.key)
        self._inbox = links.Inbox(self._context)
        self._closers.callback(self._inbox.close)
        bound = self._inbox.bind(plan.listen, plan.key)
        self._outboxes = links.Outboxes(self._context, self.loop, self._link_down, plan.key)
        self._closers.callback(self._outboxes.close_all)
        self._closers.callback(self.loop.remove_reader, self._inbox.descriptor)
        self.node = Node(self._settings(number, plan, addresses_of(bound)), self._time(), self._aide)

    async def _guard(self, key: "Key") -> None:
        from mesh.security import Gatekeeper, self_test  # Only who has a key has a gate.

        gatekeeper = Gatekeeper(self._context, key)
        gatekeeper.start(self.loop)
        self._closers.callback(gatekeeper.close)  # The first to come is the last to go.
        await self_test(self._context, key)

    def _settings(self, number: int, plan: Arrangement, addresses: tuple[str, ...]) -> Settings:
        return Settings(
            node=number,
            name=self.options.name or f"{self._title}@{socket.gethostname()[:HOST_CHARS_MAX]}-{os.getpid()}",
            mesh=plan.mesh,
            tag=plan.tag,
            boot=wall_clock_ns(),
            host=plan.host,
            role=int(self._role),
            addresses=addresses,
            offers=self._offers(),
            seed=secrets.randbits(64),
            **self._more,
        )

    def _offers(self) -> tuple[Offer, ...]:
        return (*(one.offer() for one in self.endpoints.values()), *([self._host.offer()] if self._host else ()))

    async def _join(self) -> None:
        for remark in self.arrangement.remarks:
            self._remark(core.Remark(remark, remark))
        await self.arrangement.discovery.start(
            self.node.record(),
            lambda record: self.post(core.Found(record)),
            lambda node: self.post(core.Lost(node)),
            lambda address: self.post(core.Seed(address)),
            lambda topic, text: self._remark(core.Remark(topic, text)),
        )

    def describe(self) -> str:
        """One line about how this node is found."""
        return self.arrangement.discovery.describe()

    def leave(self, grace_s: float) -> None:
        """Drain: no new work, what runs gets `grace_s`; `departed` is done when we have said goodbye."""
        self.post(core.Leave(grace_s))

    async def depart(self, grace_s: float, patience_s: float) -> None:
        """Kill our own requests, say goodbye, and stop."""
        for request in list(self._feeds):
            self.post(core.Abandon(request, Strength.KILL))
        if self._running:
            self.leave(grace_s)
            await asyncio.wait([self.departed], timeout=patience_s)
        await self.stop()

    async def stop(self) -> None:
        """Close everything; what was said last gets a moment to leave."""
        self._cut()
        await self.runner.close(HANDLERS_S)
        if self._host is not None:
            await self._host.close()
        await self.arrangement.discovery.stop()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=HANDLERS_S)
        await links.terminate(self._context)

    def _cut(self) -> None:
        """No more events, no more links, and an end to every request that is still open."""
        self._running = False
        self._disarm()
        self._closers.close()
        for feed in list(self._feeds.values()):
            self._finish(core.Finish(feed.request, Reason.DRAINING, feed.position, text=GONE))
        if not self.departed.done():
            self.departed.set_result(None)

    # --- Events ----------------------------------------------------------------------------------------

    def post(self, event: core.Event) -> None:
        """An event from local code: handled now, unless one is being handled; flushed when the loop comes by."""
        if self._running and self._busy:
            self._queue.append(event)
        elif self._running:
            self._handle(event, self._time())
            self._end_soon()

    def _end_soon(self) -> None:
        """End this turn when all that is ready has run: what an engine makes at once goes with the Accept."""
        if not self._turn_due:
            self._turn_due = True
            self.loop.call_soon(self._end_turn)

    def _readable(self) -> None:
        """The inbox has something."""
        if not self._running:
            return
        if self._inbox.drain(self._take, self._garbled, links.FRAMES_PER_TURN_MAX):
            self.loop.call_soon(self._readable)  # The descriptor tells of it only once.
        self._end_soon()

    def _take(self, zid: bytes, frame: bytes) -> None:
        if not self._running:
            return
        try:
            event: core.Event = core.Heard(zid, *decode(frame), len(frame))
        except RemoteError as error:
            event = core.Garbled(zid, error.reason)
        self._handle(event, self._time())

    def _garbled(self, zid: bytes) -> None:
        self._handle(core.Garbled(zid, Reason.MALFORMED), self._time())

    def _link_down(self, session: int, reason: Reason) -> None:
        self.post(core.LinkDown(session, reason))

    def _handle(self, event: core.Event, now: float) -> None:
        """The only caller of `handle`. An exception in it is a mistake of ours: this node is done for."""
        self._busy = True
        do, queue = self._do, self._queue
        try:
            for effect in self.node.handle(event, now):
                do[type(effect)](effect)
            while queue:
                for effect in self.node.handle(queue.popleft(), now):
                    do[type(effect)](effect)
        except Exception as error:
            self._crash(error)
        finally:
            self._busy = False

    def _crash(self, error: Exception) -> None:
        log.critical("a mistake of ours: this node leaves the mesh", exc_info=error)
        self.crashed = error
        self._running = False
        self._queue.clear()
        self.loop.call_soon(self._cut)  # Whoever called us may still hold a socket.

    # --- The end of a turn, and the timer ----------------------------------------------------------------

    def _end_turn(self) -> None:
        self._turn_due = False
        if not self._running:
            return
        now = self._time()
        if now - self._timer_at > limits.PAUSE_S:
            self._overdue(now)
        ticks = TICKS_PER_TURN_MAX
        while (due := self.node.deadline()) <= now and self._running and ticks:
            self._handle(core.TICK, now)
            ticks -= 1
        self._outboxes.flush()
        if self._running:
            self._arm(due, now)

    def _overdue(self, now: float) -> None:
        """We were stopped: what the others said meanwhile is heard before anybody is judged."""
        late_s = now - self._timer_at
        self._disarm()
        while self._inbox.drain(self._take, self._garbled, links.FRAMES_PER_TURN_MAX):
            pass
        self._handle(core.Overdue(late_s), now)

    def _arm(self, due: float, now: float) -> None:
        """Wake up at the node's deadline. A timer that is early does no harm, so it is only ever moved forward."""
        if self._timer is not None and due >= self._timer_at:
            return
        self._disarm()
        if due < inf:
            self._timer_at = max(due, now + TIMER_S_MIN)
            self._timer = self.loop.call_at(self._timer_at, self._alarm)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, inf

    def _alarm(self) -> None:
        self._timer = None
        self._end_turn()

    # --- Effects -----------------------------------------------------------------------------------------

    def _effects(self) -> dict[type[Any], Callable[[Any], object]]:
        return {
            core.Transmit: self._transmit,
            core.Deliver: self._deliver,
            core.Open: lambda effect: self._outboxes.open(effect.session, effect.address),
            core.Close: lambda effect: self._outboxes.close(effect.session, effect.linger_ms),
            core.Announce: self._announce,
            core.Instances: self._instances,
            core.Remark: self._remark,
            core.Finish: self._finish,
            core.Start: self._start,
            core.Go: lambda effect: self._runs(effect.leg).go(effect),
            core.Hint: lambda effect: self._runs(effect.leg).hint(effect),
            core.Halt: lambda effect: self._runs(effect.leg).halt(effect),
            core.Pause: self.runner.pause,
            core.Unpause: self.runner.unpause,
            core.Departed: self._departed,
        }

    def _transmit(self, effect: core.Transmit) -> None:
        self._outboxes.put(effect.session, encode(effect.sequence, effect.message))

    def _deliver(self, effect: core.Deliver) -> None:
        feed = self._feeds.get(effect.request)
        if feed is not None:
            feed.deliver(effect.position, effect.items, effect.tokens)

    def _start(self, effect: core.Start) -> None:
        host = self._host if effect.endpoint not in self.endpoints else None
        (host or self.runner).start(effect)

    def _runs(self, leg: core.Leg) -> Host | Runner:
        """What runs a leg."""
        return self._host if self._host is not None and self._host.holds(leg) else self.runner

    def _finish(self, effect: core.Finish) -> None:
        feed = self._feeds.pop(effect.request, None)
        if feed is not None:
            feed.end(effect)

    def _announce(self, effect: core.Announce) -> None:
        task = self.loop.create_task(self.arrangement.discovery.publish(effect.record), name="announce")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _instances(self, effect: core.Instances) -> None:
        self.seen |= {effect.endpoint} if effect.nodes else set()
        for callback in self._watch:
            self.loop.call_soon(callback)
        for watcher in self._watchers.pop(effect.endpoint, ()):
            if not watcher.done():
                watcher.set_result(None)

    def _remark(self, effect: core.Remark) -> None:
        self._remarks.say(effect.topic, effect.text, self._time())

    def _departed(self, effect: core.Departed) -> None:
        if not self.departed.done():
            self.departed.set_result(None)

    # --- For clients -------------------------------------------------------------------------------------

    def watch(self, callback: Callable[[], None]) -> None:
        """Call this, in a turn of its own, whenever the live instances of something wanted have changed."""
        self._watch.append(callback)

    async def changed(self, endpoint: str) -> None:
        """Return when the live instances of an endpoint have changed."""
        watcher: asyncio.Future[None] = self.loop.create_future()
        watchers = self._watchers.setdefault(endpoint, [])
        watchers.append(watcher)
        try:
            await watcher
        finally:
            watchers[:] = [other for other in watchers if other is not watcher]

    def ask(self, ask: core.Ask, feed: Feed) -> None:
        """Begin a request; what comes of it goes to the feed."""
        if not self._running or self.departed.done():
            feed.end(core.Finish(ask.request, Reason.DRAINING, 0, text=GONE))
            return
        self._feeds[ask.request] = feed
        self.post(ask)

    def asked(self, request: int) -> tuple[int, ...]:
        """The instances that were asked for a request that runs, in order."""
        found = self.node.owner.requests.get(request)
        return tuple(found.nodes) if found is not None else ()

    def forget(self, feed: "StreamFeed") -> None:
        """Nobody holds the stream of this feed any more. Called by the garbage collector, in any thread."""
        if threading.get_ident() == self._thread:
            feed.kill()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(feed.kill)
