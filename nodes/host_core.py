"""Pure. The engine host: between the legs that a node holds and the jobs that its engine runs.

Every leg that was started ends in exactly one event: Finished, Failed or Yielded. Commands reach the engine between two
steps, a cancelled job's room is free as soon as the engine has heard of it, and a step is one event. Two drivers share
this: `nodes.paced` steps an engine in somebody's event loop and in somebody's time; `nodes.host` runs one that
computes in a thread of its own. What an engine raises is passed on: it is dead then, and so is its process.
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Any

from mesh.core import Event, Failed, Go, Halt, Hint, Leg, Prepared, Start, Stepped
from nodes import generation
from nodes.commands import Applied, Cancel, Command, Land
from nodes.contract.engine import ASLEEP, FULL, Ending, Job, Output, Step
from nodes.contract.media import Media
from nodes.handing import Handing
from nodes.host_metrics import Counts
from nodes.names import PREFILL
from nodes.native import UNSEEN, Native
from nodes.routing.teller import Teller
from nodes.runs import Desk, Run, event_of, freed_of, rescue
from proto import codec, limits
from proto.errors import Reason

SPARE_POSITIONS = 32  # of a room for what an engine has: it may be some steps ahead of what we were told
UNFED = "no prefill worker has computed this prompt, and its decode worker may not (--enforce-disagg)"
PARTED = "the engine that goes on made another token than the one that computed its prompt"


class HostCore:
    """All legs of one engine. Its methods say what has happened; what they return is for the node.

    What is for the engine gathers in `commands`. `wake` is called when something came up between two calls.
    """

    def __init__(
        self,
        vocabulary: int = limits.TOKEN_ID_MAX + 1,
        digest: str = "",
        handing: Handing | None = None,
        enforce: bool = False,
    ) -> None:
        """`enforce`: what was not handed over is not computed here, but refused."""
        self.runs: dict[Leg, Run] = {}
        self.commands: list[Command] = []
        self.handing = Handing() if handing is None else handing
        self.handing.land = self._land
        self.native = Native()
        self.teller: Teller | None = None
        self.desk: Desk | None = None
        self.cached: Callable[[Job], int] = lambda job: 0  # positions that the engine's cache has of a job's sequence
        self.wake: Callable[[list[Event]], None] = _nobody
        self._vocabulary = vocabulary
        self._digest = digest
        self._enforce = enforce
        self.counts = Counts()

    # --- From the node -----------------------------------------------------------------------------------

    def start(self, start: Start, now: float) -> list[Event]:
        """Begin a leg."""
        counts, leg = self.counts, start.leg
        counts.started += 1
        try:
            wanted = generation.decode(start.payload)
        except ValueError as error:
            return [self._refuse(Failed(leg, Reason.INVALID, text=str(error)))]
        if wanted.digest not in ("", self._digest):
            text = "a model of this name with other files is served here"
            return [self._refuse(Failed(leg, Reason.INVALID, text=text, retryable=True))]
        prompt, generated = codec.unpack(start.prompt), codec.unpack(start.tokens)
        counts.prompt_tokens += len(prompt)
        counts.resumed_tokens += len(generated)
        job = generation.job_of(leg, wanted, prompt, generated, self._vocabulary, start.metadata)
        length = len(prompt) + len(generated)
        run = Run(length, counts.steps, feeds=start.endpoint.startswith(PREFILL))
        if run.feeds:
            job.max_tokens, job.feeds = min(job.max_tokens, len(generated) + 1), True
            self.handing.reclaim(now)
            run.unfed = start.awaits
        elif self.native.mode:
            self._receive(start, job, run)
        elif start.handles or start.awaits:
            here = self.cached(job) if start.handles and not self._enforce else 0
            job.lands = self.handing.receive(leg, start.handles, length, start.awaits, now, here)
            job.first = self.handing.first(leg)
        if self._enforce and not (run.feeds or job.native or self.handing.fed(leg)):
            self._forget(leg)
            full = bool(generated)  # somebody has computed it, and had no room to hand it over: that passes
            return [self._refuse(Failed(leg, Reason.UNAVAILABLE, text=UNFED, retryable=full))]
        self.runs[leg] = run
        if wanted.media:
            run.job, run.spots, run.handles = job, wanted.media, start.handles
            if not job.lands:
                run.waits = job
                return self._embed(leg, run)
        if run.unfed:
            run.waits = job
            return []
        return self._submit(job, run)

    def go(self, go: Go, now: float) -> None:
        """Other legs made these units, and make no more."""
        run = self.runs.get(go.leg)
        if run is not None and run.unfed and run.waits is not None:
            run.unfed, job = False, run.waits
            job.generated, run.length = [*job.generated, *go.tokens], run.length + len(go.tokens)
            if not run.spots:
                run.waits = None
                if events := self._submit(job, run):
                    self.wake(events)
        elif run is not None and (outputs := self.native.go(go.leg, go.tokens)):
            self.wake(self._told(outputs))
        self.handing.go(go.leg, go.tokens, now)

    def hint(self, hint: Hint, now: float) -> list[Event]:
        """Its owner has enough: what was made is all that it wants."""
        run = self.runs.get(hint.leg)
        if run is None:
            return []
        run.hinted = True
        return self._cancel(hint.leg, run, now)

    def halt(self, halt: Halt, now: float) -> list[Event]:
        """It ends here: cancelled, or to go on elsewhere."""
        run = self.runs.get(halt.leg)
        if run is None:
            return []
        run.halted = True
        return self._cancel(halt.leg, run, now, halt.keep)

    @property
    def at_rest(self) -> bool:
        """Whether no leg needs the engine now: each waits for what others make, however long that takes."""
        held_up = self.handing.held_up
        return all(run.waits is not None or run.landing is not None or held_up(leg) for leg, run in self.runs.items())

    def tick(self, now: float) -> None:
        """The deadline has come."""
        self.handing.tick(now)

    def deadline(self) -> float:
        """When `tick` is wanted."""
        return self.handing.deadline()

    def _cancel(self, leg: Leg, run: Run, now: float, keep: bool = False) -> list[Event]:
        if run.cancelled_at < inf:
            return []
        run.cancelled_at = now
        self.counts.cancels += 1
        if run.spots and self.desk is not None:
            self.desk.forget(leg)
        if run.waits is not None:
            self._forget(leg)
            events: list[Event] = []
            self._freed(leg, 0, now, events)
            return events
        # A step makes one token of it at most; those that the engine is ahead of us fit into one more block.
        made = self.counts.steps - run.since_step
        out = self.handing.save(leg, run.length + made + SPARE_POSITIONS) if keep else None
        self.handing.abandon(leg)
        self.commands.append(Cancel(leg, out))
        return []

    def _submit(self, job: Job, run: Run) -> list[Event]:
        """To the engine."""
        self.commands.append(job)
        if not run.feeds:
            return []
        job.out, packed = self.handing.prepare(job.key, run.length)
        return [Prepared(job.key, packed)] if packed else []  # type: ignore[arg-type]

    def _refuse(self, failed: Failed) -> Failed:
        self.counts.outcomes["refused"] += 1
        return failed

    # --- What another engine of this kind says -----------------------------------------------------------

    def _receive(self, start: Start, job: Job, run: Run) -> None:
        """Its prompt was computed elsewhere, or is being: the engine may have it now, or when it was told so."""
        job.native, foreign = self.native.of(start.handles)
        self.handing.counts["foreign"] += foreign
        self.handing.counts["pulled"] += bool(job.native)
        run.unfed = not self.native.begins(start.leg, start.awaits)

    def _prepared(self, output: Output, events: list[Event]) -> None:
        run = self.runs.get(output.key)  # type: ignore[call-overload]
        if run is None or not run.feeds or run.cancelled_at < inf:
            return
        shown = run.job.media if run.job is not None else ()
        rows = self.desk.lay_out(shown) if shown and self.desk is not None else UNSEEN
        packed = self.native.packed(output.native, run.length, rows)
        self.handing.counts["offered" if packed else "no_room"] += 1
        if packed:
            events.append(Prepared(output.key, packed))  # type: ignore[arg-type]

    # --- What a leg lands with ---------------------------------------------------------------------------

    def _land(self, key: Hashable, source: memoryview | None, positions: int, tokens: Sequence[int]) -> None:
        leg: Leg = key  # type: ignore[assignment]
        run = self.runs.get(leg)
        if run is None or run.cancelled_at < inf:
            return
        land = Land(leg, source, positions, tokens)
        if self._enforce and not positions:
            self._give_up(leg, run, Failed(leg, Reason.UNAVAILABLE, text=UNFED, retryable=True))
        elif run.spots and positions < run.spots[-1].end:
            run.landing = land
            for event in self._embed(leg, run):
                assert isinstance(event, Failed)
                self._give_up(leg, run, event)
        else:
            self.commands.append(land)

    def _embed(self, leg: Leg, run: Run) -> list[Event]:
        if self.desk is None:
            failed = Failed(leg, Reason.INVALID, text="this worker's model takes no pictures, sounds or clips")
            if run.waits is not None:
                del self.runs[leg]
                self._refuse(failed)
            return [failed]
        self.desk.embed(leg, run.spots, run.handles, lambda found: self.wake(self.embedded(leg, found)))
        return []

    def embedded(self, leg: Leg, found: list[Media] | Failed) -> list[Event]:
        """What a leg shows has been read, or cannot be."""
        run = self.runs.get(leg)
        if run is None or run.cancelled_at < inf or run.job is None:
            return []
        land, run.landing = run.landing, None
        job, run.waits = run.waits, None
        if isinstance(found, Failed):
            if job is None:
                self._give_up(leg, run, found)
                return []
            del self.runs[leg]
            return [self._refuse(found)]
        run.job.media = found
        if job is not None and run.unfed:
            run.waits, run.spots = job, ()
            return []
        if job is not None:
            return self._submit(job, run)
        if land is not None:
            self.commands.append(land)
        return []

    def _give_up(self, leg: Leg, run: Run, failed: Failed) -> None:
        """The engine has it, and it cannot go on."""
        run.failed = failed
        run.cancelled_at = 0.0
        self.handing.abandon(leg)
        self.commands.append(Cancel(leg))

    # --- From the engine -----------------------------------------------------------------------------------

    def applied(self, applied: Applied, now: float) -> list[Event]:
        """The engine has taken its commands."""
        events: list[Event] = []
        for key, refusal in applied.refused:
            self._refused(key, refusal, events)
        for key, positions in applied.freed:
            self._freed(key, positions, now, events)
        for key in applied.landed:
            self.handing.landed(key)
        return events

    def ended_before(self, step: Step) -> list[Event]:
        """The ends that a step reports and did not make: they need not wait until it is over."""
        early = [output for output in step.outputs if not (output.tokens or output.vector or output.ending is None)]
        if not early:
            return []
        step.outputs = [output for output in step.outputs if output.tokens or output.vector or output.ending is None]
        events: list[Event] = []
        for output in early:
            self._ended(output, events)
        return events

    def stepped(self, step: Step, took_s: float) -> list[Event]:
        """A step is over. This runs for each token that is made here, so what is common is inline."""
        counts = self.counts
        counts.steps += 1
        counts.step_s.add(took_s)
        counts.computed_tokens += step.computed_tokens
        counts.prefilled_tokens += step.prefilled_tokens
        if step.events and self.teller is not None:
            self.teller.feed(step.events)
        return self._told(step.outputs)

    def _told(self, outputs: Sequence[Output]) -> list[Event]:
        counts = self.counts
        made: list[Any] = []
        cached: list[Any] = []
        ended: list[Output] = []
        notes: list[Output] = []
        generated = 0
        if self.native.early:
            outputs = self._sifted(outputs)
        for output in outputs:
            if tokens := output.tokens:
                rows = output.logprobs
                made.append((output.key, tokens, [*map(generation.encode_logprobs, rows)] if rows else ()))
                generated += len(tokens)
            elif output.native:
                notes.append(output)
            if output.cached_tokens:
                cached.append((output.key, output.cached_tokens))
                counts.cached_tokens += output.cached_tokens
            if output.exported:
                self.handing.exported(output.key, output.exported)
            if output.ending is not None:
                ended.append(output)
                if output.vector:
                    made.append((output.key, (), (output.vector,)))
        counts.generated_tokens += generated
        events: list[Event] = [Stepped(made, cached)]
        for output in notes:
            self._prepared(output, events)
        for output in ended:
            if output.native and output.tokens:
                self._prepared(output, events)
            self._ended(output, events)
        return events

    def _sifted(self, outputs: Sequence[Output]) -> list[Output]:
        """Of engines that run beside those that feed them: what may be told now."""
        told, parted = self.native.sift(outputs)
        for key in parted:
            run = self.runs.get(key)  # type: ignore[call-overload]
            if run is not None and run.cancelled_at == inf:
                leg: Leg = key  # type: ignore[assignment]
                self._give_up(leg, run, Failed(leg, Reason.UNAVAILABLE, text=PARTED, retryable=True))
        return told

    def _refused(self, key: Hashable, refusal: str, events: list[Event]) -> None:
        for_now = refusal in (FULL, ASLEEP)
        leg = self._over(key, "full" if for_now else "refused")
        if leg is not None:
            reason = Reason.BUSY if for_now else Reason.INVALID
            events.append(Failed(leg, reason, text=refusal, retryable=for_now))

    def _freed(self, key: Hashable, positions: int, now: float, events: list[Event]) -> None:
        run = self.runs.get(key)  # type: ignore[call-overload]
        packed = self.handing.saved(key, positions if run is not None else 0)
        if run is None:
            return
        if run.failed is not None:
            self._over(key, "refused")
            events.append(run.failed)
            return
        if not run.preempted:
            self.counts.cancel_s.add(max(0.0, now - run.cancelled_at))
        outcome, ended = freed_of(key, run, packed)  # type: ignore[arg-type]
        self._over(key, outcome)
        events.append(ended)

    def _ended(self, output: Output, events: list[Event]) -> None:
        """An end that came by itself. The end of a cancelled job was told when its room was freed."""
        run = self.runs.get(output.key)  # type: ignore[call-overload]
        if run is None:
            return
        ending = output.ending
        if ending is Ending.PREEMPTED and rescue(output, run, self.handing, self.commands):
            return
        if ending is Ending.PREEMPTED and run.hinted:
            ending = Ending.CANCELLED  # its owner has enough: it need not go on elsewhere
        outcome, made = event_of(output.key, ending, output.text, run)  # type: ignore[arg-type]
        self._over(output.key, outcome)
        events.append(made)

    def _over(self, key: Hashable, outcome: str) -> Leg | None:
        if self.runs.pop(key, None) is None:  # type: ignore[call-overload]
            return None
        self._forget(key)
        self.counts.outcomes[outcome] += 1
        return key  # type: ignore[return-value]

    def _forget(self, key: Hashable) -> None:
        self.handing.over(key)
        self.native.over(key)

    def check(self) -> None:
        """Assert every invariant."""
        assert self.counts.started == len(self.runs) + sum(self.counts.outcomes.values()), "a leg has one end"
        for run in self.runs.values():
            assert (run.cancelled_at < inf) == (run.hinted or run.halted or run.preempted or run.failed is not None)
        self.handing.check()


def _nobody(events: list[Event]) -> None:
    raise AssertionError("nobody has said whom to wake")
