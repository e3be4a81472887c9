"""Pure. What must be true of serving, besides what must be true of the mesh. Numbers are invariants: see README.md."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from mesh.core import Finish, Leg
from mesh.simulation import walks
from mesh.simulation.network import Link
from mesh.simulation.oracles import Oracles
from mesh.simulation.streams import Stream
from mesh.simulation.violation import require
from nodes.contract.engine import Job
from nodes.contract.media import hashed_tokens
from nodes.engines.sim import continuation
from nodes.simulation.advice import Advice
from nodes.simulation.caller import ServingStream
from nodes.simulation.plan import SAID
from nodes.simulation.retries import Retries
from nodes.simulation.spared import Spared
from nodes.simulation.thrift import Thrift
from nodes.simulation.worker import Worker
from proto.errors import Reason
from proto.messages import Accept, Credit, Error, Migrate, Reject, Submit
from proto.placing import Parked, Place, Placed

if TYPE_CHECKING:
    from mesh.simulation.process import Process
    from mesh.simulation.world import World

ENGINE_EVERY = 48  # events of the run between two looks at an engine's own invariants
ASKED_EVERY = 8  # events of the run between two looks at whom somebody waits for
UNSEEN = (  # why the pictures of a request were not read, though nothing is wrong with them
    "a parcel did not come", "this worker cannot read pictures", "there is no room for its embeddings",
    "too many offers are open",
)  # fmt: skip
KILLS_MAX = 3  # workers that one prompt may kill; two, unless its owner could not see the first one; two more if fed


class ServingOracles(Oracles):
    """The judges of one serving run."""

    interest = (*Oracles.interest, Parked)

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.advice = Advice(world)
        self.retries = Retries()
        self.spared = Spared()
        self.thrift = Thrift()
        self._deaths: dict[str, bool] = {}  # workers whose engine died, and whether of a prompt
        self._found: dict[Leg, int] = {}
        self._begun: dict[str, list[tuple[Hashable, str, list[int]]]] = {}  # jobs, salts and sequences, by worker
        self._transmitted |= {Place: self.advice.asks, Placed: self.advice.advises, Parked: self.advice.lets_wait}

    def handled(self, process: "Process") -> None:
        """An event and its effects are done."""
        super().handled(process)
        self.retries.handled(process)
        if self.events % ENGINE_EVERY == 0 and isinstance(process, Worker) and not process.departed:
            process.check()
        if self.events % ASKED_EVERY == 0:
            self.advice.looks(process)

    def heard(self, process: "Process", link: Link, message: Any) -> None:
        """A message that its receiver may not forget."""
        if isinstance(message, Parked):
            self.advice.waits(process, link, message)
            return
        stream = process.streams.get(message.request) if type(message) is Error else None
        if stream is not None and stream.holder == link.source.label and stream.attempt == message.attempt:
            self.retries.heard(process, message)
        super().heard(process, link, message)

    def finished(self, stream: Stream, effect: Finish) -> None:
        """A request ends."""
        super().finished(stream, effect)
        self.advice.known.ended()

    def asked(self, stream: Stream) -> None:
        """A request begins."""
        super().asked(stream)
        self.advice.asked(stream)

    def _submit(self, process: "Process", link: Link, message: Submit) -> None:
        self.advice.followed(process, link, message)
        stream = process.streams[message.request]
        assert isinstance(stream, ServingStream)
        freely = stream.let_go or stream.newest.handed  # what was handed over stays good, if nobody takes its next stop
        stream.lost += stream.attempt > 0 and not freely and not walks.advances(stream, message.endpoint)
        stream.let_go = False
        most = stream.moves_max + self._world.drain_count
        name = f"{process.label}/{message.request}"
        require(stream.lost <= most, "22 moves", f"{name} moves for the {stream.lost}th time in a row")
        super()._submit(process, link, message)

    def _accept(self, process: "Process", link: Link, message: Accept) -> None:
        super()._accept(process, link, message)
        nemesis: Any = self._world.nemesis
        nemesis.taken(link)

    def _credit(self, process: "Process", link: Link, message: Credit) -> None:
        super()._credit(process, link, message)
        if any(process.streams[grant.request].newest.alone for grant in message.grants):
            nemesis: Any = self._world.nemesis
            nemesis.allowed(link)

    def _let_go(self, process: "Process", link: Link, message: Reject | Migrate) -> None:
        stream = self._current(process, link, message)
        if isinstance(stream, ServingStream):
            stream.let_go = True

    def _reject(self, process: "Process", link: Link, message: Reject) -> None:
        super()._reject(process, link, message)
        self._let_go(process, link, message)

    def _migrate(self, process: "Process", link: Link, message: Migrate) -> None:
        super()._migrate(process, link, message)
        self._let_go(process, link, message)

    # --- Poison ------------------------------------------------------------------------------------------------

    def killed(self, worker: Worker, victim: Leg | None) -> None:
        """An engine has raised, of a prompt or because it was told to."""
        self._deaths[worker.label] = victim is not None
        if victim is None:
            return
        owner = self._world.process_with(victim.owner)
        stream = owner.streams.get(victim.request) if owner is not None else None
        # What wakes up in an engine that hung, and had moved meanwhile, is the hang's fault.
        leg = stream.leg(victim.attempt, worker.label) if stream is not None else None
        if isinstance(stream, ServingStream) and leg is not None and not leg.over:
            troubles = (self._world.troubles[place].count for place in (stream.process.place, worker.place))
            stream.kills += not any(troubles)  # what a partition hides nobody can count
            name = f"{stream.process.label}/{stream.request}"
            most = KILLS_MAX + 2 * bool(stream.feeders)
            require(stream.kills <= most, "20 poison", f"{name} has killed {stream.kills} workers")

    # --- Endings -----------------------------------------------------------------------------------------------

    def verdict(self, stream: Stream, effect: Finish) -> str | None:
        """Why it may not end like this; None if it may."""
        assert isinstance(stream, ServingStream)
        if (complaint := self._cached(stream, effect)) is not None:
            return complaint
        if effect.reason in (Reason.COMPLETE, Reason.LENGTH):
            self.retries.ended_well(stream.process)
        rule = _RULES.get(effect.reason)
        return rule(self, stream, effect) if rule is not None else super().verdict(stream, effect)

    def found_in_cache(self, worker: Worker, leg: Leg, tokens: int, job: Job) -> None:
        """An engine has begun a leg, and did not have to compute so much of it: somebody before it began likewise."""
        self._found[leg] = tokens
        known = self._begun.setdefault(worker.label, [])
        mine = hashed_tokens([*job.prompt, *job.generated], job.media)
        alike = any(
            name != leg and salt == job.cache_salt and before[:tokens] == mine[:tokens] for name, salt, before in known
        )
        require(alike or not tokens, "6 cache", f"{worker.label} finds {tokens} tokens of {leg} that nobody had there")

    def begun(self, worker: Worker, job: Job) -> None:
        """An engine has got a job: what it computes may be found by others from now on."""
        whole = hashed_tokens([*job.prompt, *continuation(job.prompt, job.max_tokens, SAID)], job.media)
        self._begun.setdefault(worker.label, []).append((job.key, job.cache_salt, whole))

    def _cached(self, stream: ServingStream, end: Finish) -> str | None:
        """The caller is told what the last holder saved, if anything came of it."""
        owner = stream.process.node.settings.node
        saved = self._found.get(Leg(owner, stream.request, stream.attempt), 0)
        if saved and not stream.newest.fruitless and not (stream.handles or stream.feeders) and end.cached != saved:
            return f"{end.cached} cached tokens, not {saved}"
        return None if end.cached <= len(stream.prompt) else f"{end.cached} cached tokens of {len(stream.prompt)}"

    def poisoned(self, stream: ServingStream, end: Finish) -> str | None:
        """Only who kills is accused. Nobody can tell whom a signal has killed, but that is the only excuse."""
        if (complaint := self.suspects.accused(self._world, stream, end)) is not None:
            return complaint
        alone = not self.suspects.cleared(stream)
        innocent = not stream.order.poison and alone and self._deaths.get(stream.accused, False)
        return f"{stream.accused} died of another prompt, beside which it should not have been" if innocent else None


def _complete(oracles: ServingOracles, stream: ServingStream, end: Finish) -> str | None:
    if stream.order.wrong or stream.order.spoilt == "bytes" or not stream.stops:
        return "nothing stops it"
    return None if stream.position == len(stream.expected) else f"it has {len(stream.expected)} tokens"


def _length(oracles: ServingOracles, stream: ServingStream, end: Finish) -> str | None:
    if stream.order.wrong or stream.order.spoilt == "bytes" or stream.stops:
        return "a token stops it"
    return None if stream.position == len(stream.expected) else f"it has {len(stream.expected)} tokens"


def _invalid(oracles: ServingOracles, stream: ServingStream, end: Finish) -> str | None:
    return None if stream.order.wrong or stream.order.spoilt else f"nothing is wrong with it ({end.text})"


def _failed(oracles: ServingOracles, stream: ServingStream, end: Finish) -> str | None:
    if stream.retried and stream.order.pictures and end.text.startswith(UNSEEN):
        return None  # its pictures did not come: retries have a budget, see Retries
    return f"no job fails ({end.text})"


def _busy(oracles: ServingOracles, stream: ServingStream, end: Finish) -> str | None:
    if stream.retried:
        return None  # a full engine: retries have a budget, see Retries
    return Oracles.verdict(oracles, stream, end)


_RULES = {
    Reason.COMPLETE: _complete,
    Reason.LENGTH: _length,
    Reason.INVALID: _invalid,
    Reason.FAILED: _failed,
    Reason.BUSY: _busy,
    Reason.UNAVAILABLE: _busy,
    Reason.POISON: ServingOracles.poisoned,
}
