"""Pure. The engine host: between the legs that a node holds and the jobs that its engine runs.

Every leg that was started ends in exactly one event: Finished, Failed or Yielded. Commands reach the engine between two
steps, a cancelled job's room is free as soon as the engine has heard of it, and a step is one event. Two drivers share
this: `PacedHost` below steps a simulated engine in somebody's event loop and in somebody's time; `nodes.host` runs an
engine that computes in a thread of its own. What an engine raises is passed on: it is dead then, and so is its process.
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Any

from mesh.core import Event, Failed, Finished, Go, Halt, Hint, Leg, Prepared, Start, Stepped, Yielded
from nodes import generation
from nodes.commands import Applied, Cancel, Command, Land, apply
from nodes.engines.contract import FULL, Ending, Engine, EngineLoad, Job, Output, Step
from nodes.engines.media import Media
from nodes.handing import Handing
from nodes.host_metrics import Counts
from nodes.names import PREFILL
from nodes.routing.teller import Teller
from nodes.runs import Desk, Run, event_of
from proto import codec, limits
from proto.errors import Reason

SPARE_POSITIONS = 32  # of a room for what an engine has: it may be some steps ahead of what we were told
UNFED = "no prefill worker has computed this prompt, and its decode worker may not (--enforce-disagg)"


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
        self.teller: Teller | None = None
        self.desk: Desk | None = None
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
        job = generation.job_of(leg, wanted, prompt, generated, self._vocabulary)
        length = len(prompt) + len(generated)
        run = Run(length, counts.steps, feeds=start.endpoint.startswith(PREFILL))
        if run.feeds:
            job.max_tokens = min(job.max_tokens, len(generated) + 1)
        elif start.handles or start.awaits:
            job.lands = self.handing.receive(leg, start.handles, length, start.awaits, now)
        if self._enforce and not run.feeds and not self.handing.fed(leg):
            self.handing.over(leg)
            return [self._refuse(Failed(leg, Reason.UNAVAILABLE, text=UNFED))]
        self.runs[leg] = run
        if wanted.media:
            run.job, run.spots, run.handles = job, wanted.media, start.handles
            if not job.lands:
                run.waits = job
                return self._embed(leg, run)
        return self._submit(job, run)

    def go(self, go: Go, now: float) -> None:
        """Other legs made these units, and make no more."""
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
            self.handing.over(leg)
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
        early = [output for output in step.outputs if not output.tokens and output.ending is not None]
        if not early:
            return []
        step.outputs = [output for output in step.outputs if output.tokens or output.ending is None]
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
        made: list[Any] = []
        cached: list[Any] = []
        ended: list[Output] = []
        generated = 0
        for output in step.outputs:
            if tokens := output.tokens:
                rows = output.logprobs
                made.append((output.key, tokens, [*map(generation.encode_logprobs, rows)] if rows else ()))
                generated += len(tokens)
            if output.cached_tokens:
                cached.append((output.key, output.cached_tokens))
                counts.cached_tokens += output.cached_tokens
            if output.exported:
                self.handing.exported(output.key, output.exported)
            if output.ending is not None:
                ended.append(output)
        counts.generated_tokens += generated
        events: list[Event] = [Stepped(made, cached)]
        for output in ended:
            self._ended(output, events)
        return events

    def _refused(self, key: Hashable, refusal: str, events: list[Event]) -> None:
        leg = self._over(key, "full" if refusal == FULL else "refused")
        if leg is None:
            return
        if refusal == FULL:
            events.append(Failed(leg, Reason.BUSY, text=refusal, retryable=True))
        else:
            events.append(Failed(leg, Reason.INVALID, text=refusal))

    def _freed(self, key: Hashable, positions: int, now: float, events: list[Event]) -> None:
        run = self.runs.get(key)  # type: ignore[call-overload]
        packed = self.handing.saved(key, positions if run is not None else 0)
        if run is None:
            return
        if run.failed is not None:
            self._over(key, "refused")
            events.append(run.failed)
            return
        self.counts.cancel_s.add(max(0.0, now - run.cancelled_at))
        leg = self._over(key, "cancelled" if run.halted else "stopped")
        assert leg is not None
        events.append(Yielded(leg, handle=packed) if run.halted else Finished(leg))

    def _ended(self, output: Output, events: list[Event]) -> None:
        """An end that came by itself. The end of a cancelled job was told when its room was freed."""
        run = self.runs.get(output.key)  # type: ignore[call-overload]
        if run is None:
            return
        ending = output.ending
        if ending is Ending.PREEMPTED and run.hinted:
            ending = Ending.CANCELLED  # its owner has enough: it need not go on elsewhere
        outcome, made = event_of(output.key, ending, output.text, run)  # type: ignore[arg-type]
        self._over(output.key, outcome)
        events.append(made)

    def _over(self, key: Hashable, outcome: str) -> Leg | None:
        if self.runs.pop(key, None) is None:  # type: ignore[call-overload]
            return None
        self.handing.over(key)
        self.counts.outcomes[outcome] += 1
        return key  # type: ignore[return-value]

    def check(self) -> None:
        """Assert every invariant."""
        assert self.counts.started == len(self.runs) + sum(self.counts.outcomes.values()), "a leg has one end"
        for run in self.runs.values():
            assert (run.cancelled_at < inf) == (run.hinted or run.halted or run.failed is not None)
        self.handing.check()


class PacedHost:
    """An engine that is stepped in the time of whoever calls: its steps say themselves how long they take."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: int = limits.TOKEN_ID_MAX + 1,
        digest: str = "",
        handing: Handing | None = None,
        enforce: bool = False,
    ) -> None:
        self.core = HostCore(vocabulary, digest, handing, enforce)
        self.engine = engine
        self._step: Step | None = None  # it runs until `_due`
        self._due = -inf  # when the step that runs is over, or the last one was
        self._began = -inf

    def start(self, start: Start, now: float) -> list[Event]:
        """Run a leg."""
        return self.core.start(start, now)

    def go(self, go: Go, now: float) -> None:
        self.core.go(go, now)

    def hint(self, hint: Hint, now: float) -> list[Event]:
        return self.core.hint(hint, now)

    def halt(self, halt: Halt, now: float) -> list[Event]:
        return self.core.halt(halt, now)

    def deadline(self) -> float:
        """When `turn` is wanted; -inf: at once."""
        if self._step is not None:
            return min(self._due, self.core.deadline())
        return -inf if self.core.commands or not self.engine.idle() else self.core.deadline()

    def turn(self, now: float, post: Callable[[Event], None]) -> None:
        """Tell of the step that is over, begin the next, and if that takes no time tell of it too.

        `post` may call `start`, `halt` and `hint`: what follows from the end of a step or of a cancel is in the next.
        """
        self.core.tick(now)
        for event in self._end(now):
            post(event)
        if self._step is None:
            while self.core.commands:  # a room that is free now has its next user in this step
                for event in self._heed(now):
                    post(event)
            for event in self._begin(now):
                post(event)
            for event in self._end(now):
                post(event)

    def wake(self, now: float) -> None:
        """The step that runs is over now, however long it meant to take."""
        self._due = min(self._due, now)

    def load(self) -> EngineLoad:
        return self.engine.load()

    def check(self) -> None:
        """Assert every invariant."""
        self.core.check()

    def _end(self, now: float) -> list[Event]:
        if self._step is None or now < self._due:
            return []
        step, self._step = self._step, None
        return self.core.stepped(step, max(self._due - self._began, 0.0))

    def _heed(self, now: float) -> list[Event]:
        commands, self.core.commands = self.core.commands, []
        return self.core.applied(apply(self.engine, commands), now)

    def _begin(self, now: float) -> list[Event]:
        if self.engine.idle():
            self._due = -inf
            return []
        step = self.engine.step()
        events = self.core.ended_before(step) if step.wait_s > 0 else []
        # A step begins where the last one ended, not where the loop came by, or each would be longer than it says.
        self._began = self._due if now - self._due < step.wait_s else now
        self._step, self._due = step, self._began + step.wait_s
        return events


def _nobody(events: list[Event]) -> None:
    raise AssertionError("nobody has said whom to wake")
