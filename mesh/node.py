"""Pure. A node: peers, owner and holder in one core. This file passes events along; it decides only whom to tell.

The three share one list of effects, so their order is the order in which they happened. `mesh.peers` queues what the
other two must know (`inner`), and it is handed over when the event itself is done.
"""

from collections.abc import Callable
from math import inf
from random import Random
from typing import Any

from msgspec import structs

from mesh import hellos
from mesh.acquaintances import stands_for
from mesh.aide import Aide, Surroundings
from mesh.core import (
    Abandon,
    Announce,
    Ask,
    Checkpointed,
    Consumed,
    Departed,
    Effect,
    Event,
    Failed,
    Finished,
    Found,
    Garbled,
    Heard,
    Inner,
    Instances,
    Leave,
    LinkDown,
    Lost,
    Overdue,
    PeerDown,
    PeerHung,
    Prepared,
    Produced,
    Progressed,
    Received,
    Remark,
    Seed,
    Stepped,
    Tick,
    Want,
    Yielded,
)
from mesh.holder import Holder
from mesh.owner import Owner
from mesh.peer import Peer
from mesh.peers import Peers
from mesh.ports import Ports
from mesh.routing import Routing
from mesh.settings import Settings
from proto.errors import Reason, RemoteError
from proto.messages import Load, Record
from proto.placing import Report

BYE_LINGER_MS = 2_000  # time for the last words to leave
FORCE_S = 5.0  # after the end of grace: how long a handler may ignore its end before we go without it

ROUND_ROBIN = "round_robin"

__all__ = ["Node", "Settings"]


class Node:
    """One node of the mesh."""

    def __init__(self, settings: Settings, now: float, aide: Aide | None = None) -> None:
        self.settings = hellos.checked(settings)
        self.stats: dict[str, int] = {}
        self._out: list[Effect] = []
        self._requests = 0
        self._leaving = inf  # when we go, ready or not
        self._departed = False
        self._instances: dict[str, dict[str, tuple[int, ...]]] = {}
        random = Random(f"{settings.seed}/{settings.node}")
        self.peers = Peers(settings, random, self._out, self._count, self._summary, self._load)
        ports = Ports(self._out, self._count, self.peers.send, self.peers.drop)
        self.owner = Owner(random, ports, self.peers.serving, now)
        self.routing = Routing(settings.policy or ROUND_ROBIN, random, self.peers.serving, self.peers.send, self._count)
        self.holder = Holder(settings, ports, self._elsewhere)
        self._messages = {**self.holder.table, **self.owner.table}
        assert len(self._messages) == len(self.holder.table) + len(self.owner.table), "a message is for one of them"
        self._aide = aide
        if aide is not None:
            choose, send = self.routing.choose, self.peers.send
            aide.attach(Surroundings(settings.node, random, self.peers.serving, choose, send, self._count))
        self._handlers: dict[type[Any], Callable[[Any, float], object]] = {
            Heard: self._heard,
            Garbled: lambda event, now: self.peers.garbled(event.zid, event.reason, now),
            LinkDown: lambda event, now: self.peers.link_down(event.session, event.reason, now),
            Found: self._found,
            Lost: lambda event, now: self.peers.unfound(event.node),
            Seed: lambda event, now: self.peers.seed(event.address, now),
            Want: self._want,
            Tick: self._tick,
            Overdue: self._overdue,
            Leave: self._leave,
            Ask: self.owner.ask,
            Consumed: self.owner.consumed,
            Abandon: self.owner.abandon,
            Produced: self.holder.produced,
            Prepared: self.holder.prepared,
            Stepped: self.holder.stepped,
            Checkpointed: self.holder.checkpointed,
            Finished: self.holder.finished,
            Failed: self.holder.failed,
            Yielded: self.holder.yielded,
            Progressed: lambda event, now: self.holder.progress.made(event.steps),
        }

    # --- The core contract -----------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; the only mutator."""
        if self._departed:
            return []
        self._handlers[type(event)](event, now)
        if self.peers.inner:
            self._pass_on(now)
        if self._leaving < inf:
            self._go_when_done(now)
        effects = self._out[:]
        self._out.clear()
        return effects

    def deadline(self) -> float:
        """When the next Tick is wanted; the past if this turn has something to flush."""
        if self._departed:
            return inf
        due = min(self.peers.deadline(), self.owner.deadline(), self.holder.deadline(), self._leaving)
        return due if self._aide is None else min(due, self._aide.deadline())

    def check(self) -> None:
        """Assert every invariant of the three."""
        assert not self.peers.inner, "something was not passed on"
        self.peers.check()
        self.owner.check()
        self.holder.check()
        if self._aide is not None:
            self._aide.check()
        for peer in self.owner.claims.peers():
            assert self._departed or self.peers.live(peer) is not None, "legs on a peer that is not live"

    # --- Questions ---------------------------------------------------------------------------------------

    def next_request(self) -> int:
        """A number that this node has never used."""
        self._requests += 1
        return self._requests

    def instances(self, endpoint: str) -> tuple[int, ...]:
        """Live nodes that take new work for an endpoint."""
        return tuple(peer.node for peer in self.peers.serving(endpoint) if peer.ready)

    def offered(self, wish: str) -> dict[str, tuple[int, ...]]:
        """Live nodes that take new work, by endpoint, for all endpoints that a wish stands for."""
        found: dict[str, list[int]] = {}
        for node, peer in sorted(self.peers.by_node.items()):
            for endpoint in peer.offers if peer.ready else ():
                if stands_for(wish, endpoint):
                    found.setdefault(endpoint, []).append(node)
        return {endpoint: tuple(nodes) for endpoint, nodes in found.items()}

    def record(self) -> Record:
        """Our own record, for discovery."""
        return self.settings.record()

    def snapshot(self) -> dict[str, Any]:
        """What this node sees, for people and for tests."""
        return {
            "node": f"{self.settings.node:016x}",
            "name": self.settings.name,
            "mesh": self.settings.mesh,
            "peers": [_describe(peer) for peer in self.peers.by_node.values()],
            "seeds": self.peers.seeds(),
            "requests": len(self.owner.requests),
            "claims": len(self.owner.claims),
            "legs": len(self.holder.legs),
            "running": self.holder.slots.running,
            "stats": dict(sorted(self.stats.items())),
        }

    # --- Passing along -------------------------------------------------------------------------------------

    def _count(self, name: str) -> None:
        self.stats[name] = self.stats.get(name, 0) + 1

    def _summary(self, node: int) -> tuple[int, int]:
        return self.owner.claims.summary(node)

    def _load(self) -> tuple[int, Load, bool, list[Report]]:
        progress, load = self.holder.load()
        return progress, load, self._leaving < inf, [] if self._aide is None else list(self._aide.reports())

    def _elsewhere(self, endpoint: str) -> bool:
        return any(endpoint in peer.record.endpoints and not peer.draining for peer in self.peers.by_node.values())

    def _pass_on(self, now: float) -> None:
        """Hand over what `peers` queued, in order; handling may queue more."""
        inner = self.peers.inner
        done = 0
        while done < len(inner):
            self._tell(inner[done], now)
            done += 1
        inner.clear()

    def _tell(self, event: Inner, now: float) -> None:
        if isinstance(event, Received):
            self._received(event.peer, event.message, now)
        elif isinstance(event, PeerDown):
            self.owner.peer_down(event.peer, event.reason, now)
            self.holder.peer_down(event.peer, now)
            self.routing.peer_down(event.peer)
            if self._aide is not None:
                self._aide.peer_down(event.peer, now)
            self._refresh(now)
        elif isinstance(event, PeerHung):
            self.owner.peer_hung(event.peer, now)
            self._refresh(now)
        else:
            self._peer_changed(event.peer, now)

    def _heard(self, event: Heard, now: float) -> None:
        """A message for the request cores goes straight on, behind what `peers` has to say before."""
        peer = self.peers.heard(event, now)
        if peer is not None:
            if self.peers.inner:
                self._pass_on(now)
            self._received(peer.node, event.message, now)

    def _received(self, peer: int, message: Any, now: float) -> None:
        """An illegal message costs the peer its session."""
        handler = self._messages.get(type(message))
        if handler is None:
            if self._aide is None or not self._aide.received(peer, message, now):
                self.routing.received(peer, message, now)
            return
        try:
            handler(peer, message, now)
        except RemoteError as error:
            self.peers.drop(peer, error.reason, error.text, now)

    def _peer_changed(self, node: int, now: float) -> None:
        peer = self.peers.live(node)
        if peer is not None:
            self._superseded(peer, now)
            self.owner.peer_ready(peer, now)
            self.holder.move_on(now)
            if self._aide is not None:
                self._aide.peer_up(peer, now)
        self._refresh(now)

    def _superseded(self, peer: Peer, now: float) -> None:
        """A younger process has our name: it is our successor, and we leave."""
        ours, theirs = self.settings, peer.record
        if ours.name and theirs.name == ours.name and theirs.boot > ours.boot and ours.offers and self._leaving == inf:
            self._out.append(Remark("superseded", f"a younger node is called {ours.name!r} too: leaving"))
            self._leave(Leave(0.0), now)

    def _refresh(self, now: float) -> None:
        for wish in self.peers.wanted():
            found = self.offered(wish)
            for endpoint in [*found, *(gone for gone in self._instances.get(wish, {}) if gone not in found)]:
                nodes = found.get(endpoint, ())
                if nodes != self._instances.get(wish, {}).get(endpoint, ()):
                    self._out.append(Instances(endpoint, nodes))
            self._instances[wish] = found

    def _found(self, event: Found, now: float) -> None:
        self.peers.found(event.record, now)
        self.holder.move_on(now)

    def _want(self, event: Want, now: float) -> None:
        self.peers.want(event.endpoint, now)
        self._refresh(now)

    def _tick(self, event: Tick, now: float) -> None:
        self.peers.tick(now)
        if self.peers.inner:
            self._pass_on(now)
        self.owner.tick(now)
        self.holder.tick(now)
        if self._aide is not None and self._aide.deadline() <= now:
            self._aide.tick(now)

    def _overdue(self, event: Overdue, now: float) -> None:
        self.peers.overdue(event.late_s, now)
        self.owner.overdue(event.late_s, now)

    # --- Leaving -------------------------------------------------------------------------------------------

    def _leave(self, event: Leave, now: float) -> None:
        if self._leaving == inf:
            self._count("node.leaving")
            self.peers.leave(int(event.grace_s * 1000))
            self._out.append(Announce(structs.replace(self.record(), endpoints=[])))
        self._leaving = min(self._leaving, now + event.grace_s + FORCE_S)
        self.holder.leave(event.grace_s, now)

    def _go_when_done(self, now: float) -> None:
        """Say Bye once nothing of ours runs, or when time is up."""
        done = not self.holder.legs and not self.owner.requests and self.holder.deadline() > -inf
        if done or now >= self._leaving:
            self.owner.close(now)
            self.peers.depart(Reason.LEFT, BYE_LINGER_MS)
            self._out.append(Departed())
            self._departed = True


def _describe(peer: Peer) -> dict[str, Any]:
    return {
        "node": f"{peer.node:016x}",
        "name": peer.record.name,
        "state": peer.state.value,
        "draining": peer.draining,
        "addresses": list(peer.record.addresses),
        "endpoints": list(peer.offers) or list(peer.record.endpoints),
        "running": peer.load.running,
        "waiting": peer.load.waiting,
        "slots": peer.load.slots,
    }
